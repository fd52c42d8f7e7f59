//! The GPU adapters of this machine, what they can do, which kernels they would get, and whether those compute right.
//!
//! ```text
//! cargo run --release --features full --example gpu_info
//! ```

mod common;

use std::process::ExitCode;

use clap::Parser;
use reelgrad::Result;
use reelgrad::gpu::{AdapterReport, Gpu, KernelFamily, adapters};
use reelgrad::kernels::elementwise::unary::{self, Activation, Unary};
use reelgrad::kernels::linear::matmul;
use reelgrad::kernels::ranking::topk;
use reelgrad::kernels::rows::layer_norm::{self, Norm};
use reelgrad::kernels::rows::softmax;
use reelgrad::kernels::similarity::gathered;
use reelgrad::shader::ParamsIn;
use reelgrad::tensor::Tensor;
use serde_json::{Value, json};
use wgpu::Features;

/// Lists the GPU adapters with their limits and features, and tests one of them.
///
/// Exits with 0 when every check passes, 1 when one fails, 2 without an adapter.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The adapter to test: fastest, low-power, its number, or a part of its name. The default is the environment
    /// variable REELGRAD_ADAPTER, else the fastest.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
    /// Compile the shaders with bounds checks.
    #[arg(long)]
    checked: bool,
    /// Print JSON instead of tables.
    #[arg(long, conflicts_with = "brief")]
    json: bool,
    /// Print one line about the adapter that would be used, and test nothing.
    #[arg(long)]
    brief: bool,
}

/// A comparison of kernels with their twins on the CPU.
struct Check {
    name: &'static str,
    /// The largest error, as a share of what is allowed.
    worst: fn(&Gpu) -> Result<f64>,
}

/// The self-test. A new family of kernels adds its line here.
const CHECKS: &[Check] = &[
    Check { name: "transfer", worst: transfer },
    Check { name: "elementwise", worst: elementwise_values },
    Check { name: "elementwise gradient", worst: elementwise_gradients },
    Check { name: "matmul", worst: product },
    Check { name: "softmax", worst: softmax_rows },
    Check { name: "layer norm", worst: normalised_rows },
    Check { name: "top-k", worst: largest },
    Check { name: "products of listed pairs", worst: listed_pairs },
    Check { name: "same bits twice", worst: repetition },
];

/// The features that the crate uses or may come to use, with what for.
const FEATURES: &[(&str, Features, &str)] = &[
    ("SUBGROUP", Features::SUBGROUP, "kernels for software adapters"),
    ("IMMEDIATES", Features::IMMEDIATES, "parameters in the command stream"),
    ("TIMESTAMP_QUERY", Features::TIMESTAMP_QUERY, "time per kernel"),
    ("SHADER_F16", Features::SHADER_F16, "half precision"),
    ("EXPERIMENTAL_COOPERATIVE_MATRIX", Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "matrix units; not used yet"),
    ("PIPELINE_CACHE", Features::PIPELINE_CACHE, "compiled shaders kept on disk, where asked for"),
];

fn main() -> ExitCode {
    common::init_log();
    let options = Options::parse();
    let builder = Gpu::builder().adapter(common::choice(options.adapter.as_deref())).checked(options.checked);
    let gpu = common::open(builder);
    if options.brief {
        println!("{}", gpu.report().line());
        return ExitCode::SUCCESS;
    }
    let results: Vec<(&str, Result<f64>)> = CHECKS.iter().map(|check| (check.name, (check.worst)(&gpu))).collect();
    let passed = results.iter().all(|(_, worst)| passes(worst));
    if options.json {
        print_json(&gpu, &results, passed);
    } else {
        print_tables(&gpu, &results);
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn passes(worst: &Result<f64>) -> bool {
    matches!(worst, Ok(share) if *share <= 1.0)
}

fn print_tables(gpu: &Gpu, results: &[(&str, Result<f64>)]) {
    println!("Adapters\n");
    for (number, a) in adapters().iter().enumerate() {
        println!("  {number}  {} ({}, {})", a.name, a.backend, a.kind);
    }
    let report = gpu.report();
    println!("\nChosen\n");
    let (smallest, largest) = report.subgroup_size;
    for (name, value) in [
        ("adapter", report.name.clone()),
        ("driver", report.driver.clone()),
        ("hot kernels", report.family.to_string()),
        ("parameters", params(report).to_string()),
        ("subgroup", if smallest == largest { smallest.to_string() } else { format!("{smallest} to {largest}") }),
    ] {
        println!("  {name:<12} {value}");
    }
    println!("\nLimits\n");
    for (name, value) in limits(report) {
        println!("  {:>16}  {name}", grouped(value));
    }
    println!("\nFeatures\n");
    for &(name, feature, purpose) in FEATURES {
        let has = if report.features.contains(feature) { "yes" } else { "no" };
        println!("  {has:<4} {name:<32} {purpose}");
    }
    println!("\nSelf-test (largest error as a share of what is allowed)\n");
    for (name, worst) in results {
        let verdict = if passes(worst) { "ok" } else { "FAILED" };
        match worst {
            Ok(share) => println!("  {verdict:<7} {name:<24} {share:.3}"),
            Err(error) => println!("  {verdict:<7} {name:<24} {error}"),
        }
    }
}

fn print_json(gpu: &Gpu, results: &[(&str, Result<f64>)], passed: bool) {
    let checks: Vec<Value> = results
        .iter()
        .map(|(name, worst)| match worst {
            Ok(share) => json!({"name": name, "passed": passes(&Ok(*share)), "worst": share}),
            Err(error) => json!({"name": name, "passed": false, "error": error.to_string()}),
        })
        .collect();
    let report = json!({
        "schema": "reelgrad.gpu_info/1",
        "adapters": adapters().iter().map(describe).collect::<Vec<_>>(),
        "chosen": describe(gpu.report()),
        "self_test": {"passed": passed, "checks": checks},
    });
    println!("{report:#}");
}

fn describe(report: &AdapterReport) -> Value {
    let features: Vec<&str> =
        FEATURES.iter().filter(|f| report.features.contains(f.1)).map(|&(name, ..)| name).collect();
    json!({
        "name": report.name,
        "backend": report.backend,
        "kind": report.kind,
        "driver": report.driver,
        "subgroup_size": [report.subgroup_size.0, report.subgroup_size.1],
        "kernel_family": match report.family {
            KernelFamily::Tiled => "tiled",
            KernelFamily::Subgroup { .. } => "subgroup",
        },
        "parameters": params(report),
        "limits": limits(report).into_iter().map(|(name, value)| (name.to_string(), value.into()))
            .collect::<serde_json::Map<_, _>>(),
        "features": features,
    })
}

fn params(report: &AdapterReport) -> &'static str {
    match report.params {
        ParamsIn::Immediates => "immediates",
        ParamsIn::Uniform => "uniform buffer",
    }
}

fn limits(report: &AdapterReport) -> [(&'static str, u64); 8] {
    let l = &report.limits;
    [
        ("max_buffer_size", l.max_buffer_size),
        ("max_storage_buffer_binding_size", l.max_storage_buffer_binding_size),
        ("max_storage_buffers_per_shader_stage", l.max_storage_buffers_per_shader_stage.into()),
        ("max_compute_workgroups_per_dimension", l.max_compute_workgroups_per_dimension.into()),
        ("max_compute_invocations_per_workgroup", l.max_compute_invocations_per_workgroup.into()),
        ("max_compute_workgroup_storage_size", l.max_compute_workgroup_storage_size.into()),
        ("min_storage_buffer_offset_alignment", l.min_storage_buffer_offset_alignment.into()),
        ("max_immediate_size", l.max_immediate_size.into()),
    ]
}

/// 1234567 as "1,234,567".
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Values over the range in which the functions are not trivial, and no power of two of them.
fn inputs() -> Vec<f32> {
    (0..1001).map(|i| (i as f32 - 500.0) * 0.0137).collect()
}

/// The largest |got - expected| as a share of `atol + rtol |expected|`.
fn share(got: &[f32], expected: impl Iterator<Item = f64>, rtol: f64, atol: f64) -> f64 {
    let errors = got.iter().zip(expected).map(|(&g, e)| (f64::from(g) - e).abs() / (atol + rtol * e.abs()));
    // f64::max would drop a NaN.
    errors.map(|error| if error.is_nan() { f64::INFINITY } else { error }).fold(0.0, f64::max)
}

fn transfer(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    let back = Tensor::from_slice(gpu, [x.len()], &x)?.to_vec()?;
    Ok(if back == x { 0.0 } else { f64::INFINITY })
}

fn unary_ops() -> impl Iterator<Item = Unary> {
    let others = [Unary::Affine { scale: -0.5, shift: 2.0 }, Unary::Exp, Unary::Square];
    Activation::ALL.map(Unary::Activation).into_iter().chain(others)
}

fn elementwise_values(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    let tensor = Tensor::from_slice(gpu, [x.len()], &x)?;
    let mut worst = 0f64;
    for op in unary_ops() {
        let y = unary::forward(op, &tensor)?.to_vec()?;
        let twin = x.iter().map(|&v| unary::cpu::value_and_derivative(op, v.into()).0);
        worst = worst.max(share(&y, twin, 1e-5, 2e-6));
    }
    Ok(worst)
}

fn elementwise_gradients(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    let upstream: Vec<f32> = (0..x.len()).map(|i| (i as f32 * 0.71).sin()).collect();
    let x_gpu = Tensor::from_slice(gpu, [x.len()], &x)?;
    let upstream_gpu = Tensor::from_slice(gpu, [x.len()], &upstream)?;
    let mut worst = 0f64;
    for op in unary_ops() {
        let dx = unary::backward(op, &x_gpu, &upstream_gpu)?.to_vec()?;
        let twin =
            x.iter().zip(&upstream).map(|(&v, &g)| unary::cpu::value_and_derivative(op, v.into()).1 * f64::from(g));
        worst = worst.max(share(&dx, twin, 1e-5, 2e-6));
    }
    Ok(worst)
}

fn product(gpu: &Gpu) -> Result<f64> {
    // No extent is a multiple of a tile's.
    let (m, k, n) = (33, 70, 65);
    let wave = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
    let (a, b) = (wave(m * k, 0.37), wave(k * n, 0.71));
    let (a_gpu, b_gpu) = (Tensor::from_slice(gpu, [m, k], &a)?, Tensor::from_slice(gpu, [k, n], &b)?);
    let y = matmul::forward(&a_gpu, &b_gpu, &matmul::Options::default())?.y.to_vec()?;
    let term = |i: usize, j: usize, l: usize| f64::from(a[i * k + l]) * f64::from(b[l * n + j]);
    let twin = (0..m * n).map(|at| (0..k).map(|l| term(at / n, at % n, l)).sum());
    Ok(share(&y, twin, 1e-5, 2e-5))
}

fn softmax_rows(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    let width = 143;
    let y = softmax::softmax(&Tensor::from_slice(gpu, [x.len() / width, width], &x)?, 1.0, None)?.to_vec()?;
    let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    let twin = wide.chunks(width).flat_map(|row| softmax::cpu::softmax(row, 1.0, None));
    Ok(share(&y, twin, 1e-5, 1e-7))
}

fn normalised_rows(gpu: &Gpu) -> Result<f64> {
    let (x, width, norm) = (inputs(), 143, Norm::Biased { eps: 1e-5 });
    let gain: Vec<f32> = (0..width).map(|i| (i as f32 * 0.37).cos()).collect();
    let [gain_gpu, bias_gpu] =
        [Tensor::from_slice(gpu, [width], &gain)?, Tensor::from_slice(gpu, [width], &x[..width])?];
    let rows = Tensor::from_slice(gpu, [x.len() / width, width], &x)?;
    let y = layer_norm::forward(&rows, None, &gain_gpu, &bias_gpu, norm)?.y.to_vec()?;
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let (gain, bias) = (wide(&gain), wide(&x[..width]));
    let twin = x.chunks(width).flat_map(|row| layer_norm::cpu::forward(&wide(row), &gain, &bias, norm));
    Ok(share(&y, twin, 1e-5, 1e-5))
}

fn largest(gpu: &Gpu) -> Result<f64> {
    let (k, width) = (10, 143);
    let x: Vec<f32> = inputs().iter().map(|v| (v * 17.0).sin()).collect();
    let (_, at) = topk::forward(&Tensor::from_slice(gpu, [x.len() / width, width], &x)?, k)?;
    let twin: Vec<u32> = x.chunks(width).flat_map(|row| topk::cpu::topk(row, k)).collect();
    Ok(if at.to_u32()? == twin { 0.0 } else { f64::INFINITY })
}

fn listed_pairs(gpu: &Gpu) -> Result<f64> {
    let (width, items, pairs) = (28, 7, [[2, 0], [0, 0], [1, 3], [2, 1]]);
    let wave = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
    let (texts, videos) = (wave(3 * width, 0.37), wave(4 * items * width, 0.71));
    let texts_gpu = Tensor::from_slice(gpu, [3, 1, width], &texts)?;
    let videos_gpu = Tensor::from_slice(gpu, [4, items, width], &videos)?;
    let y = gathered::forward(&texts_gpu, &videos_gpu, &pairs)?.to_vec()?;
    let twin = gathered::cpu::forward([1, items, width], &texts, &videos, &pairs);
    Ok(share(&y, twin.into_iter().map(f64::from), 1e-5, 2e-5))
}

fn repetition(gpu: &Gpu) -> Result<f64> {
    let x = inputs();
    let tensor = Tensor::from_slice(gpu, [x.len()], &x)?;
    let run = || unary::forward(Unary::Activation(Activation::Gelu), &tensor)?.to_vec();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    Ok(if bits(run()?) == bits(run()?) { 0.0 } else { f64::INFINITY })
}
