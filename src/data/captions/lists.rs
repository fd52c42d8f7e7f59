//! Lists of ids, and captions by id: MSVD and VATEX.

use std::path::Path;

use super::{Builder, Ids, Problems, Split, VideoCaptions};
use crate::data::formats::text::{Checked, Entries, for_each_line, read_json};
use crate::{Error, Result};

/// How to turn MSVD's pickle into JSON, once and where one trusts the file.
const RECIPE: &str = "python3 -c \"import json, pickle; json.dump({k: [' '.join(c) for c in v] for k, v in \
    pickle.load(open('raw-captions.pkl', 'rb')).items()}, open('captions_msvd.json', 'w'))\"";

/// Reads a list of ids, one a line: `train_list.txt`, `val_list.txt` or `test_list.txt`. Blank lines are skipped.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] without any id. Problems of a line: not UTF-8 or over 1 MiB, and [`Error::Duplicate`].
pub fn read_id_list(path: impl AsRef<Path>, problems: &mut Problems) -> Result<Vec<String>> {
    let path = path.as_ref();
    let mut ids = Ids::new(path, problems);
    for_each_line(path, |number, line| ids.add(&format!("line {number}"), line))?;
    ids.finish()
}

/// Reads `{"<video id>": ["<caption>", ...], ...}`: MSVD's `captions_msvd.json` and VATEX' `ref_captions.json`.
///
/// MSVD's `raw-captions.pkl` is refused, for reading a pickle runs what is in it; the error says how to convert it.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for other JSON, without any video, and for a pickle. Problems of an entry:
/// another form; [`Error::Blank`] for a caption; [`Error::Duplicate`]; [`Error::Missing`] for a video without captions.
pub fn read_caption_lists(path: impl AsRef<Path>, problems: &mut Problems) -> Result<Split> {
    let path = path.as_ref();
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pkl")) {
        let problem =
            format!("pickles are not read, for they can run programs; where you trust it, convert it: {RECIPE}");
        return Err(Error::malformed(path, "format", problem));
    }
    let Entries(entries): Entries<Checked<Vec<String>>> = read_json(path)?;
    let mut builder = Builder::new(path, problems);
    for (i, (id, Checked(captions))) in entries.into_iter().enumerate() {
        let place = format!("entry {}", i + 1);
        let video = captions.map(|captions| VideoCaptions::new(id, captions));
        builder.add(&place, video.map_err(|problem| Error::malformed(path, &place, problem)), true)?;
    }
    builder.finish()
}
