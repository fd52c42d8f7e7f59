//! Datasets: annotations, feature files, and the synthetic world.

pub mod atomic;
mod portable;
pub mod random;
#[cfg(feature = "datasets")]
pub mod hdf5_write;
