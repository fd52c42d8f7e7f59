//! One element of each row: by its column, or by its rank among the row's negatives.

use crate::gpu::KernelFamily;
use crate::kernels::shape::{count_elements, expect_below};
use crate::kernels::{lanes, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../../shaders/ranking/pick.wgsl");
const WGSL_GRAD: &str = include_str!("../../../shaders/ranking/pick_grad.wgsl");
const WGSL_RANK: &str = include_str!("../../../shaders/ranking/pick_rank.wgsl");

/// Comparisons that a lane of [`at_rank`] makes, about.
const ITERATIONS: usize = 1 << 15;

params! {
    struct Params { rows: u32, width: u32 }
}

params! {
    struct RankParams { n: u32, chunk: u32, chunks: u32 }
}

fn variant() -> Variant {
    Variant::own::<Params>("pick", WGSL)
}

fn grad_variant() -> Variant {
    Variant::own::<Params>("pick_grad", WGSL_GRAD)
}

fn rank_variant(family: KernelFamily) -> Variant {
    Variant::own::<RankParams>("pick_rank", WGSL_RANK).all(lanes::defines(family))
}

pub(crate) fn variants() -> Vec<Variant> {
    [variant(), grad_variant()].into_iter().chain(lanes::FAMILIES.map(rank_variant)).collect()
}

/// y\[i\] = x\[i, at\[i\]\]: x (rows, width) f32, `at` (rows) u32; 0 where `at` is beyond the end.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`]; device errors.
pub fn forward(x: &Tensor, at: &Tensor) -> Result<Tensor> {
    let op = "pick";
    let [rows, width] = x.extents(op, "x", "(rows, width)")?;
    count_elements(op, &[rows + 64, width])?;
    at.expect(op, "at", DType::U32, &[rows])?;
    let y = Tensor::uninit(x.gpu(), op, [rows])?;
    if rows > 0 {
        let params = Params { rows: rows as u32, width: width as u32 };
        launch(op, &variant(), &[x, at, &y], &params, x.gpu().grid(rows.div_ceil(64)), 0)?;
    }
    Ok(y)
}

/// The gradient with respect to x (rows, `width`), given that of y (rows).
///
/// # Errors
/// As [`forward`].
pub fn backward(upstream: &Tensor, at: &Tensor, width: usize) -> Result<Tensor> {
    let op = "pick backward";
    upstream.expect_dtype(op, "upstream", DType::F32)?;
    let rows = upstream.len();
    count_elements(op, &[rows + 64, width])?;
    at.expect(op, "at", DType::U32, &[rows])?;
    let dx = Tensor::uninit(upstream.gpu(), op, [rows, width])?;
    if !dx.is_empty() {
        let params = Params { rows: rows as u32, width: width as u32 };
        let grid = upstream.gpu().grid((rows * width).div_ceil(64));
        launch(op, &grad_variant(), &[upstream, at, &dx], &params, grid, 0)?;
    }
    Ok(dx)
}

/// For each row of `scores` (n, n) the column at place `places[i]` when the row is sorted from high to low with its
/// diagonal at place 0; equal scores keep the order of their columns, NaN comes last. The result is u32 (n).
///
/// # Errors
/// [`Error::Shape`] unless `scores` is square with a place for each row, [`Error::IndexOutOfRange`] for a place of n or
/// more; device errors.
pub fn at_rank(scores: &Tensor, places: &[u32]) -> Result<Tensor> {
    let op = "pick at rank";
    let n = lanes::expect_square(op, scores)?;
    if places.len() != n {
        return Err(Error::shape(op, "places", format!("[{n}]"), &[places.len()]));
    }
    expect_below(op, places, n)?;
    let gpu = scores.gpu();
    let at = Tensor::uninit_of(gpu, op, [n], DType::U32)?;
    if n > 0 {
        let places = Tensor::from_u32(gpu, [n], places)?;
        let family = gpu.family();
        // A lane goes through the row for each of its columns: so many that software adapters let it.
        let chunk = lanes::count(family) * (ITERATIONS / n).max(1);
        let chunks = n.div_ceil(chunk);
        let params = RankParams { n: n as u32, chunk: chunk as u32, chunks: chunks as u32 };
        launch(op, &rank_variant(family), &[scores, &places, &at], &params, gpu.grid(n * chunks), 0)?;
    }
    Ok(at)
}

/// The same in plain Rust.
pub mod cpu {
    /// The column at each place; see [`super::at_rank`].
    pub fn at_rank(scores: &[f32], n: usize, places: &[u32]) -> Vec<u32> {
        (0..n)
            .map(|i| {
                let row = &scores[i * n..(i + 1) * n];
                let others = crate::kernels::ranking::topk::cpu::topk(row, n);
                let sorted = std::iter::once(i as u32).chain(others.into_iter().filter(|&c| c as usize != i));
                sorted.collect::<Vec<u32>>()[places[i] as usize]
            })
            .collect()
    }

    /// See [`super::forward`].
    pub fn pick(x: &[f64], width: usize, at: &[u32]) -> Vec<f64> {
        at.iter()
            .enumerate()
            .map(|(i, &c)| x[i * width..(i + 1) * width].get(c as usize).copied().unwrap_or(0.0))
            .collect()
    }

    /// See [`super::backward`].
    pub fn pick_backward(g: &[f64], width: usize, at: &[u32]) -> Vec<f64> {
        let mut dx = vec![0.0; g.len() * width];
        for (i, (&g, &c)) in g.iter().zip(at).enumerate() {
            if (c as usize) < width {
                dx[i * width + c as usize] = g;
            }
        }
        dx
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{
        assert_slices_close, differences, gpus, inner, noise, noise_tensor, poisoned, to_f32, to_f64,
    };

    #[test]
    fn picks_and_scatters_like_its_twin() {
        for gpu in gpus() {
            for (rows, width) in [(1usize, 1usize), (3, 5), (64, 2), (65, 129), (130, 7)] {
                let x = noise(rows * width, 1);
                let at: Vec<u32> =
                    (0..rows).map(|i| if i % 11 == 5 { u32::MAX } else { (i * 7 % width) as u32 }).collect();
                let tensor = poisoned(&gpu, &[rows, width], &x);
                let columns = Tensor::from_u32(&gpu, [rows], &at).unwrap();
                let y = forward(&tensor, &columns).unwrap().to_vec().unwrap();
                assert_eq!(y, to_f32(&cpu::pick(&to_f64(&x), width, &at)));
                let g = noise(rows, 2);
                let dx = backward(&poisoned(&gpu, &[rows], &g), &columns, width).unwrap().to_vec().unwrap();
                assert_eq!(dx, to_f32(&cpu::pick_backward(&to_f64(&g), width, &at)));
            }
        }
    }

    #[test]
    fn twin_agrees_with_finite_differences() {
        let (x, g, at) = (to_f64(&noise(12, 3)), to_f64(&noise(3, 4)), [2, 0, 3]);
        let slopes = differences(&x, |x| inner(&cpu::pick(x, 4, &at), &g));
        assert_slices_close(&to_f32(&cpu::pick_backward(&g, 4, &at)), &to_f32(&slopes), 1e-6, 1e-6);
    }

    #[test]
    fn ranks_equal_sorting_with_ties_and_nan() {
        for gpu in gpus() {
            // Of the last, a row takes more comparisons than software adapters let an invocation make.
            for n in [1usize, 2, 3, 8, 9, 63, 65, 130, 900] {
                let mut s: Vec<f32> = noise(n * n, n as u64).iter().map(|v| (v * 4.0).round()).collect();
                if n > 8 {
                    s[n + 3] = f32::NAN;
                }
                let tensor = poisoned(&gpu, &[n, n], &s);
                for step in [0usize, 1, 5] {
                    let places: Vec<u32> = (0..n).map(|i| ((i * step + step) % n) as u32).collect();
                    let got = at_rank(&tensor, &places).unwrap().to_u32().unwrap();
                    assert_eq!(got, cpu::at_rank(&s, n, &places), "{n}, step {step}");
                }
            }
        }
    }

    #[test]
    fn wrong_arguments_are_errors() {
        for gpu in gpus() {
            let x = noise_tensor(&gpu, &[3, 3], 1);
            assert!(matches!(at_rank(&x, &[0, 1]), Err(Error::Shape { argument: "places", .. })));
            assert!(matches!(at_rank(&x, &[0, 1, 3]), Err(Error::IndexOutOfRange { index: 3, .. })));
            let at = Tensor::from_u32(&gpu, [2], &[0, 0]).unwrap();
            assert!(matches!(forward(&x, &at), Err(Error::Shape { argument: "at", .. })));
            assert!(matches!(forward(&x, &noise_tensor(&gpu, &[3], 1)), Err(Error::DType { .. })));
            let empty = noise_tensor(&gpu, &[0, 0], 1);
            assert!(at_rank(&empty, &[]).unwrap().is_empty());
        }
    }
}
