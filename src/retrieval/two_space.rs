//! Encoding a dataset with a two-space model, and evaluating and searching it.
//!
//! The score 0.5 cos(g, t) + 0.5 cos(r, t) is the product of the unit vector of t with the mean of the unit vectors of g
//! and r. So one vector a video is enough for search, and the score matrix is one matmul.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::autograd::{Tape, Var};
use crate::data::bicnet::{Sample, SampleSource, collate};
use crate::data::moments::pad_tokens;
use crate::gpu::Gpu;
use crate::kernels::elementwise::permute;
use crate::kernels::linear::matmul;
use crate::kernels::ranking::topk;
use crate::models::two_space::{TwoSpaceInputs, TwoSpaceModel};
use crate::retrieval::metrics::{RetrievalMetrics, Scores, Ties};
use crate::retrieval::ranking::{Source, Tiles};
use crate::tensor::{Array, Tensor};
use crate::{Error, Result};

/// Which captions of a video are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Captions {
    /// The first of each video.
    #[default]
    First,
    /// All of them.
    All,
}

/// How a dataset is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Which captions.
    pub captions: Captions,
    /// Videos, or captions, at a time.
    pub batch: usize,
    /// Hides padded frames, for a model that was trained so; the official trainer shows them.
    pub mask_frames: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { captions: Captions::First, batch: 128, mask_frames: false }
    }
}

/// The vectors of a dataset, on the GPU.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Unit vectors of the captions (N, D).
    pub texts: Tensor,
    /// For each caption, the row of its video in `videos`.
    pub owners: Vec<u32>,
    /// Means of two unit vectors (M, D).
    pub videos: Tensor,
}

/// Metrics of both directions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Captions search videos.
    pub text_to_video: RetrievalMetrics,
    /// Videos search captions; with several captions a video, its best own one counts.
    pub video_to_text: RetrievalMetrics,
}

impl Evaluation {
    /// The two lines above [`Evaluation::row`]s.
    pub const HEAD: &str = concat!(
        "                 text to video                      video to text\n",
        "model            R@1   R@5  R@10  R@50  MdR  MnR   R@1   R@5  R@10  R@50  MdR  MnR",
    );

    /// What guessing gives in a gallery of `videos`, with one caption each.
    pub fn of_chance(videos: usize) -> Self {
        let chance = RetrievalMetrics::of_chance(videos);
        Self { text_to_video: chance, video_to_text: chance }
    }

    /// One line: percentages and ranks of both directions.
    pub fn row(&self, name: &str) -> String {
        format!("{name:<14} {} {}", self.text_to_video, self.video_to_text)
    }
}

/// Uploads a batch. `masked` hides padded frames; the official trainer shows them.
///
/// # Errors
/// [`Error::ShapeMismatch`] for samples that do not fit each other; device errors.
pub fn upload(gpu: &Gpu, samples: &[Sample], masked: bool) -> Result<TwoSpaceInputs> {
    let batch = collate(samples)?;
    Ok(TwoSpaceInputs {
        text: Tensor::from_array(gpu, &batch.text)?,
        text_mask: Tensor::from_array(gpu, &batch.text_mask)?,
        region: Tensor::from_array(gpu, &batch.region)?,
        global: Tensor::from_array(gpu, &batch.global)?,
        frame_mask: masked.then(|| Tensor::from_array(gpu, &batch.frame_mask())).transpose()?,
    })
}

/// Encodes `videos` (numbers in `data`) and their captions.
///
/// # Errors
/// What `data` returns for a sample; [`Error::Shape`] if the features do not fit the model.
pub fn encode(
    model: &impl TwoSpaceModel,
    data: &dyn SampleSource,
    videos: &[usize],
    options: &EncodeOptions,
) -> Result<Encoded> {
    let gpu = model.store().gpu();
    let batch = options.batch.max(1);
    let (mut video_rows, mut text_rows, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for (start, chunk) in videos.chunks(batch).enumerate().map(|(i, c)| (i * batch, c)) {
        let samples: Vec<Sample> = chunk.iter().map(|&v| data.sample(v, 0)).collect::<Result<_>>()?;
        let tape = Tape::inference(gpu);
        let e = model.forward(&tape, &upload(gpu, &samples, options.mask_frames)?)?;
        let unit = |x: &Var| x.l2_normalize(1e-12);
        let video = unit(&e.global)?.add(&unit(&e.region)?)?.scale(0.5)?;
        video_rows.push(video.into_value());
        text_rows.push(unit(&e.text)?.into_value());
        owners.extend((start..start + chunk.len()).map(|i| i as u32));
        if options.captions == Captions::All {
            encode_more(model, data, (start, chunk), batch, &mut text_rows, &mut owners)?;
        }
    }
    let join = |rows: &[Tensor]| match rows {
        [] => Tensor::from_slice(gpu, [0, model.width()], &[]),
        _ => permute::concat(&rows.iter().collect::<Vec<_>>(), 0),
    };
    Ok(Encoded { texts: join(&text_rows)?, owners, videos: join(&video_rows)? })
}

/// The captions after the first of the videos of one chunk.
fn encode_more(
    model: &impl TwoSpaceModel,
    data: &dyn SampleSource,
    (start, chunk): (usize, &[usize]),
    batch: usize,
    text_rows: &mut Vec<Tensor>,
    owners: &mut Vec<u32>,
) -> Result<()> {
    let gpu = model.store().gpu();
    let mut rest: Vec<(usize, usize)> = Vec::new();
    for (i, &video) in chunk.iter().enumerate() {
        rest.extend((1..data.captions(video)?).map(|caption| (i, caption)));
    }
    for part in rest.chunks(batch) {
        let texts: Vec<Array> =
            part.iter().map(|&(i, caption)| Ok(data.sample(chunk[i], caption)?.text)).collect::<Result<_>>()?;
        let (features, mask) = pad_tokens(&texts.iter().collect::<Vec<_>>())?;
        let (features, mask) = (Tensor::from_array(gpu, &features)?, Tensor::from_array(gpu, &mask)?);
        let tape = Tape::inference(gpu);
        text_rows.push(model.encode_text(&tape, &features, &mask)?.l2_normalize(1e-12)?.into_value());
        owners.extend(part.iter().map(|&(i, _)| (start + i) as u32));
    }
    Ok(())
}

impl Encoded {
    /// Recalls and ranks by counting on the GPU; never holds more than a tile of scores.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if any score is; [`Error::Argument`] for no captions.
    pub fn evaluate(&self, ties: Ties) -> Result<Evaluation> {
        let ranks = self.tiles()?.ranks()?;
        Ok(Evaluation {
            text_to_video: ranks.text_to_video.metrics(ties)?,
            video_to_text: ranks.video_to_caption.metrics(ties)?,
        })
    }

    /// All scores on the host, captions in the order of their videos: for the published scripts' metrics.
    pub fn to_scores(&self) -> Result<Scores> {
        self.tiles()?.to_scores()
    }

    fn tiles(&self) -> Result<Tiles<'_>> {
        Tiles::new(self.texts.gpu(), Source::Tensors(&self.texts, &self.videos), &self.owners)
    }

    /// The share of captions, in percent, that score their own video above another one, ties counting half:
    /// `others[v]` is the rival of video v (rows of `videos`).
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is a rival for every video; device errors.
    pub fn preference(&self, others: &[usize]) -> Result<f64> {
        let m = self.videos.rows();
        if others.len() != m || others.iter().any(|&o| o >= m) || self.owners.is_empty() {
            let why = format!("must name one of the {m} videos for each of them");
            return Err(Error::Argument { op: "preference", argument: "others", why });
        }
        let read = Tensor::read_all(&[&self.texts, &self.videos])?;
        let d = self.videos.width();
        let score = |text: usize, video: usize| -> f64 {
            let (t, v) = (&read[0][text * d..(text + 1) * d], &read[1][video * d..(video + 1) * d]);
            t.iter().zip(v).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let mut won = 0.0;
        for (text, &owner) in self.owners.iter().enumerate() {
            let (own, other) = (score(text, owner as usize), score(text, others[owner as usize]));
            won += match own.partial_cmp(&other) {
                Some(Ordering::Greater) => 1.0,
                Some(Ordering::Equal) => 0.5,
                _ => 0.0,
            };
        }
        Ok(100.0 * won / self.owners.len() as f64)
    }

    /// The `k` best videos of a caption: their rows and scores, the best first.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`]; device errors.
    pub fn search(&self, text: usize, k: usize) -> Result<Vec<(usize, f32)>> {
        let options = matmul::Options { transpose_b: true, ..Default::default() };
        let scores = matmul::forward(&permute::slice(&self.texts, 0, text..text + 1)?, &self.videos, &options)?.y;
        let (values, indices) = topk::forward(&scores, k.min(self.videos.rows()))?;
        Ok(indices.to_u32()?.into_iter().map(|i| i as usize).zip(values.to_vec()?).collect())
    }
}
