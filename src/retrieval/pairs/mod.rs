//! Retrieval with models on CLIP's towers: a gallery of encoded videos, scores of all pairs by tiles, and two-stage search.

mod gallery;
mod two_stage;

pub use gallery::{Gallery, Segment, TextTile};
pub use two_stage::{Found, Reranked, SearchOptions, StageTimes, VideoToText};

use crate::Result;
use crate::models::towers::TowerModel;
use crate::tensor::Array;

/// The scores of all pairs of `texts` and the gallery's videos: that which ranks, (T, N).
///
/// Pairs are compared a tile of texts and a segment of videos at a time: apart from the result, which is on the host,
/// memory does not grow with either.
///
/// # Errors
/// [`crate::Error::Shape`], [`crate::Error::ShapeMismatch`]; device errors.
pub fn score_all<M: TowerModel>(model: &M, texts: &[TextTile], gallery: &Gallery<M::Videos>) -> Result<Array> {
    let rows: usize = texts.iter().map(TextTile::len).sum();
    let mut scores = Array::zeros([rows, gallery.len()]);
    let mut first = 0;
    for tile in texts {
        let prepared = model.prepare_texts(&tile.features(model)?)?;
        for segment in gallery.segments() {
            let heads = model.compare(&prepared, &segment.videos)?;
            let values = model.similarity(&heads)?.value().to_vec()?;
            for (i, row) in values.chunks_exact(segment.count.max(1)).enumerate() {
                let at = (first + i) * gallery.len() + segment.first;
                scores.data_mut()[at..at + segment.count].copy_from_slice(row);
            }
        }
        first += tile.len();
    }
    Ok(scores)
}
