//! What the examples share: the log, the GPU, and how they fail.

// Each example uses a part.
#![allow(dead_code)]

pub mod bar;
pub mod merge;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, exit};

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
    AdapterChoice::parse(adapter.unwrap_or(&variable))
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

/// Ends a program: with its own exit code, or with a message and 2.
pub fn finish(result: reelgrad::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
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

/// `{out}/{name}-1`, or the first number that is not taken.
pub fn free_folder(out: &Path, name: &str) -> PathBuf {
    let name = name.replace(' ', "-");
    (1..).map(|n| out.join(format!("{name}-{n}"))).find(|p| !p.exists()).unwrap_or_else(|| out.join(name))
}
