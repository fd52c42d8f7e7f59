//! Dot products of listed pairs of a text and a video: the second stage of a two-stage search.
//!
//! Pairs that stand side by side and have the same video are a run: a tile of a run's rows, which are the queries of its
//! texts, reads the video's items once. So pairs in the order of their videos cost least, and no pair costs what another
//! one does not need.
//!
//! | family | a workgroup's rows x items | a run's mean rows |
//! |---|---|---|
//! | subgroup of s | 32 x 4s | more than 16 |
//! | | 8 x 4s (16 x 4s for s = 16) | more than 2 |
//! | | 1 x 8 (1 x 4 for s = 4) | otherwise |
//! | tiled | 4 x 32 | more than 2 |
//! | | 1 x 32 | otherwise |
//!
//! One kernel's invocations share rows, which they read side by side; for many rows on software adapters there is that of
//! [`crate::kernels::linear::matmul`], whose lanes have items of their own.

use bytemuck::{Pod, Zeroable};

use crate::gpu::KernelFamily;
use crate::kernels::{MOST_FLOPS, expect_iterations, fits_u32, launch};
use crate::shader::Variant;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "gathered";
const TEAMS: &str = include_str!("../../../shaders/similarity/gathered.wgsl");
const SUBGROUP: &str = include_str!("../../../shaders/similarity/gathered_subgroup.wgsl");

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    queries: u32,
    items: u32,
    width: u32,
    tiles: u32,
    column_tiles: u32,
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

    /// For runs of so many rows.
    fn choose(family: KernelFamily, rows: usize) -> Self {
        match family {
            KernelFamily::Tiled => Self::Teams { lanes: 16, count: 4, queries: if rows > 2 { 4 } else { 1 } },
            KernelFamily::Subgroup { size: lanes } if rows > 16 => Self::Subgroup { lanes, groups: 32 / lanes },
            KernelFamily::Subgroup { size: lanes } if rows > 2 => {
                Self::Subgroup { lanes, groups: 8u32.div_ceil(lanes) }
            }
            KernelFamily::Subgroup { size: lanes } => Self::Teams { lanes, count: 1, queries: 1 },
        }
    }

    /// Columns of a team: a lane stores one of them.
    fn team_columns(lanes: u32) -> u32 {
        lanes.min(8)
    }

    /// Rows and items.
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

pub(crate) fn variants() -> Vec<Variant> {
    Tile::all().into_iter().flat_map(|tile| [false, true].map(|half| variant(tile, half))).collect()
}

/// For every pair of a text and a video, the dot products of the text's queries with the video's items: f32 `[pairs,
/// queries, items]`.
///
/// `queries` are f32 `[texts, queries, width]`; `items` f32 or f16 `[videos, items, width]`, with products and sums in
/// f32; `pairs` tells each pair's text and its video. There is no gradient.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] unless both tensors are as above, with a width that is a multiple of 4 and at
/// least 4; [`Error::IndexOutOfRange`] for a text or video that there is not; [`Error::LimitExceeded`] for 2³² elements or
/// more and, on software adapters, for widths of some 260,000; device errors.
pub fn forward(queries: &Tensor, items: &Tensor, pairs: &[[u32; 2]]) -> Result<Tensor> {
    run(queries, items, pairs, None, MOST_FLOPS)
}

/// [`forward`], with another tile and other dispatches than the rules' if given.
fn run(queries: &Tensor, items: &Tensor, pairs: &[[u32; 2]], force: Option<Tile>, most_flops: u64) -> Result<Tensor> {
    queries.expect_dtype(OP, "queries", DType::F32)?;
    let &[texts, count, width] = queries.shape() else {
        let expected = "[texts, queries, width]".into();
        return Err(Error::Shape { op: OP, argument: "queries", expected, got: queries.shape().to_vec() });
    };
    if width == 0 || !width.is_multiple_of(4) {
        let expected = "a width that is a multiple of 4, and above 0".into();
        return Err(Error::Shape { op: OP, argument: "queries", expected, got: queries.shape().to_vec() });
    }
    let half = items.is_half(OP, "items")?;
    let (videos, per_video) = match *items.shape() {
        [videos, per_video, last] if last == width => (videos, per_video),
        _ => {
            let expected = format!("[videos, items, {width}]");
            return Err(Error::Shape { op: OP, argument: "items", expected, got: items.shape().to_vec() });
        }
    };
    let numbers = pairs.iter().flat_map(|&[text, video]| [(text, texts), (video, videos)]);
    if let Some((index, len)) = numbers.into_iter().find(|&(index, len)| index as usize >= len) {
        return Err(Error::IndexOutOfRange { op: OP, index: index.into(), len: len as u64 });
    }
    fits_u32(OP, &[texts, count, width])?;
    fits_u32(OP, &[videos, per_video, width])?;
    fits_u32(OP, &[pairs.len(), count, per_video])?;
    let gpu = queries.gpu();
    let y = Tensor::uninit(gpu, OP, [pairs.len(), count, per_video])?;
    if y.is_empty() {
        return Ok(y);
    }
    let runs: Vec<&[[u32; 2]]> = pairs.chunk_by(|a, b| a[1] == b[1]).collect();
    let tile = force.unwrap_or_else(|| Tile::choose(gpu.family(), pairs.len() * count / runs.len()));
    expect_iterations(gpu, OP, tile.iterations(width))?;
    let (tile_rows, tile_items) = tile.extent();
    let (mut tiles, mut first) = (Vec::new(), 0);
    for run in runs {
        let end = first + run.len() * count;
        for row in (first..end).step_by(tile_rows) {
            tiles.extend([row as u32, end.min(row + tile_rows) as u32, run[0][1]]);
        }
        first = end;
    }
    let count_of_tiles = tiles.len() / 3;
    let column_tiles = per_video.div_ceil(tile_items);
    let total = fits_u32(OP, &[count_of_tiles, column_tiles])? as usize;
    let tiles = Tensor::from_u32(gpu, [count_of_tiles, 3], &tiles)?;
    let texts: Vec<u32> = pairs.iter().map(|pair| pair[0]).collect();
    let texts = Tensor::from_u32(gpu, [texts.len()], &texts)?;
    let flops = 2 * (tile_rows * tile_items * width) as u64;
    let most = usize::try_from(most_flops / flops).unwrap_or(usize::MAX).max(1);
    for first in (0..total).step_by(most) {
        let groups = most.min(total - first);
        let params = Params {
            queries: count as u32,
            items: per_video as u32,
            width: (width / 4) as u32,
            tiles: count_of_tiles as u32,
            column_tiles: column_tiles as u32,
            first: first as u32,
        };
        let buffers = [queries, items, &texts, &tiles, &y];
        launch(OP, &variant(tile, half), &buffers, &params, gpu.grid(groups), flops * groups as u64)?;
    }
    Ok(y)
}

/// The same in plain Rust.
pub mod cpu {
    /// Queries of a text, items of a video, width.
    pub type Extents = [usize; 3];

    /// The dot products, summed in f64.
    pub fn forward([queries, items, width]: Extents, q: &[f32], x: &[f32], pairs: &[[u32; 2]]) -> Vec<f32> {
        let mut y = Vec::new();
        for &[text, video] in pairs {
            for query in q[text as usize * queries * width..].chunks_exact(width).take(queries) {
                for item in x[video as usize * items * width..].chunks_exact(width).take(items) {
                    let sum: f64 = query.iter().zip(item).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    y.push(sum as f32);
                }
            }
        }
        y
    }
}

#[cfg(test)]
mod tests;
