//! Shapes as kernels see them: axes split off, strides, broadcasting, and sizes that fit in 32 bits.

use super::expect_iterations;
use crate::gpu::{Gpu, KernelFamily};
use crate::{Error, Result};

/// Most dimensions that strided kernels take, after neighbours were merged.
pub(super) const MAX_RANK: usize = 5;

/// `n` as the 32-bit number that shaders count with.
///
/// # Errors
/// [`Error::LimitExceeded`] from 2³¹ on, so that a rounded-up grid cannot overflow either.
pub(super) fn to_u32(op: &'static str, n: usize) -> Result<u32> {
    const LIMIT: u64 = 1 << 31;
    match u32::try_from(n) {
        Ok(n) if u64::from(n) < LIMIT => Ok(n),
        _ => Err(Error::LimitExceeded {
            op,
            what: "elements in one tensor",
            needed: n as u64,
            limit: LIMIT - 1,
            remedy: "use a smaller batch",
        }),
    }
}

/// The product of `shape`, checked.
pub(super) fn checked_len(op: &'static str, shape: &[usize]) -> Result<usize> {
    let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    to_u32(op, len.unwrap_or(usize::MAX)).map(|n| n as usize)
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
            _ => Err(Error::ShapeMismatch {
                op,
                left: a.to_vec(),
                right: b.to_vec(),
                why: "aligned at the last dimension, extents must be equal or 1",
            }),
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

/// `values` innermost first, filled up to [`MAX_RANK`].
pub(super) fn innermost_first(values: &[usize], fill: u32) -> [u32; MAX_RANK] {
    let mut out = [fill; MAX_RANK];
    for (o, &v) in out.iter_mut().zip(values.iter().rev()) {
        *o = v as u32;
    }
    out
}

/// How the rows of a matrix are spread over invocations; see `shaders/shared/row.wgsl`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowPlan {
    /// Invocations that share a row.
    lanes: u32,
    /// Whether they are a subgroup.
    subgroup: bool,
    /// Whether an element of the shader is four of the tensor.
    vec4: bool,
    /// Elements of an invocation, where a subgroup holds the whole row in registers; otherwise 0.
    steps: u32,
    rows: usize,
}

impl RowPlan {
    /// Rows that a subgroup does one after another.
    const IN_SEQUENCE: u32 = 8;
    /// Elements of an invocation in a row, at most: it passes three times over 8 rows, and must not loop more often
    /// than software adapters allow. Wider rows take the whole of a tiled workgroup.
    const MOST_STEPS: usize = 2048;
    /// Invocations of a tiled workgroup.
    const TILED: u32 = 128;
    /// Rows, in elements of an invocation, for which there are kernels without loops: those of powers of two, and of
    /// the models' widths (384 and 768 with subgroups of 8).
    const STRAIGHT: [u32; 7] = [1, 2, 4, 8, 12, 16, 24];

    /// The plan for `rows` rows of `width` elements.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] for rows that are too wide for a software adapter.
    pub(super) fn new(op: &'static str, gpu: &Gpu, rows: usize, width: usize) -> Result<Self> {
        let vec4 = width.is_multiple_of(4);
        let elements = if vec4 { width / 4 } else { width };
        let lanes = match (gpu.family(), elements) {
            (KernelFamily::Subgroup { size: lanes }, _) if elements <= Self::MOST_STEPS * lanes as usize => {
                return Ok(Self { lanes, subgroup: true, vec4, steps: 0, rows });
            }
            (_, 0..=16) => 8,
            (_, 17..=64) => 32,
            _ => Self::TILED,
        };
        // Three passes, and the reductions.
        expect_iterations(gpu, op, 3 * elements.div_ceil(lanes as usize) + 64)?;
        Ok(Self { lanes, subgroup: false, vec4, steps: 0, rows })
    }

    /// One of every kind.
    pub(super) fn all() -> Vec<Self> {
        let lanes = [(8, false), (32, false), (Self::TILED, false), (4, true), (8, true), (16, true)];
        lanes
            .into_iter()
            .flat_map(|(lanes, subgroup)| [false, true].map(|vec4| Self { lanes, subgroup, vec4, steps: 0, rows: 0 }))
            .collect()
    }

    /// As [`RowPlan::all`], and those without loops: for kernels that have such an edition.
    pub(super) fn all_straight() -> Vec<Self> {
        let straight = [4, 8, 16]
            .into_iter()
            .flat_map(|lanes| Self::STRAIGHT.map(|steps| Self { lanes, subgroup: true, vec4: true, steps, rows: 0 }));
        Self::all().into_iter().chain(straight).collect()
    }

    /// The same without loops where there is such an edition for rows of `width`.
    pub(super) fn straight(self, width: usize) -> Self {
        let (elements, lanes) = (self.elements(width), self.lanes as usize);
        let steps = (elements / lanes) as u32;
        let fits = self.subgroup && self.vec4 && elements % lanes == 0 && Self::STRAIGHT.contains(&steps);
        Self { steps: if fits { steps } else { 0 }, ..self }
    }

    /// The defines that `row.wgsl` expects.
    pub(super) fn defines(self) -> Vec<(&'static str, u32)> {
        let mut defines = vec![("LANES", self.lanes), ("ROWS", self.abreast()), ("SEQUENCE", self.sequence())];
        if self.subgroup {
            defines.push(("SUBGROUP", 1));
        }
        if self.vec4 {
            defines.push(("VEC4", 1));
        }
        if self.steps > 0 {
            defines.push(("STEPS", self.steps));
        }
        defines
    }

    /// Elements of the shader in a row of `width`.
    pub(super) fn elements(self, width: usize) -> usize {
        if self.vec4 { width / 4 } else { width }
    }

    /// The grid.
    pub(super) fn grid(self, gpu: &Gpu) -> [u32; 3] {
        gpu.grid(self.rows.div_ceil((self.abreast() * self.sequence()) as usize))
    }

    fn abreast(self) -> u32 {
        if self.subgroup { 1 } else { Self::TILED / self.lanes }
    }

    fn sequence(self) -> u32 {
        if self.subgroup { Self::IN_SEQUENCE } else { 1 }
    }
}
