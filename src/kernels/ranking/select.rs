//! What the kernels that pick the best of many have in common; see `shaders/shared/select.wgsl`.

use crate::gpu::KernelFamily;
use crate::{Error, Result};

/// The most that can be picked of one list.
pub(in crate::kernels) const MAX_PICKED: usize = 1024;

fn lanes(family: KernelFamily) -> u32 {
    match family {
        KernelFamily::Tiled => 256,
        KernelFamily::Subgroup { size } => size,
    }
}

/// `LANES`, the invocations of a workgroup, and for the subgroup family what tells it from the other.
pub(in crate::kernels) fn defines(family: KernelFamily) -> Vec<(&'static str, u32)> {
    let lanes = ("LANES", lanes(family));
    if family == KernelFamily::Tiled { vec![lanes] } else { vec![("SUBGROUP", 1), lanes] }
}

/// How few entries must be left before they are gathered and sorted: twice as many as are wanted, so that the last
/// digits seldom have to be counted.
pub(in crate::kernels) fn room(k: usize) -> u32 {
    (2 * k).next_power_of_two().clamp(64, MAX_PICKED) as u32
}

/// Iterations that an invocation may spend on looking at its part once. It looks up to 17 times, and lavapipe ends
/// every loop of an invocation that has had 65,535 iterations in all.
const MAX_STEPS: usize = 2048;

/// A list in nearly equal parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels) struct Parts {
    pub(in crate::kernels) count: usize,
    /// Units of a part.
    pub(in crate::kernels) size: u32,
    /// How many parts have one more.
    pub(in crate::kernels) longer: u32,
}

impl Parts {
    /// Cuts each of `lists` of `units`, which take an invocation `steps` iterations and hold `entries` entries each.
    /// There shall be work for a whole GPU, but every part shall do much more than pick `k`.
    pub(in crate::kernels) fn new(family: KernelFamily, lists: usize, units: usize, each: Each, k: usize) -> Self {
        let longest = (MAX_STEPS / each.steps).max(1) * lanes(family) as usize;
        let worthwhile = units * each.entries / (16 * k).max(8192);
        let count = 256usize.div_ceil(lists.max(1)).min(worthwhile).max(units.div_ceil(longest)).clamp(1, units.max(1));
        Self { count, size: (units / count) as u32, longer: (units % count) as u32 }
    }
}

/// What a unit of a list is.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Each {
    pub(in crate::kernels) entries: usize,
    pub(in crate::kernels) steps: usize,
}

/// [`Error::Argument`] if `k` is more than a list has or than can be picked.
pub(in crate::kernels) fn expect_k(op: &'static str, argument: &'static str, k: usize, len: usize) -> Result<()> {
    if k > MAX_PICKED || k > len {
        let limit = if k > len { format!("row's {len}") } else { format!("limit, {MAX_PICKED}") };
        return Err(Error::Argument { op, argument, why: format!("of {k} exceeds the {limit}") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_worth_it_and_cover_everything() {
        let parts = |family, lists, units, each, k| Parts::new(family, lists, units, each, k);
        let (tiled, subgroup) = (KernelFamily::Tiled, KernelFamily::Subgroup { size: 8 });
        let one = Each { entries: 1, steps: 1 };
        assert_eq!(parts(tiled, 1, 1000, one, 10), Parts { count: 1, size: 1000, longer: 0 });
        assert_eq!(parts(tiled, 1, 200_001, one, 10), Parts { count: 24, size: 8333, longer: 9 });
        assert_eq!(parts(tiled, 1, 200_000, one, 1024).count, 12);
        assert_eq!(parts(tiled, 1000, 200_000, one, 10).count, 1);
        // No part is too long for a software adapter.
        assert_eq!(parts(subgroup, 1000, 200_000, one, 10).count, 13);
        assert_eq!(parts(subgroup, 1000, 200_000, Each { entries: 14, steps: 20 }, 10).count, 246);
        // No more parts than units.
        assert_eq!(parts(tiled, 1, 3, Each { entries: 100_000, steps: 1 }, 10), Parts { count: 3, size: 1, longer: 0 });
        assert_eq!(parts(tiled, 0, 0, one, 0), Parts { count: 1, size: 0, longer: 0 });
    }
}
