//! A public gradient check by random projection: two evaluations an input, whatever its size.

use crate::autograd::{Tape, Var};
use crate::gpu::Gpu;
use crate::random::Random;
use crate::tensor::{Array, Tensor};
use crate::{Error, Result};

/// How to check.
#[derive(Clone, Copy, Debug)]
pub struct GradientCheck {
    /// The length of the step between the two evaluations, relative to the input's root mean square.
    pub step: f32,
    /// The largest relative error that passes.
    pub tolerance: f64,
    /// Seeds the directions.
    pub seed: u64,
}

impl Default for GradientCheck {
    fn default() -> Self {
        Self { step: 1e-2, tolerance: 1e-2, seed: 0 }
    }
}

/// The check of one input.
#[derive(Clone, Copy, Debug)]
pub struct InputReport {
    /// ⟨v, gradient⟩, from the tape.
    pub analytic: f64,
    /// ⟨u, (f(x + εv/2) - f(x - εv/2)) / ε⟩.
    pub numeric: f64,
    /// Their difference, relative to the larger of both and of the spread of the sum's terms.
    pub error: f64,
}

/// The check of every input.
#[derive(Clone, Debug)]
pub struct GradientReport {
    /// One entry an input.
    pub inputs: Vec<InputReport>,
    /// Whether every error is within tolerance.
    pub passed: bool,
}

/// Compares the tape's gradient of `f` at `inputs` with central differences, along random directions.
///
/// The gradient of the output is a random `u`, not 1, so `f` is checked as it stands in the middle of a graph.
///
/// # Errors
/// What `f` returns; device errors.
pub fn check_gradient(
    gpu: &Gpu,
    inputs: &[Array],
    options: GradientCheck,
    f: impl Fn(&Tape, &[Var]) -> Result<Var>,
) -> Result<GradientReport> {
    let mut random = Random::new(options.seed, 0);
    let tape = Tape::new(gpu);
    let leaves: Vec<Var> = inputs.iter().map(|x| Ok(tape.leaf(Tensor::from_array(gpu, x)?))).collect::<Result<_>>()?;
    let output = f(&tape, &leaves)?;
    let u: Vec<f32> = (0..output.value().len()).map(|_| random.normal()).collect();
    let grads = tape.backward_from(&output, Tensor::from_slice(gpu, output.shape(), &u)?)?;

    let mut reports = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        let v: Vec<f32> = (0..input.len()).map(|_| random.normal()).collect();
        let gradient = match grads.get(&leaves[at]) {
            Some(g) if g.len() != input.len() => {
                return Err(Error::shape("check_gradient", "gradient", format!("{:?}", input.shape()), g.shape()));
            }
            Some(g) => g.to_vec()?,
            None => vec![0.0; input.len()],
        };
        let analytic: f64 = gradient.iter().zip(&v).map(|(&g, &v)| f64::from(g) * f64::from(v)).sum();
        let square: f64 = input.data().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let scale = (square / input.len().max(1) as f64).sqrt().max(1e-3) as f32;
        let step = options.step * scale;
        let above = evaluate(gpu, inputs, at, &v, 0.5 * step, &f)?;
        let below = evaluate(gpu, inputs, at, &v, -0.5 * step, &f)?;
        let differences = above.iter().zip(&below).map(|(&a, &b)| (f64::from(a) - f64::from(b)) / f64::from(step));
        let terms: Vec<f64> = differences.zip(&u).map(|(d, &u)| f64::from(u) * d).collect();
        reports.push(InputReport::new(analytic, &terms));
    }
    let passed = reports.iter().all(|r| r.error <= options.tolerance);
    Ok(GradientReport { inputs: reports, passed })
}

impl InputReport {
    /// From the tape's projection, and the terms whose sum is that of the differences.
    fn new(analytic: f64, terms: &[f64]) -> Self {
        let numeric: f64 = terms.iter().sum();
        // The sum of random-signed terms may happen to be near zero; its spread is the honest scale.
        let spread = terms.iter().map(|t| t * t).sum::<f64>().sqrt();
        let error = (analytic - numeric).abs() / analytic.abs().max(numeric.abs()).max(spread).max(1e-12);
        Self { analytic, numeric, error }
    }
}

/// f where input `at` is `step` further along `direction`.
fn evaluate(
    gpu: &Gpu,
    inputs: &[Array],
    at: usize,
    direction: &[f32],
    step: f32,
    f: impl Fn(&Tape, &[Var]) -> Result<Var>,
) -> Result<Vec<f32>> {
    let tape = Tape::inference(gpu);
    let mut vars = Vec::with_capacity(inputs.len());
    for (i, x) in inputs.iter().enumerate() {
        let mut data = x.data().to_vec();
        if i == at {
            data.iter_mut().zip(direction).for_each(|(x, v)| *x += step * v);
        }
        vars.push(tape.constant(Tensor::from_slice(gpu, x.shape(), &data)?));
    }
    f(&tape, &vars)?.value().to_vec()
}
