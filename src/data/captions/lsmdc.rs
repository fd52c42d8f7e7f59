//! LSMDC.

use std::collections::HashSet;
use std::path::Path;

use super::{Builder, Problems, Split, VideoCaptions};
use crate::data::formats::text::for_each_line;
use crate::{Error, Result};

/// Reads LSMDC's files of six columns apart by tabs (the clip's id, four times, the sentence), without a header:
/// `LSMDC16_annos_training.csv`, `LSMDC16_annos_val.csv` and `LSMDC16_challenge_1000_publictect.csv`.
///
/// Ids recur in the training file: a further row with another sentence is a further caption of its clip. The published
/// clips are cut to the times already.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] without any clip. Problems of a line: other columns, not UTF-8, over 1 MiB,
/// [`Error::Blank`], and [`Error::Duplicate`] for an id that recurs with the same sentence.
pub fn read_lsmdc(path: impl AsRef<Path>, problems: &mut Problems) -> Result<Split> {
    let path = path.as_ref();
    let mut builder = Builder::new(path, problems);
    let mut seen = HashSet::new();
    for_each_line(path, |number, line| {
        let place = format!("line {number}");
        let video = line.and_then(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let (id, sentence) = match columns[..] {
                [id, _, _, _, _, sentence] => (id.trim(), sentence.trim()),
                // A blank sentence went with the blanks at the line's end.
                [id, _, _, _, _] => (id.trim(), ""),
                _ => return Err(Error::malformed(path, &place, format!("{} columns instead of 6", columns.len()))),
            };
            if !seen.insert((id.to_owned(), sentence.to_owned())) {
                return Err(Error::duplicate(path, &place, "video", id));
            }
            Ok(VideoCaptions::new(id, vec![sentence.to_owned()]))
        });
        builder.add(&place, video, false)
    })?;
    builder.finish()
}
