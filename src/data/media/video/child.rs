//! Other programs, run within bounds.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How much of what a program complains is kept: the end.
const COMPLAINT_BYTES: usize = 2000;

/// How a program ended.
pub(super) struct Ended {
    pub(super) success: bool,
    /// It was stopped because its time was over.
    pub(super) late: bool,
    /// The last lines of its error output.
    pub(super) complaints: String,
}

/// Runs `command` for at most `limit`, what `feed` and `read` do with its input and output included. A program whose
/// output is not read to the end is left to end by itself, which it does when it writes on.
///
/// # Errors
/// When the program cannot be started.
pub(super) fn run<T>(
    command: &mut Command,
    limit: Duration,
    feed: impl FnOnce(&mut ChildStdin) -> io::Result<()> + Send,
    read: impl FnOnce(&mut ChildStdout) -> T,
) -> io::Result<(T, Ended)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = pipes else {
        return Err(io::Error::other("the program's pipes are missing"));
    };
    thread::scope(|scope| {
        let complaints = scope.spawn(move || tail(&mut stderr));
        // A program that ends early closes its input; its complaints say more than that error.
        scope.spawn(move || feed(&mut stdin).and_then(|()| stdin.flush()));
        let waiter = scope.spawn(move || wait(child, limit));
        let value = read(&mut stdout);
        drop(stdout);
        let panicked = |_| io::Error::other("a thread panicked");
        let (status, late) = waiter.join().map_err(panicked)??;
        let complaints = complaints.join().map_err(panicked)?;
        Ok((value, Ended { success: status.success(), late, complaints }))
    })
}

/// Waits for the end of `child`, which is killed when `limit` is over.
fn wait(mut child: Child, limit: Duration) -> io::Result<(ExitStatus, bool)> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        if start.elapsed() > limit {
            // It may end at this moment by itself: then there is nothing to kill.
            let _ = child.kill();
            return Ok((child.wait()?, true));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The last lines of `stream`, joined to one.
fn tail(stream: &mut impl Read) -> String {
    let (mut kept, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut part) {
        kept.extend_from_slice(&part[..n]);
        kept.drain(..kept.len().saturating_sub(COMPLAINT_BYTES));
    }
    let text = String::from_utf8_lossy(&kept);
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.drain(..lines.len().saturating_sub(3));
    lines.join("; ")
}
