//! `reelgrad doctor`: what this machine has, whether it computes right, and what to expect of it.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use reelgrad::data::media::video::Ffmpeg;
use reelgrad::gpu::{AdapterReport, Gpu, adapters};
use reelgrad::kernels::linear::matmul;
use reelgrad::kernels::self_test::{Check, self_test};
use reelgrad::models::clip::ClipConfig;
use reelgrad::tensor::Tensor;
use reelgrad::{Error, Result};
use serde_json::{Value, json};

use crate::program::{choice, open};

pub const EXAMPLE: &str = "\
Example: reelgrad doctor

It exits with 0 when every check passes, with 1 when one fails, and with 2 without an adapter.";

/// Rows and columns of the product that is timed, and bytes of the copy.
const SIDE: usize = 1024;
const COPY: usize = 64 << 20;
/// How often each is timed; the best time counts.
const ROUNDS: usize = 3;
/// Models whose speed is estimated.
const MODELS: [&str; 3] = ["ViT-B-32", "ViT-B-16", "ViT-L-14"];

#[derive(Args)]
pub struct Options {
    /// Compiles the shaders with bounds checks.
    #[arg(long)]
    checked: bool,
    /// Prints JSON instead of tables.
    #[arg(long, conflicts_with = "brief")]
    json: bool,
    /// Prints one line about the adapter that would be used, and tests nothing.
    #[arg(long)]
    brief: bool,
}

/// What the adapter does at best, as two small probes find it.
struct Peaks {
    /// Floating-point operations a second, of a product.
    flops: f64,
    /// Bytes a second that a copy reads and writes.
    bytes: f64,
}

pub fn doctor(options: &Options, adapter: Option<&str>) -> Result<ExitCode> {
    let gpu = open(Gpu::builder().adapter(choice(adapter)).checked(options.checked));
    if options.brief {
        answer!("{}", gpu.report().line());
        return Ok(ExitCode::SUCCESS);
    }
    let (checks, ffmpeg, peaks) = (self_test(&gpu), Ffmpeg::find(), peaks(&gpu)?);
    if options.json {
        answer!("{:#}", to_json(gpu.report(), &checks, ffmpeg.as_ref().err(), &peaks));
    } else {
        print_tables(gpu.report(), &checks, ffmpeg.as_ref().err());
        print_speed(&peaks)?;
    }
    let healthy = checks.iter().all(Check::passed) && ffmpeg.is_ok();
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn peaks(gpu: &Gpu) -> Result<Peaks> {
    let square = || Tensor::zeros(gpu, "probe", [SIDE, SIDE]);
    let (a, b, options) = (square()?, square()?, matmul::Options::default());
    let (from, to) = (Tensor::zeros(gpu, "probe", [COPY / 4])?, Tensor::zeros(gpu, "probe", [COPY / 4])?);
    let best = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
        let mut least = f64::INFINITY;
        // The first one compiles.
        for _ in 0..=ROUNDS {
            gpu.synchronize()?;
            let started = Instant::now();
            work()?;
            gpu.synchronize()?;
            least = least.min(started.elapsed().as_secs_f64());
        }
        Ok(least)
    };
    let product = best(&|| matmul::forward(&a, &b, &options).map(drop))?;
    let copy = best(&|| to.copy_from(&from))?;
    Ok(Peaks { flops: 2.0 * (SIDE as f64).powi(3) / product, bytes: 2.0 * COPY as f64 / copy })
}

/// Floating-point operations of the image tower for a picture: those of its products.
fn flops_of(config: &ClipConfig) -> f64 {
    let tokens = config.patches() as f64 + 1.0;
    let (width, mlp) = (config.vision.width as f64, config.vision.mlp as f64);
    let block = 2.0 * tokens * (4.0 * width * width + 2.0 * width * mlp) + 4.0 * tokens * tokens * width;
    config.vision.layers as f64 * block + 2.0 * tokens * 3.0 * (config.patch_size * config.patch_size) as f64 * width
}

/// Each model with the frames a second that the probe's speed would allow.
fn expected(peaks: &Peaks) -> Result<Vec<(&'static str, f64)>> {
    MODELS.iter().map(|&name| Ok((name, peaks.flops / flops_of(&ClipConfig::of_architecture(name)?)))).collect()
}

fn print_tables(chosen: &AdapterReport, checks: &[Check], no_ffmpeg: Option<&Error>) {
    answer!("Adapters\n");
    for (number, a) in adapters().iter().enumerate() {
        answer!("  {number}  {} ({}, {})", a.name, a.backend, a.kind);
    }
    answer!("\nChosen\n\n{chosen}\nSelf-test (largest error as a share of what is allowed)\n");
    for check in checks {
        let verdict = if check.passed() { "ok" } else { "FAILED" };
        match &check.worst {
            Ok(share) => answer!("  {verdict:<7} {:<24} {share:.3}", check.name),
            Err(error) => answer!("  {verdict:<7} {:<24} {error}", check.name),
        }
    }
    match no_ffmpeg {
        None => answer!("  ok      ffmpeg"),
        Some(error) => answer!("  FAILED  {error}"),
    }
}

fn print_speed(peaks: &Peaks) -> Result<()> {
    answer!("\nSpeed (two small probes)\n");
    answer!("  products  {:.1} GFLOP/s", peaks.flops / 1e9);
    answer!("  copies    {:.1} GB/s", peaks.bytes / 1e9);
    answer!("\nWhat to expect of that, at a frame a second, decoding apart\n");
    for (name, frames) in expected(peaks)? {
        answer!("  CLIP {name:<9} {frames:>8.2} frames a second: an hour of video in {:.1} min", 60.0 / frames);
    }
    // A clip every four seconds, of 512 numbers of two bytes.
    let clips = 3600.0 / 4.0;
    let bytes = clips * 1024.0;
    answer!("\n  An hour of video is {clips:.0} clips, {:.1} MB of GPU memory to search in", bytes / 1e6);
    answer!(
        "  1 GiB, which `reelgrad search` takes at most by default, holds {:.0} hours",
        (1u64 << 30) as f64 / bytes
    );
    Ok(())
}

fn to_json(chosen: &AdapterReport, checks: &[Check], no_ffmpeg: Option<&Error>, peaks: &Peaks) -> Value {
    let check = |check: &Check| match &check.worst {
        Ok(share) => json!({"name": check.name, "passed": check.passed(), "worst": share}),
        Err(error) => json!({"name": check.name, "passed": false, "error": error.to_string()}),
    };
    json!({
        "schema": "reelgrad.doctor/1",
        "adapters": adapters().iter().map(AdapterReport::to_json).collect::<Vec<_>>(),
        "chosen": chosen.to_json(),
        "self_test": {
            "passed": checks.iter().all(Check::passed),
            "checks": checks.iter().map(check).collect::<Vec<_>>(),
        },
        "ffmpeg": { "found": no_ffmpeg.is_none(), "error": no_ffmpeg.map(ToString::to_string) },
        "speed": { "flops": peaks.flops, "bytes": peaks.bytes },
    })
}
