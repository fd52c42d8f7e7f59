//! MSR-VTT.

use std::path::Path;

use serde::Deserialize;

#[cfg(feature = "datasets")]
use super::Ids;
#[cfg(feature = "datasets")]
use super::table::for_each_record;
use super::{Builder, Problems, Split, VideoCaptions};
use crate::data::formats::text::{Checked, Object, parse_object, read_file};
use crate::{Error, Result};

/// Reads `{"sentences": [{"video_id": "...", "caption": "..."}, ...]}`: MSR-VTT's `MSRVTT_data.json` and the
/// `datainfo.json` that goes with BiC-Net's features. Videos come in the order of their first sentence.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for other JSON and without any video. Problems of a sentence: another form, and
/// [`Error::Blank`].
pub fn read_msrvtt(path: impl AsRef<Path>, problems: &mut Problems) -> Result<Split> {
    #[derive(Deserialize)]
    struct Sentence {
        video_id: String,
        caption: String,
    }
    #[derive(Deserialize)]
    struct Annotations {
        sentences: Vec<Checked<Object<Sentence>>>,
    }

    let path = path.as_ref();
    let Annotations { sentences } = parse_object(path, &read_file(path)?)?;
    let mut builder = Builder::new(path, problems);
    for (i, Checked(sentence)) in sentences.into_iter().enumerate() {
        let place = format!("sentence {}", i + 1);
        let video = sentence.map(|Object(s)| VideoCaptions::new(s.video_id, vec![s.caption]));
        builder.add(&place, video.map_err(|problem| Error::malformed(path, &place, problem)), false)?;
    }
    builder.finish()
}

/// Reads the column `video_id` of a CSV file: MSR-VTT's `MSRVTT_train.9k.csv` and the like.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] without that column or any id. Problems of a row: damaged, blank, not UTF-8, and
/// [`Error::Duplicate`].
#[cfg(feature = "datasets")]
pub fn read_msrvtt_ids(path: impl AsRef<Path>, problems: &mut Problems) -> Result<Vec<String>> {
    let path = path.as_ref();
    let mut ids = Ids::new(path, problems);
    for_each_record(path, ["video_id"], |place, row| ids.add(&place, row.map(|[id]| id)))?;
    ids.finish()
}

/// Reads the columns `video_id` and `sentence` of a CSV file with one caption a video: MSR-VTT's
/// `MSRVTT_JSFUSION_test.csv`, known as the 1k-A test.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] without these columns or any video. Problems of a row: damaged, not UTF-8,
/// [`Error::Blank`], and [`Error::Duplicate`].
#[cfg(feature = "datasets")]
pub fn read_msrvtt_test(path: impl AsRef<Path>, problems: &mut Problems) -> Result<Split> {
    let path = path.as_ref();
    let mut builder = Builder::new(path, problems);
    for_each_record(path, ["video_id", "sentence"], |place, row| {
        builder.add(&place, row.map(|[id, sentence]| VideoCaptions::new(id, vec![sentence.to_owned()])), true)
    })?;
    builder.finish()
}
