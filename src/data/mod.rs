//! Datasets: annotations, feature files, and the synthetic world.

pub mod atomic;
mod elements;
#[cfg(feature = "datasets")]
pub mod hdf5_write;
mod portable;
pub mod random;
pub mod safetensors;

#[cfg(test)]
pub(crate) mod testing;
