//! The GPU adapters of this machine, what they can do, which kernels they would get, and whether those compute right.
//!
//! ```text
//! cargo run --release --features full --example gpu_info
//! ```

mod common;

use std::process::ExitCode;

use clap::Parser;
use reelgrad::gpu::{AdapterReport, Gpu, adapters};
use reelgrad::kernels::self_test::{Check, self_test};
use serde_json::{Value, json};

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

fn main() -> ExitCode {
    common::init_log();
    let options = Options::parse();
    let builder = Gpu::builder().adapter(common::choice(options.adapter.as_deref())).checked(options.checked);
    let gpu = common::open(builder);
    if options.brief {
        println!("{}", gpu.report().line());
        return ExitCode::SUCCESS;
    }
    let checks = self_test(&gpu);
    if options.json {
        println!("{:#}", to_json(gpu.report(), &checks));
    } else {
        print_tables(gpu.report(), &checks);
    }
    if checks.iter().all(Check::passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_tables(chosen: &AdapterReport, checks: &[Check]) {
    println!("Adapters\n");
    for (number, a) in adapters().iter().enumerate() {
        println!("  {number}  {} ({}, {})", a.name, a.backend, a.kind);
    }
    println!("\nChosen\n\n{chosen}\nSelf-test (largest error as a share of what is allowed)\n");
    for check in checks {
        let verdict = if check.passed() { "ok" } else { "FAILED" };
        match &check.worst {
            Ok(share) => println!("  {verdict:<7} {:<24} {share:.3}", check.name),
            Err(error) => println!("  {verdict:<7} {:<24} {error}", check.name),
        }
    }
}

fn to_json(chosen: &AdapterReport, checks: &[Check]) -> Value {
    let check = |check: &Check| match &check.worst {
        Ok(share) => json!({"name": check.name, "passed": check.passed(), "worst": share}),
        Err(error) => json!({"name": check.name, "passed": false, "error": error.to_string()}),
    };
    json!({
        "schema": "reelgrad.gpu_info/1",
        "adapters": adapters().iter().map(AdapterReport::to_json).collect::<Vec<_>>(),
        "chosen": chosen.to_json(),
        "self_test": {
            "passed": checks.iter().all(Check::passed),
            "checks": checks.iter().map(check).collect::<Vec<_>>(),
        },
    })
}
