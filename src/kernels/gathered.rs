//! Dot products of queries with the items of gathered candidates: the second stage of a two-stage search.
//!
//! | family | a workgroup's queries x items | when |
//! |---|---|---|
//! | subgroup of s | 32 x 4s | more than 16 queries |
//! | | 8 x 4s (16 x 4s for s = 16) | more than 2 queries |
//! | | 1 x 8 (1 x 4 for s = 4) | otherwise |
//! | tiled | 4 x 32 | more than 2 queries |
//! | | 1 x 32 | otherwise |
//!
//! One kernel's invocations share rows, which they read side by side; for many queries on software adapters there is
//! that of [`super::matmul`], whose lanes have rows of their own.

use bytemuck::{Pod, Zeroable};

use super::{expect_iterations, fits_u32, launch};
use crate::gpu::KernelFamily;
use crate::shader::Variant;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "gathered";
const TEAMS: &str = include_str!("../../shaders/gathered.wgsl");
const SUBGROUP: &str = include_str!("../../shaders/gathered_subgroup.wgsl");

/// Floating-point operations of one dispatch, at most: 160 ms at 100 GFLOP/s, as small GPUs make.
const MOST_FLOPS: u64 = 16_000_000_000;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    batch: u32,
    queries: u32,
    columns: u32,
    videos: u32,
    items: u32,
    width: u32,
    column_tiles: u32,
    query_tiles: u32,
    first: u32,
}

/// A workgroup's tile, as the shaders' defines give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tile {
    /// `count` teams of `lanes` invocations, side by side; a single one is a subgroup.
    Teams {
        lanes: u32,
        count: u32,
        queries: u32,
    },
    Subgroup {
        lanes: u32,
        groups: u32,
    },
}

impl Tile {
    fn all() -> Vec<Self> {
        let tiled = [1, 4].map(|queries| Self::Teams { lanes: 16, count: 4, queries });
        let single = [4, 8, 16].map(|lanes| Self::Teams { lanes, count: 1, queries: 1 });
        let subgroup = [(4, 2), (4, 8), (8, 1), (8, 4), (16, 1), (16, 2)];
        let subgroup = subgroup.map(|(lanes, groups)| Self::Subgroup { lanes, groups });
        tiled.into_iter().chain(single).chain(subgroup).collect()
    }

    fn choose(family: KernelFamily, queries: usize) -> Self {
        match family {
            KernelFamily::Tiled => Self::Teams { lanes: 16, count: 4, queries: if queries > 2 { 4 } else { 1 } },
            KernelFamily::Subgroup { size: lanes } if queries > 16 => Self::Subgroup { lanes, groups: 32 / lanes },
            KernelFamily::Subgroup { size: lanes } if queries > 2 => {
                Self::Subgroup { lanes, groups: 8u32.div_ceil(lanes) }
            }
            KernelFamily::Subgroup { size: lanes } => Self::Teams { lanes, count: 1, queries: 1 },
        }
    }

    /// Columns of a team: a lane stores one of them.
    fn team_columns(lanes: u32) -> u32 {
        lanes.min(8)
    }

    /// Queries and columns.
    fn extent(self) -> (usize, usize) {
        match self {
            Self::Teams { lanes, count, queries } => (queries as usize, (count * Self::team_columns(lanes)) as usize),
            Self::Subgroup { lanes, groups } => ((lanes * groups) as usize, 4 * lanes as usize),
        }
    }

    /// Iterations of an invocation: over the width, and at the end over lanes or rows.
    fn iterations(self, width: usize) -> usize {
        match self {
            Self::Teams { lanes, .. } => (width / 4).div_ceil(lanes as usize) + 128,
            Self::Subgroup { .. } => width / 4 + 64,
        }
    }
}

fn variant(tile: Tile, half: bool) -> Variant {
    let (name, source, mut defines) = match tile {
        Tile::Teams { lanes, count, queries } => {
            let columns = Tile::team_columns(lanes);
            let mut defines = vec![("LANES", lanes), ("TEAMS", count), ("QUERIES", queries), ("COLUMNS", columns)];
            if count == 1 {
                defines.extend([("SUBGROUP", 1), ("LOG_LANES", lanes.ilog2())]);
            }
            ("gathered", TEAMS, defines)
        }
        Tile::Subgroup { lanes, groups } => ("gathered_subgroup", SUBGROUP, vec![("LANES", lanes), ("GROUPS", groups)]),
    };
    defines.extend(half.then_some(("HALF", 1)));
    Variant::own(name, source, defines)
}

pub(super) fn variants() -> Vec<Variant> {
    Tile::all().into_iter().flat_map(|tile| [false, true].map(|half| variant(tile, half))).collect()
}

/// For every query of a batch, its dot products with all items of the batch's candidates: f32 `[batch, queries,
/// candidates, items]`, of which element (b, q, c, r) is ⟨queries(b, q), items(ids(b, c), r)⟩.
///
/// `queries` are f32 `[batch, queries, width]`; `items` f32 `[videos, items, width]`, or u32 `[videos, items, width / 2]`
/// of two halves each, the first in the low bits, whose products and sums are f32; `ids` u32 `[batch, candidates]`. An id
/// beyond the videos has dot products of 0. There is no gradient.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] unless all are as above, with a width that is a multiple of 4 and at least 4;
/// [`Error::LimitExceeded`] for 2³² elements or more and, on software adapters, for widths of some 260,000; device errors.
pub fn forward(queries: &Tensor, items: &Tensor, ids: &Tensor) -> Result<Tensor> {
    run(queries, items, ids, None, MOST_FLOPS)
}

/// [`forward`], with another tile and other dispatches than the rules' if given.
fn run(queries: &Tensor, items: &Tensor, ids: &Tensor, force: Option<Tile>, most_flops: u64) -> Result<Tensor> {
    queries.expect_dtype(OP, "queries", DType::F32)?;
    ids.expect_dtype(OP, "ids", DType::U32)?;
    let &[batch, count, width] = queries.shape() else {
        let expected = "[batch, queries, width]".into();
        return Err(Error::Shape { op: OP, argument: "queries", expected, got: queries.shape().to_vec() });
    };
    if width == 0 || !width.is_multiple_of(4) {
        let expected = "a width that is a multiple of 4, and above 0".into();
        return Err(Error::Shape { op: OP, argument: "queries", expected, got: queries.shape().to_vec() });
    }
    let half = items.dtype() == DType::U32;
    let stored = if half { width / 2 } else { width };
    let (videos, per_video) = match *items.shape() {
        [videos, per_video, last] if last == stored => (videos, per_video),
        _ => {
            let expected = format!("[videos, items, {stored}]");
            return Err(Error::Shape { op: OP, argument: "items", expected, got: items.shape().to_vec() });
        }
    };
    let candidates = match *ids.shape() {
        [rows, candidates] if rows == batch => candidates,
        _ => {
            let expected = format!("[{batch}, candidates]");
            return Err(Error::Shape { op: OP, argument: "ids", expected, got: ids.shape().to_vec() });
        }
    };
    fits_u32(OP, &[batch, count, width])?;
    fits_u32(OP, &[videos, per_video, width])?;
    fits_u32(OP, &[batch, count, candidates, per_video])?;
    let gpu = queries.gpu();
    let y = Tensor::uninit(gpu, OP, [batch, count, candidates, per_video])?;
    if y.is_empty() || videos == 0 {
        y.fill_zero()?;
        return Ok(y);
    }
    let tile = force.unwrap_or_else(|| Tile::choose(gpu.family(), count));
    expect_iterations(gpu, OP, tile.iterations(width))?;
    let columns = candidates * per_video;
    let (tile_queries, tile_columns) = tile.extent();
    let column_tiles = columns.div_ceil(tile_columns);
    let query_tiles = count.div_ceil(tile_queries);
    let total = fits_u32(OP, &[batch, column_tiles, query_tiles])? as usize;
    let flops = 2 * (tile_queries * tile_columns * width) as u64;
    let most = usize::try_from(most_flops / flops).unwrap_or(usize::MAX).max(1);
    for first in (0..total).step_by(most) {
        let groups = most.min(total - first);
        let params = Params {
            batch: batch as u32,
            queries: count as u32,
            columns: columns as u32,
            videos: videos as u32,
            items: per_video as u32,
            width: (width / 4) as u32,
            column_tiles: column_tiles as u32,
            query_tiles: query_tiles as u32,
            first: first as u32,
        };
        launch(OP, &variant(tile, half), &[queries, items, ids, &y], &params, gpu.grid(groups), flops * groups as u64)?;
    }
    Ok(y)
}

/// The same in plain Rust.
pub mod cpu {
    /// Batch, queries, candidates, videos, items, width.
    pub type Extents = [usize; 6];

    /// The dot products, summed in f64.
    pub fn forward(
        [batch, queries, candidates, videos, items, width]: Extents,
        q: &[f32],
        x: &[f32],
        ids: &[u32],
    ) -> Vec<f32> {
        let mut y = Vec::new();
        for b in 0..batch {
            for query in q[b * queries * width..].chunks_exact(width).take(queries) {
                for &id in &ids[b * candidates..][..candidates] {
                    for r in 0..items {
                        let row = (id as usize * items + r) * width;
                        let dot = |x: &[f32]| query.iter().zip(x).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                        let value: f64 = if (id as usize) < videos { dot(&x[row..]) } else { 0.0 };
                        y.push(value as f32);
                    }
                }
            }
        }
        y
    }
}

#[cfg(test)]
mod tests;
