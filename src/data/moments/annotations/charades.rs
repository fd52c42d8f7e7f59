//! Charades-STA's own text files.

use std::path::Path;

use super::{Builder, MomentQuery, MomentSplit, Place, Problems, check_window};
use crate::Result;
use crate::data::formats::text::for_each_line;

/// Reads lines `VIDEO start end##sentence`: Charades-STA's `charades_sta_train.txt` and `charades_sta_test.txt`.
///
/// Queries are numbered by their line, from 0. The files tell no durations: a video is taken to last until its last
/// moment ends. Where true durations matter, read the same data in the neutral form, [`read_neutral`](super::read_neutral).
/// Reversed moments are swapped, empty ones widened to 0.01 s, and both kept in [`Problems::mended`].
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Malformed`](crate::Error::Malformed) without any query. Problems of a row:
/// another form, not UTF-8, over 1 MiB, times that are not finite or negative, a blank sentence.
pub fn read_charades(path: impl AsRef<Path>, problems: &mut Problems) -> Result<MomentSplit> {
    let path = path.as_ref();
    let mut builder = Builder::default();
    for_each_line(path, |number, line| {
        let added =
            line.and_then(|line| add(&mut builder, &Place::line(path, number), number as u64 - 1, line, problems));
        problems.check(added).map(drop)
    })?;
    builder.finish(path)
}

fn add(builder: &mut Builder, at: &Place, id: u64, line: &str, problems: &mut Problems) -> Result<()> {
    let form = || at.malformed("not of the form \"VIDEO start end##sentence\"");
    let (head, text) = line.split_once("##").ok_or_else(form)?;
    let fields: Vec<&str> = head.split_whitespace().collect();
    let [video, start, end] = fields[..] else { return Err(form()) };
    let seconds = |field: &str| field.parse::<f64>().map_err(|_| form());
    let window = at.ordered([seconds(start)?, seconds(end)?], problems);
    check_window(at.path, &at.name, window, None, 0.0)?;
    let known = builder.videos.get(video).copied();
    let [_, end] = window;
    let query = MomentQuery::new(id, text, Some(video.to_owned()), vec![window]);
    builder.query(at, query, known.is_none().then_some(end))?;
    if let Some(known) = known {
        let known = &mut builder.split.videos[known];
        known.duration = known.duration.max(end);
    }
    Ok(())
}
