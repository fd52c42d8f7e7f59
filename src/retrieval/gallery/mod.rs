//! Retrieval with models that compare texts with videos through CLIP's towers: videos encoded once, in segments that fit
//! into a binding; the scores of all pairs, a tile of texts at a time; and search in two stages.

mod two_stage;

pub use two_stage::{Candidate, Reranked, StageTimes, VideoToText};

use std::sync::OnceLock;

use crate::Result;
use crate::autograd::{Tape, Var, concat};
use crate::data::pairs::{PairSource, collate_frames};
use crate::models::clip::TextFeatures;
use crate::models::clip4clip::VideoFeatures;
use crate::models::towers::{TowerModel, TwoStageModel};
use crate::tensor::{Array, Tensor};

/// Videos of which a model holds what it compares them by.
pub struct Gallery<V> {
    segments: Vec<Segment<V>>,
    /// What [`Gallery::coarse`] gives.
    coarse: OnceLock<Tensor>,
}

/// Consecutive videos of a gallery.
pub struct Segment<V> {
    /// The number of the first in the gallery.
    pub first: usize,
    /// How many there are.
    pub count: usize,
    /// What the model compares them by.
    pub videos: V,
}

impl<V> Gallery<V> {
    /// From features that were made before, in parts: each becomes a segment, and no tensor of it may be larger than a
    /// binding.
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; device errors.
    pub fn from_features<M: TowerModel<Videos = V>>(
        model: &M,
        features: impl IntoIterator<Item = Result<VideoFeatures>>,
    ) -> Result<Self> {
        let mut gallery = Self { segments: Vec::new(), coarse: OnceLock::new() };
        for features in features {
            let features = features?;
            let count = features.mask.shape()[0];
            let (first, videos) = (gallery.len(), model.prepare_videos(&features)?);
            gallery.segments.push(Segment { first, count, videos });
        }
        Ok(gallery)
    }

    /// The videos `videos` of `source` through the model's towers, `batch` at a time, or fewer where their features would
    /// be larger than a binding may be.
    ///
    /// # Errors
    /// What `source` returns; [`crate::Error::Argument`] for a video without frames; device errors.
    pub fn encode<M: TowerModel<Videos = V>>(
        model: &M,
        source: &dyn PairSource,
        videos: &[usize],
        batch: usize,
    ) -> Result<Self> {
        let (base, needs, gpu) = (model.base(), model.needs(), model.store().gpu());
        let config = base.config();
        let patches = config.clip.as_ref().filter(|_| needs.patches).map_or(1, |clip| clip.patches());
        let bytes = 4 * config.frames * patches * config.joint;
        let limit = gpu.report().limits.max_storage_buffer_binding_size as usize;
        let batch = batch.min(limit / bytes.max(1)).max(1);
        let encode = |chunk: &[usize]| {
            let (pixels, mask) = collate_frames(source, chunk, config.frames)?;
            let tape = Tape::inference(gpu);
            let mask = Tensor::from_slice(gpu, [chunk.len(), config.frames], &mask)?;
            base.encode_frames(&tape.constant(base.upload(gpu, &pixels)?), &mask, needs.patches)
        };
        Self::from_features(model, videos.chunks(batch).map(encode))
    }

    /// The number of videos.
    pub fn len(&self) -> usize {
        self.segments.last().map_or(0, |last| last.first + last.count)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The segments, in order.
    pub fn segments(&self) -> &[Segment<V>] {
        &self.segments
    }

    /// Every video's vector for the first stage (N, D); put together by the first search, and kept for the next.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for an empty gallery; device errors.
    pub fn coarse<M: TwoStageModel<Videos = V>>(&self, model: &M) -> Result<Tensor> {
        if let Some(coarse) = self.coarse.get() {
            return Ok(coarse.clone());
        }
        let parts: Vec<Var> = self.segments.iter().map(|s| model.coarse_videos(&s.videos)).collect();
        let coarse = concat(&parts, 0)?.into_value();
        Ok(self.coarse.get_or_init(|| coarse).clone())
    }
}

/// Texts that are encoded and compared together.
#[derive(Clone, Debug)]
pub enum TextTile {
    /// Token ids (B · n), encoded when they are needed.
    Ids(Vec<u32>, usize),
    /// Features that were made before.
    Features(TextFeatures),
}

impl TextTile {
    /// The texts `texts` of `source`, `tile` at a time.
    ///
    /// # Errors
    /// What `source` returns.
    pub fn of_source(source: &dyn PairSource, texts: &[usize], tile: usize) -> Result<Vec<Self>> {
        let one = |chunk: &[usize]| {
            let ids: Vec<Vec<u32>> = chunk.iter().map(|&t| source.tokens(t)).collect::<Result<_>>()?;
            Ok(Self::Ids(ids.concat(), chunk.len()))
        };
        texts.chunks(tile.max(1)).map(one).collect()
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        match self {
            Self::Ids(_, texts) => *texts,
            Self::Features(features) => features.sentence.shape()[0],
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The texts as the model's tower gives them.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for ids with a model without towers; those of [`crate::models::clip::TextTower::encode`].
    pub fn features<M: TowerModel>(&self, model: &M) -> Result<TextFeatures> {
        match self {
            Self::Features(features) => Ok(features.clone()),
            Self::Ids(ids, _) => {
                let tape = Tape::inference(model.store().gpu());
                model.base().encode_texts(&tape, ids, model.needs().words)
            }
        }
    }
}

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
