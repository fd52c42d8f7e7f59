//! Datasets: annotations, feature files, and the synthetic world.

pub mod atomic;
mod portable;
pub mod random;
