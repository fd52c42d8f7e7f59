//! open_clip's configurations: `open_clip_config.json`, and the architectures that it knows by name.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::{ClipActivation, ClipConfig, EndOfText, Family, LARGEST_SIZE, TowerConfig, size_at};
use super::refusals;
use crate::{Error, Result};

/// A name, and what differs between the architectures: patch, side of pictures, image tower (width, width of a head,
/// layers, hidden width), text tower (width, heads, layers), joint width.
type Architecture = (&'static str, usize, usize, [usize; 4], [usize; 3], usize);

/// The published architectures, under open_clip's names. With `-quickgelu` behind it, a name means the same sizes with the
/// activation of OpenAI's models, which are ViT-B-32-quickgelu, ViT-B-16-quickgelu, ViT-L-14-quickgelu and
/// ViT-L-14-336-quickgelu.
const ARCHITECTURES: [Architecture; 12] = [
    ("ViT-B-32", 32, 224, [768, 64, 12, 3072], [512, 8, 12], 512),
    ("ViT-B-32-256", 32, 256, [768, 64, 12, 3072], [512, 8, 12], 512),
    ("ViT-B-16", 16, 224, [768, 64, 12, 3072], [512, 8, 12], 512),
    ("ViT-B-16-plus-240", 16, 240, [896, 64, 12, 3584], [640, 10, 12], 640),
    ("ViT-L-14", 14, 224, [1024, 64, 24, 4096], [768, 12, 12], 768),
    ("ViT-L-14-280", 14, 280, [1024, 64, 24, 4096], [768, 12, 12], 768),
    ("ViT-L-14-336", 14, 336, [1024, 64, 24, 4096], [768, 12, 12], 768),
    ("ViT-L-16", 16, 224, [1024, 64, 24, 4096], [768, 12, 12], 768),
    ("ViT-H-14", 14, 224, [1280, 80, 32, 5120], [1024, 16, 24], 1024),
    ("ViT-H-14-378", 14, 378, [1280, 80, 32, 5120], [1024, 16, 24], 1024),
    ("ViT-g-14", 14, 224, [1408, 88, 40, 6144], [1024, 16, 24], 1024),
    ("ViT-bigG-14", 14, 224, [1664, 104, 48, 8192], [1280, 20, 32], 1280),
];

const QUICK: &str = "-quickgelu";

/// The names that [`ClipConfig::of_architecture`] knows, each of them also with `-quickgelu` behind it.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, ..)| *name)
}

/// What a file must not say otherwise than open_clip's plain vision transformers do; a key that is in neither list is
/// refused, because it could change the network.
const VISION_NEUTRAL: [(&str, &[Value]); 12] = [
    ("ls_init_value", &[Value::Null]),
    ("patch_dropout", &[]),
    ("attentional_pool", &[Value::Bool(false), Value::Null]),
    ("no_ln_pre", &[Value::Bool(false)]),
    ("final_ln_after_pool", &[Value::Bool(false)]),
    ("output_tokens", &[]),
    ("act_kwargs", &[Value::Null]),
    ("norm_kwargs", &[Value::Null]),
    ("timm_model_name", &[Value::Null]),
    ("qk_norm", &[Value::Bool(false)]),
    ("input_patchnorm", &[Value::Bool(false)]),
    ("global_average_pool", &[Value::Bool(false)]),
];
const VISION_SIZES: [&str; 7] = ["image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "pool_type"];
const TEXT_NEUTRAL: [(&str, &[Value]); 10] = [
    ("ls_init_value", &[Value::Null]),
    ("hf_model_name", &[Value::Null]),
    ("hf_tokenizer_name", &[]),
    ("tokenizer_kwargs", &[]),
    ("embed_cls", &[Value::Bool(false)]),
    ("no_causal_mask", &[Value::Bool(false)]),
    ("final_ln_after_pool", &[Value::Bool(false)]),
    ("proj_bias", &[Value::Bool(false)]),
    ("output_tokens", &[]),
    ("act_kwargs", &[Value::Null]),
];
const TEXT_SIZES: [&str; 7] = ["context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pool_type"];
const MODEL_NEUTRAL: [(&str, &[Value]); 4] = [
    ("multimodal_cfg", &[Value::Null]),
    ("init_logit_bias", &[Value::Null]),
    ("custom_text", &[Value::Bool(false), Value::Null]),
    ("init_logit_scale", &[]),
];
const MODEL_KEYS: [&str; 4] = ["embed_dim", "vision_cfg", "text_cfg", "quick_gelu"];

impl ClipConfig {
    /// A published architecture, by open_clip's name for it.
    ///
    /// # Errors
    /// [`Error::Argument`] with the names that there are.
    pub fn of_architecture(name: &str) -> Result<Self> {
        let (plain, quick) = name.strip_suffix(QUICK).map_or((name, false), |plain| (plain, true));
        let Some(&(_, patch_size, image_size, vision, text, joint)) = ARCHITECTURES.iter().find(|a| a.0 == plain)
        else {
            let known: Vec<&str> = architectures().collect();
            let why = format!(
                "{name:?} is unknown; there are {}, each also as NAME{QUICK} (OpenAI's own models are of that kind)",
                known.join(", ")
            );
            return Err(Error::argument("ClipConfig", "architecture", why));
        };
        let [width, head, layers, mlp] = vision;
        Ok(Self {
            image_size,
            patch_size,
            vision: TowerConfig { width, heads: width / head, layers, mlp },
            text: TowerConfig { width: text[0], heads: text[1], layers: text[2], mlp: 4 * text[0] },
            joint,
            activation: if quick { ClipActivation::QuickGelu } else { ClipActivation::Gelu },
            ..Self::vit_b_32()
        })
    }

    /// From the content of an `open_clip_config.json`, or of one of open_clip's own `model_configs`. What it leaves out has
    /// open_clip's defaults: GELU, heads of 64, hidden layers of four times the width.
    ///
    /// # Errors
    /// [`Error::Malformed`] for other JSON, towers that are no plain vision transformer and text transformer (which it
    /// names), and sizes that do not fit.
    pub fn from_open_clip(path: impl AsRef<Path>, json: &Value) -> Result<Self> {
        let path = path.as_ref();
        let model = if json["model_cfg"].is_object() { &json["model_cfg"] } else { json };
        if let Some(refusal) = refusals::open_clip(path, model) {
            return Err(refusal);
        }
        let file = File { path, model };
        file.check_keys("model_cfg", model, &MODEL_KEYS, &MODEL_NEUTRAL)?;
        file.check_keys("vision_cfg", &model["vision_cfg"], &VISION_SIZES, &VISION_NEUTRAL)?;
        file.check_keys("text_cfg", &model["text_cfg"], &TEXT_SIZES, &TEXT_NEUTRAL)?;
        file.expect_text("vision_cfg", "pool_type", "tok")?;
        file.expect_text("text_cfg", "pool_type", "argmax")?;
        let size = |part: &str, key: &str, default: usize| file.size(part, key, Some(default));
        let (width, text_width) = (size("vision_cfg", "width", 768)?, size("text_cfg", "width", 512)?);
        let head = size("vision_cfg", "head_width", 64)?.max(1);
        let config = Self {
            family: Family::Clip,
            image_size: size("vision_cfg", "image_size", 224)?,
            patch_size: size("vision_cfg", "patch_size", 16)?,
            vision: TowerConfig {
                width,
                heads: width / head,
                layers: size("vision_cfg", "layers", 12)?,
                mlp: file.hidden("vision_cfg", width)?,
            },
            text: TowerConfig {
                width: text_width,
                heads: size("text_cfg", "heads", 8)?,
                layers: size("text_cfg", "layers", 12)?,
                mlp: file.hidden("text_cfg", text_width)?,
            },
            vocabulary: size("text_cfg", "vocab_size", 49_408)?,
            positions: size("text_cfg", "context_length", 77)?,
            joint: file.size("", "embed_dim", None)?,
            activation: match model["quick_gelu"] {
                Value::Bool(true) => ClipActivation::QuickGelu,
                _ => ClipActivation::Gelu,
            },
            end_of_text: EndOfText::LargestId,
            logit_scale: (1.0f32 / 0.07).ln(),
            recompute: false,
        };
        config.check().map_err(|e| Error::malformed(path, "sizes", e))?;
        Ok(config)
    }
}

/// A configuration that is being read.
struct File<'a> {
    path: &'a Path,
    model: &'a Value,
}

impl File<'_> {
    fn bad(&self, place: impl ToString, problem: impl ToString) -> Error {
        Error::malformed(self.path, place, problem)
    }

    /// That every key is one of `known`, or has a value with which the network is a plain one.
    fn check_keys(&self, place: &str, part: &Value, known: &[&str], neutral: &[(&str, &[Value])]) -> Result<()> {
        let none = Map::new();
        let object = match part {
            Value::Null if place == "text_cfg" || place == "vision_cfg" => {
                return Err(self.bad(place, "is missing"));
            }
            part => part.as_object().unwrap_or(&none),
        };
        for (key, value) in object.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            let harmless = neutral.iter().find(|(name, _)| name == key);
            if !harmless.is_some_and(|(_, values)| values.is_empty() || values.contains(value)) {
                let problem = format!("is {value}, which makes the network another one than is supported here");
                return Err(self.bad(format!("{place}.{key}"), problem));
            }
        }
        Ok(())
    }

    fn expect_text(&self, part: &str, key: &str, only: &str) -> Result<()> {
        match &self.model[part][key] {
            Value::Null => Ok(()),
            Value::String(text) if text == only => Ok(()),
            other => Err(self.bad(format!("{part}.{key}"), format_args!("is {other}; only {only:?} is supported"))),
        }
    }

    /// A size; pairs of equal sides count as one.
    fn size(&self, part: &str, key: &str, default: Option<usize>) -> Result<usize> {
        let value = if part.is_empty() { &self.model[key] } else { &self.model[part][key] };
        let place = format!("{part}.{key}");
        let value = match value.as_array().map(Vec::as_slice) {
            Some([height, width]) if height == width => height,
            _ => value,
        };
        size_at(self.path, place.trim_start_matches('.'), value, default)
    }

    /// The hidden width of a tower's feed-forward networks, as open_clip rounds it.
    fn hidden(&self, part: &str, width: usize) -> Result<usize> {
        match &self.model[part]["mlp_ratio"] {
            Value::Null => Ok(4 * width),
            ratio => {
                let hidden = ratio.as_f64().map(|ratio| (width as f64 * ratio) as usize);
                let fits = hidden.filter(|&hidden| (1..=LARGEST_SIZE).contains(&hidden));
                fits.ok_or_else(|| self.bad(format!("{part}.mlp_ratio"), format_args!("is {ratio}, not a ratio")))
            }
        }
    }
}
