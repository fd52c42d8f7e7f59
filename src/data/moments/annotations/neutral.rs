//! The neutral form: QVHighlights' own.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Builder, MomentQuery, MomentSplit, Place, Problems, write_lines};
use crate::data::formats::text::for_each_value;
use crate::data::moments::{ANNOTATORS, Saliency, scored_clips};
use crate::{Error, Result};

/// Highest score.
const BEST: u8 = 4;

#[derive(Deserialize, Serialize)]
struct Row {
    qid: u64,
    query: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vid: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relevant_windows: Vec<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relevant_clip_ids: Vec<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    saliency_scores: Vec<Vec<u8>>,
}

/// Reads the neutral form, a JSON object a line: `{"qid": .., "query": "..", "vid": "..", "duration": ..,
/// "relevant_windows": [[start, end], ..]}`. It is that of QVHighlights' `highlight_{train,val,test}_release.jsonl` and of
/// the Charades-STA, TACoS and ActivityNet Captions files that are published in the same form.
///
/// Rows without windows have no labels. QVHighlights' scores, `relevant_clip_ids` and `saliency_scores`, are of clips of
/// 2 s. Ends that overshoot the video by up to 1 s are cut, and kept in [`Problems::mended`]. Other fields are ignored.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] without any query. Problems of a row: no such object, not UTF-8, over 1 MiB; a moment
/// that is reversed, empty or not within its video; a blank query; a video without a duration, or with another one than
/// above; scores that do not belong to one whole clip of the video each, are of more than three annotators, or are over 4; [`Error::Duplicate`] for an id that
/// occurs twice.
pub fn read_neutral(path: impl AsRef<Path>, problems: &mut Problems) -> Result<MomentSplit> {
    let path = path.as_ref();
    let mut builder = Builder::default();
    for_each_value(path, |number, row| {
        let added = row.and_then(|row| add(&mut builder, &Place::line(path, number), row));
        problems.check(added)?.into_iter().flatten().for_each(|note| problems.mend(note));
        Ok(())
    })?;
    builder.finish(path)
}

fn add(builder: &mut Builder, at: &Place, row: Row) -> Result<Vec<Error>> {
    let mut query = MomentQuery::new(row.qid, row.query, row.vid, Vec::new());
    if query.video.is_none() {
        if row.relevant_windows.is_empty() && row.relevant_clip_ids.is_empty() && row.saliency_scores.is_empty() {
            return builder.query(at, query, None).map(|()| Vec::new());
        }
        return Err(at.malformed("labels without a video"));
    }
    let duration = row.duration.ok_or_else(|| at.malformed("a video without a duration"))?;
    let mut notes = Vec::new();
    for window in row.relevant_windows {
        let (window, note) = at.window(window, duration)?;
        query.windows.push(window);
        notes.extend(note);
    }
    query.saliency = saliency(at, row.relevant_clip_ids, row.saliency_scores, duration)?;
    builder.query(at, query, Some(duration))?;
    Ok(notes)
}

fn saliency(at: &Place, clips: Vec<u32>, scores: Vec<Vec<u8>>, duration: f64) -> Result<Vec<Saliency>> {
    if clips.len() != scores.len() {
        return Err(at.malformed(format_args!("{} clip ids for {} lists of scores", clips.len(), scores.len())));
    }
    let (mut seen, whole) = (HashSet::new(), scored_clips(duration));
    if let Some(clip) = clips.iter().find(|&&clip| clip as usize >= whole) {
        return Err(at.malformed(format_args!("clip {clip} is not among the {whole} whole clips of {duration} s")));
    }
    if let Some(clip) = clips.iter().find(|&&clip| !seen.insert(clip)) {
        return Err(at.malformed(format_args!("clip {clip} occurs twice")));
    }
    if let Some(scores) = scores.iter().find(|scores| scores.len() > ANNOTATORS) {
        return Err(at.malformed(format_args!("{} annotators of a clip, at most {ANNOTATORS} are known", scores.len())));
    }
    if let Some(score) = scores.iter().flatten().find(|&&score| score > BEST) {
        return Err(at.malformed(format_args!("a score of {score} is over {BEST}")));
    }
    Ok(clips.into_iter().zip(scores).map(|(clip, scores)| Saliency { clip, scores }).collect())
}

/// Writes what [`read_neutral`] reads, atomically. TVR's types, the numbers of videos and videos that no query names have
/// no place in this form and are left out.
///
/// # Errors
/// [`Error::Io`]; [`Error::Missing`] for a query whose video is not in the split.
pub fn write_neutral(path: impl AsRef<Path>, split: &MomentSplit) -> Result<()> {
    write_lines(path.as_ref(), split, |query, duration| Row {
        qid: query.id,
        query: query.text.clone(),
        duration,
        vid: query.video.clone(),
        relevant_windows: query.windows.clone(),
        relevant_clip_ids: query.saliency.iter().map(|s| s.clip).collect(),
        saliency_scores: query.saliency.iter().map(|s| s.scores.clone()).collect(),
    })
}
