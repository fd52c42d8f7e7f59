//! CLIP4Clip: CLIP's towers over sampled frames, a temporal transformer, and the cosine of a text with the mean of its
//! frames (Luo et al., "CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval", 2021). EERCF and
//! GLCCL stand on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::autograd::{AttentionOptions, Tape, Var};
use crate::gpu::Gpu;
use crate::kernels::elementwise::unary::Activation;
use crate::models::clip::{ClipConfig, Family, MAX_LOGIT_SCALE, ResidualBlocks, TextFeatures, TowerConfig, Towers};
use crate::models::heads::Head;
use crate::models::towers::{LossParts, Needs, TowerModel};
use crate::models::{Finish, Model, Stored};
use crate::nn::{Init, Parameter, ParameterStore, Scope};
use crate::tensor::{Array, Tensor};
use crate::{Error, Result};

/// Of the temporal transformer's normalisations; the official code differs from CLIP here.
const TEMPORAL_NORM_EPS: f32 = 1e-12;
/// A norm that is not divided by: all-zero features stay zero.
const SMALLEST_NORM: f32 = 1e-30;

/// What comes between frames and their mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SimilarityHeader {
    /// Nothing.
    #[serde(rename = "meanP")]
    MeanPool,
    /// A transformer over the frames, with a residual to them.
    #[default]
    #[serde(rename = "seqTransf")]
    Temporal,
}

/// Sizes; the default is ViT-B/32 with the official temporal transformer, for 12 frames and 32 tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BaseConfig {
    /// The towers; `None` for models over precomputed features.
    pub clip: Option<ClipConfig>,
    /// Width D of the joint space.
    pub joint: usize,
    /// Frames of a video, F.
    pub frames: usize,
    /// Tokens of a text, n: the length that texts are padded to.
    pub words: usize,
    /// What comes between frames and their mean.
    pub header: SimilarityHeader,
    /// Blocks of the temporal transformer.
    pub temporal_layers: usize,
    /// Its heads.
    pub temporal_heads: usize,
    /// Rows of its position table.
    pub frame_positions: usize,
}

impl Default for BaseConfig {
    fn default() -> Self {
        Self {
            clip: Some(ClipConfig::vit_b_32()),
            joint: 512,
            frames: 12,
            words: 32,
            header: SimilarityHeader::Temporal,
            temporal_layers: 4,
            temporal_heads: 8,
            frame_positions: 77,
        }
    }
}

impl BaseConfig {
    /// On the towers of `clip`.
    pub fn on(clip: ClipConfig) -> Self {
        let (joint, temporal_heads) = (clip.joint, (clip.joint / 64).max(1));
        // Every text of a SigLIP takes all its positions.
        let words = if clip.family == Family::Siglip { clip.positions } else { 32.min(clip.positions) };
        Self { joint, temporal_heads, words, clip: Some(clip), ..Self::default() }
    }
}

/// Features of a batch before any normalisation to unit length, from the towers or from files.
#[derive(Clone, Debug)]
pub struct VideoFeatures {
    /// Of the frames' class tokens (N, F, D).
    pub frames: Var,
    /// 1 for frames, 0 for padding (N, F). Padded frames are all-zero images that go through the tower.
    pub mask: Tensor,
    /// Of the patches, frame by frame (N, F · P, D), where they were asked for.
    pub patches: Option<Var>,
}

/// What CLIP4Clip and the models on it share.
pub struct Base {
    config: BaseConfig,
    towers: Option<Towers>,
    logit_scale: Parameter,
    positions: Option<Parameter>,
    blocks: ResidualBlocks,
}

impl Base {
    /// Declares the parameters under their official names.
    ///
    /// # Errors
    /// [`Error::Argument`] for sizes that do not fit; [`Error::DuplicateParameter`].
    pub fn new(s: &Scope<'_>, config: &BaseConfig) -> Result<Self> {
        let bad = |argument, why: String| Err(Error::Argument { op: "CLIP4Clip", argument, why });
        if let Some(clip) = &config.clip {
            if clip.joint != config.joint {
                return bad("joint", format!("is {}, the towers' is {}", config.joint, clip.joint));
            }
            if config.words > clip.positions {
                return bad(
                    "words",
                    format!("of {} exceed the text tower's {} positions", config.words, clip.positions),
                );
            }
        }
        let temporal = config.header == SimilarityHeader::Temporal;
        if temporal && config.frames > config.frame_positions {
            return bad("frames", format!("of {} exceed {} frame positions", config.frames, config.frame_positions));
        }
        let towers = config.clip.as_ref().map(|clip| Towers::new(&s.scope("clip"), clip)).transpose()?;
        let logit_scale = match &towers {
            Some(towers) => towers.logit_scale.clone(),
            None => s.declare("clip.logit_scale", [], Init::Constant(MAX_LOGIT_SCALE))?,
        };
        let width = config.joint;
        let layers = if temporal { config.temporal_layers } else { 0 };
        let sizes = TowerConfig { width, heads: config.temporal_heads, layers, mlp: 4 * width };
        let positions = temporal.then(|| {
            let shape = [config.frame_positions, width];
            // Half as large as untrained towers' frames: smaller, and order is hardly learnt from scratch. Officially they
            // are never trained from scratch, see `Base::complete`.
            s.declare("frame_position_embeddings.weight", shape, Init::Normal { std: 0.5 })
        });
        let positions = positions.transpose()?;
        let blocks = s.scope("transformerClip.resblocks");
        let blocks = ResidualBlocks::new(&blocks, sizes, Activation::QuickGelu, TEMPORAL_NORM_EPS, false)?;
        Ok(Self { config: config.clone(), towers, logit_scale, positions, blocks })
    }

    /// The sizes.
    pub fn config(&self) -> &BaseConfig {
        &self.config
    }

    fn towers(&self) -> Result<&Towers> {
        let why = || "has no towers: it was made for precomputed features".to_string();
        self.towers.as_ref().ok_or_else(|| Error::Argument { op: "CLIP4Clip", argument: "model", why: why() })
    }

    /// The factor of similarities, a scalar.
    pub fn scale(&self, tape: &Tape) -> Result<Var> {
        self.logit_scale.on(tape).exp()
    }

    /// Normalised pixels of whole images, one after another, as a tensor (n, 3, H, W).
    ///
    /// # Errors
    /// [`Error::Argument`] without towers; [`Error::Shape`] for a part of an image; device errors.
    pub fn upload(&self, gpu: &Gpu, pixels: &[f32]) -> Result<Tensor> {
        let size = self.towers()?.image.size();
        Tensor::from_slice(gpu, [pixels.len() / (3 * size * size), 3, size, size], pixels)
    }

    /// Token ids (B · words) to sentences (B, D) and, if asked for, words (B, n, D).
    ///
    /// # Errors
    /// [`Error::Argument`] without towers; those of [`crate::models::clip::TextTower::encode`].
    pub fn encode_texts(&self, tape: &Tape, ids: &[u32], words: bool) -> Result<TextFeatures> {
        self.towers()?.text.encode(tape, ids, self.config.words, None, words)
    }

    /// Normalised pixels (N · F, 3, H, W) with `mask` (N, F) to features of frames and, if asked for, of patches.
    ///
    /// # Errors
    /// [`Error::Argument`] without towers; [`Error::Shape`].
    pub fn encode_frames(&self, pixels: &Var, mask: &Tensor, patches: bool) -> Result<VideoFeatures> {
        let &[videos, frames] = mask.shape() else {
            let expected = "(videos, frames)".to_string();
            return Err(Error::Shape { op: "CLIP4Clip", argument: "mask", expected, got: mask.shape().to_vec() });
        };
        let features = self.towers()?.image.encode(pixels, patches)?;
        let width = self.config.joint;
        let patches = features.patches.map(|p| {
            let count = p.shape()[1];
            p.reshape([videos, frames * count, width])
        });
        Ok(VideoFeatures {
            frames: features.image.reshape([videos, frames, width])?,
            mask: mask.clone(),
            patches: patches.transpose()?,
        })
    }

    /// Frames (N, F, D) that have seen each other, as far as `mask` (N, F) is 1; the frames themselves for mean pooling.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] for more frames than positions; [`Error::Shape`].
    pub fn temporal(&self, frames: &Var, mask: &Tensor) -> Result<Var> {
        let Some(positions) = &self.positions else { return Ok(frames.clone()) };
        let (count, rows) = (frames.shape()[1], positions.shape()[0]);
        if count > rows {
            return Err(Error::IndexOutOfRange { op: "frame positions", index: count as u64, len: rows as u64 });
        }
        let x = frames.add(&positions.rows_on(frames.tape(), 0..count)?)?;
        let masks = AttentionOptions { key_mask: Some(mask.clone()), ..AttentionOptions::default() };
        self.blocks.forward(&x, &masks)?.add(frames)
    }

    /// One vector of unit length for each video (N, D): the mean of its frames' unit vectors.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn mean_pool(&self, frames: &Var, mask: &Tensor) -> Result<Var> {
        unit(&unit(frames)?.masked_mean(Some(mask))?)
    }

    /// Adds to weights of CLIP alone, named as in `store`, what the store needs beside them: the temporal transformer
    /// starts as the text tower's first blocks and positions where they fit, everything else as the store drew it.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn complete(store: &ParameterStore, clip: BTreeMap<String, Array>) -> Result<BTreeMap<String, Array>> {
        let mut arrays: BTreeMap<String, Array> = clip.into_iter().map(|(n, a)| (format!("clip.{n}"), a)).collect();
        for parameter in store.parameters().iter().filter(|p| !p.name().starts_with("clip.")) {
            let source = match parameter.name().strip_prefix("transformerClip.") {
                Some(rest) => format!("clip.transformer.{rest}"),
                None if parameter.name() == "frame_position_embeddings.weight" => "clip.positional_embedding".into(),
                None => String::new(),
            };
            let text = arrays.get(&source).filter(|a| a.shape() == parameter.shape());
            let array = match text {
                Some(array) => array.clone(),
                None => parameter.value().to_array()?,
            };
            arrays.insert(parameter.name().into(), array);
        }
        Ok(arrays)
    }
}

/// Vectors of unit length along the last dimension.
pub(crate) fn unit(x: &Var) -> Result<Var> {
    x.l2_normalize(SMALLEST_NORM)
}

/// The model itself: the scaled cosine of a sentence with a video's mean frame.
pub struct Clip4Clip {
    base: Base,
    stored: Stored<BaseConfig>,
}

impl Model for Clip4Clip {
    type Config = BaseConfig;

    fn declare(config: &BaseConfig, s: &Scope<'_>) -> Result<Finish<Self>> {
        let base = Base::new(s, config)?;
        Ok(Box::new(move |stored| Self { base, stored }))
    }

    fn stored(&self) -> &Stored<BaseConfig> {
        &self.stored
    }
}

/// Texts and videos are vectors of unit length, (B, D) and (N, D).
impl TowerModel for Clip4Clip {
    type Texts = Var;
    type Videos = Var;

    fn base(&self) -> &Base {
        &self.base
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn loss(&self, texts: &TextFeatures, videos: &VideoFeatures) -> Result<LossParts> {
        let heads = self.compare(&self.prepare_texts(texts)?, &self.prepare_videos(videos)?)?;
        Ok((heads[0].scores.info_nce()?, Vec::new()))
    }

    fn prepare_texts(&self, texts: &TextFeatures) -> Result<Var> {
        unit(&texts.sentence)
    }

    fn prepare_videos(&self, videos: &VideoFeatures) -> Result<Var> {
        self.base.mean_pool(&self.base.temporal(&videos.frames, &videos.mask)?, &videos.mask)
    }

    /// One head, `sentence_video`: exp(logit_scale) · cosine.
    fn compare(&self, texts: &Var, videos: &Var) -> Result<Vec<Head>> {
        let scores = texts.matmul_nt(videos)?;
        Ok(vec![Head::new("sentence_video", scores.mul(&self.base.scale(texts.tape())?)?)])
    }

    fn similarity(&self, heads: &[Head]) -> Result<Var> {
        Ok(heads[0].scores.clone())
    }
}
