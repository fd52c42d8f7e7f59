//! Looks through the parts of a dataset.

use std::collections::HashSet;
use std::fmt;

use super::{Problems, Split, VideoCaptions};
use crate::Error;
use crate::progress::counted;

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// One for each part, in order.
    pub parts: Vec<PartReport>,
    /// For each pair of parts that have ids in common, those ids.
    pub shared: Vec<Shared>,
}

/// What is in a part of a dataset, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReport {
    /// The part's name.
    pub name: String,
    /// Videos that were read.
    pub videos: usize,
    /// Their captions.
    pub captions: usize,
    /// The ids of those whose file is not there.
    pub missing_files: Vec<String>,
    /// Ids that occurred again, and were skipped there.
    pub duplicate_ids: usize,
    /// Captions that were blank, and were skipped.
    pub blank_captions: usize,
    /// Rows that were skipped for other reasons: damaged, or naming a video without captions.
    pub other_problems: usize,
}

/// Ids that two parts have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The parts' names.
    pub parts: [String; 2],
    /// The ids, in the order of the first.
    pub ids: Vec<String>,
}

/// Counts what the parts hold, each given by its name and what was read leniently. `is_there` tells whether a video's
/// file is there.
pub fn check(parts: &[(&str, Split, Problems)], mut is_there: impl FnMut(&VideoCaptions) -> bool) -> Report {
    let report = |(name, split, problems): &(&str, Split, Problems)| {
        let count = |of: fn(&Error) -> bool| problems.skipped().iter().filter(|e| of(e)).count();
        let duplicate_ids = count(|e| matches!(e, Error::Duplicate { .. }));
        let blank_captions = count(|e| matches!(e, Error::Blank { .. }));
        PartReport {
            name: (*name).to_owned(),
            videos: split.videos.len(),
            captions: split.caption_count(),
            missing_files: split.videos.iter().filter(|v| !is_there(v)).map(|v| v.id.clone()).collect(),
            duplicate_ids,
            blank_captions,
            other_problems: problems.skipped().len() - duplicate_ids - blank_captions,
        }
    };
    let mut shared = Vec::new();
    for (i, (first, split, _)) in parts.iter().enumerate() {
        for (second, other, _) in &parts[i + 1..] {
            let others: HashSet<&str> = other.videos.iter().map(|v| v.id.as_str()).collect();
            let ids: Vec<_> =
                split.videos.iter().map(|v| v.id.clone()).filter(|id| others.contains(id.as_str())).collect();
            if !ids.is_empty() {
                shared.push(Shared { parts: [first, second].map(|name| (*name).to_owned()), ids });
            }
        }
    }
    Report { parts: parts.iter().map(report).collect(), shared }
}

impl fmt::Display for Report {
    /// A line for each part and one for each pair with ids in common, which names the first of them.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for part in &self.parts {
            let PartReport { name, videos, captions, missing_files, .. } = part;
            let (videos, captions) = (counted(*videos, "video", "videos"), counted(*captions, "caption", "captions"));
            let missing = counted(missing_files.len(), "missing file", "missing files");
            write!(f, "{name}: {videos}, {captions}, {missing}, ")?;
            let PartReport { duplicate_ids, blank_captions, other_problems, .. } = part;
            let duplicates = counted(*duplicate_ids, "duplicate id", "duplicate ids");
            let blank = counted(*blank_captions, "blank caption", "blank captions");
            writeln!(f, "{duplicates}, {blank}, {}", counted(*other_problems, "other problem", "other problems"))?;
        }
        for Shared { parts: [first, second], ids } in &self.shared {
            writeln!(f, "{first} and {second} share {}, such as {:?}", counted(ids.len(), "id", "ids"), ids[0])?;
        }
        Ok(())
    }
}
