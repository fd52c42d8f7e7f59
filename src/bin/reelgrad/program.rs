//! What programs share: the log, the GPU, and how they end.

use std::fmt;
use std::io::{self, Write};
use std::process::{ExitCode, exit};

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

/// Opens the GPU, or says in one sentence why there is none and exits with 2.
pub fn open(builder: GpuBuilder) -> Gpu {
    builder.build().unwrap_or_else(|error| {
        eprintln!("error: {error}");
        exit(2)
    })
}

/// How a program ends that has failed: with a message and 2.
pub fn failed(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
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

/// A name as it can be printed: without what would move the cursor.
pub fn shown(name: &str) -> String {
    let one = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    name.chars().map(one).collect()
}

/// Writes a line of the answer to standard output. Who stops reading ends the program quietly, as a pipe ends others; an
/// answer that cannot be written is an error.
pub fn write_line(line: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let Err(error) = out.write_fmt(line).and_then(|()| out.write_all(b"\n")) else { return };
    if error.kind() == io::ErrorKind::BrokenPipe {
        exit(141);
    }
    eprintln!("error: cannot write the answer: {error}");
    exit(2)
}

/// As `println!`, by [`write_line`].
macro_rules! answer {
    () => { $crate::program::write_line(format_args!("")) };
    ($($words:tt)*) => { $crate::program::write_line(format_args!($($words)*)) };
}
