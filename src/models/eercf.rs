//! EERCF: text-gated features at three granularities, and recall before rerank (Tian et al., "Towards Efficient and
//! Effective Text-to-Video Retrieval with Coarse-to-Fine Visual Representation Learning", AAAI 2024).
//!
//! A sentence is compared with the whole video (coarse), and with its frames and patches twice: weakly, by a softmax over
//! its similarities, and strongly, with the vector that a parameter-free text-gated interaction block (TIB) pools. The
//! default is the official code's behaviour; [`EercfConfig`] holds the options.

use serde::{Deserialize, Serialize};

use crate::autograd::{Tape, Var, concat};
use crate::kernels::elementwise::permute;
use crate::models::clip::TextFeatures;
use crate::models::clip4clip::{Base, BaseConfig, VideoFeatures, unit};
use crate::models::heads::{Head, weighted_sum};
use crate::models::pairing::{PairList, Pairing};
use crate::models::towers::{LossParts, Needs, TowerModel, TwoStageModel};
use crate::models::{Finish, Model, Stored};
use crate::nn::{Init, Parameter, Scope};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The heads' names, in the order in which they are computed.
pub const HEADS: [&str; 5] =
    ["sentence_video", "sentence_frame_weak", "sentence_patch_weak", "sentence_frame_strong", "sentence_patch_strong"];

/// Whose text gates a video's strong features in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingGates {
    /// The video's own caption, without a gradient through the gates: the official code.
    #[default]
    OwnCaption,
    /// The text of each pair, as in evaluation, with gradients: the paper's words. Frames only.
    Pairwise,
}

/// A weight for each head. The defaults of [`EercfConfig`] are the official ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadWeights {
    /// Of the coarse score.
    pub video: f32,
    /// Of the weak frame score.
    pub frame_weak: f32,
    /// Of the weak patch score.
    pub patch_weak: f32,
    /// Of the strong frame score.
    pub frame_strong: f32,
    /// Of the strong patch score.
    pub patch_strong: f32,
}

impl HeadWeights {
    /// By head, in the order of [`HEADS`].
    pub fn by_head(&self) -> [(&'static str, f32); 5] {
        let Self { video, frame_weak, patch_weak, frame_strong, patch_strong } = *self;
        let weights = [video, frame_weak, patch_weak, frame_strong, patch_strong];
        std::array::from_fn(|i| (HEADS[i], weights[i]))
    }
}

/// Sizes, temperatures and weights; the default is the official configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EercfConfig {
    /// Towers and temporal transformer.
    pub base: BaseConfig,
    /// Of the weak scores' softmaxes over frames and patches.
    pub temperature_weak: f32,
    /// Of the frames' gates.
    pub temperature_frame_gate: f32,
    /// Of the patches' gates.
    pub temperature_patch_gate: f32,
    /// Of the heads in the two contrastive losses: the weak heads (`video`, `frame_weak`, `patch_weak`) share one, the
    /// strong heads the other.
    pub weights: HeadWeights,
    /// Of the weak heads' contrastive loss.
    pub weak_loss: f32,
    /// Of the strong heads' contrastive loss.
    pub strong_loss: f32,
    /// Of the Pearson constraint as a whole.
    pub pearson_loss: f32,
    /// Of the Pearson constraint of the coarse, the frame-gated and the patch-gated vectors.
    pub pearson_weights: [f32; 3],
    /// Of the diagonal in the Pearson constraint (alpha 1).
    pub pearson_diagonal: f32,
    /// Of the other entries (alpha 2).
    pub pearson_others: f32,
    /// Whose text gates a video's strong features in training.
    pub training_gates: TrainingGates,
    /// Whether the patches' strong features are computed where nothing weighs them.
    pub gate_patches: bool,
    /// Whether padded frames, and their patches, are left out of every softmax. Officially they take part.
    pub mask_padding: bool,
    /// Of the heads in the second stage of retrieval, which officially differ from those of the losses.
    pub rerank: HeadWeights,
}

impl Default for EercfConfig {
    fn default() -> Self {
        Self {
            base: BaseConfig::default(),
            temperature_weak: 0.01,
            temperature_frame_gate: 0.1,
            temperature_patch_gate: 0.01,
            weights: HeadWeights {
                video: 0.5,
                frame_weak: 0.5,
                patch_weak: 0.05,
                frame_strong: 1.0,
                patch_strong: 0.0,
            },
            weak_loss: 0.8,
            strong_loss: 0.2,
            pearson_loss: 0.001,
            pearson_weights: [1.0, 1.0, 0.0],
            pearson_diagonal: 0.14,
            pearson_others: 0.0,
            training_gates: TrainingGates::OwnCaption,
            gate_patches: false,
            mask_padding: false,
            rerank: HeadWeights { video: 0.5, frame_weak: 0.8, patch_weak: 0.2, frame_strong: 0.2, patch_strong: 0.0 },
        }
    }
}

/// Texts as the heads compare them.
#[derive(Clone, Debug)]
pub struct EercfTexts {
    /// Sentences of unit length (B, D).
    pub unit: Var,
    /// The same times the matrix of the coarse score (B, D), of any length.
    pub coarse: Var,
}

/// A batch's videos as the heads compare them: unit vectors.
#[derive(Clone, Debug)]
pub struct EercfVideos {
    /// Coarse (N, D).
    pub video: Var,
    /// Frames as the tower gives them (N, F, D).
    pub frames: Var,
    /// Frames that have seen each other (N, F, D).
    pub temporal: Var,
    /// Dot products of those with each other (N, F, F).
    pub grams: Var,
    /// Patches (N, F · P, D).
    pub patches: Option<Var>,
    /// 1 for frames, 0 for padding (N, F).
    pub mask: Tensor,
}

/// A batch's losses; the parts are unweighted.
#[derive(Clone, Debug)]
pub struct EercfLosses {
    /// What is differentiated.
    pub total: Var,
    /// InfoNCE of the weak heads' sum.
    pub weak: Var,
    /// InfoNCE of the strong heads' sum.
    pub strong: Var,
    /// The Pearson constraints that have a weight: `pearson_video`, `pearson_frame`, `pearson_patch`.
    pub pearson: Vec<(&'static str, Var)>,
}

/// What training compares: the heads, and the vectors of matching pairs that the Pearson constraint sees.
pub struct Matched {
    /// Scores (B, B).
    pub heads: Vec<Head>,
    /// Vectors (B, D): `video`, and `frame` and `patch` as the TIB pools them.
    pub vectors: Vec<(&'static str, Var)>,
}

/// The network.
pub struct Eercf {
    stored: Stored<EercfConfig>,
    base: Base,
    /// (D, D), from the identity: on the sentence, in the coarse score.
    global: Parameter,
    /// (F, F), from the identity: on the softmax, in the weak frame score.
    frame: Parameter,
}

impl Model for Eercf {
    type Config = EercfConfig;

    fn declare(config: &EercfConfig, s: &Scope<'_>) -> Result<Finish<Self>> {
        let base = Base::new(s, &config.base)?;
        let matrix = |name: &str, n: usize| s.declare(name, [n, n], Init::identity(n));
        let global = matrix("global_mat_weight", config.base.joint)?;
        let frame = matrix("frame_logit_weight", config.base.frames)?;
        Ok(Box::new(move |stored| Self { stored, base, global, frame }))
    }

    fn stored(&self) -> &Stored<EercfConfig> {
        &self.stored
    }
}

impl TowerModel for Eercf {
    type Texts = EercfTexts;
    type Videos = EercfVideos;

    fn base(&self) -> &Base {
        &self.base
    }

    /// Patches if any head with a weight is of them.
    fn needs(&self) -> Needs {
        let weighs = |w: &HeadWeights| w.patch_weak != 0.0;
        let patches = self.gates_patches() || weighs(&self.config().weights) || weighs(&self.config().rerank);
        Needs { words: false, patches }
    }

    fn loss(&self, texts: &TextFeatures, videos: &VideoFeatures) -> Result<LossParts> {
        let matched = self.matched(&texts.sentence, &self.prepare_videos(videos)?)?;
        let losses = self.losses(&texts.sentence, &matched)?;
        let parts = [("weak", losses.weak), ("strong", losses.strong)];
        Ok((losses.total, parts.into_iter().chain(losses.pearson).collect()))
    }

    fn prepare_texts(&self, texts: &TextFeatures) -> Result<EercfTexts> {
        self.texts(&texts.sentence)
    }

    fn prepare_videos(&self, videos: &VideoFeatures) -> Result<EercfVideos> {
        let temporal = unit(&self.base.temporal(&videos.frames, &videos.mask)?)?;
        Ok(EercfVideos {
            video: self.base.mean_pool(&temporal, &videos.mask)?,
            frames: unit(&videos.frames)?,
            grams: temporal.matmul_nt(&temporal)?,
            temporal,
            patches: videos.patches.as_ref().map(unit).transpose()?,
            mask: videos.mask.clone(),
        })
    }

    /// With each pair's own gates: evaluation. Without patches, or without a weight on their strong score, that head is
    /// left out.
    fn compare(&self, texts: &EercfTexts, videos: &EercfVideos) -> Result<Vec<Head>> {
        let mut heads = vec![(HEADS[0], texts.coarse.matmul_nt(&videos.video)?)];
        heads.extend(self.fine(&texts.unit, videos, Pairing::All)?);
        self.scaled(heads)
    }

    /// The second stage's score.
    fn similarity(&self, heads: &[Head]) -> Result<Var> {
        weighted_sum(heads, &self.config().rerank.by_head())
    }
}

impl TwoStageModel for Eercf {
    fn coarse_texts(&self, texts: &EercfTexts) -> Var {
        texts.coarse.clone()
    }

    fn coarse_videos(&self, videos: &EercfVideos) -> Var {
        videos.video.clone()
    }

    /// Without gradients. The width must be a multiple of 4.
    fn compare_pairs(&self, texts: &EercfTexts, videos: &EercfVideos, pairs: &PairList) -> Result<Vec<Head>> {
        let (pairing, &[count, width]) = (Pairing::Listed(pairs), videos.video.shape()) else {
            return Err(shape("videos", &videos.video));
        };
        let video = videos.video.reshape([count, 1, width])?;
        let coarse = frame_dots(&texts.coarse, &video, pairing)?.reshape([pairs.len(), 1])?;
        let mut heads = vec![(HEADS[0], coarse)];
        heads.extend(self.fine(&texts.unit, videos, pairing)?);
        self.scaled(heads)
    }

    fn pair_cost(&self, videos: &EercfVideos) -> [u64; 2] {
        let width = videos.video.value().width() as u64;
        let rows = |x: &Var| x.shape()[1] as u64;
        // The tower's frames and the temporal ones; then the patches.
        [width, width * (2 * rows(&videos.frames) + videos.patches.as_ref().map_or(0, rows))]
    }
}

impl Eercf {
    /// Sentences (B, D) at both granularities.
    fn texts(&self, sentences: &Var) -> Result<EercfTexts> {
        let unit = unit(sentences)?;
        let coarse = unit.matmul(&self.global.on(sentences.tape()))?;
        Ok(EercfTexts { unit, coarse })
    }

    /// The heads of matching texts and videos, as training has them: sentence i belongs to video i.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are as many texts as videos.
    pub fn matched(&self, sentences: &Var, videos: &EercfVideos) -> Result<Matched> {
        let c = self.config();
        let texts = self.texts(sentences)?;
        let t = &texts.unit;
        let &[batch, frames, width] = videos.frames.shape() else { return Err(shape("frames", &videos.frames)) };
        sentences.value().expect_shape("EERCF", "sentences", &[batch, width])?;
        let a = frame_dots(t, &videos.frames, Pairing::All)?;
        let mut vectors = vec![("video", videos.video.clone())];
        let against = |vector: &Var| t.matmul_nt(vector);

        let mut heads = vec![
            (HEADS[0], texts.coarse.matmul_nt(&videos.video)?),
            (HEADS[1], self.weak_frame(&a, &videos.mask, Pairing::All)?),
        ];
        if let Some(patches) = &videos.patches {
            heads.push((HEADS[2], t.soft_similarity(patches, self.patch_mask(videos)?.as_ref(), c.temperature_weak)?));
        }
        // Each video's frames as its own caption sees them: the diagonal of the dot products, no gradient through it.
        let diagonal: Vec<u32> = (0..batch).map(|i| (i * batch + i) as u32).collect();
        let own = a.detach().reshape([batch * batch, frames])?.embedding(&diagonal, &[batch])?;
        let mask = c.mask_padding.then_some(&videos.mask);
        let logits = own.scale(1.0 / c.temperature_frame_gate)?;
        let gated = unit(&videos.temporal.attention_pool(&logits, mask, 0.0)?)?;
        heads.push(match c.training_gates {
            TrainingGates::OwnCaption => (HEADS[3], against(&gated)?),
            TrainingGates::Pairwise => (HEADS[3], self.strong_frame(t, &a, videos, Pairing::All)?),
        });
        vectors.push(("frame", gated));
        if let Some(patches) = videos.patches.as_ref().filter(|_| self.gates_patches()) {
            let own = patches.detach().matmul(&t.detach().reshape([batch, width, 1])?)?;
            let logits = own.reshape([batch, patches.shape()[1]])?.scale(1.0 / c.temperature_patch_gate)?;
            let gated = unit(&patches.attention_pool(&logits, self.patch_mask(videos)?.as_ref(), 0.0)?)?;
            heads.push((HEADS[4], against(&gated)?));
            vectors.push(("patch", gated));
        }
        Ok(Matched { heads: self.scaled(heads)?, vectors })
    }

    /// Whether anything weighs the patches' strong features; officially nothing does.
    fn gates_patches(&self) -> bool {
        let c = self.config();
        c.gate_patches || c.weights.patch_strong != 0.0 || c.pearson_weights[2] != 0.0 || c.rerank.patch_strong != 0.0
    }

    /// All heads but the coarse one, of sentences (B, D) of unit length.
    fn fine(&self, t: &Var, videos: &EercfVideos, pairing: Pairing) -> Result<Vec<(&'static str, Var)>> {
        let c = self.config();
        let a = frame_dots(t, &videos.frames, pairing)?;
        let mut heads = vec![(HEADS[1], self.weak_frame(&a, &videos.mask, pairing)?)];
        if let Some(patches) = &videos.patches {
            let mask = self.patch_mask(videos)?;
            heads.push((HEADS[2], pairing.soft_similarity(t, patches, mask.as_ref(), c.temperature_weak)?));
        }
        heads.push((HEADS[3], self.strong_frame(t, &a, videos, pairing)?));
        if let Some(patches) = videos.patches.as_ref().filter(|_| self.gates_patches()) {
            heads.push((HEADS[4], self.strong_patch(t, patches, self.patch_mask(videos)?.as_ref(), pairing)?));
        }
        Ok(heads)
    }

    /// Times exp(logit_scale).
    fn scaled(&self, heads: Vec<(&'static str, Var)>) -> Result<Vec<Head>> {
        let head = |(name, scores): (&'static str, Var)| {
            let scale = self.base.scale(scores.tape())?;
            Ok(Head::new(name, scores.mul(&scale)?))
        };
        heads.into_iter().map(head).collect()
    }

    /// The losses of a batch whose sentence i belongs to video i.
    ///
    /// # Errors
    /// As [`Eercf::matched`].
    pub fn losses(&self, sentences: &Var, matched: &Matched) -> Result<EercfLosses> {
        let c = self.config();
        let weights = c.weights.by_head();
        let weak = weighted_sum(&matched.heads, &weights[..3])?.info_nce()?;
        let strong = weighted_sum(&matched.heads, &weights[3..])?.info_nce()?;
        let mut total = weak.scale(c.weak_loss)?.add(&strong.scale(c.strong_loss)?)?;
        let t = unit(sentences)?;
        let mut pearson = Vec::new();
        let names = ["pearson_video", "pearson_frame", "pearson_patch"];
        for ((name, weight), (_, vectors)) in names.into_iter().zip(c.pearson_weights).zip(&matched.vectors) {
            if weight * c.pearson_loss != 0.0 {
                let loss = t.pearson(vectors, c.pearson_diagonal, c.pearson_others)?;
                total = total.add(&loss.scale(weight * c.pearson_loss)?)?;
                pearson.push((name, loss));
            }
        }
        Ok(EercfLosses { total, weak, strong, pearson })
    }

    /// Σ_g (Σ_f softmax_f(a / τ) W[f, g]) a_g over the frames of a (B, V, F): (B, V).
    fn weak_frame(&self, a: &Var, mask: &Tensor, pairing: Pairing) -> Result<Var> {
        let logits = a.scale(1.0 / self.config().temperature_weak)?;
        let weights = |softmax: Var| softmax.matmul(&self.frame.on(a.tape()))?.mul(a);
        if !self.config().mask_padding {
            return weights(logits.softmax()?)?.sum(2);
        }
        let mask = pairing.of_videos(mask)?;
        let seen = a.tape().constant(mask.clone());
        weights(logits.masked_fill(&mask, f32::MIN)?.softmax()?)?.mul(&seen)?.sum(2)
    }

    /// t · u, with u the unit vector of Σ_f softmax_f(a / τ) z_f, from dot products and Gram matrices alone: (B, V).
    fn strong_frame(&self, t: &Var, a: &Var, videos: &EercfVideos, pairing: Pairing) -> Result<Var> {
        let mask = self.config().mask_padding.then_some(&videos.mask);
        let &[texts, count, frames] = a.shape() else { return Err(shape("frames", a)) };
        let dots = a.reshape([texts, 1, count, frames])?;
        let gates = pairing.gates(&dots, &videos.grams, mask, self.config().temperature_frame_gate)?;
        let gates = gates.reshape([texts, count, frames])?;
        gates.mul(&frame_dots(t, &videos.temporal, pairing)?)?.sum(2)
    }

    /// t · w, with w the unit vector of Σ_r softmax_r(b / τ) p_r: (B, V). No gradient for listed pairs.
    fn strong_patch(&self, t: &Var, patches: &Var, mask: Option<&Tensor>, pairing: Pairing) -> Result<Var> {
        let &[videos, count, width] = patches.shape() else { return Err(shape("patches", patches)) };
        let temperature = self.config().temperature_patch_gate;
        // Texts (B', D) with the patches of video v, one video at a time: no tensor has an entry for every pair and patch.
        let column = |texts: &Var, v: usize| -> Result<Var> {
            let rows = patches.slice(0, v..v + 1)?.reshape([count, width])?;
            let dots = texts.matmul_nt(&rows)?.scale(1.0 / temperature)?;
            let gates = match mask {
                None => dots.softmax()?,
                Some(mask) => dots.masked_fill(&permute::slice(mask, 0, v..v + 1)?, f32::MIN)?.softmax()?,
            };
            unit(&gates.matmul(&rows)?)?.mul(texts)?.sum(1)
        };
        let (columns, along): (Vec<Var>, usize) = match pairing {
            Pairing::All => {
                let column = |v| column(t, v)?.reshape([t.shape()[0], 1]);
                ((0..videos).map(column).collect::<Result<_>>()?, 1)
            }
            Pairing::Listed(list) if list.is_empty() => {
                return Ok(t.tape().constant(Tensor::zeros(t.value().gpu(), "EERCF", [0, 1])?));
            }
            Pairing::Listed(list) => {
                let run = |run: &[[u32; 2]]| {
                    let texts: Vec<u32> = run.iter().map(|&[text, _]| text).collect();
                    column(&t.embedding(&texts, &[run.len()])?, run[0][1] as usize)?.reshape([run.len(), 1])
                };
                (list.pairs().chunk_by(|a, b| a[1] == b[1]).map(run).collect::<Result<_>>()?, 0)
            }
        };
        concat(&columns, along)
    }

    /// A frame's mask for each of its patches (N, F · P), where padding is left out.
    fn patch_mask(&self, videos: &EercfVideos) -> Result<Option<Tensor>> {
        let (Some(patches), true) = (&videos.patches, self.config().mask_padding) else { return Ok(None) };
        let &[count, frames] = videos.mask.shape() else { return Ok(None) };
        let each = patches.shape()[1] / frames.max(1);
        let tape = Tape::inference(videos.mask.gpu());
        let ones = tape.constant(Tensor::from_slice(tape.gpu(), [each], &vec![1.0; each])?);
        let mask = tape.constant(videos.mask.reshape([count, frames, 1])?).mul(&ones)?;
        Ok(Some(mask.value().reshape([count, frames * each])?))
    }
}

fn shape(argument: &'static str, x: &Var) -> Error {
    Error::Shape { op: "EERCF", argument, expected: "(videos, rows, width)".into(), got: x.shape().to_vec() }
}

/// t · frame for every pair of sentences (B, D) and videos' frames (N, F, D): (B, V, F).
fn frame_dots(t: &Var, frames: &Var, pairing: Pairing) -> Result<Var> {
    let &[texts, width] = t.shape() else { return Err(shape("sentences", t)) };
    let dots = pairing.dots(&t.reshape([texts, 1, width])?, frames)?;
    let &[rows, _, videos, count] = dots.shape() else { return Err(shape("frames", frames)) };
    dots.reshape([rows, videos, count])
}
