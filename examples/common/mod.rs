//! What the examples share: how they end, and their flags; the rest is that of the program `reelgrad`.

// Each example uses a part.
#![allow(dead_code, unused_imports, unused_macros)]

#[path = "../../src/bin/reelgrad/bar.rs"]
pub mod bar;
pub mod flags;
#[path = "../../src/bin/reelgrad/program.rs"]
mod program;

use std::process::{ExitCode, Termination};

use clap::Parser;
use reelgrad::{Error, Gpu};

pub use program::{choice, init_log, open, stop_on_ctrl_c};

/// Opens the GPU; as [`open`].
pub fn open_gpu(adapter: Option<&str>) -> Gpu {
    open(Gpu::builder().adapter(choice(adapter)))
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
        Err(error) => program::failed(&error),
    }
}
