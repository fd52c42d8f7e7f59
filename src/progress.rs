//! Progress reports, for whoever wants to show them.

/// Receives how far a long operation is. The library writes nothing to a terminal; a program passes a progress bar.
pub trait Progress {
    /// `done` of `total` units are done; `message` is short and for people, such as `loss 0.412`.
    fn step(&mut self, done: u64, total: u64, message: &str);

    /// A line to keep, such as what an evaluation came to.
    fn note(&mut self, _line: &str) {}
}

/// A number with what is counted: `1 query`, `2 queries`.
pub(crate) fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&mut self, _done: u64, _total: u64, _message: &str) {}
}

/// Any closure of those arguments.
impl<F: FnMut(u64, u64, &str)> Progress for F {
    fn step(&mut self, done: u64, total: u64, message: &str) {
        self(done, total, message)
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, Silent};

    fn work(progress: &mut dyn Progress) {
        progress.step(1, 2, "half");
    }

    #[test]
    fn closures_are_progress() {
        let mut seen = Vec::new();
        work(&mut |done, total, message: &str| seen.push((done, total, message.to_string())));
        work(&mut Silent);
        assert_eq!(seen, [(1, 2, "half".to_string())]);
    }
}
