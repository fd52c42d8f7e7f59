//! Datasets: annotations, feature files, and the synthetic world.

pub mod atomic;
#[cfg(feature = "datasets")]
pub mod hdf5_write;
mod portable;
pub mod random;
#[cfg(feature = "datasets")]
pub mod synthetic;
