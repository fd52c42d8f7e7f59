//! Paragraphs: all sentences of a video as one caption.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::{Ids, Problems, Split, VideoCaptions, read_id_list};
use crate::Error;
use crate::Result;
use crate::data::formats::text::{Checked, read_json};
use crate::data::moments::{MomentSplit, MomentVideo, read_activitynet, read_didemo};

/// Seconds of a DiDeMo video that are looked at.
const DIDEMO_SECONDS: f64 = 31.0;

/// Reads ActivityNet Captions for paragraph retrieval: `ids` is `train_ids.json` or `val_ids.json`, a list of ids, and
/// `annotations` the `train.json` or `val_1.json` of [`read_activitynet`].
///
/// A video's caption is its sentences in the order of the file, joined by blanks. It ends at its duration rounded up,
/// and its file is called as the id without `v_`. The published lists have a few ids (15 and 9) that are not annotated:
/// they are left out, and kept in [`Problems::mended`].
///
/// # Errors
/// Those of [`read_activitynet`]; [`Error::Io`] and [`Error::Malformed`] for the list. Problems of an id: not a string,
/// blank, and [`Error::Duplicate`].
pub fn read_activitynet_paragraphs(
    ids: impl AsRef<Path>,
    annotations: impl AsRef<Path>,
    problems: &mut Problems,
) -> Result<Split> {
    let (ids, annotations) = (read_json_ids(ids.as_ref(), problems)?, annotations.as_ref());
    let moments = read_activitynet(annotations, problems)?;
    let all = paragraphs(&moments, |video| VideoCaptions {
        file: video.id.strip_prefix("v_").unwrap_or(&video.id).to_owned(),
        end: Some(video.duration.ceil()),
        ..VideoCaptions::new(&video.id, Vec::new())
    });
    let annotated: HashSet<&str> = all.videos.iter().map(|v| v.id.as_str()).collect();
    let (listed, stray): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| annotated.contains(id.as_str()));
    stray.iter().for_each(|id| problems.mend(Error::missing(annotations, "listed video", id)));
    all.select(&listed, annotations, problems)
}

/// Reads DiDeMo for paragraph retrieval: `list` is `{train,val,test}_list.txt` and `annotations` the
/// `{train,val,test}_data.json` of [`read_didemo`].
///
/// A video's caption is its descriptions in the order of the file, joined by blanks. It ends at 31 s, and its file is
/// called as its id, which has an extension.
///
/// # Errors
/// Those of [`read_didemo`] and [`read_id_list`]. A problem of an id that is not annotated: [`Error::Missing`].
pub fn read_didemo_paragraphs(
    list: impl AsRef<Path>,
    annotations: impl AsRef<Path>,
    problems: &mut Problems,
) -> Result<Split> {
    let (ids, annotations) = (read_id_list(list, problems)?, annotations.as_ref());
    let moments = read_didemo(annotations, problems)?;
    let all = paragraphs(&moments, |video| VideoCaptions {
        end: Some(DIDEMO_SECONDS),
        ..VideoCaptions::new(&video.id, Vec::new())
    });
    all.select(&ids, annotations, problems)
}

/// The videos that have sentences, with these joined; `bare` gives a video without captions.
fn paragraphs(moments: &MomentSplit, bare: fn(&MomentVideo) -> VideoCaptions) -> Split {
    let mut sentences: HashMap<&str, Vec<&str>> = HashMap::new();
    for query in &moments.queries {
        if let Some(video) = &query.video {
            sentences.entry(video).or_default().push(query.text.trim());
        }
    }
    let described = moments.videos.iter().filter_map(|video| {
        let sentences = sentences.get(video.id.as_str())?;
        Some(VideoCaptions { captions: vec![sentences.join(" ")], ..bare(video) })
    });
    Split { videos: described.collect() }
}

fn read_json_ids(path: &Path, problems: &mut Problems) -> Result<Vec<String>> {
    let rows: Vec<Checked<String>> = read_json(path)?;
    let mut ids = Ids::new(path, problems);
    for (i, Checked(id)) in rows.iter().enumerate() {
        let place = format!("entry {}", i + 1);
        let id = id.as_ref().map(String::as_str).map_err(|problem| Error::malformed(path, &place, problem));
        ids.add(&place, id)?;
    }
    ids.finish()
}
