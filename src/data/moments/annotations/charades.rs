//! Charades-STA's own text files.

use std::path::Path;

use super::{Builder, MomentQuery, MomentSplit, Place, Problems};
use crate::data::formats::text::for_each_line;
use crate::{Error, Result};

/// Reads lines `VIDEO start end##sentence`: Charades-STA's `charades_sta_train.txt` and `charades_sta_test.txt`.
///
/// Queries are numbered by their line, from 0. The files tell no durations: a video is taken to last until its last
/// moment ends. Where true durations matter, read the same data in the neutral form, [`read_neutral`](super::read_neutral).
/// Reversed moments are swapped, empty ones widened to 0.01 s, and both kept in [`Problems::mended`].
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] without any query. Problems of a row:
/// another form, not UTF-8, over 1 MiB, times that are not finite or negative, a blank sentence.
pub fn read_charades(path: impl AsRef<Path>, problems: &mut Problems) -> Result<MomentSplit> {
    let path = path.as_ref();
    let mut builder = Builder::default();
    for_each_line(path, |number, line| {
        let added = line.and_then(|line| add(&mut builder, &Place::line(path, number), number as u64 - 1, line));
        problems.check(added)?.into_iter().flatten().for_each(|note| problems.mend(note));
        Ok(())
    })?;
    builder.finish(path)
}

fn add(builder: &mut Builder, at: &Place, id: u64, line: &str) -> Result<Option<Error>> {
    let form = || at.malformed("not of the form \"VIDEO start end##sentence\"");
    let (head, text) = line.split_once("##").ok_or_else(form)?;
    let fields: Vec<&str> = head.split_whitespace().collect();
    let [video, start, end] = fields[..] else { return Err(form()) };
    let seconds = |field: &str| field.parse::<f64>().map_err(|_| form());
    let (window, note) = at.moment([seconds(start)?, seconds(end)?], None)?;
    let known = builder.videos.get(video).copied();
    let [_, end] = window;
    let query = MomentQuery::new(id, text, Some(video.to_owned()), vec![window]);
    builder.query(at, query, known.is_none().then_some(end))?;
    if let Some(known) = known {
        let known = &mut builder.split.videos[known];
        known.duration = known.duration.max(end);
    }
    Ok(note)
}
