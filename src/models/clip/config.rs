//! Sizes and conventions of CLIP and its kin.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kernels::elementwise::unary::Activation;
use crate::{Error, Result};

/// Far beyond every published model; a damaged file's sizes end here, before anything is made from them.
const MOST_LAYERS: usize = 1000;
pub(super) const LARGEST_SIZE: usize = 1 << 24;

/// A size that a configuration's file has at `place`, or `default` where it has none.
pub(super) fn size_at(path: &Path, place: &str, value: &Value, default: Option<usize>) -> Result<usize> {
    match (value, default) {
        (Value::Null, Some(default)) => Ok(default),
        (Value::Null, None) => Err(Error::malformed(path, place, "is missing")),
        (value, _) => value
            .as_u64()
            .filter(|&n| n <= LARGEST_SIZE as u64)
            .map(|n| n as usize)
            .ok_or_else(|| Error::malformed(path, place, format_args!("is {value}, not a size"))),
    }
}

/// What the towers are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// OpenAI's and open_clip's: a class token stands for a picture, the end token of a causal transformer for a text, and
    /// both are projected without bias.
    #[default]
    Clip,
    /// SigLIP and SigLIP 2 of fixed resolution (Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023): an
    /// attention head pools a picture's patches, and a text is its last position, after padding, seen by all others.
    Siglip,
    /// Chinese-CLIP (Yang et al., 2022): CLIP's image tower, and a BERT whose class token stands for a text.
    ChineseClip {
        /// Rows of the table of token types.
        token_types: usize,
        /// The id of padding.
        pad: u32,
    },
}

impl Family {
    /// Of every normalisation, BERT's aside.
    pub(super) fn norm_eps(self) -> f32 {
        if self == Self::Siglip { 1e-6 } else { 1e-5 }
    }
}

/// A transformer's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TowerConfig {
    /// Width of tokens.
    pub width: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Residual blocks.
    pub layers: usize,
    /// Hidden width of the feed-forward networks.
    pub mlp: usize,
}

/// Which token of a text stands for the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndOfText {
    /// The one with the largest id, the first of equals: OpenAI's, where the end token has the largest id of all.
    LargestId,
    /// The first with this id: Hugging Face's.
    FirstId(u32),
}

/// The activation of the feed-forward networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipActivation {
    /// x σ(1.702 x): OpenAI's.
    QuickGelu,
    /// x Φ(x): of open_clip's models, unless they say otherwise.
    Gelu,
    /// The approximation of it by a hyperbolic tangent: SigLIP's.
    GeluTanh,
}

impl From<ClipActivation> for Activation {
    fn from(activation: ClipActivation) -> Self {
        match activation {
            ClipActivation::QuickGelu => Self::QuickGelu,
            ClipActivation::Gelu => Self::Gelu,
            ClipActivation::GeluTanh => Self::GeluTanh,
        }
    }
}

/// Sizes and conventions; the constructors give the published ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// What the towers are made of.
    #[serde(default)]
    pub family: Family,
    /// Height and width of images, in pixels.
    pub image_size: usize,
    /// Height and width of a patch. What of a picture is less than one, at the right and at the bottom, is not seen.
    pub patch_size: usize,
    /// The image tower.
    pub vision: TowerConfig,
    /// The text tower.
    pub text: TowerConfig,
    /// Rows of the token table.
    pub vocabulary: usize,
    /// Rows of the text position table: the longest text, and with SigLIP the length of every one.
    pub positions: usize,
    /// Width D of the joint space.
    pub joint: usize,
    /// Of both towers; Chinese-CLIP's BERT has GELU.
    pub activation: ClipActivation,
    /// Which token of a text stands for the whole, with [`Family::Clip`].
    pub end_of_text: EndOfText,
    /// Where the logarithm of the factor of similarities starts.
    pub logit_scale: f32,
    /// Runs each block of the towers again on the way back instead of keeping what it computed: memory for time.
    #[serde(default)]
    pub recompute: bool,
}

impl ClipConfig {
    /// OpenAI's ViT-B/32: 151,277,313 parameters.
    pub fn vit_b_32() -> Self {
        Self {
            family: Family::Clip,
            image_size: 224,
            patch_size: 32,
            vision: TowerConfig { width: 768, heads: 12, layers: 12, mlp: 3072 },
            text: TowerConfig { width: 512, heads: 8, layers: 12, mlp: 2048 },
            vocabulary: 49_408,
            positions: 77,
            joint: 512,
            activation: ClipActivation::QuickGelu,
            end_of_text: EndOfText::LargestId,
            logit_scale: (1.0f32 / 0.07).ln(),
            recompute: false,
        }
    }

    /// Patches of an image, P.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size.max(1)).pow(2)
    }

    /// Checks what the sizes must satisfy.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check(&self) -> Result<()> {
        let bad = |argument, why: String| Err(Error::Argument { op: "ClipConfig", argument, why });
        let Self { image_size, patch_size, .. } = *self;
        if patch_size == 0 || image_size < patch_size {
            return bad("patch_size", format!("of {patch_size} does not fit into images of {image_size}"));
        }
        if self.family == Family::Siglip && self.vision.width != self.joint {
            let why =
                format!("of {} must be the width of the joint space, {}, with SigLIP", self.vision.width, self.joint);
            return bad("vision.width", why);
        }
        for (name, tower) in [("vision", self.vision), ("text", self.text)] {
            let TowerConfig { width, heads, layers, mlp } = tower;
            if heads == 0 || !width.is_multiple_of(heads) || width == 0 || layers == 0 || mlp == 0 {
                return bad(name, format!("has width {width}, {heads} heads, {layers} layers and hidden width {mlp}"));
            }
        }
        if self.vocabulary == 0 || self.positions == 0 || self.joint == 0 {
            return bad("vocabulary, positions and joint", "must be positive".into());
        }
        let layers = self.vision.layers.max(self.text.layers);
        if layers > MOST_LAYERS {
            return bad("layers", format!("are {layers}; at most {MOST_LAYERS} are possible"));
        }
        let widths = [self.vision, self.text].into_iter().flat_map(|tower| [tower.width, tower.mlp]);
        let sizes = widths.chain([image_size, self.vocabulary, self.positions, self.joint]);
        match sizes.max() {
            Some(size) if size > LARGEST_SIZE => bad("sizes", format!("go up to {size}; {LARGEST_SIZE} is the most")),
            _ => Ok(()),
        }
    }
}
