//! Arrays of several samples as one.

use crate::tensor::Array;
use crate::{Error, Result};

/// Arrays whose extents `form` names, stacked, each filled with zeros up to `rows` rows.
pub(super) fn stack(
    op: &'static str,
    argument: &'static str,
    arrays: &[&Array],
    form: &[&str],
    rows: usize,
) -> Result<Array> {
    let Some(first) = arrays.first().map(|array| array.shape()) else {
        return Err(Error::argument(op, argument, "must not be empty"));
    };
    for array in arrays {
        let got = array.shape().to_vec();
        if got.len() != form.len() || got.contains(&0) || got[0] > rows {
            let expected = format!("({}), none of them 0, and at most {rows} of the first", form.join(", "));
            return Err(Error::Shape { op, argument, expected, got });
        }
        if got[1..] != first[1..] {
            let why = "all extents but the first must agree within a batch";
            return Err(Error::ShapeMismatch { op, left: first.to_vec(), right: got, why });
        }
    }
    let mut stacked = Array::zeros([&[arrays.len(), rows], &first[1..]].concat());
    let item = stacked.len() / arrays.len();
    for (slot, array) in stacked.data_mut().chunks_exact_mut(item).zip(arrays) {
        slot[..array.len()].copy_from_slice(array.data());
    }
    Ok(stacked)
}

/// (items, `rows`): 1 for as many rows of each item as `counts` says, then 0.
pub(super) fn mask(counts: impl ExactSizeIterator<Item = usize>, rows: usize) -> Array {
    let mut mask = Array::zeros([counts.len(), rows]);
    for (row, count) in mask.data_mut().chunks_exact_mut(rows.max(1)).zip(counts) {
        row[..count].fill(1.0);
    }
    mask
}
