//! Copies that move elements: permuted axes, slices, concatenation.

use std::ops::Range;

use crate::kernels::launch;
use crate::kernels::shape::{
    MAX_RANK, around, count_elements, expect_at_most, in_fours, innermost_first, merge, strides,
};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const COPY: &str = include_str!("../../../shaders/elementwise/permute.wgsl");
const PAD: &str = include_str!("../../../shaders/elementwise/pad.wgsl");

params! {
    struct CopyParams {
        n: u32, source: u32, place: u32, extents: [u32; 4] as [e0, e1, e2, e3], x: [u32; 5] as [x0, x1, x2, x3, x4],
        y: [u32; 5] as [y0, y1, y2, y3, y4],
    }
}

params! {
    struct PadParams { walk: [u32; 5] as [count, n, m, inner, start] }
}

fn variant(rank: usize, vec4: bool) -> Variant {
    let rank = rank as u32;
    Variant::own::<CopyParams>("permute", COPY).set("RANK", rank).set("LAST", rank - 1).on("VEC4", vec4)
}

fn pad_variant(vec4: bool) -> Variant {
    Variant::own::<PadParams>("pad", PAD).on("VEC4", vec4)
}

pub(crate) fn variants() -> Vec<Variant> {
    let copies = (1..=MAX_RANK).flat_map(|rank| [variant(rank, false), variant(rank, true)]);
    copies.chain([pad_variant(false), pad_variant(true)]).collect()
}

/// x with its axes reordered: axis `d` of the result is axis `axes[d]` of x. f32 or u32.
///
/// # Errors
/// [`Error::Argument`] unless `axes` names every axis once; [`Error::LimitExceeded`] if more than five dimensions are
/// left after neighbours that stay together are merged; [`Error::DType`] for f16; device errors.
pub fn permute(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    const OP: &str = "permute";
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..x.shape().len()) {
        let why = format!("{axes:?} does not name every axis of {:?} once", x.shape());
        return Err(Error::Argument { op: OP, argument: "axes", why });
    }
    let dense = strides(x.shape());
    let shape: Vec<usize> = axes.iter().map(|&d| x.shape()[d]).collect();
    let from: Vec<usize> = axes.iter().map(|&d| dense[d]).collect();
    let y = Tensor::uninit_of(x.gpu(), OP, shape.clone(), x.dtype())?;
    copy(OP, &shape, (x, 0, &from), (&y, 0, &strides(&shape)))?;
    Ok(y)
}

/// The last two dimensions swapped; x has at least two.
///
/// # Errors
/// As [`permute`].
pub fn transpose(x: &Tensor) -> Result<Tensor> {
    let mut axes: Vec<usize> = (0..x.shape().len()).collect();
    let rank = axes.len();
    if rank >= 2 {
        axes.swap(rank - 2, rank - 1);
    }
    permute(x, &axes)
}

/// The order that undoes [`permute`] by `axes`: its gradient is `permute(g, &inverse(axes))`.
pub fn inverse(axes: &[usize]) -> Vec<usize> {
    let mut inverse: Vec<usize> = (0..axes.len()).collect();
    inverse.sort_by_key(|&d| axes[d]);
    inverse
}

/// The part `range` of `axis`, as a copy. f32 or u32.
///
/// # Errors
/// [`Error::IndexOutOfRange`] if there is no such axis, or the range reaches beyond it or ends before it starts; device
/// errors.
pub fn slice(x: &Tensor, axis: usize, range: Range<usize>) -> Result<Tensor> {
    const OP: &str = "slice";
    let [outer, n, inner] = around(OP, x.shape(), axis)?;
    check_range(OP, &range, n)?;
    let mut shape = x.shape().to_vec();
    shape[axis] = range.len();
    let y = Tensor::uninit_of(x.gpu(), OP, shape, x.dtype())?;
    let part = range.len() * inner;
    copy(OP, &[outer, part], (x, range.start * inner, &[n * inner, 1]), (&y, 0, &[part, 1]))?;
    Ok(y)
}

/// The gradient of [`slice()`] for x, whose `axis` had extent `n`: `g` where it was cut out, 0 elsewhere.
///
/// # Errors
/// [`Error::IndexOutOfRange`] and [`Error::Shape`] where `g`, `axis`, `start` and `n` do not fit;
/// [`Error::DType`] unless `g` is f32; device errors.
pub fn slice_backward(g: &Tensor, axis: usize, start: usize, n: usize) -> Result<Tensor> {
    const OP: &str = "slice backward";
    g.expect_dtype(OP, "gradient", DType::F32)?;
    let [outer, m, inner] = around(OP, g.shape(), axis)?;
    check_range(OP, &(start..start.saturating_add(m)), n)?;
    let mut shape = g.shape().to_vec();
    shape[axis] = n;
    count_elements(OP, &shape)?;
    if m == 0 {
        return Tensor::zeros(g.gpu(), OP, shape);
    }
    let dx = Tensor::uninit(g.gpu(), OP, shape)?;
    let (inner, vec4) = in_fours(inner);
    let count = outer * n * inner;
    let params = PadParams { walk: [count, n, m, inner, start].map(|n| n as u32) };
    launch(OP, &pad_variant(vec4), &[g, &dx], &params, g.gpu().grid(count.div_ceil(256)), 0)?;
    Ok(dx)
}

/// `parts` one after another along `axis`; their other extents and element types agree. The gradient of a part is the
/// [`slice()`] of the result's where it went.
///
/// # Errors
/// [`Error::Argument`] if there are no parts, [`Error::IndexOutOfRange`] if there is no such axis,
/// [`Error::ShapeMismatch`] and [`Error::DType`] where they differ; device errors.
pub fn concat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    const OP: &str = "concat";
    let Some(first) = parts.first() else {
        return Err(Error::Argument { op: OP, argument: "parts", why: "are none".into() });
    };
    let [outer, _, inner] = around(OP, first.shape(), axis)?;
    for part in parts {
        part.expect_dtype(OP, "parts", first.dtype())?;
        let same = |d: usize| d == axis || part.shape()[d] == first.shape()[d];
        if part.shape().len() != first.shape().len() || !(0..first.shape().len()).all(same) {
            let why = "all extents but that of the axis must be equal";
            return Err(Error::mismatch(OP, first.shape(), part.shape(), why));
        }
    }
    let mut shape = first.shape().to_vec();
    shape[axis] = parts.iter().map(|p| p.shape()[axis]).sum();
    let row = shape[axis] * inner;
    let y = Tensor::uninit_of(first.gpu(), OP, shape, first.dtype())?;
    let mut at = 0;
    for part in parts {
        let width = part.shape()[axis] * inner;
        copy(OP, &[outer, width], (part, 0, &[width, 1]), (&y, at, &[row, 1]))?;
        at += width;
    }
    Ok(y)
}

fn check_range(op: &'static str, range: &Range<usize>, n: usize) -> Result<()> {
    if range.start <= range.end && range.end <= n {
        return Ok(());
    }
    Err(Error::IndexOutOfRange { op, index: range.start.max(range.end) as u64, len: n as u64 })
}

/// Copies an array of `shape`, both sides given by their first element and strides.
fn copy(
    op: &'static str,
    shape: &[usize],
    (x, from, x_strides): (&Tensor, usize, &[usize]),
    (y, to, y_strides): (&Tensor, usize, &[usize]),
) -> Result<()> {
    if x.dtype() == DType::F16 {
        return Err(Error::DType { op, argument: "x", expected: "f32 or u32", got: x.dtype().name() });
    }
    count_elements(op, x.shape())?;
    count_elements(op, y.shape())?;
    let len = count_elements(op, shape)?;
    if len == 0 {
        return Ok(());
    }
    let (mut extents, [mut x_steps, mut y_steps]) = merge(shape, [x_strides, y_strides]);
    let rank = extents.len();
    expect_at_most(op, "dimensions that move apart", rank, MAX_RANK, "permute in two steps")?;
    let last = rank - 1;
    let whole = |steps: &[usize], start: usize| {
        steps[last] == 1 && start.is_multiple_of(4) && steps[..last].iter().all(|s| s % 4 == 0)
    };
    let vec4 = extents[last] % 4 == 0 && whole(&x_steps, from) && whole(&y_steps, to);
    let width = if vec4 { 4 } else { 1 };
    extents[last] /= width;
    x_steps[..last].iter_mut().chain(&mut y_steps[..last]).for_each(|s| *s /= width);
    let n = len / width;
    let inner = innermost_first(&extents, 1);
    let params = CopyParams {
        n: n as u32,
        source: (from / width) as u32,
        place: (to / width) as u32,
        extents: [inner[0], inner[1], inner[2], inner[3]],
        x: innermost_first(&x_steps, 0),
        y: innermost_first(&y_steps, 0),
    };
    launch(op, &variant(rank, vec4), &[x, y], &params, x.gpu().grid(n.div_ceil(256)), 0)
}

/// The same in plain Rust.
pub mod cpu {
    /// An array of `shape` with its axes reordered.
    pub fn permute<T: Copy>(x: &[T], shape: &[usize], axes: &[usize]) -> Vec<T> {
        let dense = super::strides(shape);
        (0..x.len())
            .map(|flat| {
                let (mut rest, mut at) = (flat, 0);
                for &axis in axes.iter().rev() {
                    at += rest % shape[axis] * dense[axis];
                    rest /= shape[axis];
                }
                x[at]
            })
            .collect()
    }

    /// `start..start + m` of the middle of `[outer, n, inner]`.
    pub fn slice<T: Copy>(x: &[T], [outer, n, inner]: [usize; 3], start: usize, m: usize) -> Vec<T> {
        (0..outer).flat_map(|o| x[(o * n + start) * inner..][..m * inner].to_vec()).collect()
    }

    /// The gradient of [`slice()`].
    pub fn slice_backward(g: &[f32], [outer, n, inner]: [usize; 3], start: usize, m: usize) -> Vec<f32> {
        let mut dx = vec![0.0; outer * n * inner];
        for o in 0..outer {
            dx[(o * n + start) * inner..][..m * inner].copy_from_slice(&g[o * m * inner..][..m * inner]);
        }
        dx
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::*;

    #[test]
    fn permutations_equal_the_twin_and_are_undone() {
        let cases: [(&[usize], &[usize]); 10] = [
            (&[], &[]),
            (&[7], &[0]),
            (&[3, 5], &[1, 0]),
            (&[64, 65], &[1, 0]),
            (&[2, 3, 4], &[1, 0, 2]),
            (&[2, 12, 8, 16], &[0, 2, 1, 3]),
            (&[2, 3, 4, 5], &[3, 1, 0, 2]),
            (&[2, 3, 2, 3, 5], &[4, 3, 2, 1, 0]),
            (&[2, 3, 2, 3, 2, 8], &[4, 3, 2, 1, 0, 5]),
            (&[1, 4, 1, 4], &[3, 2, 1, 0]),
        ];
        for gpu in gpus() {
            for (shape, axes) in cases {
                let x = noise(shape.iter().product(), 1);
                let t = poisoned(&gpu, shape, &x);
                if shape.len() > 5 {
                    // Six dimensions move apart here.
                    assert!(matches!(permute(&t, axes), Err(Error::LimitExceeded { .. })));
                    continue;
                }
                let y = permute(&t, axes).unwrap();
                assert_eq!(y.shape(), axes.iter().map(|&d| shape[d]).collect::<Vec<_>>());
                assert_eq!(y.to_vec().unwrap(), cpu::permute(&x, shape, axes));
                assert_eq!(permute(&y, &inverse(axes)).unwrap().to_vec().unwrap(), x);
            }
            let ids = Tensor::from_u32(&gpu, [2, 2], &[1, 2, 3, u32::MAX]).unwrap();
            assert_eq!(permute(&ids, &[1, 0]).unwrap().to_u32().unwrap(), [1, 3, 2, u32::MAX]);
        }
    }

    #[test]
    fn slices_and_their_gradients_equal_the_twin() {
        for gpu in gpus() {
            for (shape, axis) in
                [([3, 5, 4], 0), ([3, 5, 4], 1), ([3, 5, 4], 2), ([2, 9, 7], 1), ([2, 8, 64], 1), ([1, 1, 33], 2)]
            {
                let x = noise(shape.iter().product(), 1);
                let t = poisoned(&gpu, &shape, &x);
                let view = around("test", &shape, axis).unwrap();
                for range in [0..view[1], 0..1, view[1] / 2..view[1], 1..view[1].max(2) - 1] {
                    if range.end > view[1] || range.start > range.end {
                        continue;
                    }
                    let y = slice(&t, axis, range.clone()).unwrap();
                    assert_eq!(y.to_vec().unwrap(), cpu::slice(&x, view, range.start, range.len()));
                    let g = poisoned(&gpu, y.shape(), &y.to_vec().unwrap());
                    let dx = slice_backward(&g, axis, range.start, view[1]).unwrap();
                    assert_eq!(dx.shape(), shape);
                    let g = y.to_vec().unwrap();
                    assert_eq!(dx.to_vec().unwrap(), cpu::slice_backward(&g, view, range.start, range.len()));
                }
            }
        }
    }

    #[test]
    fn concatenations_are_cut_apart_again() {
        for gpu in gpus() {
            for (axis, extents) in [(0, [1, 4, 2]), (1, [1, 4, 2]), (2, [4, 8, 4]), (2, [1, 0, 6])] {
                let mut shape = [3, 5, 4];
                let parts = extents.map(|extent| {
                    shape[axis] = extent;
                    noise_tensor(&gpu, &shape, extent as u64)
                });
                let y = concat(&[&parts[0], &parts[1], &parts[2]], axis).unwrap();
                let mut at = 0;
                for part in parts {
                    let extent = part.shape()[axis];
                    let back = slice(&y, axis, at..at + extent).unwrap();
                    assert_eq!(back.to_vec().unwrap(), part.to_vec().unwrap());
                    at += extent;
                }
            }
        }
    }

    #[test]
    fn wrong_arguments_are_errors() {
        for gpu in gpus() {
            let x = noise_tensor(&gpu, &[2, 3], 1);
            for axes in [&[0][..], &[0, 0], &[0, 2], &[0, 1, 2]] {
                assert!(matches!(permute(&x, axes), Err(Error::Argument { .. })));
            }
            assert!(matches!(slice(&x, 2, 0..1), Err(Error::IndexOutOfRange { .. })));
            assert!(matches!(slice(&x, 1, 2..4), Err(Error::IndexOutOfRange { len: 3, .. })));
            assert!(matches!(slice_backward(&x, 1, 1, 3), Err(Error::IndexOutOfRange { .. })));
            assert!(matches!(concat(&[], 0), Err(Error::Argument { .. })));
            let y = noise_tensor(&gpu, &[3, 3], 1);
            assert!(matches!(concat(&[&x, &y], 1), Err(Error::ShapeMismatch { .. })));
            assert_eq!(slice(&x, 1, 1..1).unwrap().shape(), [2, 0]);
            assert_eq!(slice_backward(&slice(&x, 1, 1..1).unwrap(), 1, 1, 3).unwrap().to_vec().unwrap(), [0.0; 6]);
        }
    }
}
