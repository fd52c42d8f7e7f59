//! Tiles of products: what a workgroup computes, and how launches are cut so that no dispatch takes long.

/// Floating-point operations of one dispatch, at most: 160 ms at 100 GFLOP/s, as small GPUs make. Systems that draw with
/// the same GPU end what takes seconds.
pub(super) const DISPATCH_FLOPS: u64 = 16_000_000_000;

/// A workgroup's tile, as the shaders' defines give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    /// Of a subgroup.
    Subgroup { lanes: u32, groups: u32 },
    /// Of the tiled family.
    Tiled { tx: u32, ty: u32 },
}

impl Tile {
    pub(super) const LARGE: Self = Self::Tiled { tx: 16, ty: 16 };
    pub(super) const SMALL: Self = Self::Tiled { tx: 8, ty: 8 };
    pub(super) const THIN: Self = Self::Tiled { tx: 32, ty: 2 };

    /// A subgroup's tile of 32 rows.
    pub(super) fn high(lanes: u32) -> Self {
        Self::Subgroup { lanes, groups: 32 / lanes }
    }

    /// A subgroup's tile of 8 rows, or as many as there are lanes.
    pub(super) fn low(lanes: u32) -> Self {
        Self::Subgroup { lanes, groups: 8u32.div_ceil(lanes) }
    }

    /// Those of all subgroups.
    pub(super) fn subgroups() -> impl Iterator<Item = Self> {
        [4, 8, 16].into_iter().flat_map(|lanes| [Self::low(lanes), Self::high(lanes)])
    }

    /// Rows and columns.
    pub(super) fn extent(self) -> (usize, usize) {
        match self {
            Self::Subgroup { lanes, groups } => ((lanes * groups) as usize, 4 * lanes as usize),
            Self::Tiled { tx, ty } => (4 * ty as usize, 4 * tx as usize),
        }
    }

    /// Its defines; `loads` name those of how often an invocation of the tiled family loads from rows and columns.
    pub(super) fn defines(self, loads: [&'static str; 2]) -> Vec<(&'static str, u32)> {
        match self {
            Self::Subgroup { lanes, groups } => vec![("LANES", lanes), ("GROUPS", groups)],
            Self::Tiled { tx, ty } => {
                let of = |t: u32| (16 * t).div_ceil(tx * ty);
                vec![("TX", tx), ("TY", ty), (loads[0], of(ty)), (loads[1], of(tx))]
            }
        }
    }
}

/// How many units of so many floating-point operations each one dispatch may do, at least one.
pub(super) fn units(flops: u64, most_flops: u64) -> usize {
    usize::try_from(most_flops / flops.max(1)).unwrap_or(usize::MAX).max(1)
}

/// Cuts 0..count into runs of at most `limit`: (start, length).
pub(super) fn runs(count: usize, limit: usize) -> impl Iterator<Item = (u32, u32)> {
    (0..count).step_by(limit).map(move |from| (from as u32, (count - from).min(limit) as u32))
}
