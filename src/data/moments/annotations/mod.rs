//! Annotation files of moment retrieval; every reader gives a [`MomentSplit`].
//!
//! The published files are read as they are. What they hold that no moment can be is mended by rules that each reader
//! states, and kept in [`Problems::mended`]; all else that is wrong is a problem of its row. Bad rows leave nothing behind.

mod activitynet;
mod charades;
mod didemo;
mod neutral;
pub(super) mod tvr;

pub use activitynet::read_activitynet;
pub use charades::read_charades;
pub use didemo::read_didemo;
pub use neutral::{read_neutral, write_neutral};
pub use tvr::{read_tvr, write_tvr};

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Serialize;

use super::{MAX_SECONDS, MomentQuery, MomentSplit, MomentVideo, Problems, check_ends, check_window};
use crate::data::formats::atomic;
use crate::{Error, Result};

/// Seconds by which a moment may overshoot its video: durations and moments come from different players.
const SLACK: f64 = 1.0;

/// Shortest moment that an empty one is widened to: the published times have two decimals.
const SHORTEST: f64 = 0.01;

/// A row of a file.
struct Place<'a> {
    path: &'a Path,
    name: String,
}

impl<'a> Place<'a> {
    fn new(path: &'a Path, name: impl ToString) -> Self {
        Self { path, name: name.to_string() }
    }

    fn line(path: &'a Path, number: usize) -> Self {
        Self { path, name: format!("line {number}") }
    }

    fn malformed(&self, problem: impl ToString) -> Error {
        Error::malformed(self.path, &self.name, problem)
    }

    fn duplicate(&self, kind: &'static str, id: impl ToString) -> Error {
        Error::duplicate(self.path, &self.name, kind, id)
    }

    /// A moment, whose end is cut where it overshoots a `duration` by up to [`SLACK`], and a note of that.
    fn window(&self, window: [f64; 2], duration: f64) -> Result<([f64; 2], Option<Error>)> {
        check_window(self.path, &self.name, window, Some(duration), SLACK)?;
        let [start, end] = window;
        let cut = || self.malformed(format_args!("the moment ends at {end} s, cut to the video's {duration} s"));
        Ok(([start, end.min(duration)], (end > duration).then(cut)))
    }

    /// As [`Place::window`], without a `duration` as long as one likes; a moment's ends are swapped if reversed, and it is
    /// widened to [`SHORTEST`] if empty. Errors and notes quote it as it is in the file.
    fn moment(&self, given: [f64; 2], duration: Option<f64>) -> Result<([f64; 2], Option<Error>)> {
        let [start, end] = given;
        let (ordered, how) = match start.partial_cmp(&end) {
            Some(Ordering::Greater) => ([end, start], "is reversed, its ends are swapped".to_owned()),
            Some(Ordering::Equal) => ([start, end + SHORTEST], format!("is empty, widened by {SHORTEST} s")),
            _ => (given, String::new()),
        };
        // Swapping and widening mend nothing that lies elsewhere.
        check_ends(self.path, &self.name, given, ordered, duration, SLACK)?;
        let end = duration.map_or(ordered[1], |duration| ordered[1].min(duration));
        if how.is_empty() && end == ordered[1] {
            return Ok((ordered, None));
        }
        let cut = if end < ordered[1] {
            format!("ends at {} s, cut to the video's {end} s", ordered[1])
        } else {
            String::new()
        };
        let both = if how.is_empty() || cut.is_empty() { "" } else { ", and " };
        Ok(([ordered[0], end], Some(self.malformed(format_args!("the moment {given:?} {how}{both}{cut}")))))
    }
}

/// Collects a [`MomentSplit`] and checks what is added.
#[derive(Default)]
struct Builder {
    split: MomentSplit,
    ids: HashSet<u64>,
    videos: HashMap<String, usize>,
}

impl Builder {
    /// Adds a query, whose moments are checked already; with a `duration` its video too.
    fn query(&mut self, at: &Place, query: MomentQuery, duration: Option<f64>) -> Result<()> {
        if query.text.trim().is_empty() {
            let (path, place, id) = (at.path.to_path_buf(), at.name.clone(), query.id.to_string());
            return Err(Error::Blank { path, place, kind: "sentence of query", id });
        }
        if self.ids.contains(&query.id) {
            return Err(at.duplicate("query", query.id));
        }
        if let (Some(video), Some(duration)) = (&query.video, duration) {
            self.video(at, video, duration)?;
        }
        self.ids.insert(query.id);
        self.split.queries.push(query);
        Ok(())
    }

    /// Adds a video, numbered by its place, or sees that it lasts as long as before.
    fn video(&mut self, at: &Place, id: &str, duration: f64) -> Result<()> {
        match self.videos.get(id).map(|&v| self.split.videos[v].duration) {
            Some(before) if before == duration => Ok(()),
            Some(before) => {
                Err(at.malformed(format_args!("the video {id:?} lasts {duration} s here, {before} s above")))
            }
            None => self.new_video(at, id, duration, self.split.videos.len() as u64),
        }
    }

    /// Adds a video that must not be known.
    fn new_video(&mut self, at: &Place, id: &str, duration: f64, index: u64) -> Result<()> {
        if id.trim().is_empty() {
            return Err(at.malformed("the video id is blank"));
        }
        if !(duration.is_finite() && duration > 0.0) {
            return Err(at.malformed(format_args!("the video {id:?} lasts {duration} s")));
        }
        if duration > MAX_SECONDS {
            let problem = format_args!("the video {id:?} lasts {duration:e} s, at most {MAX_SECONDS:e} s are taken");
            return Err(at.malformed(problem));
        }
        if self.videos.contains_key(id) {
            return Err(at.duplicate("video", id));
        }
        self.videos.insert(id.to_owned(), self.split.videos.len());
        self.split.videos.push(MomentVideo { id: id.to_owned(), duration, index });
        Ok(())
    }

    /// The split; it has at least one query.
    fn finish(self, path: &Path) -> Result<MomentSplit> {
        if self.split.queries.is_empty() {
            return Err(Error::malformed(path, "end", "no queries"));
        }
        Ok(self.split)
    }
}

/// Writes a JSON object a line, atomically: `row` of each query and its video's duration.
fn write_lines<T: Serialize>(path: &Path, split: &MomentSplit, row: fn(&MomentQuery, Option<f64>) -> T) -> Result<()> {
    let durations: HashMap<&str, f64> = split.videos.iter().map(|v| (v.id.as_str(), v.duration)).collect();
    let mut rows = Vec::new();
    for query in &split.queries {
        let duration = query
            .video
            .as_ref()
            .map(|id| durations.get(id.as_str()).copied().ok_or_else(|| Error::missing(path, "video", id)));
        rows.push(row(query, duration.transpose()?));
    }
    atomic::write_lines(path, rows)
}

#[cfg(test)]
mod tests;
