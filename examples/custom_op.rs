//! An op of one's own: WGSL with its gradient, on the tape, checked against differences.
//!
//! The op is squareplus, y = (x + sqrt(x² + b)) / 2, a smooth ReLU whose rounding is set by b; its derivative is
//! y / sqrt(x² + b).
//!
//! ```text
//! cargo run --release --features full --example custom_op
//! ```

mod common;

use std::process::ExitCode;

use bytemuck::{Pod, Zeroable};
use clap::Parser;
use reelgrad::autograd::{Backward, GradientCheck, Var, check_gradient};
use reelgrad::gpu::{Binding, Launch};
use reelgrad::shader::Variant;
use reelgrad::{Array, Result, Tensor};

/// Runs a user's own differentiable op and checks its gradient.
///
/// Exits with 0 when the check passes, 1 when it fails, 2 without an adapter.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The adapter: fastest, low-power, its number, or a part of its name. The default is the environment variable
    /// REELGRAD_ADAPTER, else the fastest.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
    /// How round the corner is; above 0.
    #[arg(long, default_value_t = 4.0)]
    b: f32,
}

// The op begins here: the shader, forward and (with GRAD) backward.
const WGSL: &str = "
struct Params { n: u32, b: f32 }
#params Params p

@group(0) @binding(0) var<storage, read> x: array<f32>;
#ifdef GRAD
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#endif

#entry 64 {
    let i = flat * 64u + local;
    if (i < p.n) {
        let root = sqrt(x[i] * x[i] + p.b);
#ifdef GRAD
        y[i] = g[i] * 0.5 * (x[i] + root) / root;
#else
        y[i] = 0.5 * (x[i] + root);
#endif
    }
}
";

/// The shader's parameters.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    b: f32,
}

/// Launches the shader: forward, or backward where there is an upstream gradient.
fn run(x: &Tensor, upstream: Option<&Tensor>, b: f32) -> Result<Tensor> {
    let y = Tensor::uninit(x.gpu(), "squareplus", x.shape())?;
    let variant = Variant::user("squareplus", WGSL, upstream.map(|_| ("GRAD", 1)).into_iter().collect());
    let bindings: Vec<Binding<'_>> = [Some(x), upstream, Some(&y)].into_iter().flatten().map(Tensor::binding).collect();
    let params = Params { n: x.len() as u32, b };
    let grid = x.gpu().grid(x.len().div_ceil(64));
    let params = bytemuck::bytes_of(&params);
    x.gpu().launch(Launch { op: "squareplus", variant: &variant, bindings: &bindings, params, grid, flops: 0 })?;
    Ok(y)
}

/// The op on a tape: its value, what backward needs, and the rule.
fn squareplus(x: &Var, b: f32) -> Result<Var> {
    let y = run(x.value(), None, b)?;
    let rule = move |back: &Backward<'_>| Ok(vec![Some(run(&back.saved[0], Some(back.grad), b)?)]);
    x.tape().record("squareplus", &[("x", x)], y, vec![x.value().clone()], rule)
}
// The op ends here.

fn main() -> ExitCode {
    common::main(demonstrate)
}

fn demonstrate(options: Options) -> Result<ExitCode> {
    let gpu = common::open_gpu(options.adapter.as_deref());
    println!("{}\n", gpu.report().line());
    let x = [-4.0, -1.0, 0.0, 1.0, 4.0f32];
    let y = run(&Tensor::from_slice(&gpu, [x.len()], &x)?, None, options.b)?.to_vec()?;
    println!("{:>8} {:>12} {:>12}", "x", "squareplus", "on the CPU");
    for (x, y) in x.iter().zip(y) {
        println!("{x:>8.1} {y:>12.6} {:>12.6}", 0.5 * (x + (x * x + options.b).sqrt()));
    }

    // In the middle of a graph, where the gradient that arrives is not 1, and on a size that fills no workgroup.
    let input = Array::new([7, 13], (0..91).map(|i| (i as f32 * 0.37).sin() * 3.0).collect::<Vec<_>>())?;
    let report = check_gradient(&gpu, &[input], GradientCheck::default(), |_, inputs| {
        squareplus(&inputs[0].scale(1.5)?, options.b)?.square()
    })?;
    println!("\ngradient, projected on random directions");
    println!("{:>8} {:>12} {:>12} {:>12}", "input", "tape", "differences", "error");
    for (number, input) in report.inputs.iter().enumerate() {
        println!("{number:>8} {:>12.5} {:>12.5} {:>12.1e}", input.analytic, input.numeric, input.error);
    }
    println!("{}", if report.passed { "passed" } else { "FAILED" });
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
