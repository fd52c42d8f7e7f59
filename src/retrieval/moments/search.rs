//! One call from sentences to moments: video scores, the best videos, their spans.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::segment::Segment;
use super::{MomentIndex, Prediction, nms};
use crate::autograd::{Tape, Var};
use crate::data::moments::pad_tokens;
use crate::kernels::elementwise::binary::{self, Binary};
use crate::kernels::elementwise::permute;
use crate::kernels::elementwise::unary::{self, Unary};
use crate::kernels::ranking::topk;
use crate::kernels::rows::l2_normalize;
use crate::kernels::similarity::{max_similarity, spans};
use crate::models::Model;
use crate::models::reloclnet::{Padding, Reloclnet, ReloclnetConfig};
use crate::tensor::{Array, Tensor};
use crate::{Error, Result};

/// How moments are searched; the default is the official configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MomentSearchOptions {
    /// A video's weight is exp(alpha · score).
    pub alpha: f32,
    /// Videos in which moments are searched, and that are listed: the highest scores.
    pub max_videos: usize,
    /// The shortest moment: its end is at least so many clips after its start.
    pub min_length: usize,
    /// Its end is fewer clips than this after its start.
    pub max_length: usize,
    /// Moments that are found for a query, before suppression.
    pub top: usize,
    /// Suppresses moments that overlap a better one of the same video by more than this IoU; `None` keeps all.
    pub nms: Option<f64>,
    /// Moments that are kept for a query at last.
    pub keep: usize,
    /// Queries that are searched together.
    pub batch: usize,
}

impl Default for MomentSearchOptions {
    fn default() -> Self {
        Self { alpha: 30.0, max_videos: 100, min_length: 2, max_length: 16, top: 200, nms: None, keep: 100, batch: 50 }
    }
}

impl MomentSearchOptions {
    /// Refuses options that find nothing, or that cannot be computed.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check(&self) -> Result<()> {
        let bad = |argument: &'static str, why: String| Err(Error::Argument { op: "MomentSearch", argument, why });
        if self.min_length >= self.max_length {
            return bad("max_length", format!("of {} allows no moment of {}", self.max_length, self.min_length));
        }
        if self.top == 0 || self.top > spans::MAX_TOP {
            return bad("top", format!("of {} is not from 1 to {}", self.top, spans::MAX_TOP));
        }
        if self.max_videos == 0 || self.max_videos > topk::MAX_K {
            return bad("max_videos", format!("of {} is not from 1 to {}", self.max_videos, topk::MAX_K));
        }
        // Beyond, exp(alpha · score) and products with it leave the range of f32.
        if !(-80.0..=80.0).contains(&self.alpha) {
            return bad("alpha", format!("of {} is not from -80 to 80", self.alpha));
        }
        if self.keep == 0 || self.keep > self.top {
            return bad("keep", format!("of {} is not from 1 to the {} that are found", self.keep, self.top));
        }
        if let Some(iou) = self.nms.filter(|iou| !(0.0..=1.0).contains(iou)) {
            return bad("nms", format!("of {iou} is not from 0 to 1"));
        }
        Ok(())
    }
}

/// Whether features of this shape are a query for a model of `config`.
pub(super) fn is_query(config: &ReloclnetConfig, shape: &[usize]) -> bool {
    matches!(*shape, [tokens, width] if (1..=config.max_tokens).contains(&tokens) && width == config.query_dim)
}

/// The shape of a query, in words.
pub(super) fn expected_query(config: &ReloclnetConfig) -> String {
    format!("(tokens, {}) with 1 to {} tokens", config.query_dim, config.max_tokens)
}

/// Encoded queries on the GPU.
#[derive(Clone, Debug)]
pub struct QueryVectors {
    /// For each stream (Nq, D).
    streams: Vec<Tensor>,
    /// The same as the span predictor compares them.
    span_streams: Vec<Tensor>,
}

impl QueryVectors {
    /// Encodes token features, (tokens, width) each.
    ///
    /// # Errors
    /// [`Error::Argument`] for no query; [`Error::NonFinite`]; [`Error::Shape`] for features that are not of the model's
    /// width, for no tokens, and for more than the model has positions.
    pub fn encode(model: &Reloclnet, queries: &[&Array]) -> Result<Self> {
        let gpu = model.store().gpu();
        if let Some(query) = queries.iter().find(|query| !is_query(model.config(), query.shape())) {
            return Err(Error::shape("QueryVectors::encode", "queries", expected_query(model.config()), query.shape()));
        }
        if let Some((query, (count, first))) = queries.iter().enumerate().find_map(|(i, q)| Some((i, q.non_finite()?)))
        {
            let row = first / queries[query].shape().last().copied().unwrap_or(1).max(1);
            let place = format!("query {query}, row {row}");
            return Err(Error::NonFinite { origin: "query features".into(), place, count });
        }
        let (tokens, mask) = pad_tokens(queries)?;
        let tape = Tape::inference(gpu);
        let tokens = tape.constant(Tensor::from_array(gpu, &tokens)?);
        let vectors = model.encode_query(&tokens, &Tensor::from_array(gpu, &mask)?)?;
        Self::new(model, &vectors.into_iter().map(Var::into_value).collect::<Vec<_>>())
    }

    /// Vectors that were encoded elsewhere, such as by PyTorch with the parameters of `model`: (Nq, D) for each stream.
    ///
    /// # Errors
    /// [`Error::Argument`] for another number of streams than the model has; [`Error::ShapeMismatch`].
    pub fn new(model: &Reloclnet, streams: &[Tensor]) -> Result<Self> {
        let tape = Tape::inference(model.store().gpu());
        let vars: Vec<Var> = streams.iter().map(|t| tape.constant(t.clone())).collect();
        let span_streams = model.span_queries(&vars)?.into_iter().map(Var::into_value).collect();
        Ok(Self { streams: streams.to_vec(), span_streams })
    }

    /// The number of queries.
    pub fn len(&self) -> usize {
        self.streams.first().map_or(0, Tensor::rows)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a part of a search took.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// "encode queries", "score videos", "choose videos", "predict spans", "decode spans".
    pub name: &'static str,
    /// From the end of the part before to the device's answer.
    pub time: Duration,
}

/// What a search found, a list a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundMoments {
    /// Videos (VR): times are 0.
    pub videos: Vec<Vec<Prediction>>,
    /// Moments in all videos (VCMR).
    pub moments: Vec<Vec<Prediction>>,
}

/// A model and an index, to be searched.
pub struct MomentSearch<'a> {
    model: &'a Reloclnet,
    pub(super) index: &'a MomentIndex,
    pub(super) options: MomentSearchOptions,
}

impl<'a> MomentSearch<'a> {
    /// Checks that the index is of this model.
    ///
    /// # Errors
    /// [`Error::Argument`] if another model encoded the videos, or for options that find nothing.
    pub fn new(model: &'a Reloclnet, index: &'a MomentIndex, options: MomentSearchOptions) -> Result<Self> {
        index.expect_model(model)?;
        options.check()?;
        Ok(Self { model, index, options })
    }

    /// The best videos and moments of the whole index for each of `queries`: token features, (tokens, width).
    ///
    /// # Errors
    /// As [`QueryVectors::encode`]; device errors.
    pub fn search(&self, queries: &[&Array]) -> Result<FoundMoments> {
        self.search_with(queries, &mut Watch::default())
    }

    /// As [`MomentSearch::search`], and the time of each stage, summed over batches of queries. It waits for the device
    /// after every stage, so it is slower.
    pub fn search_timed(&self, queries: &[&Array]) -> Result<(FoundMoments, Vec<Stage>)> {
        let mut watch = Watch::of(&self.index.gpu);
        Ok((self.search_with(queries, &mut watch)?, watch.stages))
    }

    pub(super) fn search_with(&self, queries: &[&Array], watch: &mut Watch<'_>) -> Result<FoundMoments> {
        let mut found = FoundMoments::default();
        for batch in queries.chunks(self.options.batch.max(1)) {
            watch.restart();
            let vectors = QueryVectors::encode(self.model, batch)?;
            watch.lap("encode queries")?;
            self.search_batch(&vectors, watch, &mut found)?;
        }
        Ok(found)
    }

    /// As [`MomentSearch::search`], for queries that are encoded, all of them together.
    pub fn search_vectors(&self, queries: &QueryVectors) -> Result<FoundMoments> {
        let mut found = FoundMoments::default();
        self.search_batch(queries, &mut Watch::default(), &mut found)?;
        Ok(found)
    }

    /// Adds what is found for `vectors`.
    fn search_batch(&self, vectors: &QueryVectors, watch: &mut Watch<'_>, found: &mut FoundMoments) -> Result<()> {
        let scores = self.video_scores(vectors)?;
        watch.lap("score videos")?;
        let count = self.options.max_videos.min(self.index.videos().len());
        let (best, places) = topk::forward(&scores, count)?;
        let scaled = unary::forward(Unary::Affine { scale: self.options.alpha, shift: 0.0 }, &best)?;
        let weights = unary::forward(Unary::Exp, &scaled)?;
        let (places, weight_values) = (places.to_u32()?, weights.to_vec()?);
        watch.lap("choose videos")?;
        let (starts, ends) = self.probabilities(vectors, &places)?;
        watch.lap("predict spans")?;
        let moments = self.decode((&starts, &ends), &weights, &places)?;
        watch.lap("decode spans")?;
        let rows = places.chunks_exact(count).zip(weight_values.chunks_exact(count));
        found.videos.extend(rows.map(|(places, weights)| {
            let video = |(&place, &score): (&u32, &f32)| {
                let video = self.index.videos()[place as usize].index;
                Prediction { video, start: 0.0, end: 0.0, score }
            };
            places.iter().zip(weights).map(video).collect()
        }));
        found.moments.extend(moments);
        Ok(())
    }

    /// The best moments of each query in one given video (SVMR): `videos` are places in [`MomentIndex::videos`].
    ///
    /// # Errors
    /// As [`MomentSearch::search`]; [`Error::Argument`] unless there is a video for each query;
    /// [`Error::IndexOutOfRange`].
    pub fn localize(&self, queries: &[&Array], videos: &[usize]) -> Result<Vec<Vec<Prediction>>> {
        if queries.len() != videos.len() {
            let why = format!("are {} for {} queries", videos.len(), queries.len());
            return Err(Error::Argument { op: "MomentSearch::localize", argument: "videos", why });
        }
        let batch = self.options.batch.max(1);
        let mut found = Vec::new();
        for (queries, videos) in queries.chunks(batch).zip(videos.chunks(batch)) {
            found.extend(self.localize_vectors(&QueryVectors::encode(self.model, queries)?, videos)?);
        }
        Ok(found)
    }

    /// As [`MomentSearch::localize`], for queries that are encoded, all of them together.
    pub fn localize_vectors(&self, queries: &QueryVectors, videos: &[usize]) -> Result<Vec<Vec<Prediction>>> {
        if queries.len() != videos.len() {
            let why = format!("are {} for {} queries", videos.len(), queries.len());
            return Err(Error::Argument { op: "MomentSearch::localize", argument: "videos", why });
        }
        let len = self.index.videos().len();
        if let Some(&video) = videos.iter().find(|&&v| v >= len) {
            return Err(Error::IndexOutOfRange { op: "MomentSearch::localize", index: video as u64, len: len as u64 });
        }
        let places: Vec<u32> = videos.iter().map(|&v| v as u32).collect();
        let (starts, ends) = self.probabilities(queries, &places)?;
        let ones = Tensor::from_slice(&self.index.gpu, [places.len(), 1], &vec![1.0; places.len()])?;
        self.decode((&starts, &ends), &ones, &places)
    }

    /// The scores of every query and video, (Nq, Nv), in [-1, 1].
    pub fn video_scores(&self, queries: &QueryVectors) -> Result<Tensor> {
        let divisor = l2_normalize::Divisor::Clamped { eps: 1e-12 };
        let unit = queries.streams.iter().map(|q| Ok(l2_normalize::forward(q, divisor)?.0));
        let unit: Vec<Tensor> = unit.collect::<Result<_>>()?;
        let scale = 1.0 / unit.len() as f32;
        let score = |segment: &Segment| -> Result<Tensor> {
            let streams =
                unit.iter().zip(&segment.clips).zip(&segment.scales).map(|((q, clips), scale)| {
                    Ok(max_similarity::forward(q, clips, Some(&segment.mask), Some(scale))?.0)
                });
            let sum = streams.reduce(|sum, scores| binary::forward(Binary::Add, &sum?, &scores?));
            let none = || Error::Argument { op: "MomentSearch", argument: "queries", why: "have no stream".into() };
            unary::forward(Unary::Affine { scale, shift: 0.0 }, &sum.ok_or_else(none)??)
        };
        let parts: Vec<Tensor> = self.index.segments.iter().map(score).collect::<Result<_>>()?;
        permute::concat(&parts.iter().collect::<Vec<_>>(), 1)
    }

    /// The probabilities of starts and ends (Nq, K, positions) in the videos at `places`, K for each query.
    fn probabilities(&self, queries: &QueryVectors, places: &[u32]) -> Result<(Tensor, Tensor)> {
        let gpu = &self.index.gpu;
        let shape = [queries.len(), places.len() / queries.len().max(1)];
        let [start, end] = self.model.span_taps()?;
        let mut total: Option<(Tensor, Tensor)> = None;
        for segment in &self.index.segments {
            let range = segment.first as u32..(segment.first + segment.len()) as u32;
            // Videos of other segments are none here, and get probabilities of 0.
            let here = |&p: &u32| if range.contains(&p) { p - range.start } else { u32::MAX };
            let here: Vec<u32> = places.iter().map(here).collect();
            if here.iter().all(|&p| p == u32::MAX) {
                continue;
            }
            let stream = |i: usize| spans::Stream { queries: &queries.span_streams[i], clips: &segment.clips[i] };
            let search = spans::Search {
                first: stream(0),
                second: (segment.clips.len() > 1).then(|| stream(1)),
                mask: &segment.mask,
                candidates: &Tensor::from_u32(gpu, shape, &here)?,
            };
            let masked = self.model.config().padding == Padding::Masked;
            let predictor = spans::Predictor { start: &start, end: &end, mask_similarity: masked };
            let (starts, ends) = spans::probabilities(&search, &predictor)?;
            match &total {
                None => total = Some((starts, ends)),
                Some((all_starts, all_ends)) => {
                    binary::add_assign(all_starts, &starts)?;
                    binary::add_assign(all_ends, &ends)?;
                }
            }
        }
        let none = || Error::Argument { op: "MomentSearch", argument: "places", why: "are in no segment".into() };
        total.ok_or_else(none)
    }

    /// The best moments of each query, in seconds.
    fn decode(
        &self,
        (starts, ends): (&Tensor, &Tensor),
        weights: &Tensor,
        places: &[u32],
    ) -> Result<Vec<Vec<Prediction>>> {
        let o = &self.options;
        let (scores, spans) = spans::decode(starts, ends, weights, o.min_length..o.max_length, o.top)?;
        let (scores, spans) = (scores.to_vec()?, spans.to_u32()?);
        let candidates = starts.shape()[1];
        let rows = scores.chunks_exact(o.top).zip(spans.chunks_exact(3 * o.top)).zip(places.chunks_exact(candidates));
        let moment = |((&score, span), places): ((&f32, &[u32]), &[u32])| {
            let video = &self.index.videos()[places[span[0] as usize] as usize];
            let at = |clip: u32| (f64::from(clip) * video.seconds_per_clip) as f32;
            Prediction { video: video.index, start: at(span[1]), end: at(span[2]), score }
        };
        let mut lists = Vec::with_capacity(places.len() / candidates.max(1));
        for ((scores, spans), places) in rows {
            let real = scores.iter().zip(spans.chunks_exact(3)).take_while(|(score, _)| **score > 0.0);
            let mut list: Vec<Prediction> = real.map(|row| moment((row, places))).collect();
            if let Some(threshold) = o.nms {
                list = nms::suppress(&list, threshold, o.keep);
            }
            list.truncate(o.keep);
            lists.push(list);
        }
        Ok(lists)
    }
}

/// Measures stages, each to the end of its work on the device; without a device it does nothing.
#[derive(Default)]
pub(super) struct Watch<'a> {
    running: Option<(&'a crate::Gpu, Instant)>,
    /// Sums by name.
    pub stages: Vec<Stage>,
}

impl<'a> Watch<'a> {
    pub fn of(gpu: &'a crate::Gpu) -> Self {
        Self { running: Some((gpu, Instant::now())), stages: Vec::new() }
    }

    /// Leaves out what came since the last stage.
    fn restart(&mut self) {
        self.running = self.running.map(|(gpu, _)| (gpu, Instant::now()));
    }

    fn lap(&mut self, name: &'static str) -> Result<()> {
        let Some((gpu, last)) = &mut self.running else { return Ok(()) };
        gpu.synchronize()?;
        let time = last.elapsed();
        *last = Instant::now();
        match self.stages.iter_mut().find(|s| s.name == name) {
            Some(sum) => sum.time += time,
            None => self.stages.push(Stage { name, time }),
        }
        Ok(())
    }
}
