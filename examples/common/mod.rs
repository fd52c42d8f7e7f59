//! What the examples share: the log, the GPU, flags, and how they fail.

// Each example uses a part.
#![allow(dead_code)]

pub mod bar;
pub mod flags;

use std::process::{ExitCode, Termination, exit};

use clap::Parser;
use reelgrad::Error;
use reelgrad::gpu::{AdapterChoice, Gpu, GpuBuilder};

/// Logs warnings to standard error; the environment variable `RUST_LOG` chooses more or less.
pub fn init_log() {
    // What wgpu says here reaches the program as values, too.
    let default = "warn,wgpu=off,wgpu_core=off,wgpu_hal=off,naga=off";
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default)).init();
}

/// The adapter that `--adapter` names, else the environment variable `REELGRAD_ADAPTER`, else the fastest.
pub fn choice(adapter: Option<&str>) -> AdapterChoice {
    let variable = std::env::var("REELGRAD_ADAPTER").unwrap_or_default();
    let Ok(choice) = adapter.unwrap_or(&variable).parse();
    choice
}

/// Opens the GPU; as [`open`].
pub fn open_gpu(adapter: Option<&str>) -> Gpu {
    open(Gpu::builder().adapter(choice(adapter)))
}

/// Opens the GPU, or says in one sentence why there is none and exits with 2.
pub fn open(builder: GpuBuilder) -> Gpu {
    builder.build().unwrap_or_else(|error| {
        eprintln!("error: {error}");
        exit(2)
    })
}

/// Runs a program on its arguments. It ends with its own exit code, with a message and 2, or with 130 after Ctrl-C.
pub fn main<O: Parser, C: Termination>(run: impl FnOnce(O) -> reelgrad::Result<C>) -> ExitCode {
    init_log();
    match run(O::parse()) {
        Ok(code) => code.report(),
        Err(error @ Error::Interrupted { .. }) => {
            eprintln!("{error}\ngo on with --resume and the run's folder as --run");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
pub fn stop_on_ctrl_c() -> reelgrad::train::StopFlag {
    let flag = reelgrad::train::StopFlag::new();
    let handler = flag.clone();
    let set = ctrlc::set_handler(move || {
        if handler.stop() {
            exit(130);
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to end at once");
    });
    if let Err(error) = set {
        log::warn!("Ctrl-C will end the program without saving: {error}");
    }
    flag
}
