//! Captions of videos: the annotation files of MSR-VTT and MSVD, and the neutral JSON lines.
//!
//! Every reader gives the same [`Split`] and is strict: an unknown or repeated video, a video without captions and an
//! empty caption are errors that name the line or entry, because what a reader drops silently changes the metrics.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::text::{Entries, for_each_line, parse_line, read_json};
#[cfg(feature = "datasets")]
use super::text::{MAX_LINE_BYTES, read_file, without_mark};
use crate::{Error, Result};

/// A video and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoCaptions {
    /// The dataset's name of the video, such as `video9770`.
    pub id: String,
    /// At least one caption; none is blank. Equal ones occur: MSVD holds thousands.
    pub captions: Vec<String>,
}

/// Videos in the order of their file, each with its captions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// The videos; no id occurs twice.
    pub videos: Vec<VideoCaptions>,
}

impl Split {
    /// The number of captions of all videos.
    pub fn caption_count(&self) -> usize {
        self.videos.iter().map(|v| v.captions.len()).sum()
    }

    /// The videos `ids`, in that order. `path` is the file that holds the captions, for the error.
    ///
    /// # Errors
    /// [`Error::Missing`] for an id without captions.
    pub fn select(&self, ids: &[String], path: impl AsRef<Path>) -> Result<Split> {
        let by_id: HashMap<&str, &VideoCaptions> = self.videos.iter().map(|v| (v.id.as_str(), v)).collect();
        let find = |id: &String| {
            let missing = || Error::Missing { path: path.as_ref().to_path_buf(), kind: "video", id: id.clone() };
            by_id.get(id.as_str()).map(|v| (*v).clone()).ok_or_else(missing)
        };
        Ok(Split { videos: ids.iter().map(find).collect::<Result<_>>()? })
    }

    /// Writes the neutral form that [`read_jsonl`] reads, one video a line, atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_jsonl(&self, path: impl AsRef<Path>) -> Result<()> {
        super::atomic::write(path.as_ref(), |file| {
            self.videos.iter().try_for_each(|v| {
                let line = serde_json::json!({"video_id": v.id, "captions": v.captions});
                writeln!(file, "{line}")
            })
        })
    }
}

/// Reads the neutral form: a JSON object a line, blank lines aside. Either `{"video_id": "...", "caption": "..."}`, where
/// further lines add captions to the same video, or `{"video_id": "...", "captions": ["...", ...]}` with all of them.
/// Other fields are ignored.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] naming the line: no such object, not UTF-8, over 1 MiB, or a blank caption;
/// [`Error::Duplicate`] when a video's `captions` are not its only line; [`Error::Missing`] for an empty list.
pub fn read_jsonl(path: impl AsRef<Path>) -> Result<Split> {
    #[derive(Deserialize)]
    struct Row {
        video_id: String,
        caption: Option<String>,
        captions: Option<Vec<String>>,
    }

    let path = path.as_ref();
    let mut builder = Builder::new(path);
    for_each_line(path, |number, line| {
        let row: Row = parse_line(path, number, line?)?;
        let place = format!("line {number}");
        match (row.caption, row.captions) {
            (Some(caption), None) => builder.add(&place, row.video_id, caption),
            (None, Some(captions)) => builder.add_whole(&place, row.video_id, captions),
            _ => Err(Error::malformed(path, place, "either caption or captions is needed")),
        }
    })?;
    builder.finish()
}

/// Reads a list of ids, one a line, such as MSVD's `train_list.txt`. Blank lines are skipped.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for a line that is not UTF-8 or over 1 MiB; [`Error::Duplicate`].
pub fn read_id_list(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let mut ids = Ids::new(path);
    for_each_line(path, |number, line| ids.push(format!("line {number}"), line?))?;
    Ok(ids.list)
}

/// Reads `{"<video id>": ["<caption>", ...], ...}`: MSVD's `captions_msvd.json`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for other JSON or a blank caption; [`Error::Duplicate`]; [`Error::Missing`] for a
/// video without captions.
pub fn read_msvd(path: impl AsRef<Path>) -> Result<Split> {
    let path = path.as_ref();
    let Entries(entries): Entries<Vec<String>> = read_json(path)?;
    let mut builder = Builder::new(path);
    for (i, (id, captions)) in entries.into_iter().enumerate() {
        builder.add_whole(&format!("entry {}", i + 1), id, captions)?;
    }
    builder.finish()
}

/// Reads `{"sentences": [{"video_id": "...", "caption": "..."}, ...]}`: MSR-VTT's `MSRVTT_data.json` and the
/// `datainfo.json` that goes with BiC-Net's features. Videos come in the order of their first sentence.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for other JSON or a blank caption, naming the sentence.
pub fn read_msrvtt(path: impl AsRef<Path>) -> Result<Split> {
    #[derive(Deserialize)]
    struct Sentence {
        video_id: String,
        caption: String,
    }
    #[derive(Deserialize)]
    struct Annotations {
        sentences: Vec<Sentence>,
    }

    let path = path.as_ref();
    let Annotations { sentences } = read_json(path)?;
    let mut builder = Builder::new(path);
    for (i, sentence) in sentences.into_iter().enumerate() {
        builder.add(&format!("sentence {}", i + 1), sentence.video_id, sentence.caption)?;
    }
    builder.finish()
}

/// Reads the column `video_id` of a CSV file: MSR-VTT's `MSRVTT_train.9k.csv` and the like.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] without that column, for a damaged or blank row, and for text that is not UTF-8;
/// [`Error::Duplicate`].
#[cfg(feature = "datasets")]
pub fn read_msrvtt_ids(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let mut ids = Ids::new(path);
    for_each_record(path, ["video_id"], |place, [id]| ids.push(place, id))?;
    Ok(ids.list)
}

/// Reads the columns `video_id` and `sentence` of a CSV file with one caption a video: MSR-VTT's
/// `MSRVTT_JSFUSION_test.csv`, known as the 1k-A test.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] without these columns, for a damaged row or a blank caption, and for text that is
/// not UTF-8; [`Error::Duplicate`].
#[cfg(feature = "datasets")]
pub fn read_msrvtt_test(path: impl AsRef<Path>) -> Result<Split> {
    let path = path.as_ref();
    let mut builder = Builder::new(path);
    for_each_record(path, ["video_id", "sentence"], |place, [id, sentence]| {
        builder.add_whole(&place, id.to_owned(), vec![sentence.to_owned()])
    })?;
    builder.finish()
}

/// Collects a [`Split`] and checks what is added.
struct Builder<'a> {
    path: &'a Path,
    split: Split,
    index: HashMap<String, Seen>,
}

/// A known video: its index, and whether it is complete.
struct Seen {
    video: usize,
    whole: bool,
}

impl<'a> Builder<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, split: Split::default(), index: HashMap::new() }
    }

    /// Adds one caption to a video that may be known already.
    fn add(&mut self, place: &str, id: String, caption: String) -> Result<()> {
        self.check(place, &id, &caption)?;
        match self.index.get(&id) {
            Some(seen) if seen.whole => Err(self.duplicate(place, id)),
            Some(seen) => {
                self.split.videos[seen.video].captions.push(caption);
                Ok(())
            }
            None => self.insert(id, vec![caption], false),
        }
    }

    /// Adds a new video with all its captions.
    fn add_whole(&mut self, place: &str, id: String, captions: Vec<String>) -> Result<()> {
        captions.iter().try_for_each(|caption| self.check(place, &id, caption))?;
        if self.index.contains_key(&id) {
            return Err(self.duplicate(place, id));
        }
        if captions.is_empty() {
            return Err(Error::Missing { path: self.path.to_path_buf(), kind: "caption of video", id });
        }
        self.insert(id, captions, true)
    }

    fn insert(&mut self, id: String, captions: Vec<String>, whole: bool) -> Result<()> {
        self.index.insert(id.clone(), Seen { video: self.split.videos.len(), whole });
        self.split.videos.push(VideoCaptions { id, captions });
        Ok(())
    }

    fn check(&self, place: &str, id: &str, caption: &str) -> Result<()> {
        if id.trim().is_empty() {
            return Err(Error::malformed(self.path, place, "the video id is blank"));
        }
        if caption.trim().is_empty() {
            return Err(Error::malformed(self.path, place, format_args!("a caption of {id:?} is blank")));
        }
        Ok(())
    }

    fn duplicate(&self, place: &str, id: String) -> Error {
        Error::Duplicate { path: self.path.to_path_buf(), place: place.to_owned(), kind: "video", id }
    }

    /// The videos; there is at least one.
    fn finish(self) -> Result<Split> {
        if self.split.videos.is_empty() {
            return Err(Error::malformed(self.path, "end", "no videos"));
        }
        Ok(self.split)
    }
}

/// Collects ids and checks that they are not blank and differ.
struct Ids {
    path: PathBuf,
    list: Vec<String>,
    seen: HashSet<String>,
}

impl Ids {
    fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), list: Vec::new(), seen: HashSet::new() }
    }

    fn push(&mut self, place: String, id: &str) -> Result<()> {
        let id = id.trim();
        if id.is_empty() {
            return Err(Error::malformed(&self.path, place, "the video id is blank"));
        }
        if !self.seen.insert(id.to_owned()) {
            return Err(Error::Duplicate { path: self.path.clone(), place, kind: "video", id: id.to_owned() });
        }
        self.list.push(id.to_owned());
        Ok(())
    }
}

/// Calls `take` with the place and the named columns of every row of a CSV file with a header.
#[cfg(feature = "datasets")]
fn for_each_record<const N: usize>(
    path: &Path,
    columns: [&str; N],
    mut take: impl FnMut(String, [&str; N]) -> Result<()>,
) -> Result<()> {
    let text = read_file(path)?;
    let text = without_mark(&text);
    let mut reader = csv::Reader::from_reader(text);
    let mut line = Line { text, offset: 0, number: 1 };
    let header = reader.headers().map_err(|e| Error::malformed(path, line.at(e.position()), e))?.clone();
    let mut at = [0; N];
    for (index, name) in at.iter_mut().zip(columns) {
        let found = header.iter().position(|column| column.trim() == name);
        *index = found.ok_or_else(|| Error::malformed(path, "line 1", format_args!("no column {name:?}")))?;
    }
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|e| Error::malformed(path, line.at(e.position()), e))? {
        let place = line.at(record.position());
        if record.as_slice().len() as u64 > MAX_LINE_BYTES {
            return Err(Error::malformed(path, place, format_args!("over {MAX_LINE_BYTES} bytes long")));
        }
        // Every record has as many fields as the header: the reader sees to that.
        take(place, at.map(|index| record.get(index).unwrap_or_default()))?;
    }
    Ok(())
}

/// Counts lines. The CSV reader's own count is one too low in files with CRLF: there it places a record before the LF
/// that ends the line above.
#[cfg(feature = "datasets")]
struct Line<'a> {
    text: &'a [u8],
    offset: usize,
    number: usize,
}

#[cfg(feature = "datasets")]
impl Line<'_> {
    /// "line N" of a record; positions must not decrease.
    fn at(&mut self, position: Option<&csv::Position>) -> String {
        let start = position.and_then(|p| usize::try_from(p.byte()).ok()).unwrap_or(0).min(self.text.len());
        let skip = self.text[start..].iter().take_while(|b| b"\r\n".contains(b)).count();
        let passed = self.text.get(self.offset..start + skip).unwrap_or_default();
        self.number += passed.iter().filter(|&&b| b == b'\n').count();
        self.offset = self.offset.max(start + skip);
        format!("line {}", self.number)
    }
}

#[cfg(test)]
#[path = "captions_tests.rs"]
mod tests;
