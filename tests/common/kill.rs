//! Processes that are killed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Runs this test program's ignored test `child`, with `folder` in the environment variable `name`, and kills it after a
/// while.
pub fn child_after(name: &str, folder: &Path, wait: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--test-threads=1"])
        .env(name, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(wait);
    child.kill().unwrap();
    child.wait().unwrap();
}
