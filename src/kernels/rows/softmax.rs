//! Softmax, its logarithm, and the logarithm of a sum of exponentials, over the last dimension.
//!
//! All three work on z = `scale` * x. A mask (0 or 1) restricts a row to where it is 1: what is masked has softmax 0,
//! logarithm [`f32::MIN`] and gradient 0, whatever x holds there. A row that is masked as a whole has softmax 0,
//! logsumexp [`f32::MIN`] and gradient 0.

use crate::kernels::launch;
use crate::kernels::rows::RowPlan;
use crate::kernels::shape::count_elements;
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const FORWARD: &str = include_str!("../../../shaders/rows/softmax.wgsl");
const BACKWARD: &str = include_str!("../../../shaders/rows/softmax_backward.wgsl");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Softmax,
    LogSoftmax,
    LogSumExp,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Softmax, Self::LogSoftmax, Self::LogSumExp];

    /// The op forward, backward, and the shader's define.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::Softmax => ["softmax", "softmax backward", "SOFTMAX"],
            Self::LogSoftmax => ["log_softmax", "log_softmax backward", "LOG_SOFTMAX"],
            Self::LogSumExp => ["logsumexp", "logsumexp backward", "LOGSUMEXP"],
        }
    }
}

params! {
    struct Params { rows: u32, n: u32, mask_stride: u32, scale: f32 }
}

fn variant(kind: Kind, backward: bool, masked: bool, plan: RowPlan) -> Variant {
    let (name, source) = if backward { ("softmax_backward", BACKWARD) } else { ("softmax", FORWARD) };
    plan.specialise(Variant::own::<Params>(name, source)).set(kind.names()[2], 1).on("MASK", masked)
}

pub(crate) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for masked in [false, true] {
            all.extend(RowPlan::all_straight().into_iter().map(|plan| variant(kind, false, masked, plan)));
            if !masked || kind == Kind::LogSumExp {
                all.extend(RowPlan::all().into_iter().map(|plan| variant(kind, true, masked, plan)));
            }
        }
    }
    all
}

/// e^z / Σ e^z along the last dimension, with z = `scale` * x; of x's shape.
///
/// `mask`: of x's shape, or one row of x's width.
///
/// # Errors
/// [`Error::Shape`] if the mask has another shape; [`Error::DType`] unless both are f32; [`Error::LimitExceeded`] on
/// software adapters for rows of some 2.8 million elements; device errors.
pub fn softmax(x: &Tensor, scale: f32, mask: Option<&Tensor>) -> Result<Tensor> {
    forward(Kind::Softmax, x, scale, mask)
}

/// The gradient for x of [`softmax`], from its output `y` and the output's gradient `g`; the mask shows in `y`.
///
/// # Errors
/// [`Error::Shape`] unless `g` has the shape of `y`; device errors.
pub fn softmax_backward(y: &Tensor, g: &Tensor, scale: f32) -> Result<Tensor> {
    backward(Kind::Softmax, y, g, scale)
}

/// z - log Σ e^z along the last dimension, with z = `scale` * x; of x's shape.
///
/// # Errors
/// As [`softmax`].
pub fn log_softmax(x: &Tensor, scale: f32, mask: Option<&Tensor>) -> Result<Tensor> {
    forward(Kind::LogSoftmax, x, scale, mask)
}

/// The gradient for x of [`log_softmax`], from its output `y` and the output's gradient `g`; the mask shows in `y`.
///
/// # Errors
/// As [`softmax_backward`].
pub fn log_softmax_backward(y: &Tensor, g: &Tensor, scale: f32) -> Result<Tensor> {
    backward(Kind::LogSoftmax, y, g, scale)
}

/// log Σ e^z along the last dimension, with z = `scale` * x; x's shape without its last dimension.
///
/// # Errors
/// As [`softmax`].
pub fn logsumexp(x: &Tensor, scale: f32, mask: Option<&Tensor>) -> Result<Tensor> {
    forward(Kind::LogSumExp, x, scale, mask)
}

/// The gradient for x of [`logsumexp`], from its arguments, its output `lse` and the output's gradient `g`.
///
/// # Errors
/// [`Error::Shape`] unless `lse` and `g` have x's shape without its last dimension; as [`softmax`].
pub fn logsumexp_backward(x: &Tensor, scale: f32, mask: Option<&Tensor>, lse: &Tensor, g: &Tensor) -> Result<Tensor> {
    let [_, op, _] = Kind::LogSumExp.names();
    let mask_stride = check(op, x, mask)?;
    lse.expect_shape(op, "lse", outer(x))?;
    g.expect(op, "gradient", DType::F32, outer(x))?;
    let dx = Tensor::uninit(x.gpu(), op, x.shape())?;
    let plan = RowPlan::new(op, x.gpu(), x.rows(), x.width())?;
    let tensors: Vec<&Tensor> = [lse, g, x].into_iter().chain(mask).chain([&dx]).collect();
    run(op, &variant(Kind::LogSumExp, true, mask.is_some(), plan), &tensors, x, plan, mask_stride, scale)?;
    Ok(dx)
}

/// A shape without its last dimension.
fn outer(x: &Tensor) -> &[usize] {
    &x.shape()[..x.shape().len().saturating_sub(1)]
}

/// Checks the arguments and returns how many elements lie between two rows of the mask.
fn check(op: &'static str, x: &Tensor, mask: Option<&Tensor>) -> Result<usize> {
    x.expect_dtype(op, "x", DType::F32)?;
    count_elements(op, x.shape())?;
    let Some(mask) = mask else { return Ok(0) };
    mask.expect_dtype(op, "mask", DType::F32)?;
    if mask.shape() == x.shape() {
        Ok(x.width())
    } else if mask.len() == x.width() && mask.width() == x.width() {
        Ok(0)
    } else {
        Err(Error::shape(op, "mask", format!("{:?} or [{}]", x.shape(), x.width()), mask.shape()))
    }
}

fn forward(kind: Kind, x: &Tensor, scale: f32, mask: Option<&Tensor>) -> Result<Tensor> {
    let [op, ..] = kind.names();
    let mask_stride = check(op, x, mask)?;
    let y = Tensor::uninit(x.gpu(), op, if kind == Kind::LogSumExp { outer(x) } else { x.shape() })?;
    if x.width() == 0 && !y.is_empty() {
        // Rows of nothing: no shader can write to a binding that small, and this is no hot path.
        y.write(&vec![f32::MIN; y.len()])?;
        return Ok(y);
    }
    let plan = RowPlan::new(op, x.gpu(), x.rows(), x.width())?.straight(x.width());
    let tensors: Vec<&Tensor> = [x].into_iter().chain(mask).chain([&y]).collect();
    run(op, &variant(kind, false, mask.is_some(), plan), &tensors, x, plan, mask_stride, scale)?;
    Ok(y)
}

fn backward(kind: Kind, y: &Tensor, g: &Tensor, scale: f32) -> Result<Tensor> {
    let [_, op, _] = kind.names();
    check(op, y, None)?;
    g.expect(op, "gradient", DType::F32, y.shape())?;
    let dx = Tensor::uninit(y.gpu(), op, y.shape())?;
    let plan = RowPlan::new(op, y.gpu(), y.rows(), y.width())?;
    run(op, &variant(kind, true, false, plan), &[y, g, &dx], y, plan, 0, scale)?;
    Ok(dx)
}

fn run(
    op: &'static str,
    variant: &Variant,
    tensors: &[&Tensor],
    x: &Tensor,
    plan: RowPlan,
    mask_stride: usize,
    scale: f32,
) -> Result<()> {
    if x.is_empty() {
        return Ok(());
    }
    let params = Params {
        rows: x.rows() as u32,
        n: plan.elements(x.width()) as u32,
        mask_stride: plan.elements(mask_stride) as u32,
        scale,
    };
    launch(op, variant, tensors, &params, plan.grid(x.gpu()), 0)
}

/// The same in plain Rust, on one row and in f64.
pub mod cpu {
    /// Softmax of one row; `mask` as in [`crate::kernels::rows::softmax`].
    pub fn softmax(x: &[f64], scale: f64, mask: Option<&[f32]>) -> Vec<f64> {
        log_softmax(x, scale, mask).into_iter().map(|y| if y == f64::from(f32::MIN) { 0.0 } else { y.exp() }).collect()
    }

    /// Its gradient.
    pub fn softmax_backward(y: &[f64], g: &[f64], scale: f64) -> Vec<f64> {
        let dot: f64 = y.iter().zip(g).map(|(y, g)| y * g).sum();
        y.iter().zip(g).map(|(y, g)| scale * y * (g - dot)).collect()
    }

    /// Log-softmax of one row.
    pub fn log_softmax(x: &[f64], scale: f64, mask: Option<&[f32]>) -> Vec<f64> {
        let lse = logsumexp(x, scale, mask);
        let value = |i: usize| if valid(mask, i) { scale * x[i] - lse } else { f32::MIN.into() };
        (0..x.len()).map(value).collect()
    }

    /// Its gradient.
    pub fn log_softmax_backward(y: &[f64], g: &[f64], scale: f64) -> Vec<f64> {
        let masked = |y: f64| y == f64::from(f32::MIN);
        let sum: f64 = y.iter().zip(g).filter(|(y, _)| !masked(**y)).map(|(_, g)| g).sum();
        y.iter().zip(g).map(|(&y, g)| if masked(y) { 0.0 } else { scale * (g - y.exp() * sum) }).collect()
    }

    /// Logsumexp of one row.
    pub fn logsumexp(x: &[f64], scale: f64, mask: Option<&[f32]>) -> f64 {
        let z: Vec<f64> = (0..x.len()).filter(|&i| valid(mask, i)).map(|i| scale * x[i]).collect();
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if z.is_empty() { f32::MIN.into() } else { top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln() }
    }

    /// Its gradient, for an upstream gradient `g`.
    pub fn logsumexp_backward(x: &[f64], scale: f64, mask: Option<&[f32]>, lse: f64, g: f64) -> Vec<f64> {
        let value = |i: usize| if valid(mask, i) { scale * g * (scale * x[i] - lse).exp() } else { 0.0 };
        (0..x.len()).map(value).collect()
    }

    /// Whether element `i` takes part.
    pub(in crate::kernels) fn valid(mask: Option<&[f32]>, i: usize) -> bool {
        mask.is_none_or(|m| m[i] > 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::elementwise::{binary, binary::Binary};
    use crate::kernels::testing::*;
    use crate::parity::golden;

    /// Applies a function of one row (its number, elements, gradient, mask) to every row.
    fn by_rows(n: usize, rows: usize, f: impl Fn(usize) -> Vec<f64>) -> Vec<f32> {
        let all: Vec<f64> = (0..rows).flat_map(f).collect();
        assert!(all.len() == rows * n || all.len() == rows);
        to_f32(&all)
    }

    #[test]
    fn rows_equal_the_twin() {
        for gpu in gpus() {
            for (rows, n) in
                [(1, 1), (9, 3), (17, 4), (33, 16), (5, 31), (9, 32), (8, 64), (3, 65), (16, 68), (11, 256), (7, 1030)]
            {
                for masked in [None, Some(rows), Some(1)] {
                    let scale = 1.7;
                    let x: Vec<f32> = noise(rows * n, 1).iter().map(|v| 5.0 * v).collect();
                    let g = noise(rows * n, 2);
                    // The first row of a full mask is all zero.
                    let mask = masked.map(|r| -> Vec<f32> {
                        let keep = |i: usize, v: f32| if (r == 1 || i >= n) && v > -0.2 { 1.0 } else { 0.0 };
                        noise(r * n, 3).iter().enumerate().map(|(i, &v)| keep(i, v)).collect()
                    });
                    let row = |r: usize| r * n..(r + 1) * n;
                    let mask_row = |r: usize| mask.as_ref().map(|m| if m.len() == n { &m[..] } else { &m[row(r)] });
                    let wide = |v: &[f32], r: usize| to_f64(&v[row(r)]);
                    let tx = poisoned(&gpu, &[rows, n], &x);
                    let tg = poisoned(&gpu, &[rows, n], &g);
                    let tm = mask.as_ref().map(|m| {
                        let shape = if m.len() == n { vec![n] } else { vec![rows, n] };
                        poisoned(&gpu, &shape, m)
                    });

                    let y = softmax(&tx, scale, tm.as_ref()).unwrap();
                    let expected = by_rows(n, rows, |r| cpu::softmax(&wide(&x, r), scale.into(), mask_row(r)));
                    assert_close(&y, &expected, 1e-5, 1e-7);
                    let dx = softmax_backward(&y, &tg, scale).unwrap();
                    let expected_dx =
                        by_rows(n, rows, |r| cpu::softmax_backward(&wide(&expected, r), &wide(&g, r), scale.into()));
                    assert_close(&dx, &expected_dx, 1e-4, 1e-6);

                    let y = log_softmax(&tx, scale, tm.as_ref()).unwrap();
                    let expected = by_rows(n, rows, |r| cpu::log_softmax(&wide(&x, r), scale.into(), mask_row(r)));
                    assert_close(&y, &expected, 1e-5, 2e-6);
                    let dx = log_softmax_backward(&y, &tg, scale).unwrap();
                    let expected_dx = by_rows(n, rows, |r| {
                        cpu::log_softmax_backward(&wide(&expected, r), &wide(&g, r), scale.into())
                    });
                    assert_close(&dx, &expected_dx, 1e-4, 4e-6);

                    let lse = logsumexp(&tx, scale, tm.as_ref()).unwrap();
                    let expected = by_rows(n, rows, |r| vec![cpu::logsumexp(&wide(&x, r), scale.into(), mask_row(r))]);
                    assert_close(&lse, &expected, 1e-5, 2e-6);
                    let tg = poisoned(&gpu, &[rows], &g[..rows]);
                    let dx = logsumexp_backward(&tx, scale, tm.as_ref(), &lse, &tg).unwrap();
                    let expected_dx = by_rows(n, rows, |r| {
                        let (lse, g) = (expected[r].into(), g[r].into());
                        cpu::logsumexp_backward(&wide(&x, r), scale.into(), mask_row(r), lse, g)
                    });
                    assert_close(&dx, &expected_dx, 1e-4, 1e-6);
                    let again = logsumexp_backward(&tx, scale, tm.as_ref(), &lse, &tg).unwrap();
                    assert_eq!(dx.to_vec().unwrap(), again.to_vec().unwrap());
                }
            }
        }
    }

    #[test]
    fn the_twins_gradients_equal_differences() {
        let (x, g) = (to_f64(&noise(7, 1)), to_f64(&noise(7, 2)));
        let mask = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0];
        for mask in [None, Some(&mask[..])] {
            let dot = |y: Vec<f64>| -> f64 { y.iter().zip(&g).map(|(y, g)| if *g == 0.0 { 0.0 } else { y * g }).sum() };
            let near = |a: Vec<f64>, b: Vec<f64>| assert_slices_close(&to_f32(&a), &to_f32(&b), 1e-5, 1e-7);
            let y = cpu::softmax(&x, 1.3, mask);
            near(cpu::softmax_backward(&y, &g, 1.3), differences(&x, |x| dot(cpu::softmax(x, 1.3, mask))));
            let valid = |y: Vec<f64>| dot(y.into_iter().map(|y| if y < -1e30 { 0.0 } else { y }).collect());
            let y = cpu::log_softmax(&x, 1.3, mask);
            let numeric = differences(&x, |x| valid(cpu::log_softmax(x, 1.3, mask)));
            near(cpu::log_softmax_backward(&y, &g, 1.3), numeric);
            let lse = cpu::logsumexp(&x, 1.3, mask);
            let numeric = differences(&x, |x| 0.7 * cpu::logsumexp(x, 1.3, mask));
            near(cpu::logsumexp_backward(&x, 1.3, mask, lse, 0.7), numeric);
        }
    }

    #[test]
    fn masked_elements_may_hold_anything() {
        for gpu in gpus() {
            let x = Tensor::from_slice(&gpu, [1, 4], &[1.0, f32::NAN, 2.0, f32::INFINITY]).unwrap();
            let mask = Tensor::from_slice(&gpu, [4], &[1.0, 0.0, 1.0, 0.0]).unwrap();
            let y = softmax(&x, 1.0, Some(&mask)).unwrap();
            assert_close(&y, &[0.268_941_4, 0.0, 0.731_058_6, 0.0], 1e-6, 0.0);
            let lse = logsumexp(&x, 1.0, Some(&mask)).unwrap();
            assert_close(&lse, &[2.313_261_7], 1e-6, 0.0);
            let one = Tensor::from_slice(&gpu, [1], &[1.0]).unwrap();
            let dx = logsumexp_backward(&x, 1.0, Some(&mask), &lse, &one).unwrap();
            assert_close(&dx, &[0.268_941_4, 0.0, 0.731_058_6, 0.0], 1e-6, 0.0);
        }
    }

    #[test]
    fn goldens() {
        for name in ["0", "1", "masked-1e10"] {
            let golden = golden::open(&format!("op-softmax-{name}"));
            let log_golden = golden::open(&format!("op-log_softmax-{name}"));
            for gpu in gpus() {
                for (golden, log) in [(&golden, false), (&log_golden, true)] {
                    let tensor = |name: &str| Tensor::from_slice(&gpu, golden.shape(name), &golden.f32(name)).unwrap();
                    let x = tensor("input.x");
                    let mask = golden.has("input.mask").then(|| tensor("input.mask"));
                    let z = mask.as_ref().map_or_else(
                        || x.clone(),
                        |mask| {
                            let one = Tensor::from_slice(&gpu, [], &[1.0]).unwrap();
                            let far = Tensor::from_slice(&gpu, [], &[-1e10]).unwrap();
                            let kept = binary::forward(Binary::Mul, &x, mask).unwrap();
                            let rest = binary::forward(Binary::Sub, &one, mask).unwrap();
                            let rest = binary::forward(Binary::Mul, &rest, &far).unwrap();
                            binary::forward(Binary::Add, &kept, &rest).unwrap()
                        },
                    );
                    let forward = if log { log_softmax } else { softmax };
                    let backward = if log { log_softmax_backward } else { softmax_backward };
                    let y = forward(&z, 1.0, None).unwrap();
                    golden.check("output.y", &y.to_vec().unwrap());
                    let mut dx = backward(&y, &tensor("input.cotangent"), 1.0).unwrap();
                    if let Some(mask) = &mask {
                        dx = binary::forward(Binary::Mul, &dx, mask).unwrap();
                    }
                    golden.check("grad_input.x", &dx.to_vec().unwrap());
                }
            }
        }
        let golden = golden::open("op-logsumexp-rows");
        for gpu in gpus() {
            let tensor = |name: &str| Tensor::from_slice(&gpu, golden.shape(name), &golden.f32(name)).unwrap();
            let x = tensor("input.x");
            let lse = logsumexp(&x, 1.0, None).unwrap();
            golden.check("output.y", &lse.to_vec().unwrap());
            let dx = logsumexp_backward(&x, 1.0, None, &lse, &tensor("input.cotangent")).unwrap();
            golden.check("grad_input.x", &dx.to_vec().unwrap());
        }
    }

    #[test]
    fn wrong_shapes_are_errors_and_empty_ones_are_not() {
        for gpu in gpus() {
            let x = noise_tensor(&gpu, &[2, 3], 1);
            let other = noise_tensor(&gpu, &[2], 1);
            assert!(matches!(softmax(&x, 1.0, Some(&other)), Err(Error::Shape { argument: "mask", .. })));
            assert!(matches!(softmax_backward(&x, &other, 1.0), Err(Error::Shape { argument: "gradient", .. })));
            assert!(matches!(logsumexp_backward(&x, 1.0, None, &x, &other), Err(Error::Shape { .. })));
            let ids = Tensor::from_u32(&gpu, [2, 3], &[0; 6]).unwrap();
            assert!(matches!(softmax(&ids, 1.0, None), Err(Error::DType { .. })));
            let none = Tensor::from_slice(&gpu, [0, 3], &[]).unwrap();
            assert_eq!(softmax(&none, 1.0, None).unwrap().shape(), [0, 3]);
            assert_eq!(logsumexp(&none, 1.0, None).unwrap().shape(), [0]);
            let none = Tensor::from_slice(&gpu, [3, 0], &[]).unwrap();
            assert_eq!(logsumexp(&none, 1.0, None).unwrap().to_vec().unwrap(), [f32::MIN; 3]);
        }
    }

    /// Software adapters end loops that are too long.
    #[test]
    fn long_rows_are_summed_to_their_end() {
        for gpu in gpus() {
            for (rows, n) in [(9, 30_522), (1, 1_000_001)] {
                let (x, g) = (noise(rows * n, 1), noise(rows * n, 2));
                let row = |v: &[f32], r: usize| to_f64(&v[r * n..(r + 1) * n]);
                let (tx, tg) = (poisoned(&gpu, &[rows, n], &x), poisoned(&gpu, &[rows, n], &g));
                let y = softmax(&tx, 5.0, None).unwrap();
                let expected = by_rows(n, rows, |r| cpu::softmax(&row(&x, r), 5.0, None));
                assert_close(&y, &expected, 1e-4, 0.0);
                let dx = softmax_backward(&y, &tg, 5.0).unwrap();
                let expected = by_rows(n, rows, |r| {
                    cpu::softmax_backward(&cpu::softmax(&row(&x, r), 5.0, None), &row(&g, r), 5.0)
                });
                assert_close(&dx, &expected, 1e-3, 1e-8);
                let y = log_softmax(&tx, 5.0, None).unwrap();
                assert_close(&y, &by_rows(n, rows, |r| cpu::log_softmax(&row(&x, r), 5.0, None)), 1e-5, 1e-4);
            }
        }
    }
}
