//! Search in an index of one's own videos: sentences, pictures or clips in, clips and their moments out.
//!
//! 1. The clips whose vectors are nearest to the query, exactly ([`ExactSearch`]).
//! 2. These again by the model's own second stage ([`IndexModel::rerank`]), which sees their frames.
//! 3. The moment in each: the stretch of frames around the nearest one that stay nearer to the query than half way from
//!    the average of the neighbourhood to that one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::exact::{ExactSearch, dot};
use super::index::{Clip, FrameVectors, Index, IndexModel, QueryVectors, mean_direction, unit};
use crate::data::media::pixels::Image;
use crate::gpu::Gpu;
use crate::{Error, Result};

/// How many clips' lengths around a clip its moment may reach.
const REACH: f64 = 2.0;
/// Longest sentence that is read, in bytes. No model reads more than a few dozen words.
pub const MAX_TEXT: usize = 16 << 10;
/// Sentences that are encoded, and clips that are ranked again, at once.
const TOGETHER: usize = 64;

/// What is searched for.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// What a sentence says.
    Text(String),
    /// What looks like a picture.
    Picture(Image),
    /// The same, of its pixels as the model's preprocessing makes them, which are few.
    Pixels(Vec<u8>),
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
    /// Clips that the second stage ranks again.
    pub candidates: usize,
    /// Whether more of them are taken where they are of too few videos.
    pub widen: bool,
    /// Whether the moment in each clip is looked for.
    pub moments: bool,
    /// Whether the stages are timed.
    pub timed: bool,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { top: None, per_video: 1, candidates: 200, widen: true, moments: true, timed: false }
    }
}

/// A clip that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its number in the index.
    pub clip: usize,
    /// Of the second stage, which ranks: a cosine for a plain CLIP or its kin, else the model's own score.
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
    model: Box<dyn IndexModel>,
    search: ExactSearch<Index>,
}

impl Searcher {
    /// Searches `index` with the model that made it, with at most `budget` bytes of vectors in GPU memory.
    ///
    /// # Errors
    /// [`Error::Argument`] for another model; as [`ExactSearch::new`].
    pub fn new(gpu: &Gpu, model: Box<dyn IndexModel>, index: Index, budget: u64) -> Result<Self> {
        model.expect_made(index.spec())?;
        Ok(Self { model, search: ExactSearch::new(gpu, index, budget)? })
    }

    /// What is searched.
    pub fn index(&self) -> &Index {
        self.search.vectors()
    }

    /// The model.
    pub fn model(&self) -> &dyn IndexModel {
        &*self.model
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
        let mut found: Vec<Vec<Found>> = vec![Vec::new(); queries.len()];
        // Queries whose candidates are of too few videos get more of them, unless there are no more to be had.
        let enough: Vec<usize> =
            queries.iter().map(|query| self.reachable(query, options.per_video, top)).collect::<Result<_>>()?;
        let mut open: Vec<usize> = (0..queries.len()).collect();
        let mut candidates = options.candidates.max(top).min(self.index().len());
        while !open.is_empty() && candidates > 0 {
            let asked: Vec<f32> = open.iter().flat_map(|&q| &vectors[q].coarse).copied().collect();
            let nearest = self.search.search(&asked, candidates)?;
            watch.lap(|times| &mut times.coarse);
            for (&q, hits) in open.iter().zip(nearest) {
                let mut listed = Vec::with_capacity(hits.len());
                for hit in hits {
                    if !self.is_part_of(&queries[q], hit.number)? {
                        listed.push((hit.number, hit.score));
                    }
                }
                found[q] = self.spread(self.rank(&vectors[q], &listed)?, options.per_video, top)?;
            }
            watch.lap(|times| &mut times.fine);
            open.retain(|&q| options.widen && found[q].len() < enough[q] && candidates < self.index().len());
            candidates = (candidates * 4).min(self.index().len());
        }
        if options.moments {
            for (query, found) in vectors.iter().zip(&mut found) {
                for found in found {
                    found.moment = self.moment(&query.frame, found.clip)?;
                }
            }
        }
        watch.lap(|times| &mut times.moments);
        Ok(Answers { found, cut, times: options.timed.then_some(watch.times) })
    }

    /// How many of `top` clips there are to be had, at least, with at most so many of a video.
    fn reachable(&self, query: &Query, per_video: usize, top: usize) -> Result<usize> {
        let index = self.index();
        let of = |video: &str| Ok::<usize, Error>(index.clips_of(video)?.len().min(per_video));
        let own = match query {
            // Itself and what overlaps it are not looked for: perhaps all of its video.
            Query::Clip(number) => of(&index.clip(*number)?.video.id)?,
            _ => 0,
        };
        let mut all = 0usize;
        for video in index.videos() {
            all += of(&video.id)?;
            if all - own.min(all) >= top {
                return Ok(top);
            }
        }
        Ok(all - own)
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

    /// The moments of one video that fit a query best, at most `top`, the best first; they do not overlap. And whether the
    /// query was cut.
    ///
    /// # Errors
    /// As [`Searcher::search`]; [`Error::Missing`] for a video that the index does not hold.
    pub fn moments(&self, query: &Query, video: &str, top: usize) -> Result<(Vec<Found>, bool)> {
        let clips = self.index().clips_of(video)?;
        let (vectors, cut) = self.encode(std::slice::from_ref(query))?;
        let (vectors, mut listed) = (&vectors[0], Vec::new());
        for number in clips {
            listed.push((number, dot(&vectors.coarse, &self.index().coarse(number, 1)?)));
        }
        let mut kept: Vec<Found> = Vec::new();
        for mut found in self.rank(vectors, &listed)? {
            found.moment = self.moment(&vectors.frame, found.clip)?;
            let Moment { start, end, .. } = found.moment;
            if kept.iter().all(|other| other.moment.end <= start || end <= other.moment.start) {
                kept.push(found);
            }
            if kept.len() >= top {
                break;
            }
        }
        Ok((kept, !cut.is_empty()))
    }

    /// Vectors of unit length of all sentences (n, D), and which of them were cut.
    ///
    /// # Errors
    /// As [`Searcher::search`].
    pub fn encode_texts(&self, texts: &[&str]) -> Result<(Vec<QueryVectors>, Vec<usize>)> {
        let (mut vectors, mut cut) = (Vec::with_capacity(texts.len()), Vec::new());
        for text in texts {
            if text.len() > MAX_TEXT {
                let why = format!("of {} bytes is longer than {MAX_TEXT}: a sentence is enough", text.len());
                return Err(Error::argument("search", "query", why));
            }
            if text.trim().is_empty() {
                return Err(Error::argument("search", "query", "is blank; say what to look for"));
            }
        }
        for group in texts.chunks(TOGETHER) {
            let (some, long) = self.model.texts(group)?;
            cut.extend(long.into_iter().map(|at| vectors.len() + at));
            vectors.extend(some);
        }
        Ok((vectors, cut))
    }

    /// All queries as vectors, in their order; and those that were cut.
    fn encode(&self, queries: &[Query]) -> Result<(Vec<QueryVectors>, Vec<usize>)> {
        let texts = queries.iter().enumerate().filter_map(|(q, query)| match query {
            Query::Text(text) => Some((q, text.as_str())),
            _ => None,
        });
        let (places, texts): (Vec<usize>, Vec<&str>) = texts.unzip();
        let (sentences, cut) = self.encode_texts(&texts)?;
        let (mut sentences, width) = (sentences.into_iter(), self.model.width());
        let one = |query: &Query| match query {
            Query::Text(_) => Ok(sentences.next().unwrap_or_default()),
            Query::Picture(picture) => self.model.picture(&self.model.processor().preprocess.pixels(picture)?),
            Query::Pixels(pixels) => {
                let side = self.model.processor().preprocess.crop;
                match pixels.len() == 3 * side * side {
                    true => self.model.picture(pixels),
                    false => {
                        Err(Error::argument("search", "query", format!("has no picture of {side} x {side} pixels")))
                    }
                }
            }
            Query::Clip(number) => {
                let (frames, _) = self.index().frames(*number)?;
                let (coarse, frame) = (self.index().coarse(*number, 1)?, mean_direction(&frames, width));
                Ok(QueryVectors { coarse, frame, text: Vec::new() })
            }
        };
        Ok((queries.iter().map(one).collect::<Result<_>>()?, cut.into_iter().map(|at| places[at]).collect()))
    }

    /// Whether a clip is the one that is searched by, or overlaps it.
    fn is_part_of(&self, query: &Query, number: usize) -> Result<bool> {
        let &Query::Clip(own) = query else { return Ok(false) };
        let (own, other) = (self.index().clip(own)?, self.index().clip(number)?);
        let overlap = own.clip.start < other.clip.end && other.clip.start < own.clip.end;
        Ok(own.video.id == other.video.id && overlap)
    }

    /// Candidates, with their scores of the first stage, by those of the second; of equals the lower number comes first.
    fn rank(&self, query: &QueryVectors, listed: &[(usize, f64)]) -> Result<Vec<Found>> {
        let mut ranked = Vec::with_capacity(listed.len());
        for part in listed.chunks(TOGETHER) {
            let vectors = |&(clip, _): &(usize, f64)| {
                Ok(FrameVectors { frames: self.index().frames(clip)?.0, patches: self.index().patches(clip)? })
            };
            let scores = self.model.rerank(query, &part.iter().map(vectors).collect::<Result<Vec<_>>>()?)?;
            for (&(clip, coarse), score) in part.iter().zip(scores) {
                let Clip { start, end, .. } = self.index().clip(clip)?.clip;
                ranked.push(Found { clip, score, coarse, moment: Moment { start, end, peak: start } });
            }
        }
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.clip.cmp(&b.clip)));
        Ok(ranked)
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
