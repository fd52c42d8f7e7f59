//! Shapes as kernels see them: axes split off, strides, broadcasting, and what is too large.

use crate::{Error, Result};

/// Most dimensions that strided kernels take, after neighbours were merged.
pub(super) const MAX_RANK: usize = 5;

/// The number of elements of `shape`, which shaders count in 32 bits.
///
/// # Errors
/// [`Error::LimitExceeded`] from 2³¹ on, so that what is rounded up to whole workgroups cannot overflow either.
pub(super) fn count_elements(op: &'static str, shape: &[usize]) -> Result<usize> {
    let count = product(shape);
    expect_at_most(op, "elements in one tensor", count, (1 << 31) - 1, "use a smaller batch")?;
    Ok(count)
}

/// The product of `extents`, or the largest number there is.
pub(super) fn product(extents: &[usize]) -> usize {
    extents.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX)
}

/// # Errors
/// [`Error::LimitExceeded`] if `op` needs more of `what` than there may be.
pub(super) fn expect_at_most(
    op: &'static str,
    what: &'static str,
    needed: usize,
    limit: usize,
    remedy: &'static str,
) -> Result<()> {
    if needed <= limit {
        return Ok(());
    }
    Err(Error::LimitExceeded { op, what, needed: needed as u64, limit: limit as u64, remedy })
}

/// # Errors
/// [`Error::IndexOutOfRange`] for the first of `indices` that is not below `len`.
pub(super) fn expect_below(op: &'static str, indices: &[u32], len: usize) -> Result<()> {
    match indices.iter().find(|&&index| index as usize >= len) {
        Some(&index) => Err(Error::IndexOutOfRange { op, index: index.into(), len: len as u64 }),
        None => Ok(()),
    }
}

/// `shape` seen as `[outer, n, inner]` around `axis`.
///
/// # Errors
/// [`Error::IndexOutOfRange`] if there is no such axis.
pub(super) fn around(op: &'static str, shape: &[usize], axis: usize) -> Result<[usize; 3]> {
    if axis >= shape.len() {
        return Err(Error::IndexOutOfRange { op, index: axis as u64, len: shape.len() as u64 });
    }
    Ok([shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()])
}

/// The strides of a dense row-major array.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    strides
}

/// The shape that `a` and `b` broadcast to: aligned at the last dimension, extents equal or one of them 1.
///
/// # Errors
/// [`Error::ShapeMismatch`] if they do not fit.
pub(super) fn broadcast(op: &'static str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let extent = |s: &[usize], d: usize| if d + s.len() < rank { 1 } else { s[d + s.len() - rank] };
    (0..rank)
        .map(|d| match (extent(a, d), extent(b, d)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::mismatch(op, a, b, "aligned at the last dimension, extents must be equal or 1")),
        })
        .collect()
}

/// The strides with which an array of `shape` is read as one of `target`, which it broadcasts to; 0 along what repeats.
pub(super) fn broadcast_strides(shape: &[usize], target: &[usize]) -> Vec<usize> {
    let missing = target.len() - shape.len();
    let dense = strides(shape);
    (0..target.len()).map(|d| if d < missing || shape[d - missing] == 1 { 0 } else { dense[d - missing] }).collect()
}

/// Merges neighbouring dimensions that every array steps through evenly, and drops those of extent 1.
///
/// `strides` holds one list for each array, of the length of `shape`; what is left has at least one dimension.
pub(super) fn merge<const N: usize>(shape: &[usize], strides: [&[usize]; N]) -> (Vec<usize>, [Vec<usize>; N]) {
    let mut extents: Vec<usize> = Vec::new();
    let mut merged: [Vec<usize>; N] = std::array::from_fn(|_| Vec::new());
    for (d, &extent) in shape.iter().enumerate() {
        if extent == 1 {
            continue;
        }
        match extents.last_mut() {
            Some(last) if (0..N).all(|k| merged[k].last() == Some(&(strides[k][d] * extent))) => {
                *last *= extent;
                for (k, m) in merged.iter_mut().enumerate() {
                    m.pop();
                    m.push(strides[k][d]);
                }
            }
            _ => {
                extents.push(extent);
                for (k, m) in merged.iter_mut().enumerate() {
                    m.push(strides[k][d]);
                }
            }
        }
    }
    if extents.is_empty() {
        extents.push(1);
        merged.iter_mut().for_each(|m| m.push(1));
    }
    (extents, merged)
}

/// How many elements of the shader `n` neighbours are, where it takes four at once if they allow it; and whether it does.
pub(super) fn in_fours(n: usize) -> (usize, bool) {
    if n.is_multiple_of(4) { (n / 4, true) } else { (n, false) }
}

/// `values` innermost first, filled up to [`MAX_RANK`].
pub(super) fn innermost_first(values: &[usize], fill: u32) -> [u32; MAX_RANK] {
    let mut out = [fill; MAX_RANK];
    for (o, &v) in out.iter_mut().zip(values.iter().rev()) {
        *o = v as u32;
    }
    out
}
