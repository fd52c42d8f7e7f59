//! Search in an index of one's own videos: sentences, pictures or clips in, clips and their moments out.
//!
//! 1. The clips whose vectors are nearest to the query, exactly ([`ExactSearch`]).
//! 2. These again by their frames: the query's cosine with the mean of the frames' directions, weighted by how near each is
//!    to the query. That is the text-gated interaction of EERCF (Tian et al., AAAI 2024), which has no parameters, in
//!    CLIP's own space.
//! 3. The moment in each: the stretch of frames around the nearest one that stay nearer to the query than half way from
//!    the average of the neighbourhood to that one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::exact::{ExactSearch, dot};
use super::index::{Index, IndexEncoder, unit};
use crate::data::media::pixels::Image;
use crate::gpu::Gpu;
use crate::{Error, Result};

/// Of the softmax that weighs frames, as EERCF's gates of frames have it.
const GATE_TEMPERATURE: f64 = 0.1;
/// How many clips' lengths around a clip its moment may reach.
const REACH: f64 = 2.0;
/// Longest sentence that is read, in bytes. No model reads more than a few dozen words.
const MAX_TEXT: usize = 16 << 10;

/// What is searched for.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// What a sentence says.
    Text(String),
    /// What looks like a picture.
    Picture(Image),
    /// What is like a clip of the index, by its number; itself and what overlaps it not among it.
    Clip(usize),
}

/// How an index is searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchOptions {
    /// How many clips are wanted; without it 10, or all if there are fewer.
    pub top: Option<usize>,
    /// At most so many of one video.
    pub per_video: usize,
    /// Clips that the second stage ranks again, at least.
    pub candidates: usize,
    /// Whether the moment in each clip is looked for.
    pub moments: bool,
    /// Whether the stages are timed.
    pub timed: bool,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { top: None, per_video: 1, candidates: 200, moments: true, timed: false }
    }
}

/// A clip that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its number in the index.
    pub clip: usize,
    /// Of the second stage, which ranks: a cosine.
    pub score: f64,
    /// Of the first stage.
    pub coarse: f64,
    /// When what was searched for is seen, in seconds from the video's first frame; the clip itself if moments are not
    /// looked for.
    pub moment: Moment,
}

/// A stretch of a video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Where it starts.
    pub start: f64,
    /// Where it ends.
    pub end: f64,
    /// When the frame that is nearest to the query is shown.
    pub peak: f64,
}

/// What the stages took, together for all queries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SearchTimes {
    /// Sentences and pictures to vectors.
    pub encode: Duration,
    /// First stage.
    pub coarse: Duration,
    /// Second stage.
    pub fine: Duration,
    /// Third stage.
    pub moments: Duration,
}

/// What was found for some queries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// For each query the best clips, the best first; of equals the lower number.
    pub found: Vec<Vec<Found>>,
    /// Queries that were cut, because their sentences are longer than the model reads.
    pub cut: Vec<usize>,
    /// What the stages took, if that was asked.
    pub times: Option<SearchTimes>,
}

/// A model and an index of what it made.
pub struct Searcher {
    encoder: IndexEncoder,
    search: ExactSearch<Index>,
}

impl Searcher {
    /// Searches `index` with the model that made it, with at most `budget` bytes of vectors in GPU memory.
    ///
    /// # Errors
    /// [`Error::Argument`] for another model; as [`ExactSearch::new`].
    pub fn new(gpu: &Gpu, encoder: IndexEncoder, index: Index, budget: u64) -> Result<Self> {
        encoder.expect_made(index.spec())?;
        Ok(Self { encoder, search: ExactSearch::new(gpu, index, budget)? })
    }

    /// What is searched.
    pub fn index(&self) -> &Index {
        self.search.vectors()
    }

    /// The model.
    pub fn encoder(&self) -> &IndexEncoder {
        &self.encoder
    }

    /// What share of the 10 nearest clips the first stage would find by what the GPU reads alone, with up to 100 clips of the
    /// index as queries; `None` for an index without a clip.
    ///
    /// # Errors
    /// As [`ExactSearch::scanned_recall`].
    pub fn scanned_recall(&self) -> Result<Option<f64>> {
        let count = self.index().len();
        let step = count.div_ceil(100).max(1);
        let mut queries = Vec::new();
        for number in (0..count).step_by(step) {
            queries.extend(self.index().coarse(number, 1)?);
        }
        (count > 0).then(|| self.search.scanned_recall(&queries, count.min(10))).transpose()
    }

    /// The best clips for each query. Queries that are asked together share the model's and the index's work.
    ///
    /// # Errors
    /// [`Error::Argument`] for a blank or endless sentence, for `top` of 0 or above the number of clips, for `per_video` of
    /// 0; [`Error::IndexOutOfRange`] for a clip that there is not; [`Error::Malformed`] for damage of the index; device
    /// errors.
    pub fn search(&self, queries: &[Query], options: &SearchOptions) -> Result<Answers> {
        let top = self.expect_options(options)?;
        let mut watch = Watch { since: Instant::now(), times: SearchTimes::default() };
        let (vectors, cut) = self.encode(queries)?;
        watch.lap(|times| &mut times.encode);
        let width = self.index().spec().width;
        let mut found: Vec<Vec<Found>> = vec![Vec::new(); queries.len()];
        // Queries whose candidates are of too few videos get more of them.
        let mut open: Vec<usize> = (0..queries.len()).collect();
        let mut candidates = options.candidates.max(top).min(self.index().len());
        while !open.is_empty() && candidates > 0 {
            let asked: Vec<f32> = open.iter().flat_map(|&q| &vectors[q * width..][..width]).copied().collect();
            let nearest = self.search.search(&asked, candidates)?;
            watch.lap(|times| &mut times.coarse);
            for (&q, hits) in open.iter().zip(nearest) {
                let query = &vectors[q * width..][..width];
                let mut ranked: Vec<Found> = Vec::with_capacity(hits.len());
                for hit in hits {
                    if !self.is_part_of(&queries[q], hit.number)? {
                        ranked.push(self.rank(query, hit.number, hit.score)?);
                    }
                }
                ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.clip.cmp(&b.clip)));
                found[q] = self.spread(ranked, options.per_video, top)?;
            }
            watch.lap(|times| &mut times.fine);
            open.retain(|&q| found[q].len() < top && candidates < self.index().len());
            candidates = (candidates * 4).min(self.index().len());
        }
        if options.moments {
            for (query, found) in vectors.chunks_exact(width).zip(&mut found) {
                for found in found {
                    found.moment = self.moment(query, found.clip)?;
                }
            }
        }
        watch.lap(|times| &mut times.moments);
        Ok(Answers { found, cut, times: options.timed.then_some(watch.times) })
    }

    /// How many clips are wanted.
    fn expect_options(&self, options: &SearchOptions) -> Result<usize> {
        let clips = self.index().len();
        if options.per_video == 0 {
            return Err(Error::argument("search", "per_video", "of 0: nothing could be found"));
        }
        match options.top {
            None => Ok(clips.min(10)),
            Some(top) if (1..=clips).contains(&top) => Ok(top),
            Some(top) => {
                let why = format!("of {top}: the index holds {clips} clips, and at least one must be asked for");
                Err(Error::argument("search", "top", why))
            }
        }
    }

    /// Vectors of unit length for all queries, in their order; and those that were cut.
    fn encode(&self, queries: &[Query]) -> Result<(Vec<f32>, Vec<usize>)> {
        let width = self.index().spec().width;
        let (mut vectors, mut cut) = (vec![0.0; queries.len() * width], Vec::new());
        let mut place = |q: usize, vector: &[f32]| vectors[q * width..][..width].copy_from_slice(vector);
        let (mut texts, mut pictures) = (Vec::new(), Vec::new());
        for (q, query) in queries.iter().enumerate() {
            match query {
                Query::Text(text) if text.len() > MAX_TEXT => {
                    let why = format!("of {} bytes is longer than {MAX_TEXT}: a sentence is enough", text.len());
                    return Err(Error::argument("search", "query", why));
                }
                Query::Text(text) => texts.push((q, text.as_str())),
                Query::Picture(picture) => pictures.push((q, picture.clone())),
                Query::Clip(number) => place(q, &self.index().coarse(*number, 1)?),
            }
        }
        for group in texts.chunks(64) {
            let (found, long) = self.encoder.texts(&group.iter().map(|(_, text)| *text).collect::<Vec<_>>())?;
            group.iter().zip(found.chunks_exact(width)).for_each(|((q, _), vector)| place(*q, vector));
            cut.extend(long.into_iter().map(|at| group[at].0));
        }
        for (q, picture) in pictures {
            place(q, &self.encoder.images(std::slice::from_ref(&picture))?);
        }
        Ok((vectors, cut))
    }

    /// Whether a clip is the one that is searched by, or overlaps it.
    fn is_part_of(&self, query: &Query, number: usize) -> Result<bool> {
        let &Query::Clip(own) = query else { return Ok(false) };
        let (own, other) = (self.index().clip(own)?, self.index().clip(number)?);
        let overlap = own.clip.start < other.clip.end && other.clip.start < own.clip.end;
        Ok(own.video.id == other.video.id && overlap)
    }

    /// A candidate with its score of the second stage.
    fn rank(&self, query: &[f32], clip: usize, coarse: f64) -> Result<Found> {
        let (frames, _) = self.index().frames(clip)?;
        let found = self.index().clip(clip)?.clip;
        let moment = Moment { start: found.start, end: found.end, peak: found.start };
        Ok(Found { clip, score: gated(query, &frames), coarse, moment })
    }

    /// The first `top`, with at most so many of a video.
    fn spread(&self, ranked: Vec<Found>, per_video: usize, top: usize) -> Result<Vec<Found>> {
        let (mut taken, mut kept) = (HashMap::new(), Vec::new());
        for found in ranked {
            let of_video: &mut usize = taken.entry(self.index().clip(found.clip)?.video.id.as_str()).or_default();
            *of_video += 1;
            if *of_video <= per_video {
                kept.push(found);
            }
            if kept.len() == top {
                break;
            }
        }
        Ok(kept)
    }

    /// The stretch around the nearest frame of a clip in which frames stay near to the query.
    fn moment(&self, query: &[f32], number: usize) -> Result<Moment> {
        let clip = self.index().clip(number)?.clip;
        let reach = REACH * self.index().spec().clips.seconds;
        let (frames, times, until) = self.index().frames_between(number, clip.start - reach, clip.end + reach)?;
        let scores: Vec<f64> = frames.chunks_exact(query.len()).map(|frame| dot(query, &unit(frame))).collect();
        let inside = |i: &usize| times[*i] < clip.end && times.get(i + 1).is_none_or(|&next| next > clip.start);
        let nearest = (0..scores.len()).filter(inside).max_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
        let Some(peak) = nearest else { return Ok(Moment { start: clip.start, end: clip.end, peak: clip.start }) };
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let least = (mean + scores[peak]) / 2.0;
        let first = (0..peak).rev().take_while(|&i| scores[i] >= least).last().unwrap_or(peak);
        let last = (peak + 1..scores.len()).take_while(|&i| scores[i] >= least).last().unwrap_or(peak);
        let end = times.get(last + 1).copied().unwrap_or(until);
        Ok(Moment { start: times[first], end, peak: times[peak] })
    }
}

struct Watch {
    since: Instant,
    times: SearchTimes,
}

impl Watch {
    fn lap(&mut self, stage: fn(&mut SearchTimes) -> &mut Duration) {
        let now = Instant::now();
        *stage(&mut self.times) += now - self.since;
        self.since = now;
    }
}

/// The cosine of `query` (D) with the mean of the directions of `frames` (frames, D), each weighted by the softmax of its
/// cosine with the query.
fn gated(query: &[f32], frames: &[f32]) -> f64 {
    let directions: Vec<Vec<f32>> = frames.chunks_exact(query.len()).map(unit).collect();
    let cosines: Vec<f64> = directions.iter().map(|frame| dot(query, frame)).collect();
    let most = cosines.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut mean = vec![0.0; query.len()];
    for (direction, cosine) in directions.iter().zip(&cosines) {
        let weight = ((cosine - most) / GATE_TEMPERATURE).exp();
        mean.iter_mut().zip(direction).for_each(|(sum, &value)| *sum += weight * f64::from(value));
    }
    let length = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
    let along: f64 = mean.iter().zip(query).map(|(v, &q)| v * f64::from(q)).sum();
    // Frames that cancel each other out have no direction.
    if length > 0.0 { along / length } else { 0.0 }
}
