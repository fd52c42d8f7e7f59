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

use crate::gpu::KernelFamily;
use crate::kernels::shape::count_elements;
use crate::kernels::tile::{DISPATCH_FLOPS, Tile, runs, units};
use crate::kernels::{expect_iterations, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "gathered";
const TEAMS: &str = include_str!("../../../shaders/similarity/gathered.wgsl");
const SUBGROUP: &str = include_str!("../../../shaders/similarity/gathered_subgroup.wgsl");

params! {
    struct Params { queries: u32, items: u32, width: u32, tiles: u32, column_tiles: u32, first: u32 }
}

/// How a workgroup's invocations share its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    /// `count` teams of `lanes` invocations, side by side; a single one is a subgroup.
    Teams { lanes: u32, count: u32, queries: u32 },
    /// Lanes have items of their own, as a subgroup's tile has.
    Items(Tile),
}

impl Split {
    fn all() -> impl Iterator<Item = Self> {
        let tiled = [1, 4].map(|queries| Self::Teams { lanes: 16, count: 4, queries });
        let single = [4, 8, 16].map(|lanes| Self::Teams { lanes, count: 1, queries: 1 });
        tiled.into_iter().chain(single).chain(Tile::subgroups().map(Self::Items))
    }

    /// For runs of so many rows.
    fn choose(family: KernelFamily, rows: usize) -> Self {
        match family {
            KernelFamily::Tiled => Self::Teams { lanes: 16, count: 4, queries: if rows > 2 { 4 } else { 1 } },
            KernelFamily::Subgroup { size } if rows > 16 => Self::Items(Tile::high(size)),
            KernelFamily::Subgroup { size } if rows > 2 => Self::Items(Tile::low(size)),
            KernelFamily::Subgroup { size } => Self::Teams { lanes: size, count: 1, queries: 1 },
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
            Self::Items(tile) => tile.extent(),
        }
    }

    /// Iterations of an invocation: over the width, and at the end over lanes or rows.
    fn iterations(self, width: usize) -> usize {
        match self {
            Self::Teams { lanes, .. } => (width / 4).div_ceil(lanes as usize) + 128,
            Self::Items(_) => width / 4 + 64,
        }
    }
}

fn variant(split: Split, half: bool) -> Variant {
    let variant = match split {
        Split::Teams { lanes, count, queries } => Variant::own::<Params>("gathered", TEAMS)
            .set("LANES", lanes)
            .set("TEAMS", count)
            .set("QUERIES", queries)
            .set("COLUMNS", Split::team_columns(lanes))
            .on("SUBGROUP", count == 1)
            .maybe("LOG_LANES", (count == 1).then(|| lanes.ilog2())),
        Split::Items(tile) => {
            Variant::own::<Params>("gathered_subgroup", SUBGROUP).all(tile.defines(["Q_LOADS", "X_LOADS"]))
        }
    };
    variant.on("HALF", half)
}

pub(crate) fn variants() -> Vec<Variant> {
    Split::all().flat_map(|split| [false, true].map(|half| variant(split, half))).collect()
}

/// For every pair of a text and a video, the dot products of the text's queries with the video's items: f32 `[pairs,
/// queries, items]`.
///
/// `queries` are f32 `[texts, queries, width]`; `items` f32 or f16 `[videos, items, width]`, with products and sums in
/// f32; `pairs` tells each pair's text and its video. There is no gradient.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] unless both tensors are as above, with a width that is a multiple of 4 and at
/// least 4; [`Error::IndexOutOfRange`] for a text or video that there is not; [`Error::LimitExceeded`] for 2³¹ elements or
/// more and, on software adapters, for widths of some 260,000; device errors.
pub fn forward(queries: &Tensor, items: &Tensor, pairs: &[[u32; 2]]) -> Result<Tensor> {
    run(queries, items, pairs, Split::choose, DISPATCH_FLOPS)
}

/// [`forward`], split as `choose` says, in dispatches of at most so many floating-point operations.
fn run(
    queries: &Tensor,
    items: &Tensor,
    pairs: &[[u32; 2]],
    choose: impl Fn(KernelFamily, usize) -> Split,
    most_flops: u64,
) -> Result<Tensor> {
    let [count, per_video, width] = check(queries, items, pairs)?;
    let gpu = queries.gpu();
    let y = Tensor::uninit(gpu, OP, [pairs.len(), count, per_video])?;
    if y.is_empty() {
        return Ok(y);
    }
    let runs_of_videos: Vec<&[[u32; 2]]> = pairs.chunk_by(|a, b| a[1] == b[1]).collect();
    let split = choose(gpu.family(), pairs.len() * count / runs_of_videos.len());
    expect_iterations(gpu, OP, split.iterations(width))?;
    let (tile_rows, tile_items) = split.extent();
    let (mut tiles, mut first) = (Vec::new(), 0);
    for run in runs_of_videos {
        let end = first + run.len() * count;
        for row in (first..end).step_by(tile_rows) {
            tiles.extend([row as u32, end.min(row + tile_rows) as u32, run[0][1]]);
        }
        first = end;
    }
    let tiles = Tensor::from_u32(gpu, [tiles.len() / 3, 3], &tiles)?;
    let column_tiles = per_video.div_ceil(tile_items);
    let total = count_elements(OP, &[tiles.rows(), column_tiles])?;
    let texts: Vec<u32> = pairs.iter().map(|pair| pair[0]).collect();
    let texts = Tensor::from_u32(gpu, [texts.len()], &texts)?;
    let variant = variant(split, items.dtype() == DType::F16);
    let flops = 2 * (tile_rows * tile_items * width) as u64;
    for (first, groups) in runs(total, units(flops, most_flops)) {
        let params = Params {
            queries: count as u32,
            items: per_video as u32,
            width: (width / 4) as u32,
            tiles: tiles.rows() as u32,
            column_tiles: column_tiles as u32,
            first,
        };
        let tensors = [queries, items, &texts, &tiles, &y];
        launch(OP, &variant, &tensors, &params, gpu.grid(groups as usize), flops * u64::from(groups))?;
    }
    Ok(y)
}

/// Queries of a text, items of a video, and width.
fn check(queries: &Tensor, items: &Tensor, pairs: &[[u32; 2]]) -> Result<[usize; 3]> {
    let [texts, count, width] = queries.extents(OP, "queries", "[texts, queries, width]")?;
    items.is_half(OP, "items")?;
    if width == 0 || !width.is_multiple_of(4) {
        let expected = "a width that is a multiple of 4, and above 0";
        return Err(Error::shape(OP, "queries", expected, queries.shape()));
    }
    let (videos, per_video) = match *items.shape() {
        [videos, per_video, last] if last == width => (videos, per_video),
        _ => return Err(Error::shape(OP, "items", format!("[videos, items, {width}]"), items.shape())),
    };
    let mut numbers = pairs.iter().flat_map(|&[text, video]| [(text, texts), (video, videos)]);
    if let Some((index, len)) = numbers.find(|&(index, len)| index as usize >= len) {
        return Err(Error::IndexOutOfRange { op: OP, index: index.into(), len: len as u64 });
    }
    count_elements(OP, &[texts, count, width])?;
    count_elements(OP, &[videos, per_video, width])?;
    count_elements(OP, &[pairs.len(), count, per_video])?;
    Ok([count, per_video, width])
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
