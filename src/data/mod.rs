//! Datasets: annotations, feature files, and the synthetic world.

pub mod atomic;
mod elements;
pub mod safetensors;

#[cfg(test)]
pub(crate) mod testing;
