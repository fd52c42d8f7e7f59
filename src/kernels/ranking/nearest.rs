//! The rows nearest to each query, without a matrix of scores: the first stage of search.
//!
//! Rows are taken in chunks of [`CHUNK`], and each chunk gives its best few by themselves: a workgroup computes a chunk's
//! products and selects among them without writing any. Who merges the chunks' lists learns from the last entry of each how
//! good what was left out can be, and so whether the merged list is right.
//!
//! | family | invocations of a workgroup | rows at a time |
//! |---|---|---|
//! | subgroup of s | s | 8 (4 for s = 4) |
//! | tiled | 256, in teams of 16 | 64 |

use crate::gpu::KernelFamily;
use crate::kernels::ranking::select;
use crate::kernels::shape::count_elements;
use crate::kernels::tile::{DISPATCH_FLOPS, runs, units};
use crate::kernels::{expect_iterations, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "nearest";
const WGSL: &str = include_str!("../../../shaders/ranking/nearest.wgsl");

/// Rows that are searched together.
pub const CHUNK: usize = 1024;

/// The most rows that a chunk gives.
pub const MOST_KEPT: usize = 256;

/// Values of a row of bytes that share a scale.
pub const BLOCK: usize = 16;

params! {
    struct Params { queries: u32, rows: u32, width: u32, chunks: u32, kept: u32, room: u32, first: u32 }
}

/// What is searched.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// f32 or f16 (rows, width).
    Floats(&'a Tensor),
    /// Signed bytes, and a factor for every [`BLOCK`] values of a row.
    Bytes {
        /// u32 (rows, width / 4): four bytes in each, the first in the low bits.
        values: &'a Tensor,
        /// f32 (rows, width / 16).
        scales: &'a Tensor,
    },
}

/// How the rows' values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    F32,
    F16,
    Bytes,
}

impl Stored {
    /// Values that are fetched at a time.
    fn unit(self) -> usize {
        if self == Self::Bytes { BLOCK } else { 4 }
    }
}

impl Rows<'_> {
    /// How they are stored, how many there are, and values of each.
    fn layout(&self) -> Result<(Stored, usize, usize)> {
        match self {
            Self::Floats(x) => {
                let stored = if x.is_half(OP, "rows")? { Stored::F16 } else { Stored::F32 };
                let &[rows, width] = x.shape() else {
                    return Err(Error::shape(OP, "rows", "[rows, width]", x.shape()));
                };
                Ok((stored, rows, width))
            }
            Self::Bytes { values, scales } => {
                values.expect_dtype(OP, "values", DType::U32)?;
                scales.expect_dtype(OP, "scales", DType::F32)?;
                let &[rows, words] = values.shape() else {
                    return Err(Error::shape(OP, "values", "[rows, width / 4]", values.shape()));
                };
                let width = 4 * words;
                if scales.shape() != [rows, width / BLOCK] {
                    let expected = format!("[{rows}, {}]", width / BLOCK);
                    return Err(Error::shape(OP, "scales", expected, scales.shape()));
                }
                Ok((Stored::Bytes, rows, width))
            }
        }
    }
}

/// Invocations of a workgroup and of a team, and rows of a team.
fn teams(family: KernelFamily) -> [u32; 3] {
    match family {
        KernelFamily::Tiled => [256, 16, 4],
        KernelFamily::Subgroup { size } => [size, size, size.min(8)],
    }
}

fn variant(stored: Stored, family: KernelFamily) -> Variant {
    let [_, team, columns] = teams(family);
    let subgroup = matches!(family, KernelFamily::Subgroup { .. });
    Variant::own::<Params>("nearest", WGSL)
        .all(select::defines(family))
        .set("ROOM", 2 * MOST_KEPT as u32)
        .set("CHUNK", CHUNK as u32)
        .set("TEAM", team)
        .set("COLUMNS", columns)
        .maybe("LOG_LANES", subgroup.then(|| team.ilog2()))
        .on("HALF", stored == Stored::F16)
        .on("BYTES", stored == Stored::Bytes)
}

pub(crate) fn variants() -> Vec<Variant> {
    let stored = [Stored::F32, Stored::F16, Stored::Bytes];
    let each = stored.into_iter().flat_map(|stored| crate::kernels::lanes::FAMILIES.map(|family| (stored, family)));
    each.map(|(stored, family)| variant(stored, family)).collect()
}

/// The best rows of every chunk.
pub struct Nearest {
    /// Their products, f32 (queries, chunks, kept); the largest first, and NaN last.
    pub products: Tensor,
    /// Their numbers, u32 (queries, chunks, kept): of equals the lower one first, and [`u32::MAX`] where a chunk has fewer.
    pub rows: Tensor,
}

/// The `kept` rows of every chunk with the largest dot products with each query, f32 (queries, width); sums are in f32.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] unless the widths agree and are a multiple of 4, with bytes of 16; without a row;
/// [`Error::Argument`] for more than [`MOST_KEPT`]; [`Error::LimitExceeded`] for 2³¹ elements or more and, on software
/// adapters, for widths of some 10,000; device errors.
pub fn forward(queries: &Tensor, rows: Rows<'_>, kept: usize) -> Result<Nearest> {
    run(queries, rows, kept, DISPATCH_FLOPS)
}

/// [`forward`] in dispatches of at most so many floating-point operations.
fn run(queries: &Tensor, rows: Rows<'_>, kept: usize, most_flops: u64) -> Result<Nearest> {
    let (stored, count, width) = rows.layout()?;
    let [asked, query_width] = queries.extents(OP, "queries", "[queries, width]")?;
    if width == 0 || !width.is_multiple_of(stored.unit()) || query_width != width {
        let expected = format!("a width that is a multiple of {}, and that of the rows, {width}", stored.unit());
        return Err(Error::shape(OP, "queries", expected, queries.shape()));
    }
    if count == 0 {
        return Err(Error::shape(OP, "rows", "at least a row", &[count, width]));
    }
    if kept > MOST_KEPT {
        return Err(Error::argument(OP, "kept", format!("of {kept} exceeds the {MOST_KEPT} that a chunk gives")));
    }
    let (gpu, chunks) = (queries.gpu(), count.div_ceil(CHUNK));
    count_elements(OP, &[count, width])?;
    count_elements(OP, &[asked, width])?;
    count_elements(OP, &[asked, chunks, kept])?;
    let [_, team, columns] = teams(gpu.family());
    let fetches = (width / stored.unit()).div_ceil(team as usize) + 1;
    // Products, and what selecting looks through; that is little in workgroups of many invocations.
    expect_iterations(gpu, OP, CHUNK / columns as usize * fetches + 18 * CHUNK / team as usize + 256)?;
    let shape = [asked, chunks, kept];
    let products = Tensor::uninit(gpu, OP, shape)?;
    let found = Tensor::uninit_of(gpu, OP, shape, DType::U32)?;
    let variant = variant(stored, gpu.family());
    let flops = 2 * (CHUNK * width) as u64;
    for (first, groups) in runs(if kept == 0 { 0 } else { asked * chunks }, units(flops, most_flops)) {
        let params = Params {
            queries: asked as u32,
            rows: count as u32,
            width: (width / stored.unit()) as u32,
            chunks: chunks as u32,
            kept: kept as u32,
            room: select::room(kept).min(2 * MOST_KEPT as u32),
            first,
        };
        let (x, scales) = match rows {
            Rows::Floats(x) => (x, None),
            Rows::Bytes { values, scales } => (values, Some(scales)),
        };
        let tensors: Vec<&Tensor> = [queries, x, &products, &found].into_iter().chain(scales).collect();
        launch(OP, &variant, &tensors, &params, gpu.grid(groups as usize), flops * u64::from(groups))?;
    }
    Ok(Nearest { products, rows: found })
}

/// The same in plain Rust.
pub mod cpu {
    use super::CHUNK;
    use crate::kernels::ranking::topk;

    /// For each query, chunk by chunk, the best rows with their products, which are summed in f64.
    pub fn forward(queries: &[f32], rows: &[f32], width: usize, kept: usize) -> Vec<Vec<(u32, f32)>> {
        let mut found = Vec::new();
        for query in queries.chunks_exact(width) {
            for (number, chunk) in rows.chunks(CHUNK * width).enumerate() {
                let dot = |row: &[f32]| query.iter().zip(row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
                let products: Vec<f32> = chunk.chunks_exact(width).map(|row| dot(row) as f32).collect();
                let best = topk::cpu::topk(&products, kept).into_iter();
                found.push(best.map(|i| ((number * CHUNK) as u32 + i, products[i as usize])).collect());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Gpu;
    use crate::kernels::testing::{gpus, noise, poisoned};

    /// Values of which sums are exact in any order, with many equal ones.
    fn eighths(n: usize, seed: u64) -> Vec<f32> {
        noise(n, seed).into_iter().map(|v| (v * 8.0).round() / 8.0).collect()
    }

    fn lists(found: &Nearest) -> Vec<Vec<(u32, f32)>> {
        let (products, rows) = (found.products.to_vec().unwrap(), found.rows.to_u32().unwrap());
        let kept = found.rows.width();
        let list = |(rows, products): (&[u32], &[f32])| {
            let pairs = rows.iter().copied().zip(products.iter().copied());
            pairs.filter(|&(row, _)| row != u32::MAX).collect()
        };
        rows.chunks_exact(kept).zip(products.chunks_exact(kept)).map(list).collect()
    }

    /// `x` as bytes of eighths, eight times as large, and a scale of 1 / 8 times a power of two for each block.
    fn as_bytes(gpu: &Gpu, x: &[f32], width: usize) -> (Tensor, Tensor, Vec<f32>) {
        let rows = x.len() / width;
        let blocks = width / BLOCK;
        let scale = |row: usize, block: usize| [0.125, 0.25, 0.0625][(row + block) % 3];
        let bytes: Vec<u8> = x.iter().map(|v| (v * 8.0) as i8 as u8).collect();
        let words: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let scales: Vec<f32> = (0..rows * blocks).map(|i| scale(i / blocks, i % blocks)).collect();
        let meant = x.iter().enumerate().map(|(i, v)| v * 8.0 * scales[i / width * blocks + i % width / BLOCK]);
        let values = Tensor::from_u32(gpu, [rows, width / 4], &words).unwrap();
        (values, Tensor::from_slice(gpu, [rows, blocks], &scales).unwrap(), meant.collect())
    }

    #[test]
    fn every_chunk_gives_its_best_in_order() {
        for gpu in gpus() {
            for [asked, rows, width, kept] in [
                [1, 1, 4, 1],
                [2, 7, 16, 7],
                [1, 7, 16, 12],
                [3, 1023, 48, 5],
                [2, 1024, 12, 256],
                [1, 1025, 16, 33],
                [5, 2500, 80, 20],
                [1, 300, 1024, 256],
            ] {
                let (queries, x) = (eighths(asked * width, 1), eighths(rows * width, 2));
                let q = poisoned(&gpu, &[asked, width], &queries);
                let at = [asked, rows, width, kept];
                let expected = cpu::forward(&queries, &x, width, kept);
                let floats = poisoned(&gpu, &[rows, width], &x);
                let found = run(&q, Rows::Floats(&floats), kept, u64::MAX).unwrap();
                assert_eq!(found.rows.shape(), [asked, rows.div_ceil(CHUNK), kept]);
                assert_eq!(lists(&found), expected, "{at:?}");
                assert_eq!(lists(&run(&q, Rows::Floats(&floats), kept, 1).unwrap()), expected, "{at:?} one by one");
                let halves = Tensor::from_slice_f16(&gpu, [rows, width], &x).unwrap();
                assert_eq!(lists(&forward(&q, Rows::Floats(&halves), kept).unwrap()), expected, "{at:?} in halves");
                if width.is_multiple_of(16) {
                    let (values, scales, meant) = as_bytes(&gpu, &x, width);
                    let bytes = Rows::Bytes { values: &values, scales: &scales };
                    let expected = cpu::forward(&queries, &meant, width, kept);
                    assert_eq!(lists(&forward(&q, bytes, kept).unwrap()), expected, "{at:?} in bytes");
                }
            }
        }
    }

    #[test]
    fn nan_comes_last_and_is_not_hidden() {
        for gpu in gpus() {
            let mut x = eighths(20 * 4, 3);
            x[9 * 4] = f32::NAN;
            let q = Tensor::from_slice(&gpu, [1, 4], &[1.0, 0.5, 0.25, 1.0]).unwrap();
            let x = Tensor::from_slice(&gpu, [20, 4], &x).unwrap();
            let found = lists(&forward(&q, Rows::Floats(&x), 20).unwrap());
            assert!(found[0][19].0 == 9 && found[0][19].1.is_nan(), "{found:?}");
            assert!(found[0][..19].iter().all(|(_, product)| product.is_finite()));
        }
    }

    #[test]
    fn nothing_asked_gives_nothing() {
        for gpu in gpus() {
            let x = Tensor::zeros(&gpu, "x", [3, 4]).unwrap();
            for (asked, kept) in [(0, 2), (2, 0)] {
                let q = Tensor::zeros(&gpu, "q", [asked, 4]).unwrap();
                assert_eq!(forward(&q, Rows::Floats(&x), kept).unwrap().rows.shape(), [asked, 1, kept]);
            }
        }
    }

    #[test]
    fn wrong_arguments_are_errors() {
        for gpu in gpus() {
            let t = |shape: &[usize]| Tensor::zeros(&gpu, "x", shape).unwrap();
            let of = |q: &[usize], x: &[usize], kept| forward(&t(q), Rows::Floats(&t(x)), kept).map(drop).unwrap_err();
            for (q, x) in [(&[2, 8], &[3, 4]), (&[2, 6], &[3, 6]), (&[2, 0], &[3, 0]), (&[2, 4], &[0, 4])] {
                assert!(matches!(of(q, x, 1), Error::Shape { op: OP, .. }));
            }
            assert!(matches!(of(&[8], &[3, 8], 1), Error::Shape { argument: "queries", .. }));
            assert!(matches!(of(&[1, 8], &[8], 1), Error::Shape { argument: "rows", .. }));
            assert!(matches!(of(&[1, 8], &[3, 8], 257), Error::Argument { argument: "kept", .. }));
            let words = Tensor::from_u32(&gpu, [3, 4], &[0; 12]).unwrap();
            let bytes = |values: &Tensor, scales: &Tensor| {
                forward(&t(&[1, 16]), Rows::Bytes { values, scales }, 1).map(drop).unwrap_err()
            };
            assert!(matches!(bytes(&t(&[3, 4]), &t(&[3, 1])), Error::DType { argument: "values", .. }));
            assert!(matches!(bytes(&words, &words), Error::DType { argument: "scales", .. }));
            assert!(matches!(bytes(&words, &t(&[3, 2])), Error::Shape { argument: "scales", .. }));
            if gpu.report().is_software() {
                assert!(matches!(of(&[1, 1 << 17], &[1, 1 << 17], 1), Error::LimitExceeded { .. }));
            }
        }
    }
}
