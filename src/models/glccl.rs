//! GLCCL: a parameter-free global-local interaction module (GLIM), four scores, and a loss that keeps them consistent
//! (CAC 2025, arXiv 2605.17959).
//!
//! For each pair of a text and a video, the sentence pools the frames to one vector and every word pools them to one of
//! its own; sentence and words are compared with both. No tensor of (texts, videos, words, D) is made: a pair's scores
//! depend on its features only through their dot products with the frames and the frames' Gram matrix.

use serde::{Deserialize, Serialize};

use crate::autograd::{Tape, Var, concat};
use crate::models::clip::TextFeatures;
use crate::models::clip4clip::{Base, BaseConfig, VideoFeatures, unit};
use crate::models::heads::{Head, stack};
use crate::models::pairing::{PairList, Pairing};
use crate::models::towers::{LossParts, Needs, TowerModel, TwoStageModel};
use crate::models::{Finish, Model, Stored};
use crate::nn::{Init, Parameter, Scope};
use crate::{Error, Result};

/// The heads' names.
pub const HEADS: [&str; 4] = ["video_sentence", "video_word", "sentence_frame", "frame_word"];

/// What a group of texts may need for its words' dot products with frames, or with each other, in bytes; with more texts
/// they are computed in groups, and again on the way back. A group holds some ten tensors of this size.
const GROUP_BYTES: usize = 8 << 20;

/// How a text's dot products with the frames become weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guide {
    /// A softmax over the frames: published.
    #[default]
    Softmax,
    /// softmax((softmax(x / τ) V) / τ) with V = `visual_logit_weight`: an ablation of the official code.
    SoftmaxLinearSoftmax,
    /// All frames alike, without GLIM: what the official code's `mlp_softmax` comes to.
    Mean,
}

/// Sizes, temperatures and weights; the default is the official configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GlcclConfig {
    /// Towers and temporal transformer.
    pub base: BaseConfig,
    /// How a text's dot products with the frames become weights.
    pub guide: Guide,
    /// Of the guides' softmax over raw dot products.
    pub guide_temperature: f32,
    /// Of the softmaxes over similarities.
    pub temperature: f32,
    /// Which heads' mean is the score: `video_sentence`, `video_word`, `sentence_frame`, `frame_word`.
    pub heads: [bool; 4],
    /// Of the score consistency loss (CSC); 0 leaves it out.
    pub consistency_loss: f32,
    /// Whether the denominator of CSC is the mean over unmatched pairs; officially their sum is divided by B².
    pub consistency_mean: bool,
}

impl Default for GlcclConfig {
    fn default() -> Self {
        Self {
            base: BaseConfig::default(),
            guide: Guide::Softmax,
            guide_temperature: 5.0,
            temperature: 0.01,
            heads: [true; 4],
            consistency_loss: 0.5,
            consistency_mean: false,
        }
    }
}

/// A batch's losses; the parts are unweighted.
#[derive(Clone, Debug)]
pub struct GlcclLosses {
    /// What is differentiated.
    pub total: Var,
    /// InfoNCE of the heads' mean.
    pub contrast: Var,
    /// Score consistency, if it has a weight.
    pub consistency: Option<Var>,
}

/// The trained matrices, all from the identity.
#[derive(Clone)]
struct Matrices {
    /// (D, D), on sentences and on words.
    global: Parameter,
    local: Parameter,
    /// (n, n), of the softmaxes over similarities.
    word_logit: Parameter,
    word_frame_logit: Parameter,
    word: Parameter,
    word_frame: Parameter,
    word_2: Parameter,
    word_frame_2: Parameter,
    /// (F, F).
    visual_logit: Parameter,
}

/// The network.
pub struct Glccl {
    stored: Stored<GlcclConfig>,
    base: Base,
    matrices: Matrices,
}

/// Texts as the heads compare them.
#[derive(Clone, Debug)]
pub struct GlcclTexts {
    /// Sentences of their own length (B, D), which guide.
    pub sentences: Var,
    /// Sentences of unit length (B, D).
    pub unit: Var,
    /// Words of their own length (B, n, D), which guide.
    pub words: Var,
    /// Not there on a tape that records: words are large, so training maps them by groups, and again on the way back.
    mapped: Option<Mapped>,
}

/// Texts through the matrices.
#[derive(Clone, Debug)]
struct Mapped {
    /// Of unit length, mapped (B, D).
    sentences: Var,
    /// Of unit length, mapped (B, n, D).
    words: Var,
    /// The lengths of words before (B, n, 1); 1 for words of zeros.
    lengths: Var,
}

impl Mapped {
    fn new(m: &Matrices, unit_sentences: &Var, words: &Var) -> Result<Self> {
        let tape = words.tape();
        let &[texts, n, _] = words.shape() else { return Err(shape("words", words)) };
        let squares = |x: &Var| x.square()?.sum(2)?.reshape([texts, n, 1]);
        let unit_words = unit(words)?;
        // 1, and 0 for words of zeros: they have no direction and get no gradient of one, and their length is not divided by.
        let has_length = squares(&unit_words.detach())?;
        let has_length = has_length.value();
        Ok(Self {
            sentences: unit_sentences.matmul(&m.global.on(tape))?,
            words: unit_words.masked_fill(has_length, 0.0)?.matmul(&m.local.on(tape))?,
            lengths: squares(words)?.masked_fill(has_length, 1.0)?.log()?.scale(0.5)?.exp()?,
        })
    }
}

impl GlcclTexts {
    /// What [`pair_scores`] takes.
    fn parts(&self) -> Vec<&Var> {
        let mapped = self.mapped.iter().flat_map(|m| [&m.sentences, &m.words, &m.lengths]);
        [&self.sentences, &self.unit, &self.words].into_iter().chain(mapped).collect()
    }
}

/// A batch's videos as the heads compare them.
#[derive(Clone, Debug)]
pub struct GlcclVideos {
    /// Frames that have seen each other, of their own length (N, F, D).
    pub frames: Var,
    /// Their dot products with each other (N, F, F).
    pub grams: Var,
    /// Their mean, of unit length (N, D): for a first stage of retrieval.
    pub video: Var,
}

impl Model for Glccl {
    type Config = GlcclConfig;

    fn declare(config: &GlcclConfig, s: &Scope<'_>) -> Result<Finish<Self>> {
        if !config.heads.contains(&true) {
            let why = "choose none of the four".to_string();
            return Err(Error::Argument { op: "GLCCL", argument: "heads", why });
        }
        let base = Base::new(s, &config.base)?;
        let BaseConfig { joint, words, frames, .. } = config.base;
        let matrix = |name: &str, n: usize| s.declare(name, [n, n], Init::identity(n));
        let matrices = Matrices {
            global: matrix("global_mat_weight", joint)?,
            local: matrix("local_mat_weight", joint)?,
            word_logit: matrix("word_logit_weight", words)?,
            word_frame_logit: matrix("word_frame_logit_weight", words)?,
            word: matrix("word_mat_weight", words)?,
            word_frame: matrix("word_frame_mat_weight", words)?,
            word_2: matrix("word_mat_weight2", words)?,
            word_frame_2: matrix("word_frame_mat_weight2", words)?,
            visual_logit: matrix("visual_logit_weight", frames)?,
        };
        Ok(Box::new(move |stored| Self { stored, base, matrices }))
    }

    fn stored(&self) -> &Stored<GlcclConfig> {
        &self.stored
    }
}

impl TowerModel for Glccl {
    type Texts = GlcclTexts;
    type Videos = GlcclVideos;

    fn base(&self) -> &Base {
        &self.base
    }

    fn needs(&self) -> Needs {
        Needs { words: true, patches: false }
    }

    fn loss(&self, texts: &TextFeatures, videos: &VideoFeatures) -> Result<LossParts> {
        let heads = self.compare(&self.prepare_texts(texts)?, &self.prepare_videos(videos)?)?;
        let losses = self.losses(&heads)?;
        let parts = [("contrast", Some(losses.contrast)), ("consistency", losses.consistency)];
        Ok((losses.total, parts.into_iter().filter_map(|(name, part)| Some((name, part?))).collect()))
    }

    /// Sentences (B, D) with their words (B, n, D), raw and mapped.
    fn prepare_texts(&self, texts: &TextFeatures) -> Result<GlcclTexts> {
        let lack = || Error::Argument { op: "GLCCL", argument: "texts", why: "lack their words".into() };
        let (sentences, words) = (&texts.sentence, texts.words.as_ref().ok_or_else(lack)?);
        let &[texts, ..] = words.shape() else { return Err(shape("words", words)) };
        let BaseConfig { words: count, joint, .. } = self.config().base;
        words.value().expect_shape("GLCCL", "words", &[texts, count, joint])?;
        let unit = unit(sentences)?;
        let maps = !words.tape().is_recording();
        let mapped = maps.then(|| Mapped::new(&self.matrices, &unit, words)).transpose()?;
        Ok(GlcclTexts { sentences: sentences.clone(), unit, words: words.clone(), mapped })
    }

    /// The videos' frames after the temporal transformer, and their Gram matrices.
    fn prepare_videos(&self, videos: &VideoFeatures) -> Result<GlcclVideos> {
        let frames = self.base.temporal(&videos.frames, &videos.mask)?;
        let grams = frames.matmul_nt(&frames)?;
        let video = self.base.mean_pool(&frames, &videos.mask)?;
        Ok(GlcclVideos { frames, grams, video })
    }

    fn compare(&self, texts: &GlcclTexts, videos: &GlcclVideos) -> Result<Vec<Head>> {
        let parts = texts.parts();
        let &[texts, count, _] = texts.words.shape() else { return Err(shape("words", &texts.words)) };
        let &[n, frames, _] = videos.frames.shape() else { return Err(shape("videos", &videos.frames)) };
        let group = (GROUP_BYTES / (4 * count * n * frames.max(count)).max(1)).max(1);
        if texts <= group {
            let inputs: Vec<Var> = [&videos.frames, &videos.grams].into_iter().chain(parts).cloned().collect();
            return self.named(pair_scores(self.config(), &self.matrices, &inputs, Pairing::All)?);
        }
        let (matrices, config) = (self.matrices.clone(), self.config().clone());
        let compute = move |_: &Tape, inputs: &[Var]| pair_scores(&config, &matrices, inputs, Pairing::All);
        let part = |first: usize| {
            let range = first..(first + group).min(texts);
            let inputs: Vec<Var> = parts.iter().map(|x| x.slice(0, range.clone())).collect::<Result<_>>()?;
            let inputs: Vec<&Var> = [&videos.frames, &videos.grams].into_iter().chain(&inputs).collect();
            videos.frames.tape().checkpoint(&inputs, compute.clone())
        };
        let groups: Vec<Var> = (0..texts).step_by(group).map(part).collect::<Result<_>>()?;
        self.named(concat(&groups, 1)?)
    }

    /// The mean of the chosen heads.
    fn similarity(&self, heads: &[Head]) -> Result<Var> {
        stack(&self.chosen(heads))?.mean(0)
    }
}

impl TwoStageModel for Glccl {
    fn coarse_texts(&self, texts: &GlcclTexts) -> Var {
        texts.unit.clone()
    }

    fn coarse_videos(&self, videos: &GlcclVideos) -> Var {
        videos.video.clone()
    }

    /// Without gradients. The width must be a multiple of 4.
    fn compare_pairs(&self, texts: &GlcclTexts, videos: &GlcclVideos, pairs: &PairList) -> Result<Vec<Head>> {
        let inputs: Vec<Var> = [&videos.frames, &videos.grams].into_iter().chain(texts.parts()).cloned().collect();
        self.named(pair_scores(self.config(), &self.matrices, &inputs, Pairing::Listed(pairs))?)
    }

    fn pair_cost(&self, videos: &GlcclVideos) -> [u64; 2] {
        let (frames, width) = (videos.frames.shape()[1] as u64, videos.video.value().width() as u64);
        // Sentence and words, each raw and mapped, with every frame; the sentence once more at unit length.
        [width, width * frames * (2 * self.config().base.words as u64 + 3)]
    }
}

impl Glccl {
    /// The heads of scores (4, B, V), times exp(logit_scale).
    fn named(&self, scores: Var) -> Result<Vec<Head>> {
        let pairs = scores.shape()[1..].to_vec();
        let scores = scores.mul(&self.base.scale(scores.tape())?)?;
        let head =
            |(i, name): (usize, &'static str)| Ok(Head::new(name, scores.slice(0, i..i + 1)?.reshape(pairs.clone())?));
        HEADS.into_iter().enumerate().map(head).collect()
    }

    fn chosen(&self, heads: &[Head]) -> Vec<Head> {
        heads.iter().zip(self.config().heads).filter(|(_, chosen)| *chosen).map(|(head, _)| head.clone()).collect()
    }

    /// The losses of the heads (B, B) of a batch whose text i belongs to video i.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are as many texts as videos; [`Error::Argument`] for score consistency of one head.
    pub fn losses(&self, heads: &[Head]) -> Result<GlcclLosses> {
        let c = self.config();
        let contrast = self.similarity(heads)?.info_nce()?;
        if c.consistency_loss == 0.0 {
            return Ok(GlcclLosses { total: contrast.clone(), contrast, consistency: None });
        }
        let chosen = self.chosen(heads);
        if chosen.len() < 2 {
            let why = "of one have no consistency; choose more, or a weight of 0".to_string();
            return Err(Error::Argument { op: "GLCCL", argument: "heads", why });
        }
        let batch = heads[0].scores.shape()[0] as f32;
        let others = if c.consistency_mean { batch * (batch - 1.0) } else { batch * batch };
        let consistency = stack(&chosen)?.score_consistency(others)?;
        let total = contrast.add(&consistency.scale(c.consistency_loss)?)?;
        Ok(GlcclLosses { total, contrast, consistency: Some(consistency) })
    }
}

fn shape(argument: &'static str, x: &Var) -> Error {
    Error::Shape { op: "GLCCL", argument, expected: "(texts or videos, rows, D)".into(), got: x.shape().to_vec() }
}

/// The four scores of every pair without their common factor: (4, B, V). The inputs are frames (N, F, D), their
/// Gram matrices (N, F, F), and the parts of [`GlcclTexts`].
fn pair_scores(c: &GlcclConfig, m: &Matrices, inputs: &[Var], pairing: Pairing) -> Result<Var> {
    let [frames, grams, sentences, unit, words, mapped @ ..] = inputs else {
        unreachable!("the callers give five or more")
    };
    let mapped = match mapped {
        [sentences, words, lengths] => {
            Mapped { sentences: sentences.clone(), words: words.clone(), lengths: lengths.clone() }
        }
        _ => Mapped::new(m, unit, words)?,
    };
    let tape = sentences.tape();
    let &[sentence_count, _, width] = words.shape() else { return Err(shape("words", words)) };
    // (B, q, D) to (B, q, V, F).
    let dots = |rows: &Var| pairing.dots(rows, frames);
    let guide = |dots: &Var| -> Result<Var> {
        let temperature = c.guide_temperature;
        let dots = match c.guide {
            Guide::Softmax => dots.clone(),
            Guide::SoftmaxLinearSoftmax => {
                dots.scale(1.0 / temperature)?.softmax()?.matmul(&m.visual_logit.on(tape))?
            }
            Guide::Mean => dots.scale(0.0)?,
        };
        pairing.gates(&dots, grams, None, temperature)
    };
    // Σ_k (softmax(x / τ) A)_k x_k over the last dimension.
    let aggregate = |x: &Var, matrix: &Parameter| {
        x.scale(1.0 / c.temperature)?.softmax()?.matmul(&matrix.on(tape))?.mul(x)?.sum(x.shape().len() - 1)
    };

    let one = [sentence_count, 1, width];
    let raw_words = dots(words)?;
    let &[texts, _, videos, _] = raw_words.shape() else { return Err(shape("frames", frames)) };
    let global_gates = guide(&dots(&sentences.reshape(one)?)?)?;
    let local_gates = guide(&raw_words)?;

    let video_sentence = dots(&mapped.sentences.reshape(one)?)?.mul(&global_gates)?.sum(3)?;
    // For each word, or frame as a word sees it, of a pair: (B, n, V) to (B, V, n).
    let of_pair = |x: &Var| x.permute(&[0, 2, 1]);
    let video_word = {
        let a = raw_words.mul(&global_gates)?.sum(3)?.div(&pairing.of_texts(&mapped.lengths)?)?;
        aggregate(&of_pair(&a)?, &m.word_logit)?
    };
    let sentence_frame = {
        let b = local_gates.mul(&dots(&unit.reshape(one)?)?)?.sum(3)?;
        aggregate(&of_pair(&b)?, &m.word_frame_logit)?
    };
    let frame_word = {
        let mapped = dots(&mapped.words)?;
        let over_words = local_gates.aosm(&mapped, &m.word.on(tape), c.temperature)?;
        let over_frames = mapped.aosm(&local_gates, &m.word_frame.on(tape), c.temperature)?;
        let x = aggregate(&over_words, &m.word_frame_2)?;
        x.add(&aggregate(&over_frames, &m.word_2)?)?.scale(0.5)?
    };
    let scores = [&video_sentence, &video_word, &sentence_frame, &frame_word];
    let scores: Vec<Var> = scores.iter().map(|s| s.reshape([1, texts, videos])).collect::<Result<_>>()?;
    concat(&scores, 0)
}
