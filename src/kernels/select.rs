//! What the kernels that pick the best of many have in common; see `shaders/shared/select.wgsl`.

use crate::gpu::KernelFamily;
use crate::{Error, Result};

/// The most that can be picked of one list.
pub(super) const MAX_PICKED: usize = 1024;

/// `LANES`, the invocations of a workgroup.
pub(super) fn defines(family: KernelFamily) -> Vec<(&'static str, u32)> {
    match family {
        KernelFamily::Tiled => vec![("LANES", 256)],
        KernelFamily::Subgroup { size } => vec![("LANES", size)],
    }
}

/// How few entries must be left before they are gathered and sorted: twice as many as are wanted, so that the last
/// digits seldom have to be counted.
pub(super) fn room(k: usize) -> u32 {
    (2 * k).next_power_of_two().clamp(64, MAX_PICKED) as u32
}

/// A list in nearly equal parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) count: usize,
    /// Units of a part.
    pub(super) size: u32,
    /// How many parts have one more.
    pub(super) longer: u32,
}

impl Parts {
    /// Cuts each of `lists` of `units`, which hold `entries`, so that there is work for a whole GPU, but so that every
    /// part does much more than pick `k`.
    pub(super) fn new(lists: usize, units: usize, entries: usize, k: usize) -> Self {
        let worthwhile = entries / (16 * k).max(8192);
        Self::of(256usize.div_ceil(lists.max(1)).min(worthwhile).clamp(1, units.max(1)), units)
    }

    /// One part.
    pub(super) fn whole(units: usize) -> Self {
        Self::of(1, units)
    }

    fn of(count: usize, units: usize) -> Self {
        Self { count, size: (units / count) as u32, longer: (units % count) as u32 }
    }
}

/// [`Error::Argument`] if `k` is more than a list has or than can be picked.
pub(super) fn expect_k(op: &'static str, argument: &'static str, k: usize, len: usize) -> Result<()> {
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
        assert_eq!(Parts::new(1, 1000, 1000, 10), Parts { count: 1, size: 1000, longer: 0 });
        assert_eq!(Parts::new(1, 200_001, 200_001, 10), Parts { count: 24, size: 8333, longer: 9 });
        assert_eq!(Parts::new(1, 200_000, 200_000, 1024).count, 12);
        assert_eq!(Parts::new(1000, 200_000, 200_000, 10).count, 1);
        // No more parts than units.
        assert_eq!(Parts::new(1, 3, 100_000, 10), Parts { count: 3, size: 1, longer: 0 });
        assert_eq!(Parts::new(0, 0, 0, 0), Parts { count: 1, size: 0, longer: 0 });
    }
}
