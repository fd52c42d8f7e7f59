//! Progress with rate and time left: a bar on a terminal, plain lines elsewhere.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressState, ProgressStyle};
use reelgrad::train::Progress;

use super::program::write_line;

pub struct Bar {
    name: &'static str,
    bar: Option<ProgressBar>,
    started: Option<(Instant, u64)>,
    /// Tenths already printed, where there is no terminal.
    printed: u64,
}

impl Bar {
    pub fn new(name: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{prefix:<14} [{bar:30}] {pos}/{len}  {rate}  {elapsed}, {eta} left  {msg}";
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            let rate = |state: &ProgressState, out: &mut dyn Write| {
                // Nobody reads a bar that cannot be written.
                let _ = write!(out, "{:.1}/s", state.per_sec());
            };
            let style = style.with_key("rate", rate).progress_chars("=> ");
            let bar = ProgressBar::new(0).with_style(style).with_prefix(name).with_finish(ProgressFinish::AndLeave);
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self { name, bar, started: None, printed: 0 }
    }
}

impl Progress for Bar {
    fn step(&mut self, done: u64, total: u64, message: &str) {
        let first_call = self.started.is_none();
        let &mut (started, first) = self.started.get_or_insert((Instant::now(), done));
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                if first_call {
                    // Steps of an earlier run are no speed of this one.
                    bar.reset_eta();
                }
                bar.set_message(message.to_string());
            }
            None if done * 10 / total.max(1) > self.printed || done == total => {
                self.printed = done * 10 / total.max(1);
                let elapsed = started.elapsed().as_secs_f64();
                let rate = (done - first) as f64 / elapsed.max(1e-9);
                let speed = match rate > 0.0 {
                    true => format!("{rate:.1}/s  {:.0} s left  ", (total - done) as f64 / rate),
                    false => String::new(),
                };
                eprintln!("{:<14} {done}/{total}  {speed}{message}", self.name);
            }
            None => {}
        }
    }
    /// Prints the line above the bar.
    fn note(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write_line(format_args!("{line}"))),
            None => write_line(format_args!("{line}")),
        }
    }
}
