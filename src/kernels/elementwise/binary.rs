//! Functions of two tensors, element by element, with broadcasting, and their gradients.
//!
//! Shapes are aligned at the last dimension; extents must be equal or 1. A broadcast may need at most five dimensions
//! after neighbours that behave alike are merged.

use crate::kernels::launch;
use crate::kernels::rows::reduce;
use crate::kernels::shape::{
    MAX_RANK, broadcast, broadcast_strides, count_elements, expect_at_most, innermost_first, merge,
};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../../shaders/elementwise/binary.wgsl");
const ADD_ASSIGN: &str = include_str!("../../../shaders/elementwise/add_assign.wgsl");

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a b.
    Mul,
    /// a / b.
    Div,
    /// The smaller one, NaN where one is; equals share the gradient.
    Min,
    /// The larger one, NaN where one is; equals share the gradient.
    Max,
}

impl Binary {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Add, Self::Sub, Self::Mul, Self::Div, Self::Min, Self::Max];

    /// The op forward, backward, and the shader's define.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::Add => ["add", "add backward", "ADD"],
            Self::Sub => ["sub", "sub backward", "SUB"],
            Self::Mul => ["mul", "mul backward", "MUL"],
            Self::Div => ["div", "div backward", "DIV"],
            Self::Min => ["min", "min backward", "MIN"],
            Self::Max => ["max", "max backward", "MAX"],
        }
    }
}

/// What one dispatch computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Function {
    Forward(Binary),
    /// The gradient of the first argument, before it is summed; for [`Binary::Div`], of the second.
    Grad(Binary),
    Where,
}

impl Function {
    fn all() -> impl Iterator<Item = Self> {
        let forward = Binary::ALL.map(Self::Forward);
        forward.into_iter().chain([Binary::Div, Binary::Min, Binary::Max].map(Self::Grad)).chain([Self::Where])
    }

    fn defines(self) -> Vec<(&'static str, u32)> {
        let op = |op: Binary| (op.names()[2], 1);
        match self {
            Self::Forward(b) => vec![op(b)],
            Self::Grad(b) => vec![op(b), ("GRAD", 1)],
            Self::Where => vec![("WHERE", 1)],
        }
    }
}

/// How a dispatch walks through its arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    Scalar,
    Vec4,
    Vec4SplatA,
    Vec4SplatB,
}

/// Dimensions that shaders are made for.
const RANKS: [u32; 3] = [1, 2, MAX_RANK as u32];

fn variant(function: Function, rank: u32, walk: Walk) -> Variant {
    Variant::own::<Params>("binary", WGSL)
        .all(function.defines())
        .set("RANK", rank)
        .set("LAST", rank - 1)
        .on("VEC4", walk != Walk::Scalar)
        .on("A_SPLAT", walk == Walk::Vec4SplatA)
        .on("B_SPLAT", walk == Walk::Vec4SplatB)
}

fn add_assign_variant() -> Variant {
    Variant::own::<AddParams>("add_assign", ADD_ASSIGN)
}

pub(crate) fn variants() -> Vec<Variant> {
    let mut all = vec![add_assign_variant()];
    for function in Function::all() {
        for rank in RANKS {
            for walk in [Walk::Scalar, Walk::Vec4, Walk::Vec4SplatA, Walk::Vec4SplatB] {
                // Flat arrays are always walked in fours.
                if rank > 1 || walk != Walk::Scalar {
                    all.push(variant(function, rank, walk));
                }
            }
        }
    }
    all
}

params! {
    struct AddParams { n: u32 }
}

params! {
    struct Params {
        n: u32, value: f32, extents: [u32; 4] as [e0, e1, e2, e3], a: [u32; 5] as [a0, a1, a2, a3, a4],
        b: [u32; 5] as [b0, b1, b2, b3, b4],
    }
}

/// f(a, b), of the shape that both broadcast to.
///
/// # Errors
/// [`Error::ShapeMismatch`] if they do not broadcast; [`Error::DType`] unless both are f32; [`Error::LimitExceeded`] if
/// the broadcast needs more than five dimensions; device errors.
pub fn forward(op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let [name, ..] = op.names();
    let shape = broadcast(name, a.shape(), b.shape())?;
    run(name, Function::Forward(op), a, b, None, &shape, 0.0)
}

/// The gradients of [`forward`] for a and b, where `wanted` says so, from the output's gradient `g`.
///
/// # Errors
/// [`Error::Shape`] unless `g` has the output's shape; as [`forward`].
pub fn backward(
    op: Binary,
    a: &Tensor,
    b: &Tensor,
    g: &Tensor,
    wanted: [bool; 2],
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let [_, name, _] = op.names();
    let shape = broadcast(name, a.shape(), b.shape())?;
    g.expect(name, "gradient", DType::F32, &shape)?;
    // The gradient for x, the first argument or the second, before it is summed.
    let full = |x: &Tensor, other: &Tensor, first: bool| match op {
        Binary::Add | Binary::Sub => Ok(g.clone()),
        Binary::Div if !first => run(name, Function::Grad(op), other, x, Some(g), &shape, 0.0),
        Binary::Mul | Binary::Div => run(name, Function::Forward(op), g, other, None, &shape, 0.0),
        Binary::Min | Binary::Max => run(name, Function::Grad(op), x, other, Some(g), &shape, 0.0),
    };
    let da = wanted[0].then(|| reduce::sum_to(&full(a, b, true)?, a.shape(), 1.0)).transpose()?;
    let sign = if op == Binary::Sub { -1.0 } else { 1.0 };
    let db = wanted[1].then(|| reduce::sum_to(&full(b, a, false)?, b.shape(), sign)).transpose()?;
    Ok((da, db))
}

/// a += b, in place. The two must not share memory.
///
/// # Errors
/// [`Error::ShapeMismatch`] if the element counts differ; [`Error::DType`] unless both are f32; device errors.
pub fn add_assign(a: &Tensor, b: &Tensor) -> Result<()> {
    const OP: &str = "add_assign";
    a.expect_dtype(OP, "a", DType::F32)?;
    b.expect_dtype(OP, "b", DType::F32)?;
    if a.len() != b.len() {
        return Err(Error::mismatch(OP, a.shape(), b.shape(), "adding in place needs equal element counts"));
    }
    let n = count_elements(OP, a.shape())?;
    let (a, b) = (a.reshape([n])?, b.reshape([n])?);
    for part in a.parts() {
        let n = part.len();
        let tensors = [&a.rows_view(part.clone())?, &b.rows_view(part)?];
        launch(OP, &add_assign_variant(), &tensors, &AddParams { n: n as u32 }, a.gpu().grid(n.div_ceil(1024)), 0)?;
    }
    Ok(())
}

/// x where `mask` (0 or 1) is 1, `value` elsewhere; the mask broadcasts to x's shape.
///
/// # Errors
/// [`Error::ShapeMismatch`] if the mask does not broadcast to x's shape; as [`forward`].
pub fn where_mask(x: &Tensor, mask: &Tensor, value: f32) -> Result<Tensor> {
    const OP: &str = "where_mask";
    let shape = broadcast(OP, x.shape(), mask.shape())?;
    if shape != x.shape() {
        return Err(Error::mismatch(OP, x.shape(), mask.shape(), "the mask must broadcast to the first"));
    }
    run(OP, Function::Where, x, mask, None, &shape, value)
}

/// The gradient of [`where_mask`] for x: `g` where the mask is 1, 0 elsewhere.
///
/// # Errors
/// As [`where_mask`].
pub fn where_mask_backward(g: &Tensor, mask: &Tensor) -> Result<Tensor> {
    where_mask(g, mask, 0.0)
}

fn run(
    op: &'static str,
    function: Function,
    a: &Tensor,
    b: &Tensor,
    g: Option<&Tensor>,
    shape: &[usize],
    value: f32,
) -> Result<Tensor> {
    a.expect_dtype(op, "a", DType::F32)?;
    b.expect_dtype(op, "b", DType::F32)?;
    let len = count_elements(op, shape)?;
    let y = Tensor::uninit(a.gpu(), op, shape)?;
    if len == 0 {
        return Ok(y);
    }
    let broadcast = [a, b].map(|t| broadcast_strides(t.shape(), shape));
    let (extents, [a_steps, b_steps]) = merge(shape, [&broadcast[0], &broadcast[1]]);
    let needed = extents.len();
    let what = "dimensions that broadcast differently from their neighbours";
    expect_at_most(op, what, needed, MAX_RANK, "reshape, or broadcast in two steps")?;
    let (walk, params) = walk(len, value, extents, a_steps, b_steps);
    let rank = RANKS.into_iter().find(|&r| r as usize >= needed).unwrap_or(MAX_RANK as u32);
    let tensors: Vec<&Tensor> = [a, b].into_iter().chain(g).chain([&y]).collect();
    launch(op, &variant(function, rank, walk), &tensors, &params, a.gpu().grid(params.n.div_ceil(256) as usize), 0)?;
    Ok(y)
}

/// How arrays of `len` elements, with these steps along `extents`, are walked through.
fn walk(
    len: usize,
    value: f32,
    mut extents: Vec<usize>,
    mut a_steps: Vec<usize>,
    mut b_steps: Vec<usize>,
) -> (Walk, Params) {
    let last = extents.len() - 1;
    // Dense arrays step through whole rows, so that fours stay fours; what lies behind the end of a flat one is written
    // into the padding of y.
    let walk = match (extents[last].is_multiple_of(4) || last == 0, a_steps[last], b_steps[last]) {
        (false, ..) => Walk::Scalar,
        (true, 0, _) => Walk::Vec4SplatA,
        (true, _, 0) => Walk::Vec4SplatB,
        (true, ..) => Walk::Vec4,
    };
    let mut n = len;
    if walk != Walk::Scalar {
        extents[last] = extents[last].div_ceil(4);
        n = len.div_ceil(4);
        for (steps, splat) in [(&mut a_steps, Walk::Vec4SplatA), (&mut b_steps, Walk::Vec4SplatB)] {
            if walk != splat {
                steps[..last].iter_mut().for_each(|s| *s /= 4);
            }
        }
    }
    let [e0, e1, e2, e3, _] = innermost_first(&extents, 1);
    let (a, b) = (innermost_first(&a_steps, 0), innermost_first(&b_steps, 0));
    (walk, Params { n: n as u32, value, extents: [e0, e1, e2, e3], a, b })
}

/// The same in plain Rust, on single elements in f64, with broadcasting as a map of indices.
pub mod cpu {
    use super::Binary;

    /// f(a, b).
    pub fn value(op: Binary, a: f64, b: f64) -> f64 {
        match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Min | Binary::Max if a.is_nan() || b.is_nan() => f64::NAN,
            Binary::Min => a.min(b),
            Binary::Max => a.max(b),
        }
    }

    /// ∂f/∂a and ∂f/∂b.
    pub fn derivatives(op: Binary, a: f64, b: f64) -> (f64, f64) {
        let share = |first: bool| match (a == b, first) {
            (true, _) => (0.5, 0.5),
            (false, true) => (1.0, 0.0),
            (false, false) => (0.0, 1.0),
        };
        match op {
            Binary::Add => (1.0, 1.0),
            Binary::Sub => (1.0, -1.0),
            Binary::Mul => (b, a),
            Binary::Div => (1.0 / b, -a / (b * b)),
            Binary::Min => share(a < b),
            Binary::Max => share(a > b),
        }
    }

    /// For each element of `target`, the index of the element of an array of `shape` that broadcasting puts there.
    pub fn sources(shape: &[usize], target: &[usize]) -> Vec<usize> {
        let missing = target.len() - shape.len();
        (0..target.iter().product())
            .map(|flat| {
                let (mut rest, mut index, mut stride) = (flat, 0, 1);
                for d in (0..target.len()).rev() {
                    let i = rest % target[d];
                    rest /= target[d];
                    if d >= missing {
                        index += if shape[d - missing] == 1 { 0 } else { i } * stride;
                        stride *= shape[d - missing];
                    }
                }
                index
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::*;

    /// Pairs of shapes that take every way through the shader.
    const PAIRS: [(&[usize], &[usize]); 18] = [
        (&[1], &[]),
        (&[63], &[63]),
        (&[2, 5, 13], &[2, 5, 13]),
        (&[257], &[1]),
        (&[], &[130]),
        (&[9, 7], &[7]),
        (&[9, 8], &[8]),
        (&[8], &[9, 8]),
        (&[9, 8], &[9, 1]),
        (&[9, 1], &[9, 7]),
        (&[9, 1], &[8]),
        (&[3, 4, 8], &[3, 1, 8]),
        (&[3, 4, 5], &[4, 1]),
        (&[2, 3, 4, 5], &[3, 1, 5]),
        (&[2, 1, 4, 1, 8], &[1, 3, 1, 2, 1]),
        (&[2, 1, 4, 1, 3], &[1, 3, 1, 2, 1]),
        (&[2, 1, 2, 1, 2, 4], &[2, 3, 2, 2, 2, 4]),
        (&[70, 64], &[70, 64]),
    ];

    fn data(op: Binary, shape: &[usize], seed: u64) -> Vec<f32> {
        let sign = |v: f32| if v < 0.0 { -1.0 } else { 1.0 };
        let values = noise(shape.iter().product(), seed).into_iter();
        values
            .map(|v| match op {
                Binary::Div => v + 0.5 * sign(v),
                // Coarse, for ties.
                Binary::Min | Binary::Max => (4.0 * v).round(),
                _ => v,
            })
            .collect()
    }

    #[test]
    fn every_function_and_gradient_equals_its_twin() {
        for gpu in gpus() {
            for op in Binary::ALL {
                for (left, right) in PAIRS {
                    let (a, b) = (data(op, left, 1), data(op, right, 2));
                    let (ta, tb) = (poisoned(&gpu, left, &a), poisoned(&gpu, right, &b));
                    let shape = broadcast("test", left, right).unwrap();
                    let pairs: Vec<(usize, usize)> =
                        cpu::sources(left, &shape).into_iter().zip(cpu::sources(right, &shape)).collect();
                    let value = |&(i, j): &(usize, usize)| cpu::value(op, a[i].into(), b[j].into()) as f32;
                    let y = forward(op, &ta, &tb).unwrap();
                    assert_eq!(y.shape(), shape);
                    assert_close(&y, &pairs.iter().map(value).collect::<Vec<_>>(), 1e-6, 1e-7);

                    let g = noise(y.len(), 3);
                    let (mut da, mut db) = (vec![0.0; a.len()], vec![0.0; b.len()]);
                    for (&(i, j), &g) in pairs.iter().zip(&g) {
                        let d = cpu::derivatives(op, a[i].into(), b[j].into());
                        da[i] += d.0 * f64::from(g);
                        db[j] += d.1 * f64::from(g);
                    }
                    let (ga, gb) = backward(op, &ta, &tb, &poisoned(&gpu, &shape, &g), [true; 2]).unwrap();
                    let (ga, gb) = (ga.unwrap(), gb.unwrap());
                    assert_eq!((ga.shape(), gb.shape()), (left, right));
                    assert_close(&ga, &to_f32(&da), 1e-5, 2e-5);
                    assert_close(&gb, &to_f32(&db), 1e-5, 2e-5);
                }
            }
        }
    }

    #[test]
    fn the_twins_derivatives_equal_differences() {
        for op in Binary::ALL {
            for (a, b) in [(0.7, -1.3), (-2.0, 0.4), (1.5, 1.25)] {
                let numeric = differences(&[a, b], |x| cpu::value(op, x[0], x[1]));
                let (da, db) = cpu::derivatives(op, a, b);
                assert_slices_close(&[da as f32, db as f32], &to_f32(&numeric), 1e-5, 1e-7);
            }
        }
    }

    #[test]
    fn adding_in_place_keeps_to_the_tensor() {
        for gpu in gpus() {
            for n in [1, 2, 3, 4, 5, 63, 64, 1023, 1024, 1029] {
                let (a, b) = (noise(n + 70, 1), noise(n, 2));
                let whole = Tensor::from_slice(&gpu, [n + 70], &a).unwrap();
                add_assign(&whole.view(64, [n]).unwrap(), &poisoned(&gpu, &[n], &b)).unwrap();
                let expected: Vec<f32> =
                    (0..n + 70).map(|i| if (64..64 + n).contains(&i) { a[i] + b[i - 64] } else { a[i] }).collect();
                assert_eq!(whole.to_vec().unwrap(), expected);
            }
        }
    }

    #[test]
    fn masks_choose() {
        for gpu in gpus() {
            for (shape, mask_shape) in
                [(&[6, 8][..], &[6, 8][..]), (&[6, 8], &[8]), (&[6, 7], &[6, 1]), (&[2, 3, 5], &[2, 1, 5])]
            {
                let x = noise(shape.iter().product(), 1);
                let mask: Vec<f32> =
                    noise(mask_shape.iter().product(), 2).iter().map(|v| f32::from(*v > 0.0)).collect();
                let (tx, tm) = (poisoned(&gpu, shape, &x), poisoned(&gpu, mask_shape, &mask));
                let sources = cpu::sources(mask_shape, shape);
                let expect = |value: f32| -> Vec<f32> {
                    (0..x.len()).map(|i| if mask[sources[i]] == 1.0 { x[i] } else { value }).collect()
                };
                assert_eq!(where_mask(&tx, &tm, -7.0).unwrap().to_vec().unwrap(), expect(-7.0));
                assert_eq!(where_mask_backward(&tx, &tm).unwrap().to_vec().unwrap(), expect(0.0));
                if shape != mask_shape {
                    assert!(matches!(where_mask(&tm, &tx, 0.0), Err(Error::ShapeMismatch { .. })));
                }
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors_and_empty_ones_are_not() {
        for gpu in gpus() {
            let (a, b) = (noise_tensor(&gpu, &[2, 3], 1), noise_tensor(&gpu, &[2], 1));
            assert!(matches!(forward(Binary::Add, &a, &b), Err(Error::ShapeMismatch { .. })));
            assert!(matches!(add_assign(&a, &b), Err(Error::ShapeMismatch { .. })));
            assert!(matches!(backward(Binary::Mul, &a, &a, &b, [true; 2]), Err(Error::Shape { .. })));
            let ids = Tensor::from_u32(&gpu, [2, 3], &[0; 6]).unwrap();
            assert!(matches!(forward(Binary::Add, &a, &ids), Err(Error::DType { .. })));
            let none = Tensor::from_slice(&gpu, [0, 3], &[]).unwrap();
            let row = noise_tensor(&gpu, &[3], 1);
            let y = forward(Binary::Mul, &none, &row).unwrap();
            let (da, db) = backward(Binary::Mul, &none, &row, &y, [true; 2]).unwrap();
            assert!(da.unwrap().is_empty());
            assert_eq!(db.unwrap().to_vec().unwrap(), [0.0; 3]);
            let alternating = [2, 1, 2, 1, 2, 1];
            let a = noise_tensor(&gpu, &alternating, 1);
            let b = noise_tensor(&gpu, &[1, 2, 1, 2, 1, 2], 1);
            assert!(matches!(forward(Binary::Add, &a, &b), Err(Error::LimitExceeded { .. })));
        }
    }
}
