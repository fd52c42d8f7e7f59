//! ActivityNet Captions.

use std::path::Path;

use serde::Deserialize;

use super::{Builder, MomentQuery, MomentSplit, Place, Problems};
use crate::Result;
use crate::data::formats::text::{Checked, Entries, Object, read_json};

/// Reads `{"<video id>": {"duration": .., "timestamps": [[start, end], ..], "sentences": ["..", ..]}, ..}`: ActivityNet
/// Captions' `train.json`, `val_1.json` and `val_2.json`.
///
/// Queries are numbered in the order of the file, from 0. Four moments of the published training part are reversed or
/// empty, and hundreds overshoot the video by 0.01 s: they are swapped, widened to 0.01 s and cut, and kept in
/// [`Problems::mended`]. (Some loaders leave the four out, and count 37,417 training sentences instead of 37,421.)
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Malformed`](crate::Error::Malformed) for other JSON, and without any
/// sentence. Problems of a row: a video of another form or with another number of times than sentences, a moment that
/// is not within its video, a blank sentence, and
/// [`Error::Duplicate`](crate::Error::Duplicate) for a video that occurs twice.
pub fn read_activitynet(path: impl AsRef<Path>, problems: &mut Problems) -> Result<MomentSplit> {
    #[derive(Deserialize)]
    struct Video {
        duration: f64,
        timestamps: Vec<[f64; 2]>,
        sentences: Vec<String>,
    }

    let path = path.as_ref();
    let Entries(entries): Entries<Checked<Object<Video>>> = read_json(path)?;
    let mut builder = Builder::default();
    let mut next_id = 0;
    for (i, (id, Checked(video))) in entries.into_iter().enumerate() {
        let at = Place::new(path, format_args!("entry {}, video {id:?}", i + 1));
        let video = video.map_err(|problem| at.malformed(problem)).and_then(|Object(video)| {
            let (times, sentences) = (video.timestamps.len(), video.sentences.len());
            if times != sentences {
                return Err(at.malformed(format_args!("{times} timestamps for {sentences} sentences")));
            }
            builder.new_video(&at, &id, video.duration, builder.split.videos.len() as u64)?;
            Ok(video)
        });
        let Some(video) = problems.check(video)? else { continue };
        for (n, (window, text)) in video.timestamps.into_iter().zip(video.sentences).enumerate() {
            let at = Place::new(path, format_args!("{}, sentence {}", at.name, n + 1));
            let added = at.moment(window, Some(video.duration)).and_then(|(window, note)| {
                builder.query(&at, MomentQuery::new(next_id, text, Some(id.clone()), vec![window]), None)?;
                Ok(note)
            });
            problems.check(added)?.into_iter().flatten().for_each(|note| problems.mend(note));
            next_id += 1;
        }
    }
    builder.finish(path)
}
