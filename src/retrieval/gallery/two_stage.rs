//! Coarse-to-fine search: the first stage ranks all videos by one product of vectors and keeps k for each text; the second
//! computes the fine scores of those alone.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Gallery, TextTile};
use crate::autograd::{Tape, Var, concat};
use crate::kernels::linear::matmul;
use crate::kernels::ranking::topk;
use crate::models::clip::TextFeatures;
use crate::models::pairing::PairList;
use crate::models::towers::TwoStageModel;
use crate::tensor::{Array, Tensor};
use crate::{Error, Result};

/// Scores of the first stage that are held at once, in bytes.
const TILE_BYTES: usize = 16 << 20;
/// What the official code adds to candidates, so that they come before all other videos.
const CANDIDATE: f32 = 100.0;
/// Texts that are searched with together hold so many bytes of features, or a tile more: the more there are, the more of
/// them have a candidate in common.
const GROUP_BYTES: usize = 64 << 20;
/// Dot products of pairs that are held at once, in bytes.
const PAIR_BYTES: usize = 16 << 20;

/// A candidate with its scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Its number in the gallery.
    pub video: u32,
    /// Of the first stage: the product of the vectors, without the factor of similarities.
    pub coarse: f32,
    /// Of the second stage.
    pub score: f32,
}

/// What the stages took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StageTimes {
    /// Encoding of texts.
    pub encode: Duration,
    /// First stage.
    pub coarse: Duration,
    /// Second stage.
    pub fine: Duration,
    /// Multiply-adds of the first stage, dot products with features alone.
    pub coarse_multiply_adds: u64,
    /// Multiply-adds of the second stage.
    pub fine_multiply_adds: u64,
}

/// What the video-to-text direction of an evaluation compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VideoToText {
    /// The text-to-video matrix, transposed, in which the candidates of texts stand 100 above all other pairs: the
    /// official code.
    #[default]
    Official,
    /// Candidates of their own: the k best texts of each video in the first stage.
    Symmetric,
}

/// The result of searching with many texts, as matrices for the metrics.
pub struct Reranked {
    /// (T, N): the first stage's scores, with the candidates lifted above them by their second.
    pub text_to_video: Array,
    /// (T, N), for the other direction.
    pub video_to_text: Array,
    /// What the stages took, for text-to-video.
    pub times: StageTimes,
}

impl<V> Gallery<V> {
    /// For each text its `k` candidates, the best of the second stage first. The official code takes 50 (`rerantopk`).
    ///
    /// # Errors
    /// [`crate::Error::LimitExceeded`] for more than 1,024 candidates; those of the model.
    pub fn search<M: TwoStageModel<Videos = V>>(
        &self,
        model: &M,
        texts: &[TextTile],
        k: usize,
    ) -> Result<Vec<Vec<Candidate>>> {
        self.search_with(model, texts, k, None)
    }

    /// As [`Gallery::search`], and what the stages took. It waits for the device between them, so it is slower.
    pub fn search_timed<M: TwoStageModel<Videos = V>>(
        &self,
        model: &M,
        texts: &[TextTile],
        k: usize,
    ) -> Result<(Vec<Vec<Candidate>>, StageTimes)> {
        let mut times = StageTimes::default();
        let found = self.search_with(model, texts, k, Some(&mut times))?;
        let [coarse, fine] = self.segments().first().map_or([0, 0], |s| model.pair_cost(&s.videos));
        times.coarse_multiply_adds = coarse * (found.len() * self.len()) as u64;
        times.fine_multiply_adds = fine * found.iter().map(Vec::len).sum::<usize>() as u64;
        Ok((found, times))
    }

    fn search_with<M: TwoStageModel<Videos = V>>(
        &self,
        model: &M,
        texts: &[TextTile],
        k: usize,
        mut times: Option<&mut StageTimes>,
    ) -> Result<Vec<Vec<Candidate>>> {
        if self.is_empty() {
            return Ok(texts.iter().flat_map(|t| vec![Vec::new(); t.len()]).collect());
        }
        let (videos, mut found, mut left) = (self.coarse(model)?, Vec::new(), texts);
        while !left.is_empty() {
            let mut clock = Instant::now();
            let mut lap = |stage: fn(&mut StageTimes) -> &mut Duration| -> Result<()> {
                let Some(times) = times.as_deref_mut() else { return Ok(()) };
                model.store().gpu().synchronize()?;
                *stage(times) += clock.elapsed();
                clock = Instant::now();
                Ok(())
            };
            let (features, taken) = group(model, left)?;
            left = &left[taken..];
            lap(|t| &mut t.encode)?;
            let prepared = model.prepare_texts(&features)?;
            let nearest = nearest(model.coarse_texts(&prepared).value(), &videos, k)?;
            lap(|t| &mut t.coarse)?;
            let listed: Vec<Vec<u32>> = nearest.iter().map(|row| row.iter().map(|c| c.0).collect()).collect();
            let fine = self.fine_of(model, &prepared, &listed)?;
            lap(|t| &mut t.fine)?;
            for (row, fine) in nearest.into_iter().zip(fine) {
                let candidate = |((video, coarse), score)| Candidate { video, coarse, score };
                let mut row: Vec<Candidate> = row.into_iter().zip(fine).map(candidate).collect();
                // Stable: of equals, the better one of the first stage comes first.
                row.sort_by(|a, b| b.score.total_cmp(&a.score));
                found.push(row);
            }
        }
        Ok(found)
    }

    /// The second stage's scores of each text and the videos that are listed for it: of these pairs alone, video by video.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] unless there is a list for each text; [`Error::IndexOutOfRange`] for a video that there is
    /// not; those of the model.
    pub fn fine<M: TwoStageModel<Videos = V>>(
        &self,
        model: &M,
        texts: &TextFeatures,
        listed: &[Vec<u32>],
    ) -> Result<Vec<Vec<f32>>> {
        if texts.sentence.shape()[0] != listed.len() {
            let why = "there must be a list for each text";
            return Err(Error::mismatch("Gallery::fine", texts.sentence.shape(), &[listed.len()], why));
        }
        self.fine_of(model, &model.prepare_texts(texts)?, listed)
    }

    /// [`Gallery::fine`] of as many texts as lists.
    fn fine_of<M: TwoStageModel<Videos = V>>(
        &self,
        model: &M,
        texts: &M::Texts,
        listed: &[Vec<u32>],
    ) -> Result<Vec<Vec<f32>>> {
        // Video, text, and the place in the text's list: pairs of a video side by side.
        let place = |text: usize, place: usize| (listed[text][place], text, place);
        let mut places: Vec<(u32, usize, usize)> =
            (0..listed.len()).flat_map(|text| (0..listed[text].len()).map(move |at| place(text, at))).collect();
        places.sort_unstable();
        if let Some(&(video, ..)) = places.last().filter(|(video, ..)| *video as usize >= self.len()) {
            return Err(Error::IndexOutOfRange { op: "Gallery::fine", index: video.into(), len: self.len() as u64 });
        }
        let mut parts = Vec::new();
        for segment in self.segments() {
            let before = |end: usize| places.partition_point(|(video, ..)| (*video as usize) < end);
            let here = &places[before(segment.first)..before(segment.first + segment.count)];
            let width = model.coarse_videos(&segment.videos).value().width();
            let dots = model.pair_cost(&segment.videos)[1] as usize / width.max(1);
            for part in here.chunks((PAIR_BYTES / (4 * dots.max(1))).max(1)) {
                let pair = |&(video, text, _): &(u32, usize, usize)| [text as u32, video - segment.first as u32];
                let heads = model.compare_pairs(texts, &segment.videos, &PairList::new(part.iter().map(pair)))?;
                parts.push(model.similarity(&heads)?.into_value());
            }
        }
        // Read at once, so that the device has the next part while it computes one.
        let values = Tensor::read_all(&parts.iter().collect::<Vec<_>>())?.concat();
        let mut scores: Vec<Vec<f32>> = listed.iter().map(|ids| vec![0.0; ids.len()]).collect();
        places.iter().zip(values).for_each(|(&(_, text, place), value)| scores[text][place] = value);
        Ok(scores)
    }

    /// Searches with all texts and gives matrices for the metrics, officially lifted: a candidate has 100 plus its second
    /// score, every other video its first.
    pub fn rerank_all<M: TwoStageModel<Videos = V>>(
        &self,
        model: &M,
        texts: &[TextTile],
        k: usize,
        direction: VideoToText,
    ) -> Result<Reranked> {
        let coarse = self.coarse_scores(model, texts)?;
        let (found, times) = self.search_timed(model, texts, k)?;
        let mut text_to_video = coarse.clone();
        for (text, row) in found.iter().enumerate() {
            for f in row {
                text_to_video.data_mut()[text * self.len() + f.video as usize] = CANDIDATE + f.score;
            }
        }
        let video_to_text = match direction {
            VideoToText::Official => text_to_video.clone(),
            VideoToText::Symmetric => self.rerank_texts(model, texts, coarse, k)?,
        };
        Ok(Reranked { text_to_video, video_to_text, times })
    }

    /// The first stage's scores of all pairs (T, N), times the factor of similarities.
    pub fn coarse_scores<M: TwoStageModel<Videos = V>>(&self, model: &M, texts: &[TextTile]) -> Result<Array> {
        let rows: usize = texts.iter().map(TextTile::len).sum();
        if self.is_empty() {
            return Ok(Array::zeros([rows, 0]));
        }
        let videos = self.coarse(model)?;
        let tape = Tape::inference(model.store().gpu());
        let scale = model.base().scale(&tape)?.value().item()?;
        let mut data = Vec::with_capacity(rows * self.len());
        for tile in texts {
            let queries = model.coarse_texts(&model.prepare_texts(&tile.features(model)?)?);
            let options = matmul::Options { transpose_b: true, alpha: scale, ..matmul::Options::default() };
            data.extend(matmul::forward(queries.value(), &videos, &options)?.y.to_vec()?);
        }
        Array::new([rows, self.len()], data)
    }

    /// `coarse` (T, N) with the k best texts of each video lifted by their second score.
    fn rerank_texts<M: TwoStageModel<Videos = V>>(
        &self,
        model: &M,
        texts: &[TextTile],
        mut coarse: Array,
        k: usize,
    ) -> Result<Array> {
        let (rows, videos) = (coarse.shape()[0], self.len());
        let mut listed = vec![Vec::new(); rows];
        for video in 0..videos {
            let mut order: Vec<usize> = (0..rows).collect();
            let score = |text: usize| coarse.data()[text * videos + video];
            order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
            order.into_iter().take(k).for_each(|text| listed[text].push(video as u32));
        }
        let mut first = 0;
        for tile in texts {
            let listed = &listed[first..first + tile.len()];
            let fine = self.fine(model, &tile.features(model)?, listed)?;
            for (i, (ids, scores)) in listed.iter().zip(fine).enumerate() {
                for (&video, score) in ids.iter().zip(scores) {
                    coarse.data_mut()[(first + i) * videos + video as usize] = CANDIDATE + score;
                }
            }
            first += tile.len();
        }
        Ok(coarse)
    }
}

/// The features of the first texts, and how many tiles they are: at least one, until they hold [`GROUP_BYTES`].
fn group<M: TwoStageModel>(model: &M, texts: &[TextTile]) -> Result<(TextFeatures, usize)> {
    let (mut parts, mut bytes) = (Vec::new(), 0);
    for tile in texts {
        let features = tile.features(model)?;
        let tensors = [Some(&features.sentence), features.words.as_ref()];
        bytes += 4 * tensors.into_iter().flatten().map(|x| x.value().len()).sum::<usize>();
        parts.push(features);
        if bytes >= GROUP_BYTES {
            break;
        }
    }
    let joined = |parts: Vec<&Var>| concat(&parts, 0);
    let words: Option<Vec<&Var>> = parts.iter().map(|f| f.words.as_ref()).collect();
    let sentence = joined(parts.iter().map(|f| &f.sentence).collect())?;
    Ok((TextFeatures { sentence, words: words.map(joined).transpose()? }, parts.len()))
}

/// For each text (B, D) the `k` videos (N, D) with the largest products, and these, the best first. Videos are taken a tile
/// at a time: the matrix of all scores never exists. Of equals the lower number comes first.
fn nearest(texts: &Tensor, videos: &Tensor, k: usize) -> Result<Vec<Vec<(u32, f32)>>> {
    let (rows, count, width) = (texts.rows(), videos.rows(), videos.width());
    let k = k.min(count).max(1);
    // Views start at multiples of 64 elements, and 64 rows always do.
    let tile = ((TILE_BYTES / (4 * rows.max(1))).max(k) / 64).max(1) * 64;
    let mut found: Vec<Vec<(u32, f32)>> = vec![Vec::new(); rows];
    for first in (0..count).step_by(tile) {
        let part = videos.view(first * width, [tile.min(count - first), width])?;
        let options = matmul::Options { transpose_b: true, ..matmul::Options::default() };
        let (best, at) = topk::forward(&matmul::forward(texts, &part, &options)?.y, k.min(part.rows()))?;
        let (kept, best, at) = (best.width(), best.to_vec()?, at.to_u32()?);
        for ((row, best), at) in found.iter_mut().zip(best.chunks_exact(kept)).zip(at.chunks_exact(kept)) {
            row.extend(at.iter().map(|at| at + first as u32).zip(best.iter().copied()));
            if first > 0 {
                // Stable, and tiles come by rising numbers.
                row.sort_by(|a, b| b.1.total_cmp(&a.1));
                row.truncate(k);
            }
        }
    }
    Ok(found)
}
