//! Datasets: annotations, feature files, and the synthetic world.

pub mod atomic;
pub mod bicnet;
pub mod captions;
pub(crate) mod digest;
mod elements;
#[cfg(feature = "datasets")]
pub mod hdf5;
#[cfg(feature = "datasets")]
pub mod hdf5_write;
pub mod moments;
#[cfg(feature = "datasets")]
pub mod npy;
pub mod safetensors;
#[cfg(feature = "datasets")]
pub mod synthetic;
mod text;

#[cfg(test)]
pub(crate) mod testing;

use std::path::Path;

use crate::tensor::Array;
use crate::{Error, Result};

/// Refuses NaN and infinity in `array`, which is `place` of the file `path`. Its rows are counted from `first`.
pub(crate) fn find_non_finite(path: &Path, place: &str, first: usize, array: &Array) -> Result<()> {
    let Some((count, index)) = array.non_finite() else { return Ok(()) };
    let width: usize = array.shape().iter().skip(1).product();
    let place = format!("{place}, row {}", first + index / width);
    Err(Error::NonFinite { origin: path.display().to_string(), place, count })
}
