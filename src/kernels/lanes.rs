//! What depends on the family in kernels whose workgroups reduce over their lanes (see `shaders/shared/lanes.wgsl`), and
//! the checks that losses share.

use super::shape::count_elements;
use super::{MOST_ITERATIONS, expect_iterations};
use crate::gpu::{Gpu, KernelFamily};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Every family that `variants()` of such a kernel must list.
pub(super) const FAMILIES: [KernelFamily; 4] = [
    KernelFamily::Tiled,
    KernelFamily::Subgroup { size: 4 },
    KernelFamily::Subgroup { size: 8 },
    KernelFamily::Subgroup { size: 16 },
];

/// Invocations of a workgroup.
pub(super) fn count(family: KernelFamily) -> usize {
    match family {
        KernelFamily::Tiled => 64,
        KernelFamily::Subgroup { size } => size as usize,
    }
}

/// `LANES`, and for the subgroup family what tells it from the other.
pub(super) fn defines(family: KernelFamily) -> Vec<(&'static str, u32)> {
    let lanes = count(family) as u32;
    match family {
        KernelFamily::Tiled => vec![("LANES", lanes)],
        KernelFamily::Subgroup { .. } => vec![("SUBGROUP", 1), ("LANES", lanes), ("LOG_LANES", lanes.ilog2())],
    }
}

/// The family of a kernel whose workgroups go through `n` elements `passes` times: the adapter's own, unless they are
/// too many for the few lanes of a subgroup.
///
/// # Errors
/// [`Error::LimitExceeded`] if a software adapter cannot do it either way.
pub(super) fn family(gpu: &Gpu, op: &'static str, n: usize, passes: usize) -> Result<KernelFamily> {
    // An iteration ends each loop; and there are those of the reductions.
    let iterations = |family| passes * (n.div_ceil(count(family)) + 1) + 64;
    let own = gpu.family();
    if iterations(own) <= MOST_ITERATIONS {
        return Ok(own);
    }
    expect_iterations(gpu, op, iterations(KernelFamily::Tiled))?;
    Ok(KernelFamily::Tiled)
}

/// How many neighbours in a row an invocation works on, in kernels whose invocations have columns of their own.
pub(super) fn span(family: KernelFamily) -> u32 {
    match family {
        // Neighbouring invocations share a fetch.
        KernelFamily::Tiled => 1,
        // Few run side by side: a wider piece of each row keeps the memory's prefetching at work, and shares what is
        // read for all of it.
        KernelFamily::Subgroup { .. } => 4,
    }
}

/// All that [`span`] returns.
pub(super) const SPANS: [u32; 2] = [1, 4];

/// Errors unless `upstream` is one f32.
pub(super) fn expect_scalar(op: &'static str, upstream: &Tensor) -> Result<()> {
    upstream.expect_dtype(op, "upstream", DType::F32)?;
    upstream.expect_one(op, "upstream")
}

/// The extent of a square f32 matrix.
pub(super) fn expect_square(op: &'static str, scores: &Tensor) -> Result<usize> {
    let [rows, columns] = scores.extents(op, "scores", "[batch, batch]")?;
    if rows != columns {
        return Err(Error::shape(op, "scores", "[batch, batch]", scores.shape()));
    }
    count_elements(op, &[rows, rows])?;
    Ok(rows)
}
