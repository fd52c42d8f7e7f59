//! What became of everything that a run over many files was given.

use std::collections::BTreeMap;

use crate::data::media::video::LoadFailure;

/// What became of all inputs.
#[derive(Debug, Default)]
pub struct Summary {
    /// Sentences, pictures and videos that were read, those of an earlier run among them.
    pub read: usize,
    /// How many of them were done by an earlier run.
    pub resumed: usize,
    /// What was left out, by its kind.
    pub skipped: BTreeMap<String, usize>,
    /// What could not be read.
    pub failed: Vec<LoadFailure>,
    /// Sentences that were cut.
    pub cut: Vec<String>,
    /// What was wrong with videos that could be read all the same, with their ids.
    pub notes: Vec<(String, String)>,
}

impl Summary {
    /// `5 read, 2 skipped (1 blank, 1 hidden), 1 failed`.
    pub fn line(&self) -> String {
        let skipped: usize = self.skipped.values().sum();
        let kinds: Vec<String> = self.skipped.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
        let resumed = if self.resumed == 0 { String::new() } else { format!(" ({} before)", self.resumed) };
        format!("{} read{resumed}, {skipped} skipped{kinds}, {} failed", self.read, self.failed.len())
    }
}
