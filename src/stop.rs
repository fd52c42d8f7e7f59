//! Stopping long work from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that a signal handler or another thread sets and a long loop polls between its steps. Clones share it.
///
/// The library installs no signal handler; a program does:
/// `let stop = flag.clone(); ctrlc::set_handler(move || stop.stop())`.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the loop to stop. Returns whether it had been asked before, so that a second Ctrl-C can end the process.
    pub fn stop(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::StopFlag;

    #[test]
    fn clones_share_the_flag() {
        let flag = StopFlag::new();
        let handler = flag.clone();
        assert!(!flag.is_set());
        assert!(!std::thread::spawn(move || handler.stop()).join().unwrap());
        assert!(flag.is_set() && flag.stop());
    }
}
