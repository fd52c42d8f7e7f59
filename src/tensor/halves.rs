//! Half precision (IEEE f16): the one place where floats become halves.

use half::f16;

use crate::{Error, Result};

/// The nearest halves of what was checked. In GPU memory two of them share a word, the first in its low bits, as
/// `unpack2x16float` of WGSL reads them.
pub(crate) fn round(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&v| f16::from_f32(v)).collect()
}

/// The halves as f32.
pub(crate) fn to_f32(halves: &[f16]) -> Vec<f32> {
    halves.iter().map(|h| h.to_f32()).collect()
}

/// Whether halves hold `values`, which are those of `name` in `origin`. NaN and infinity pass: they stay what they are.
///
/// # Errors
/// [`Error::HalfOverflow`] at the first finite value whose nearest half is infinite.
pub(crate) fn check(origin: &str, name: &str, values: &[f32]) -> Result<()> {
    let overflows = |v: &f32| v.is_finite() && f16::from_f32(*v).is_infinite();
    match values.iter().position(overflows) {
        None => Ok(()),
        Some(index) => {
            Err(Error::HalfOverflow { origin: origin.into(), name: name.into(), index, value: values[index] })
        }
    }
}
