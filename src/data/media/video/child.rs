//! Other programs, run within bounds.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How much of what a program complains is kept: the end.
const COMPLAINT_BYTES: usize = 2000;

/// How a program ended.
pub(super) struct Ended<H = String> {
    pub(super) success: bool,
    /// It was stopped because its time was over.
    pub(super) late: bool,
    /// Somebody else asked it to end, as Ctrl-C does: what it gave is not all, whatever it looks like.
    pub(super) stopped: bool,
    /// What was heard of its error output.
    pub(super) heard: H,
}

/// Runs `command` for at most `limit`, what `feed`, `hear` and `read` do with its input, error output and output included.
/// When `read` fails or panics, the program is ended at once. One whose output is not read to the end is left to end by
/// itself, which it does when it writes on.
///
/// # Errors
/// When the program cannot be started.
pub(super) fn run<T, E, H: Send>(
    command: &mut Command,
    limit: Duration,
    feed: impl FnOnce(&mut ChildStdin) -> io::Result<()> + Send,
    hear: impl FnOnce(&mut ChildStderr) -> H + Send,
    read: impl FnOnce(&mut ChildStdout) -> Result<T, E>,
) -> io::Result<(Result<T, E>, Ended<H>)> {
    own_group(command);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let unwanted = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(child, limit, &unwanted));
        // However this scope is left, the program ends; harmless where it has ended.
        let _end = SetOnDrop(&unwanted);
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = pipes else {
            return Err(io::Error::other("the program's pipes are missing"));
        };
        let heard = scope.spawn(move || hear(&mut stderr));
        // A program that ends early closes its input; its complaints say more than that error.
        scope.spawn(move || feed(&mut stdin).and_then(|()| stdin.flush()));
        let value = read(&mut stdout);
        drop(stdout);
        if value.is_err() {
            unwanted.store(true, Ordering::Relaxed);
        }
        let panicked = |_| io::Error::other("a thread panicked");
        let (status, late) = waiter.join().map_err(panicked)??;
        let heard = heard.join().map_err(panicked)?;
        Ok((value, Ended { success: status.success(), late, stopped: was_stopped(status), heard }))
    })
}

/// Takes the program out of the terminal's group: Ctrl-C is for this process, which ends its programs itself.
#[cfg(unix)]
fn own_group(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// Here the flag is CREATE_NEW_PROCESS_GROUP.
#[cfg(windows)]
fn own_group(command: &mut Command) {
    std::os::windows::process::CommandExt::creation_flags(command, 0x200);
}

/// Whether a signal from outside ended the program: SIGHUP, SIGINT or SIGTERM itself, or as ffmpeg tells of them.
fn was_stopped(status: ExitStatus) -> bool {
    #[cfg(unix)]
    if matches!(std::os::unix::process::ExitStatusExt::signal(&status), Some(1 | 2 | 15)) {
        return true;
    }
    status.code() == Some(255)
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for the end of `child`, which is killed when it is `unwanted`, or when `limit` is over: then it is late.
fn wait(mut child: Child, limit: Duration, unwanted: &AtomicBool) -> io::Result<(ExitStatus, bool)> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        let late = start.elapsed() > limit;
        if late || unwanted.load(Ordering::Relaxed) {
            // It may end at this moment by itself: then there is nothing to kill.
            let _ = child.kill();
            return Ok((child.wait()?, late));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The last lines of `stream`, joined to one.
pub(super) fn tail(stream: &mut ChildStderr) -> String {
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
