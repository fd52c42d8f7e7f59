//! Sizes and conventions of a CLIP model.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::kernels::elementwise::unary::Activation;
use crate::tensor::Array;
use crate::{Error, Result};

/// Of every normalisation inside CLIP.
pub(super) const NORM_EPS: f32 = 1e-5;
/// Hugging Face gives this end token to configurations that were written before it was used.
const LEGACY_EOS: usize = 2;
/// Every OpenAI model has heads of this width.
const HEAD_WIDTH: usize = 64;
/// Far beyond every published model; a damaged file's sizes end here, before anything is made from them.
const MOST_LAYERS: usize = 1000;
const LARGEST_SIZE: usize = 1 << 24;

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
    /// x Φ(x): of some models trained elsewhere.
    Gelu,
}

impl From<ClipActivation> for Activation {
    fn from(activation: ClipActivation) -> Self {
        match activation {
            ClipActivation::QuickGelu => Self::QuickGelu,
            ClipActivation::Gelu => Self::Gelu,
        }
    }
}

/// Sizes and conventions; the constructors give the published ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// Height and width of images, in pixels.
    pub image_size: usize,
    /// Height and width of a patch; it divides `image_size`.
    pub patch_size: usize,
    /// The image tower.
    pub vision: TowerConfig,
    /// The text tower.
    pub text: TowerConfig,
    /// Rows of the token table.
    pub vocabulary: usize,
    /// Rows of the text position table: the longest text.
    pub positions: usize,
    /// Width D of the joint space.
    pub joint: usize,
    /// Of both towers.
    pub activation: ClipActivation,
    /// Which token of a text stands for the whole.
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
        if patch_size == 0 || image_size == 0 || !image_size.is_multiple_of(patch_size) {
            return bad("patch_size", format!("of {patch_size} does not divide images of {image_size}"));
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

    /// From a Hugging Face `config.json` of a `CLIPModel`. What a file leaves out has the values of ViT-B/32, as there.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for other JSON, another model type, or sizes and activations that do not fit.
    pub fn from_hugging_face(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let json: Value = crate::data::formats::text::read_json(path)?;
        let malformed = |place: &str, problem: &dyn std::fmt::Display| Error::malformed(path, place, problem);
        if json["model_type"].as_str() != Some("clip") {
            return Err(malformed("model_type", &format!("is {}, not \"clip\"", json["model_type"])));
        }
        let (text, vision, standard) = (&json["text_config"], &json["vision_config"], Self::vit_b_32());
        let number = |place: &str, value: &Value, default: usize| match value {
            Value::Null => Ok(default),
            value => value
                .as_u64()
                .filter(|&n| n <= LARGEST_SIZE as u64)
                .map(|n| n as usize)
                .ok_or_else(|| malformed(place, &format!("is {value}, not a size"))),
        };
        let size = |part: &str, key: &str, default| number(&format!("{part}.{key}"), &json[part][key], default);
        let tower = |part: &str, default: TowerConfig| -> Result<TowerConfig> {
            Ok(TowerConfig {
                width: size(part, "hidden_size", default.width)?,
                heads: size(part, "num_attention_heads", default.heads)?,
                layers: size(part, "num_hidden_layers", default.layers)?,
                mlp: size(part, "intermediate_size", default.mlp)?,
            })
        };
        let activation_of = |part: &Value| match part["hidden_act"].as_str() {
            None | Some("quick_gelu") => Ok(ClipActivation::QuickGelu),
            Some("gelu") => Ok(ClipActivation::Gelu),
            Some(other) => Err(malformed("hidden_act", &format!("{other:?} is neither quick_gelu nor gelu"))),
        };
        let activation = activation_of(text)?;
        if !matches!(activation_of(vision), Ok(other) if other == activation) {
            return Err(malformed("hidden_act", &"differs between the towers"));
        }
        for part in [text, vision] {
            let eps = part["layer_norm_eps"].as_f64().unwrap_or(NORM_EPS.into());
            if (eps - f64::from(NORM_EPS)).abs() > 1e-9 {
                return Err(malformed("layer_norm_eps", &format!("is {eps}; only {NORM_EPS:e} is supported")));
            }
        }
        let end = size("text_config", "eos_token_id", 49_407)?;
        let config = Self {
            image_size: size("vision_config", "image_size", standard.image_size)?,
            patch_size: size("vision_config", "patch_size", standard.patch_size)?,
            vision: tower("vision_config", standard.vision)?,
            text: tower("text_config", standard.text)?,
            vocabulary: size("text_config", "vocab_size", standard.vocabulary)?,
            positions: size("text_config", "max_position_embeddings", standard.positions)?,
            joint: number("projection_dim", &json["projection_dim"], standard.joint)?,
            activation,
            end_of_text: match end {
                LEGACY_EOS => EndOfText::LargestId,
                end => EndOfText::FirstId(end as u32),
            },
            logit_scale: json["logit_scale_init_value"].as_f64().unwrap_or(2.6592) as f32,
            recompute: false,
        };
        config.check().map_err(|e| malformed("sizes", &e))?;
        Ok(config)
    }

    /// The `config.json` that [`ClipConfig::from_hugging_face`] and Hugging Face's `CLIPModel` read.
    pub fn to_hugging_face(&self) -> Value {
        let activation = match self.activation {
            ClipActivation::QuickGelu => "quick_gelu",
            ClipActivation::Gelu => "gelu",
        };
        let tower = |t: TowerConfig, kind: &str| {
            json!({
                "model_type": kind, "hidden_size": t.width, "num_attention_heads": t.heads,
                "num_hidden_layers": t.layers, "intermediate_size": t.mlp, "hidden_act": activation,
                "layer_norm_eps": 1e-5, "projection_dim": self.joint,
            })
        };
        let mut text = tower(self.text, "clip_text_model");
        text["vocab_size"] = json!(self.vocabulary);
        text["max_position_embeddings"] = json!(self.positions);
        text["eos_token_id"] = match self.end_of_text {
            EndOfText::LargestId => json!(LEGACY_EOS),
            EndOfText::FirstId(id) => json!(id),
        };
        let mut vision = tower(self.vision, "clip_vision_model");
        vision["image_size"] = json!(self.image_size);
        vision["patch_size"] = json!(self.patch_size);
        vision["num_channels"] = json!(3);
        json!({
            "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": self.joint,
            "logit_scale_init_value": self.logit_scale, "text_config": text, "vision_config": vision,
        })
    }

    /// The sizes that weights with OpenAI's names imply; heads are 64 wide, as in every OpenAI model. `origin` says in
    /// errors where the weights are from.
    ///
    /// # Errors
    /// [`Error::MissingParameter`]; [`Error::Argument`] for sizes that fit no model.
    pub fn from_weights(origin: &str, arrays: &BTreeMap<String, Array>) -> Result<Self> {
        let shape = |name: &str, rank: usize| {
            let missing = || Error::MissingParameter { origin: origin.into(), name: name.into() };
            arrays.get(name).map(Array::shape).filter(|s| s.len() == rank).ok_or_else(missing)
        };
        let tower = |prefix: &str, width: usize| -> Result<TowerConfig> {
            let ending = ".attn.in_proj_weight";
            let layers = arrays.keys().filter(|n| n.starts_with(prefix) && n.ends_with(ending)).count();
            let mlp = shape(&format!("{prefix}.0.mlp.c_fc.weight"), 2)?[0];
            Ok(TowerConfig { width, heads: width / HEAD_WIDTH, layers, mlp })
        };
        let conv = shape("visual.conv1.weight", 4)?;
        let grid = (shape("visual.positional_embedding", 2)?[0].saturating_sub(1)).isqrt();
        let config = Self {
            image_size: grid.saturating_mul(conv[3]),
            patch_size: conv[3],
            vision: tower("visual.transformer.resblocks", conv[0])?,
            text: tower("transformer.resblocks", shape("ln_final.weight", 1)?[0])?,
            vocabulary: shape("token_embedding.weight", 2)?[0],
            positions: shape("positional_embedding", 2)?[0],
            joint: shape("text_projection", 2)?[1],
            ..Self::vit_b_32()
        };
        config.check()?;
        Ok(config)
    }
}
