//! TVR's pair of files: queries, and the durations of all videos.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Builder, MomentQuery, MomentSplit, Place, Problems, SLACK, write_lines};
use crate::data::formats::atomic;
use crate::data::formats::text::{Checked, Entries, for_each_value, read_json};
use crate::data::moments::QueryKind;
use crate::{Error, Result};

/// The file with the durations and numbers of all splits' videos.
pub(in crate::data::moments) const DURATIONS: &str = "tvr_video2dur_idx.json";

/// The file with a split's queries in the folder `root`.
pub(in crate::data::moments) fn annotations(root: &Path, split: &str) -> PathBuf {
    root.join(format!("tvr_{split}_release.jsonl"))
}

#[derive(Deserialize, Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    vid_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<Times>,
    desc: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<QueryKind>,
    desc_id: u64,
}

/// One moment, or one an annotator.
#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "ts must be [start, end] in seconds, as numbers, or a list of such pairs")]
enum Times {
    One([f64; 2]),
    Many(Vec<[f64; 2]>),
}

/// Reads TVR's `tvr_{split}_release.jsonl`, lines `{"vid_name": "..", "duration": .., "ts": [start, end], "desc": "..",
/// "type": "v", "desc_id": ..}`, and `split` of `tvr_video2dur_idx.json`, `{"<split>": {"<video>": [seconds, number]}}`.
///
/// The videos are all of the split, also those without queries, with the numbers of that file, which are unique over all
/// splits. `ts` may be a list of moments, one an annotator. The rows of a public test have `desc` and `desc_id` only. Ends
/// that overshoot the video by up to 1 s are cut, and kept in [`Problems::mended`].
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for other JSON in the second file, and without any query; [`Error::Missing`] for the
/// split. Problems of a row: no such object, not UTF-8, over 1 MiB; a moment that is reversed, empty, not within its video
/// or without one; a blank description; a duration more than 1 s off that of the second file; [`Error::Missing`] for a
/// video that is not in the split; [`Error::Duplicate`] for an id or a video's number that occurs twice.
pub fn read_tvr(
    queries: impl AsRef<Path>,
    durations: impl AsRef<Path>,
    split: &str,
    problems: &mut Problems,
) -> Result<MomentSplit> {
    let (path, durations) = (queries.as_ref(), durations.as_ref());
    let mut builder = Builder::default();
    read_videos(&mut builder, durations, split, problems)?;
    for_each_value(path, |number, row| {
        let added = row.and_then(|row| add(&mut builder, &Place::line(path, number), row, durations));
        problems.check(added)?.into_iter().flatten().for_each(|note| problems.mend(note));
        Ok(())
    })?;
    builder.finish(path)
}

fn read_videos(builder: &mut Builder, path: &Path, split: &str, problems: &mut Problems) -> Result<()> {
    let Entries(splits): Entries<Entries<Checked<(f64, u64)>>> = read_json(path)?;
    let mut named = splits.into_iter().filter(|(name, _)| name == split);
    let (_, Entries(videos)) = named.next().ok_or_else(|| Error::missing(path, "split", split))?;
    if named.next().is_some() {
        return Err(Place::new(path, format_args!("split {split:?}")).duplicate("split", split));
    }
    let mut indices = HashSet::new();
    for (id, Checked(video)) in videos {
        let at = Place::new(path, format_args!("split {split:?}, video {id:?}"));
        let added = video.map_err(|problem| at.malformed(problem)).and_then(|(duration, index)| {
            if indices.contains(&index) {
                return Err(at.duplicate("number of a video", index));
            }
            builder.new_video(&at, &id, duration, index)?;
            indices.insert(index);
            Ok(())
        });
        problems.check(added)?;
    }
    Ok(())
}

fn add(builder: &mut Builder, at: &Place, row: Row, durations: &Path) -> Result<Vec<Error>> {
    let mut notes = Vec::new();
    let mut query = MomentQuery { kind: row.kind, ..MomentQuery::new(row.desc_id, row.desc, row.vid_name, Vec::new()) };
    let windows = match row.ts {
        None => Vec::new(),
        Some(Times::One(window)) => vec![window],
        Some(Times::Many(windows)) => windows,
    };
    if let Some(id) = &query.video {
        let video = *builder.videos.get(id).ok_or_else(|| Error::missing(durations, "video", id))?;
        let video = &builder.split.videos[video];
        if let Some(duration) = row.duration.filter(|d| (d - video.duration).abs() > SLACK) {
            let listed = video.duration;
            return Err(at.malformed(format_args!("the video {id:?} lasts {duration} s here, {listed} s as listed")));
        }
        for window in windows {
            let (window, note) = at.window(window, video.duration)?;
            query.windows.push(window);
            notes.extend(note);
        }
    } else if !windows.is_empty() {
        return Err(at.malformed("a moment without a video"));
    }
    builder.query(at, query, None)?;
    Ok(notes)
}

/// Writes splits, each with its name, as [`read_tvr`] reads them: `tvr_{split}_release.jsonl` for each and one
/// `tvr_video2dur_idx.json` in the folder `root`, each file atomically. Saliency has no place there and is left out.
///
/// # Errors
/// [`Error::Io`]; [`Error::Missing`] for a query whose video is not in its split.
pub fn write_tvr(root: impl AsRef<Path>, splits: &[(&str, &MomentSplit)]) -> Result<()> {
    let root = root.as_ref();
    for (name, split) in splits {
        write_lines(&annotations(root, name), split, |query, duration| Row {
            vid_name: query.video.clone(),
            duration,
            ts: match query.windows[..] {
                [] => None,
                [window] => Some(Times::One(window)),
                _ => Some(Times::Many(query.windows.clone())),
            },
            desc: query.text.clone(),
            kind: query.kind,
            desc_id: query.id,
        })?;
    }
    let videos = |split: &MomentSplit| split.videos.iter().map(|v| (v.id.clone(), (v.duration, v.index))).collect();
    let durations = splits.iter().map(|(name, split)| ((*name).to_owned(), Entries(videos(split)))).collect();
    atomic::write(&root.join(DURATIONS), |file| Ok(serde_json::to_writer(file, &Entries(durations))?))
}
