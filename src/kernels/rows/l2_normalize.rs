//! Rows of the last dimension divided by their Euclidean length.

use crate::Result;
use crate::kernels::launch;
use crate::kernels::rows::RowPlan;
use crate::kernels::shape::count_elements;
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};

const FORWARD: &str = include_str!("../../../shaders/rows/l2_normalize.wgsl");
const BACKWARD: &str = include_str!("../../../shaders/rows/l2_normalize_backward.wgsl");

/// What a row is divided by; a row of zeros stays one, with a finite gradient (for eps > 0).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divisor {
    /// max(length, eps).
    Clamped {
        /// The least divisor.
        eps: f32,
    },
    /// length + eps.
    Added {
        /// The summand.
        eps: f32,
    },
}

params! {
    struct Params { rows: u32, n: u32, eps: f32, add: u32 }
}

fn variant(backward: bool, plan: RowPlan) -> Variant {
    let (name, source) = if backward { ("l2_normalize_backward", BACKWARD) } else { ("l2_normalize", FORWARD) };
    plan.specialise(Variant::own::<Params>(name, source))
}

pub(crate) fn variants() -> Vec<Variant> {
    RowPlan::all().into_iter().flat_map(|plan| [variant(false, plan), variant(true, plan)]).collect()
}

fn params(x: &Tensor, plan: RowPlan, divisor: Divisor) -> Params {
    let (eps, add) = match divisor {
        Divisor::Clamped { eps } => (eps, 0),
        Divisor::Added { eps } => (eps, 1),
    };
    Params { rows: x.rows() as u32, n: plan.elements(x.width()) as u32, eps, add }
}

/// y = x / divisor, of x's shape, and `[rows, 2]` statistics for [`backward`]: 1 / divisor and length.
///
/// # Errors
/// [`crate::Error::DType`] unless x is f32; [`crate::Error::LimitExceeded`] on software adapters for rows of some 2.8
/// million elements; device errors.
pub fn forward(x: &Tensor, divisor: Divisor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "l2_normalize";
    x.expect_dtype(OP, "x", DType::F32)?;
    count_elements(OP, x.shape())?;
    let y = Tensor::uninit(x.gpu(), OP, x.shape())?;
    let stats = Tensor::uninit(x.gpu(), OP, [x.rows(), 2])?;
    if !x.is_empty() {
        let plan = RowPlan::new(OP, x.gpu(), x.rows(), x.width())?;
        launch(OP, &variant(false, plan), &[x, &y, &stats], &params(x, plan, divisor), plan.grid(x.gpu()), 0)?;
    }
    Ok((y, stats))
}

/// The gradient for x, from what [`forward`] returned and the gradient `g` of y.
///
/// # Errors
/// [`crate::Error::Shape`] unless `g` has y's shape and `stats` has `[rows, 2]`; device errors.
pub fn backward(y: &Tensor, g: &Tensor, stats: &Tensor, divisor: Divisor) -> Result<Tensor> {
    const OP: &str = "l2_normalize backward";
    y.expect_dtype(OP, "y", DType::F32)?;
    g.expect(OP, "gradient", DType::F32, y.shape())?;
    stats.expect(OP, "stats", DType::F32, &[y.rows(), 2])?;
    count_elements(OP, y.shape())?;
    let dx = Tensor::uninit(y.gpu(), OP, y.shape())?;
    if !y.is_empty() {
        let plan = RowPlan::new(OP, y.gpu(), y.rows(), y.width())?;
        launch(OP, &variant(true, plan), &[y, g, stats, &dx], &params(y, plan, divisor), plan.grid(y.gpu()), 0)?;
    }
    Ok(dx)
}

/// The same in plain Rust, on one row and in f64.
pub mod cpu {
    use super::Divisor;

    fn length_and_divisor(x: &[f64], divisor: Divisor) -> (f64, f64) {
        let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
        match divisor {
            Divisor::Clamped { eps } => (length, length.max(eps.into())),
            Divisor::Added { eps } => (length, length + f64::from(eps)),
        }
    }

    /// One row, divided.
    pub fn forward(x: &[f64], divisor: Divisor) -> Vec<f64> {
        let (_, d) = length_and_divisor(x, divisor);
        x.iter().map(|v| v / d).collect()
    }

    /// Its gradient.
    pub fn backward(x: &[f64], g: &[f64], divisor: Divisor) -> Vec<f64> {
        let (length, d) = length_and_divisor(x, divisor);
        let constant = length == 0.0 || matches!(divisor, Divisor::Clamped { eps } if length < eps.into());
        let dot: f64 = x.iter().zip(g).map(|(x, g)| x * g).sum();
        let pull = if constant { 0.0 } else { dot / (d * d * length) };
        x.iter().zip(g).map(|(x, g)| g / d - x * pull).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::kernels::testing::*;
    use crate::parity::golden;

    const DIVISORS: [Divisor; 3] =
        [Divisor::Clamped { eps: 1e-12 }, Divisor::Clamped { eps: 1.5 }, Divisor::Added { eps: 1e-5 }];

    #[test]
    fn rows_equal_the_twin() {
        for gpu in gpus() {
            // Of the last two, the loops of a subgroup would be too long for software adapters.
            let wide = [(2, 60_001), (2, 600_001)];
            let shapes = [(1, 1), (9, 3), (17, 4), (5, 31), (8, 64), (3, 65), (16, 68), (4, 256), (7, 1030)];
            for (rows, n) in shapes.into_iter().chain(wide) {
                for divisor in DIVISORS {
                    let mut x = noise(rows * n, 1);
                    x[..n].fill(0.0);
                    let g = noise(rows * n, 2);
                    let (tx, tg) = (poisoned(&gpu, &[rows, n], &x), poisoned(&gpu, &[rows, n], &g));
                    let (y, stats) = forward(&tx, divisor).unwrap();
                    let row = |v: &[f32], r: usize| to_f64(&v[r * n..(r + 1) * n]);
                    let expected: Vec<f64> = (0..rows).flat_map(|r| cpu::forward(&row(&x, r), divisor)).collect();
                    assert_close(&y, &to_f32(&expected), 1e-5, 1e-7);
                    let dx = backward(&y, &tg, &stats, divisor).unwrap();
                    let expected: Vec<f64> =
                        (0..rows).flat_map(|r| cpu::backward(&row(&x, r), &row(&g, r), divisor)).collect();
                    assert_close(&dx, &to_f32(&expected), 1e-4, 1e-5);
                    assert!(dx.to_vec().unwrap().iter().all(|v| v.is_finite()));
                    let again = backward(&y, &tg, &stats, divisor).unwrap();
                    assert_eq!(dx.to_vec().unwrap(), again.to_vec().unwrap());
                }
            }
        }
    }

    #[test]
    fn the_twins_gradient_equals_differences() {
        for divisor in [DIVISORS[0], Divisor::Clamped { eps: 7.0 }, Divisor::Added { eps: 0.3 }] {
            let (x, g) = (to_f64(&noise(6, 1)), to_f64(&noise(6, 2)));
            let numeric = differences(&x, |x| cpu::forward(x, divisor).iter().zip(&g).map(|(y, g)| y * g).sum());
            assert_slices_close(&to_f32(&cpu::backward(&x, &g, divisor)), &to_f32(&numeric), 1e-5, 1e-7);
        }
    }

    #[test]
    fn goldens() {
        for case in ["eps-0", "eps-1", "plus1e5"] {
            let golden = golden::open(&format!("op-l2_normalize-{case}"));
            let eps = golden.config["eps"].as_f64().unwrap() as f32;
            let divisor = if case == "plus1e5" { Divisor::Added { eps } } else { Divisor::Clamped { eps } };
            for gpu in gpus() {
                let tensor = |name: &str| Tensor::from_slice(&gpu, golden.shape(name), &golden.f32(name)).unwrap();
                let (y, stats) = forward(&tensor("input.x"), divisor).unwrap();
                golden.check("output.y", &y.to_vec().unwrap());
                let dx = backward(&y, &tensor("input.cotangent"), &stats, divisor).unwrap();
                golden.check("grad_input.x", &dx.to_vec().unwrap());
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors_and_empty_ones_are_not() {
        for gpu in gpus() {
            let x = noise_tensor(&gpu, &[2, 3], 1);
            let (y, stats) = forward(&x, DIVISORS[0]).unwrap();
            assert!(matches!(
                backward(&y, &stats, &stats, DIVISORS[0]),
                Err(Error::Shape { argument: "gradient", .. })
            ));
            assert!(matches!(backward(&y, &y, &y, DIVISORS[0]), Err(Error::Shape { argument: "stats", .. })));
            let none = Tensor::from_slice(&gpu, [0, 3], &[]).unwrap();
            let (y, stats) = forward(&none, DIVISORS[0]).unwrap();
            assert!(backward(&y, &none, &stats, DIVISORS[0]).unwrap().is_empty());
        }
    }
}
