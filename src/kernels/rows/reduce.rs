//! Sums, means and maxima over an axis, and their gradients.
//!
//! An axis longer than 64 is reduced in several rounds of at most 64 elements an invocation. Which elements meet in
//! which order depends on the shape alone, so that results repeat bit for bit.

use crate::kernels::launch;
use crate::kernels::shape::{around, count_elements, in_fours};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const REDUCE: &str = include_str!("../../../shaders/rows/reduce.wgsl");
const EXPAND: &str = include_str!("../../../shaders/rows/expand.wgsl");

/// Most elements that one invocation takes in.
const ROUND: usize = 64;
/// From this width on, neighbours read neighbours although each invocation walks through rows that follow each other.
const WIDE: usize = 16;

params! {
    struct ReduceParams { walk: [u32; 6] as [count, n, inner, blocks, span, step], factor: f32 }
}

params! {
    struct ExpandParams { count: u32, n: u32, inner: u32, factor: f32 }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sum,
    /// The first round of a maximum.
    Max,
    /// Its further rounds, which carry indices along.
    MergeMax,
}

fn variant(kind: Kind, vec4: bool) -> Variant {
    let variant = Variant::own::<ReduceParams>("reduce", REDUCE);
    variant.on("MAX", kind != Kind::Sum).on("MERGE", kind == Kind::MergeMax).on("VEC4", vec4)
}

fn expand_variant(max: bool, vec4: bool) -> Variant {
    Variant::own::<ExpandParams>("expand", EXPAND).on("MAX", max).on("VEC4", vec4)
}

pub(crate) fn variants() -> Vec<Variant> {
    let reduce = [Kind::Sum, Kind::Max, Kind::MergeMax].into_iter();
    let reduce = reduce.flat_map(|kind| [variant(kind, false), variant(kind, true)]);
    let expand = [false, true].into_iter().flat_map(|max| [expand_variant(max, false), expand_variant(max, true)]);
    reduce.chain(expand).collect()
}

/// Without the axis.
fn removed(shape: &[usize], axis: usize) -> Vec<usize> {
    [&shape[..axis], &shape[axis + 1..]].concat()
}

/// With an axis of extent `n` more, or [`Error::IndexOutOfRange`].
fn inserted(op: &'static str, shape: &[usize], axis: usize, n: usize) -> Result<Vec<usize>> {
    if axis > shape.len() {
        return Err(Error::IndexOutOfRange { op, index: axis as u64, len: shape.len() as u64 + 1 });
    }
    Ok([&shape[..axis], &[n], &shape[axis..]].concat())
}

/// The sum over `axis`, which disappears from the shape.
///
/// # Errors
/// [`Error::IndexOutOfRange`] if x has no such axis; [`Error::DType`] unless x is f32; device errors.
pub fn sum(x: &Tensor, axis: usize) -> Result<Tensor> {
    let view = around("sum", x.shape(), axis)?;
    sum_view("sum", x, view, 1.0)?.reshape(removed(x.shape(), axis))
}

/// The mean over `axis`, which disappears from the shape; 0 where the axis is empty.
///
/// # Errors
/// As [`sum`].
pub fn mean(x: &Tensor, axis: usize) -> Result<Tensor> {
    let view = around("mean", x.shape(), axis)?;
    sum_view("mean", x, view, 1.0 / view[1].max(1) as f32)?.reshape(removed(x.shape(), axis))
}

/// `factor` times the sums over whatever broadcasting `shape` to x's shape repeated: the gradient of broadcasting.
/// Without any of it and with a factor of 1, x itself, reshaped.
///
/// # Errors
/// [`Error::ShapeMismatch`] if `shape` does not broadcast to x's shape; as [`sum`].
pub fn sum_to(x: &Tensor, shape: &[usize], factor: f32) -> Result<Tensor> {
    const OP: &str = "sum_to";
    let missing = x.shape().len().checked_sub(shape.len());
    let fits = |missing: usize| shape.iter().zip(&x.shape()[missing..]).all(|(&s, &e)| s == e || s == 1);
    let Some(missing) = missing.filter(|&m| fits(m)) else {
        return Err(Error::mismatch(OP, x.shape(), shape, "the second must broadcast to the first"));
    };
    let mut extents = x.shape().to_vec();
    let mut current = x.clone();
    let mut factor = factor;
    let repeated = |d: usize, extent: usize| extent != 1 && (d < missing || shape[d - missing] == 1);
    let mut end = extents.len();
    // From the last dimension: each run of repeated ones is one sum.
    while end > 0 {
        if !repeated(end - 1, extents[end - 1]) {
            end -= 1;
            continue;
        }
        let mut start = end - 1;
        while start > 0 && (extents[start - 1] == 1 || repeated(start - 1, extents[start - 1])) {
            start -= 1;
        }
        let view = [&extents[..start], &extents[start..end], &extents[end..]].map(|s| s.iter().product());
        current = sum_view(OP, &current, view, factor)?;
        factor = 1.0;
        extents[start..end].fill(1);
        end = start;
    }
    if factor != 1.0 {
        current = expand_view(OP, &current, [1, 1, current.len()], factor)?;
    }
    current.reshape(shape)
}

/// `factor` times x, repeated `n` times along a new axis before dimension `axis`: the gradient of [`sum`] (factor 1) and
/// [`mean`] (factor 1 / n).
///
/// # Errors
/// [`Error::IndexOutOfRange`] if `axis` is beyond x's dimensions; [`Error::LimitExceeded`]; device errors.
pub fn expand(x: &Tensor, axis: usize, n: usize, factor: f32) -> Result<Tensor> {
    const OP: &str = "expand";
    let shape = inserted(OP, x.shape(), axis, n)?;
    expand_view(OP, x, around(OP, &shape, axis)?, factor)?.reshape(shape)
}

/// The largest element along `axis`, which disappears from the shape, and where it is (u32): the first one of equals.
/// NaN is larger than everything else.
///
/// # Errors
/// [`Error::IndexOutOfRange`] if x has no such axis, [`Error::Argument`] if its extent is 0; [`Error::DType`] unless x is
/// f32; device errors.
pub fn max(x: &Tensor, axis: usize) -> Result<(Tensor, Tensor)> {
    const OP: &str = "max";
    x.expect_dtype(OP, "x", DType::F32)?;
    let [outer, mut n, inner] = around(OP, x.shape(), axis)?;
    if n == 0 {
        let why = format!("{axis} of {:?} is empty: it has no maximum", x.shape());
        return Err(Error::Argument { op: OP, argument: "axis", why });
    }
    let shape = removed(x.shape(), axis);
    let vec4 = inner % 4 == 0;
    let mut values = x.clone();
    let mut indices: Option<Tensor> = None;
    loop {
        let blocks = n.div_ceil(ROUND);
        let count = count_elements(OP, &[outer, blocks, inner])?;
        count_elements(OP, x.shape())?;
        let y = Tensor::uninit(x.gpu(), OP, [count])?;
        let at = Tensor::uninit_of(x.gpu(), OP, [count], DType::U32)?;
        if count > 0 {
            let kind = if indices.is_some() { Kind::MergeMax } else { Kind::Max };
            let tensors: Vec<&Tensor> = [&values].into_iter().chain(&indices).chain([&y, &at]).collect();
            run(OP, kind, &tensors, [outer, n, inner], blocks, vec4, 1.0)?;
        }
        (values, indices, n) = (y, Some(at), blocks);
        if let (1, Some(indices)) = (n, &indices) {
            return Ok((values.reshape(shape.clone())?, indices.reshape(shape)?));
        }
    }
}

/// The gradient of [`max`] for x, whose `axis` had extent `n`, from the indices and the gradient `g` of the values.
///
/// # Errors
/// [`Error::Shape`] unless `g` and `indices` agree; [`Error::IndexOutOfRange`] if `axis` is beyond their dimensions;
/// [`Error::DType`] unless they are f32 and u32; device errors.
pub fn max_backward(g: &Tensor, indices: &Tensor, axis: usize, n: usize) -> Result<Tensor> {
    const OP: &str = "max backward";
    g.expect_dtype(OP, "gradient", DType::F32)?;
    indices.expect(OP, "indices", DType::U32, g.shape())?;
    let shape = inserted(OP, g.shape(), axis, n)?;
    count_elements(OP, &shape)?;
    let [_, n, inner] = around(OP, &shape, axis)?;
    let dx = Tensor::uninit(g.gpu(), OP, shape)?;
    run_expand(OP, &[g, indices, &dx], n, inner, true, 1.0)?;
    Ok(dx)
}

/// `factor` * x, summed along the middle of `[outer, n, inner]`; flat.
fn sum_view(op: &'static str, x: &Tensor, [outer, n, inner]: [usize; 3], factor: f32) -> Result<Tensor> {
    x.expect_dtype(op, "x", DType::F32)?;
    count_elements(op, x.shape())?;
    let length = count_elements(op, &[outer, inner])?;
    if n == 0 {
        return Tensor::zeros(x.gpu(), op, [length]);
    }
    let mut x = x.clone();
    let mut n = n;
    loop {
        // A long row is four interleaved ones, which are summed last.
        let fold = inner == 1 && n > ROUND && n % 4 == 0;
        let (steps, width) = if fold { (n / 4, 4) } else { (n, inner) };
        let blocks = steps.div_ceil(ROUND);
        let left = if fold { 4 * blocks } else { blocks };
        let y = Tensor::uninit(x.gpu(), op, [outer * blocks * width])?;
        if !y.is_empty() {
            let factor = if left == 1 { factor } else { 1.0 };
            run(op, Kind::Sum, &[&x, &y], [outer, steps, width], blocks, width % 4 == 0, factor)?;
        }
        (x, n) = (y, left);
        if n == 1 {
            return Ok(x);
        }
    }
}

fn run(
    op: &'static str,
    kind: Kind,
    tensors: &[&Tensor],
    [outer, n, inner]: [usize; 3],
    blocks: usize,
    vec4: bool,
    factor: f32,
) -> Result<()> {
    let inner = if vec4 { inner / 4 } else { inner };
    let count = outer * blocks * inner;
    let (span, step) = if inner >= WIDE || blocks == 1 { (n.div_ceil(blocks), 1) } else { (1, blocks) };
    let params = ReduceParams { walk: [count, n, inner, blocks, span, step].map(|n| n as u32), factor };
    launch(op, &variant(kind, vec4), tensors, &params, tensors[0].gpu().grid(count.div_ceil(64)), 0)
}

/// `factor` * x (`[outer, inner]`), repeated along the middle of `[outer, n, inner]`; flat.
fn expand_view(op: &'static str, x: &Tensor, [outer, n, inner]: [usize; 3], factor: f32) -> Result<Tensor> {
    x.expect_dtype(op, "x", DType::F32)?;
    let y = Tensor::uninit(x.gpu(), op, [count_elements(op, &[outer, n, inner])?])?;
    run_expand(op, &[x, &y], n, inner, false, factor)?;
    Ok(y)
}

fn run_expand(op: &'static str, tensors: &[&Tensor], n: usize, inner: usize, max: bool, factor: f32) -> Result<()> {
    let y = tensors[tensors.len() - 1];
    if y.is_empty() {
        return Ok(());
    }
    let (units, vec4) = in_fours(inner);
    let count = y.len() / inner * units;
    let params = ExpandParams { count: count as u32, n: n as u32, inner: units as u32, factor };
    launch(op, &expand_variant(max, vec4), tensors, &params, y.gpu().grid(count.div_ceil(256)), 0)
}

/// The same in plain Rust, in f64, on `[outer, n, inner]`.
pub mod cpu {
    /// Sums along the middle.
    pub fn sum(x: &[f64], [outer, n, inner]: [usize; 3]) -> Vec<f64> {
        let at = |o: usize, k: usize, i: usize| x[(o * n + k) * inner + i];
        (0..outer * inner).map(|j| (0..n).map(|k| at(j / inner, k, j % inner)).sum()).collect()
    }

    /// Its gradient: `g` repeated along the middle.
    pub fn expand(g: &[f64], [outer, n, inner]: [usize; 3]) -> Vec<f64> {
        (0..outer * n * inner).map(|j| g[j / (n * inner) * inner + j % inner]).collect()
    }

    /// Maxima along the middle and their indices, the first of equals.
    pub fn max(x: &[f64], [outer, n, inner]: [usize; 3]) -> (Vec<f64>, Vec<u32>) {
        let at = |o: usize, k: usize, i: usize| x[(o * n + k) * inner + i];
        let one = |j: usize| {
            let (o, i) = (j / inner, j % inner);
            (1..n).fold((at(o, 0, i), 0), |best, k| {
                let v = at(o, k, i);
                if v > best.0 || (v.is_nan() && !best.0.is_nan()) { (v, k as u32) } else { best }
            })
        };
        (0..outer * inner).map(one).unzip()
    }

    /// The gradient of the maxima.
    pub fn max_backward(g: &[f64], indices: &[u32], [outer, n, inner]: [usize; 3]) -> Vec<f64> {
        let value = |j: usize| {
            let source = j / (n * inner) * inner + j % inner;
            if indices[source] as usize == j / inner % n { g[source] } else { 0.0 }
        };
        (0..outer * n * inner).map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::*;

    /// Views on both sides of every edge: of vec4, of a round, of two rounds.
    const VIEWS: [[usize; 3]; 14] = [
        [1, 1, 1],
        [3, 2, 5],
        [2, 63, 4],
        [2, 64, 3],
        [2, 65, 8],
        [5, 68, 1],
        [4, 131, 1],
        [1, 4096, 1],
        [1, 5003, 1],
        [1, 4100, 3],
        [1, 300, 12],
        [7, 9, 64],
        [1, 20000, 1],
        [300, 4, 1],
    ];

    #[test]
    fn sums_equal_the_twin() {
        for gpu in gpus() {
            for view in VIEWS {
                let [outer, n, inner] = view;
                let x = noise(outer * n * inner, 1);
                let tx = poisoned(&gpu, &view, &x);
                let expected = cpu::sum(&to_f64(&x), view);
                let y = sum(&tx, 1).unwrap();
                assert_eq!(y.shape(), [outer, inner]);
                assert_close(&y, &to_f32(&expected), 1e-5, 1e-5 * (n as f32).sqrt());
                let means: Vec<f64> = expected.iter().map(|v| v / n as f64).collect();
                assert_close(&mean(&tx, 1).unwrap(), &to_f32(&means), 1e-5, 1e-6);
                let all: f64 = expected.iter().sum();
                assert_close(&sum_to(&tx, &[], 1.0).unwrap(), &[all as f32], 1e-5, 1e-4);
                assert_close(
                    &sum_to(&tx, &[], 1.0 / x.len() as f32).unwrap(),
                    &[(all / x.len() as f64) as f32],
                    1e-5,
                    1e-6,
                );
                assert_eq!(sum(&tx, 1).unwrap().to_vec().unwrap(), y.to_vec().unwrap());

                let g = noise(outer * inner, 2);
                let dx = expand(&poisoned(&gpu, &[outer, inner], &g), 1, n, 0.5).unwrap();
                assert_eq!(dx.shape(), view);
                let expected: Vec<f64> = cpu::expand(&to_f64(&g), view).iter().map(|v| 0.5 * v).collect();
                assert_close(&dx, &to_f32(&expected), 0.0, 0.0);
            }
        }
    }

    #[test]
    fn maxima_equal_the_twin() {
        for gpu in gpus() {
            for view in VIEWS {
                let [outer, n, inner] = view;
                // Coarse values, so that there are ties.
                let x: Vec<f32> = noise(outer * n * inner, 1).iter().map(|v| (v * 8.0).floor()).collect();
                let (values, indices) = max(&poisoned(&gpu, &view, &x), 1).unwrap();
                let (expected, at) = cpu::max(&to_f64(&x), view);
                assert_eq!(values.to_vec().unwrap(), to_f32(&expected));
                assert_eq!(indices.to_u32().unwrap(), at, "{view:?}");
                let g = noise(outer * inner, 2);
                let dx = max_backward(&poisoned(&gpu, &[outer, inner], &g), &indices, 1, n).unwrap();
                assert_eq!(dx.to_vec().unwrap(), to_f32(&cpu::max_backward(&to_f64(&g), &at, view)));
            }
        }
    }

    #[test]
    fn sums_to_a_shape_undo_broadcasting() {
        for gpu in gpus() {
            let x = noise(2 * 3 * 4 * 5, 1);
            let t = Tensor::from_slice(&gpu, [2, 3, 4, 5], &x).unwrap();
            for shape in
                [&[][..], &[5], &[1, 5], &[4, 1], &[3, 1, 1], &[2, 1, 4, 1], &[1, 3, 1, 5], &[2, 3, 4, 5], &[1, 1]]
            {
                let mut expected = vec![0.0; shape.iter().product()];
                for (i, j) in
                    crate::kernels::elementwise::binary::cpu::sources(shape, &[2, 3, 4, 5]).into_iter().enumerate()
                {
                    expected[j] -= f64::from(x[i]);
                }
                let y = sum_to(&t, shape, -1.0).unwrap();
                assert_eq!(y.shape(), shape);
                assert_close(&y, &to_f32(&expected), 1e-5, 1e-5);
            }
            assert!(matches!(sum_to(&t, &[2], 1.0), Err(Error::ShapeMismatch { .. })));
            assert!(matches!(sum_to(&t, &[1, 2, 3, 4, 5], 1.0), Err(Error::ShapeMismatch { .. })));
        }
    }

    #[test]
    fn axes_are_checked_and_empty_ones_sum_to_zero() {
        for gpu in gpus() {
            let x = Tensor::from_slice(&gpu, [2, 0, 3], &[]).unwrap();
            assert_eq!(sum(&x, 1).unwrap().to_vec().unwrap(), [0.0; 6]);
            assert_eq!(mean(&x, 1).unwrap().to_vec().unwrap(), [0.0; 6]);
            assert_eq!(sum(&x, 0).unwrap().shape(), [0, 3]);
            assert_eq!(sum_to(&x, &[], 1.0).unwrap().item().unwrap(), 0.0);
            assert_eq!(expand(&x, 3, 4, 1.0).unwrap().shape(), [2, 0, 3, 4]);
            assert_eq!(max(&x, 0).unwrap().0.shape(), [0, 3]);
            assert!(matches!(max(&x, 1), Err(Error::Argument { .. })));
            assert!(matches!(sum(&x, 3), Err(Error::IndexOutOfRange { index: 3, len: 3, .. })));
            assert!(matches!(expand(&x, 4, 2, 1.0), Err(Error::IndexOutOfRange { index: 4, len: 4, .. })));
            let ids = Tensor::from_u32(&gpu, [3], &[1, 2, 3]).unwrap();
            assert!(matches!(sum(&ids, 0), Err(Error::DType { .. })));
        }
    }

    /// Software adapters end loops that are too long.
    #[test]
    fn long_axes_are_reduced_to_their_end() {
        for gpu in gpus() {
            for inner in [1, 2] {
                let n = 5_000_001;
                let mut x = vec![1.0; n * inner];
                x[n * inner - 1] = 3.0;
                let tensor = Tensor::from_slice(&gpu, [n, inner], &x).unwrap();
                assert_eq!(sum(&tensor, 0).unwrap().to_vec().unwrap()[inner - 1], n as f32 + 2.0);
                let (values, indices) = max(&tensor, 0).unwrap();
                assert_eq!(values.to_vec().unwrap()[inner - 1], 3.0);
                assert_eq!(indices.to_u32().unwrap()[inner - 1], n as u32 - 1);
            }
        }
    }
}
