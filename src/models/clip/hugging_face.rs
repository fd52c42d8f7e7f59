//! The `config.json` of Hugging Face's models.

use std::path::Path;

use serde_json::{Value, json};

use super::config::{ClipActivation, ClipConfig, EndOfText, Family, TowerConfig, size_at};
use super::refusals;
use crate::data::formats::text::read_json;
use crate::{Error, Result};

/// Hugging Face gives this end token to configurations that were written before it was used.
const LEGACY_EOS: usize = 2;
/// Of BERT's normalisations.
const BERT_EPS: f32 = 1e-12;

impl ClipConfig {
    /// From a Hugging Face `config.json` of a `CLIPModel`, a `SiglipModel` or a `ChineseCLIPModel`. What a file leaves out
    /// has the values of those classes; where there is a `text_config_dict` or `vision_config_dict`, it stands for the
    /// whole `text_config` or `vision_config`, as there.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for other JSON, another model (which it names), or sizes and activations that do
    /// not fit.
    pub fn from_hugging_face(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let json: Value = read_json(path)?;
        let file = File { path, json: &json };
        let config = match json["model_type"].as_str() {
            Some("clip") => file.clip()?,
            Some("siglip") => file.siglip()?,
            Some("chinese_clip") => file.chinese_clip()?,
            _ => return Err(refusals::model_type(path, &json)),
        };
        config.check().map_err(|e| Error::malformed(path, "sizes", e))?;
        Ok(config)
    }

    /// The `config.json` that [`ClipConfig::from_hugging_face`] and Hugging Face's classes read.
    pub fn to_hugging_face(&self) -> Value {
        let activation = match self.activation {
            ClipActivation::QuickGelu => "quick_gelu",
            ClipActivation::Gelu => "gelu",
            ClipActivation::GeluTanh => "gelu_pytorch_tanh",
        };
        let (class, name) = match self.family {
            Family::Clip => ("CLIPModel", "clip"),
            Family::Siglip => ("SiglipModel", "siglip"),
            Family::ChineseClip { .. } => ("ChineseCLIPModel", "chinese_clip"),
        };
        let tower = |t: TowerConfig, kind: &str| {
            json!({
                "model_type": format!("{name}_{kind}_model"), "hidden_size": t.width, "num_attention_heads": t.heads,
                "num_hidden_layers": t.layers, "intermediate_size": t.mlp, "hidden_act": activation,
                "layer_norm_eps": eps_as_written(self.family.norm_eps()), "projection_dim": self.joint,
            })
        };
        let mut text = tower(self.text, "text");
        text["vocab_size"] = json!(self.vocabulary);
        text["max_position_embeddings"] = json!(self.positions);
        match (self.family, self.end_of_text) {
            (Family::Clip, EndOfText::LargestId) => text["eos_token_id"] = json!(LEGACY_EOS),
            (Family::Clip, EndOfText::FirstId(id)) => text["eos_token_id"] = json!(id),
            (Family::Siglip, _) => text["projection_size"] = json!(self.joint),
            (Family::ChineseClip { token_types, pad }, _) => {
                text["type_vocab_size"] = json!(token_types);
                text["pad_token_id"] = json!(pad);
                text["hidden_act"] = json!("gelu");
                text["layer_norm_eps"] = json!(eps_as_written(BERT_EPS));
            }
        }
        let mut vision = tower(self.vision, "vision");
        vision["image_size"] = json!(self.image_size);
        vision["patch_size"] = json!(self.patch_size);
        vision["num_channels"] = json!(3);
        json!({
            "architectures": [class], "model_type": name, "projection_dim": self.joint,
            "logit_scale_init_value": self.logit_scale, "text_config": text, "vision_config": vision,
        })
    }
}

/// The number as people write it: 1e-5, and not the digits of its nearest float.
fn eps_as_written(eps: f32) -> f64 {
    eps.to_string().parse().unwrap_or(eps.into())
}

/// A configuration that is being read.
struct File<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl File<'_> {
    fn bad(&self, place: impl ToString, problem: impl ToString) -> Error {
        Error::malformed(self.path, place, problem)
    }

    /// The section of a tower: `text` or `vision`.
    fn part(&self, tower: &str) -> &Value {
        let old = &self.json[format!("{tower}_config_dict")];
        if old.is_null() { &self.json[format!("{tower}_config")] } else { old }
    }

    fn size(&self, tower: &str, key: &str, default: usize) -> Result<usize> {
        size_at(self.path, &format!("{tower}_config.{key}"), &self.part(tower)[key], Some(default))
    }

    fn tower(&self, tower: &str, default: TowerConfig) -> Result<TowerConfig> {
        Ok(TowerConfig {
            width: self.size(tower, "hidden_size", default.width)?,
            heads: self.size(tower, "num_attention_heads", default.heads)?,
            layers: self.size(tower, "num_hidden_layers", default.layers)?,
            mlp: self.size(tower, "intermediate_size", default.mlp)?,
        })
    }

    fn activation(&self, tower: &str, default: &str) -> Result<ClipActivation> {
        let place = format!("{tower}_config.hidden_act");
        match self.part(tower)["hidden_act"].as_str().unwrap_or(default) {
            "quick_gelu" => Ok(ClipActivation::QuickGelu),
            "gelu" => Ok(ClipActivation::Gelu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(ClipActivation::GeluTanh),
            other => Err(self.bad(place, format_args!("{other:?} is none of quick_gelu, gelu and gelu_pytorch_tanh"))),
        }
    }

    /// Of both towers.
    fn activations(&self, default: &str) -> Result<ClipActivation> {
        let [text, vision] = ["text", "vision"].map(|tower| self.activation(tower, default));
        let (text, vision) = (text?, vision?);
        if text != vision {
            return Err(self.bad("hidden_act", "differs between the towers"));
        }
        Ok(text)
    }

    /// That a tower's normalisations are those that its family has.
    fn expect_eps(&self, tower: &str, expected: f32) -> Result<()> {
        let eps = self.part(tower)["layer_norm_eps"].as_f64().unwrap_or(expected.into());
        if (eps / f64::from(expected) - 1.0).abs() > 1e-3 {
            let place = format!("{tower}_config.layer_norm_eps");
            return Err(self.bad(place, format_args!("is {eps:e}; only {expected:e} is supported")));
        }
        Ok(())
    }

    /// That a key has the value that it has in every supported model, or is left out.
    fn expect(&self, tower: &str, key: &str, only: &Value) -> Result<()> {
        let found = &self.part(tower)[key];
        if found.is_null() || found == only {
            return Ok(());
        }
        Err(self.bad(format!("{tower}_config.{key}"), format_args!("is {found}; only {only} is supported")))
    }

    /// A token's id; lists of one are known.
    fn id(&self, key: &str, default: u32) -> Result<u32> {
        let value = &self.part("text")[key];
        let single = value.as_array().map_or(value, |list| if let [one] = list.as_slice() { one } else { value });
        match single {
            Value::Null => Ok(default),
            Value::Array(_) => {
                let problem = format!("is {value}; which of them ends a text cannot be known, so give one");
                Err(self.bad(format!("text_config.{key}"), problem))
            }
            _ => Ok(size_at(self.path, &format!("text_config.{key}"), single, None)? as u32),
        }
    }

    /// What the three families read alike; `standard` stands for what is left out.
    fn shared(&self, standard: ClipConfig) -> Result<ClipConfig> {
        self.expect("vision", "num_channels", &json!(3))?;
        Ok(ClipConfig {
            image_size: self.size("vision", "image_size", standard.image_size)?,
            patch_size: self.size("vision", "patch_size", standard.patch_size)?,
            vision: self.tower("vision", standard.vision)?,
            text: self.tower("text", standard.text)?,
            vocabulary: self.size("text", "vocab_size", standard.vocabulary)?,
            positions: self.size("text", "max_position_embeddings", standard.positions)?,
            logit_scale: self.json["logit_scale_init_value"].as_f64().map_or(standard.logit_scale, |v| v as f32),
            ..standard
        })
    }

    fn clip(&self) -> Result<ClipConfig> {
        let standard = ClipConfig { logit_scale: 2.6592, ..ClipConfig::vit_b_32() };
        ["text", "vision"].iter().try_for_each(|tower| self.expect_eps(tower, Family::Clip.norm_eps()))?;
        let end_of_text = match self.id("eos_token_id", 49_407)? {
            end if end as usize == LEGACY_EOS => EndOfText::LargestId,
            end => EndOfText::FirstId(end),
        };
        Ok(ClipConfig {
            joint: size_at(self.path, "projection_dim", &self.json["projection_dim"], Some(standard.joint))?,
            activation: self.activations("quick_gelu")?,
            end_of_text,
            ..self.shared(standard)?
        })
    }

    fn siglip(&self) -> Result<ClipConfig> {
        let tower = TowerConfig { width: 768, heads: 12, layers: 12, mlp: 3072 };
        let standard = ClipConfig {
            family: Family::Siglip,
            patch_size: 16,
            vision: tower,
            text: tower,
            vocabulary: 32_000,
            positions: 64,
            logit_scale: 0.0,
            ..ClipConfig::vit_b_32()
        };
        ["text", "vision"].iter().try_for_each(|tower| self.expect_eps(tower, Family::Siglip.norm_eps()))?;
        self.expect("vision", "vision_use_head", &json!(true))?;
        let read = self.shared(standard)?;
        let joint = self.size("text", "projection_size", read.text.width)?;
        Ok(ClipConfig { joint, activation: self.activations("gelu_pytorch_tanh")?, ..read })
    }

    fn chinese_clip(&self) -> Result<ClipConfig> {
        let standard = ClipConfig {
            text: TowerConfig { width: 768, heads: 12, layers: 12, mlp: 3072 },
            vocabulary: 30_522,
            positions: 512,
            logit_scale: 2.6592,
            ..ClipConfig::vit_b_32()
        };
        self.expect_eps("vision", Family::Clip.norm_eps())?;
        self.expect_eps("text", BERT_EPS)?;
        self.expect("text", "hidden_act", &json!("gelu"))?;
        self.expect("text", "position_embedding_type", &json!("absolute"))?;
        let (token_types, pad) = (self.size("text", "type_vocab_size", 2)?, self.id("pad_token_id", 0)?);
        Ok(ClipConfig {
            family: Family::ChineseClip { token_types, pad },
            joint: size_at(self.path, "projection_dim", &self.json["projection_dim"], Some(standard.joint))?,
            activation: self.activation("vision", "quick_gelu")?,
            ..self.shared(standard)?
        })
    }
}
