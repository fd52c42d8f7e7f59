//! File formats: named arrays (safetensors, HDF5, npy and npz), text of annotations, and how files are written whole.

pub mod atomic;
pub(crate) mod digest;
pub(crate) mod elements;
#[cfg(feature = "datasets")]
pub mod hdf5;
#[cfg(feature = "datasets")]
pub mod hdf5_write;
pub(crate) mod lock;
#[cfg(feature = "datasets")]
pub mod npy;
pub mod safetensors;
pub(crate) mod text;
pub mod weights;
