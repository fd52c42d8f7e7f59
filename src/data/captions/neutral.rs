//! The neutral form: JSON lines.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Builder, Problems, Split, VideoCaptions};
use crate::data::formats::atomic;
use crate::data::formats::text::for_each_value;
use crate::data::is_inside;
use crate::data::moments::check_window;
use crate::{Error, Result};

#[derive(Deserialize, Serialize)]
struct Row {
    video_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caption: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    captions: Option<Vec<String>>,
}

/// Reads the neutral form, for videos of one's own: a JSON object a line, blank lines aside. Either `{"video_id": "..",
/// "caption": ".."}`, where further lines add captions to the same video, or `{"video_id": "..", "captions": ["..",
/// ..]}` with all of them. `path` is the file where it is not called as the id, also in sub-folders, and `start` and `end` are the stretch
/// of it in seconds; all three may be left out. Other fields are ignored.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] without any video. Problems of a line: no such object, not UTF-8, over 1 MiB; a
/// stretch that no video can have; another file or stretch than the video has above; [`Error::Blank`] for a caption;
/// [`Error::Duplicate`] when a video's `captions` are not its only line; [`Error::Missing`] for an empty list.
pub fn read_jsonl(path: impl AsRef<Path>, problems: &mut Problems) -> Result<Split> {
    let path = path.as_ref();
    let mut builder = Builder::new(path, problems);
    for_each_value(path, |number, row: Result<Row>| {
        let place = format!("line {number}");
        let whole = row.as_ref().is_ok_and(|row| row.captions.is_some());
        let video = row.and_then(|row| video(path, &place, row));
        builder.add(&place, video, whole)
    })?;
    builder.finish()
}

fn video(path: &Path, place: &str, row: Row) -> Result<VideoCaptions> {
    let captions = match (row.caption, row.captions) {
        (Some(caption), None) => vec![caption],
        (None, Some(captions)) => captions,
        _ => return Err(Error::malformed(path, place, "either caption or captions is needed")),
    };
    let start = row.start.unwrap_or(0.0);
    if let Some(out) = row.path.as_ref().filter(|file| !is_inside(file)) {
        let problem = format!("the path {out:?} does not lead into the folder of videos");
        return Err(Error::malformed(path, place, problem));
    }
    // A stretch to the end of the file is as long as one likes.
    check_window(path, place, [start, row.end.unwrap_or(start + 1.0)], None, 0.0)?;
    let video = VideoCaptions::new(row.video_id, captions);
    Ok(VideoCaptions { file: row.path.unwrap_or(video.file), start, end: row.end, ..video })
}

impl Split {
    /// Writes the neutral form that [`read_jsonl`] reads, one video a line, atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_jsonl(&self, path: impl AsRef<Path>) -> Result<()> {
        let row = |v: &VideoCaptions| Row {
            video_id: v.id.clone(),
            path: (v.file != v.id).then(|| v.file.clone()),
            start: (v.start != 0.0).then_some(v.start),
            end: v.end,
            caption: None,
            captions: Some(v.captions.clone()),
        };
        atomic::write_lines(path.as_ref(), self.videos.iter().map(row))
    }
}
