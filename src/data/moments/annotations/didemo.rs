//! DiDeMo.

use std::path::Path;

use serde::Deserialize;

use super::{Builder, MomentQuery, MomentSplit, Place, Problems};
use crate::Result;
use crate::data::formats::text::{Checked, Object, read_json};

/// Seconds of a segment.
const SEGMENT: f64 = 5.0;

/// Segments of a video that tells no number: as many as DiDeMo's longest have.
const SEGMENTS: u64 = 6;

/// Reads `[{"annotation_id": .., "video": "..", "description": "..", "times": [[first, last], ..]}, ..]`: DiDeMo's
/// `train_data.json`, `val_data.json` and `test_data.json`.
///
/// Times are 5-second segments, both inclusive, one pair an annotator: `[1, 2]` becomes the moment from 5 to 15 s. A video
/// lasts as long as its `num_segments`; as 6 of them where that field is missing.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Malformed`](crate::Error::Malformed) for other JSON, and without any query.
/// Problems of a row: another form, no times, times that are reversed or beyond the last segment, a blank description,
/// a video of another length than above, and [`Error::Duplicate`](crate::Error::Duplicate) for an id that occurs twice.
pub fn read_didemo(path: impl AsRef<Path>, problems: &mut Problems) -> Result<MomentSplit> {
    let path = path.as_ref();
    let rows: Vec<Checked<Object<Row>>> = read_json(path)?;
    let mut builder = Builder::default();
    for (i, Checked(row)) in rows.into_iter().enumerate() {
        let at = Place::new(path, format_args!("row {}", i + 1));
        let added = row.map_err(|problem| at.malformed(problem)).and_then(|Object(row)| add(&mut builder, &at, row));
        problems.check(added)?;
    }
    builder.finish(path)
}

#[derive(Deserialize)]
struct Row {
    annotation_id: u64,
    video: String,
    description: String,
    times: Vec<[u64; 2]>,
    num_segments: Option<u64>,
}

fn add(builder: &mut Builder, at: &Place, row: Row) -> Result<()> {
    let segments = row.num_segments.unwrap_or(SEGMENTS);
    if row.times.is_empty() {
        return Err(at.malformed("no times"));
    }
    if let Some([first, last]) = row.times.iter().find(|[first, last]| first > last || *last >= segments) {
        return Err(at.malformed(format_args!("the segments {first} to {last} are not among {segments}")));
    }
    let windows =
        row.times.iter().map(|&[first, last]| [first as f64 * SEGMENT, (last + 1) as f64 * SEGMENT]).collect();
    let query = MomentQuery::new(row.annotation_id, row.description, Some(row.video), windows);
    builder.query(at, query, Some(segments as f64 * SEGMENT))
}
