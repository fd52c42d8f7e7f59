//! Functions of one tensor, element by element, and their gradients.

use crate::Result;
use crate::kernels::launch;
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};

const WGSL: &str = include_str!("../../../shaders/elementwise/elementwise.wgsl");

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// One of the activations.
    Activation(Activation),
    /// `scale * x + shift`.
    Affine {
        /// The factor.
        scale: f32,
        /// The summand.
        shift: f32,
    },
    /// e^x.
    Exp,
    /// The natural logarithm.
    Log,
    /// x².
    Square,
}

/// Activation functions; the numbers are those of `shaders/shared/activation.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Activation {
    /// x Φ(x), with the error function (not the tanh approximation).
    Gelu = 1,
    /// x σ(1.702 x), as in CLIP.
    QuickGelu = 2,
    /// max(x, 0).
    Relu = 3,
    /// Hyperbolic tangent.
    Tanh = 4,
    /// 1 / (1 + e^-x).
    Sigmoid = 5,
    /// log(1 + e^x).
    Softplus = 6,
    /// x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), the approximation of GELU that SigLIP has.
    GeluTanh = 7,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Gelu, Self::QuickGelu, Self::Relu, Self::Tanh, Self::Sigmoid, Self::Softplus, Self::GeluTanh];
}

params! {
    struct Params { n: u32, scale: f32, shift: f32 }
}

fn variant(op: Unary, grad: bool) -> Variant {
    let (name, value) = match op {
        Unary::Activation(activation) => ("ACTIVATION", activation as u32),
        Unary::Affine { .. } => ("AFFINE", 1),
        Unary::Exp => ("EXP", 1),
        Unary::Log => ("LOG", 1),
        Unary::Square => ("SQUARE", 1),
    };
    Variant::own::<Params>("elementwise", WGSL).set(name, value).on("GRAD", grad)
}

pub(crate) fn variants() -> Vec<Variant> {
    let affine = Unary::Affine { scale: 1.0, shift: 0.0 };
    let ops = Activation::ALL.map(Unary::Activation).into_iter().chain([affine, Unary::Exp, Unary::Log, Unary::Square]);
    ops.flat_map(|op| [variant(op, false), variant(op, true)]).collect()
}

fn params(op: Unary, n: usize) -> Params {
    let (scale, shift) = if let Unary::Affine { scale, shift } = op { (scale, shift) } else { (0.0, 0.0) };
    Params { n: n as u32, scale, shift }
}

/// y = f(x), of x's shape.
///
/// # Errors
/// [`crate::Error::DType`] unless x is f32; device errors.
pub fn forward(op: Unary, x: &Tensor) -> Result<Tensor> {
    x.expect_dtype("elementwise", "x", DType::F32)?;
    let y = Tensor::uninit(x.gpu(), "elementwise", x.shape())?;
    let grid = x.gpu().grid(x.len().div_ceil(256));
    launch("elementwise", &variant(op, false), &[x, &y], &params(op, x.len()), grid, 0)?;
    Ok(y)
}

/// dx = g f'(x), of x's shape.
///
/// # Errors
/// [`crate::Error::Shape`] unless g has x's shape; [`crate::Error::DType`] unless both are f32; device errors.
pub fn backward(op: Unary, x: &Tensor, g: &Tensor) -> Result<Tensor> {
    x.expect_dtype("elementwise backward", "x", DType::F32)?;
    g.expect("elementwise backward", "gradient", DType::F32, x.shape())?;
    let dx = Tensor::uninit(x.gpu(), "elementwise backward", x.shape())?;
    let grid = x.gpu().grid(x.len().div_ceil(256));
    launch("elementwise backward", &variant(op, true), &[x, g, &dx], &params(op, x.len()), grid, 0)?;
    Ok(dx)
}

/// The same in plain Rust.
pub mod cpu {
    use super::{Activation, Unary};

    /// f(x) and f'(x), in f64.
    pub fn value_and_derivative(op: Unary, x: f64) -> (f64, f64) {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match op {
            Unary::Activation(Activation::Gelu) => {
                let phi = 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2));
                (x * phi, phi + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt())
            }
            Unary::Activation(Activation::QuickGelu) => {
                let s = sigmoid(1.702 * x);
                (x * s, s * (1.0 + 1.702 * x * (1.0 - s)))
            }
            Unary::Activation(Activation::GeluTanh) => {
                let (factor, cubic) = ((2.0 / std::f64::consts::PI).sqrt(), 0.044715);
                let t = (factor * (x + cubic * x * x * x)).tanh();
                let slope = (1.0 - t * t) * factor * (1.0 + 3.0 * cubic * x * x);
                (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * slope)
            }
            Unary::Activation(Activation::Relu) => (if x < 0.0 { 0.0 } else { x }, if x > 0.0 { 1.0 } else { 0.0 }),
            Unary::Activation(Activation::Tanh) => (x.tanh(), 1.0 - x.tanh() * x.tanh()),
            Unary::Activation(Activation::Sigmoid) => (sigmoid(x), sigmoid(x) * (1.0 - sigmoid(x))),
            Unary::Activation(Activation::Softplus) => (x.max(0.0) + (-x.abs()).exp().ln_1p(), sigmoid(x)),
            Unary::Affine { scale, shift } => (f64::from(scale) * x + f64::from(shift), scale.into()),
            Unary::Exp => (x.exp(), x.exp()),
            Unary::Log => (x.ln(), 1.0 / x),
            Unary::Square => (x * x, 2.0 * x),
        }
    }

    /// The error function: its Maclaurin series for small arguments, the continued fraction of erfc for large ones.
    pub fn erf(x: f64) -> f64 {
        if x < 0.0 {
            return -erf(-x);
        }
        if x < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let fraction = (1..=60).rev().fold(0.0, |f, k| f64::from(k) / 2.0 / (x + f));
        1.0 - (-x * x).exp() / std::f64::consts::PI.sqrt() / (x + fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gpus};

    #[test]
    fn every_function_equals_its_twin() {
        let ops = [Unary::Affine { scale: -0.5, shift: 2.0 }, Unary::Exp, Unary::Log, Unary::Square];
        for gpu in gpus() {
            for op in Activation::ALL.map(Unary::Activation).into_iter().chain(ops) {
                for n in [1usize, 63, 64, 257, 1000] {
                    let x: Vec<f32> = (0..n)
                        .map(|i| {
                            let t = (i as f32 - n as f32 / 2.0) * 0.037;
                            if op == Unary::Log { t.abs() + 0.1 } else { t }
                        })
                        .collect();
                    let g: Vec<f32> = (0..n).map(|i| (i as f32 * 0.71).sin()).collect();
                    let tx = Tensor::from_slice(&gpu, [n], &x).unwrap();
                    let tg = Tensor::from_slice(&gpu, [n], &g).unwrap();
                    let twin: Vec<(f64, f64)> = x.iter().map(|&v| cpu::value_and_derivative(op, v.into())).collect();
                    let y: Vec<f32> = twin.iter().map(|t| t.0 as f32).collect();
                    let dx: Vec<f32> = twin.iter().zip(&g).map(|(t, &g)| t.1 as f32 * g).collect();
                    assert_close(&forward(op, &tx).unwrap(), &y, 1e-5, 2e-6);
                    assert_close(&backward(op, &tx, &tg).unwrap(), &dx, 1e-5, 2e-6);
                }
            }
        }
    }

    #[test]
    fn empty_tensors_pass_through() {
        for gpu in gpus() {
            let x = Tensor::from_slice(&gpu, [0, 3], &[]).unwrap();
            assert_eq!(forward(Unary::Exp, &x).unwrap().to_vec().unwrap(), Vec::<f32>::new());
        }
    }
}
