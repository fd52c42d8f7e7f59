//! Sizes and options, as Hugging Face's `config.json` has them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::data::formats::text::read_json;
use crate::{Error, Result};

/// Which of the two networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BertKind {
    /// Positions count from 0.
    #[default]
    Bert,
    /// Positions count from `pad_token_id + 1`, and leave out padding.
    Roberta,
}

/// Sizes and options under Hugging Face's names; the default is that of `bert-base-uncased`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Which of the two networks.
    pub model_type: BertKind,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of every layer.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Hidden width of the feed-forward networks.
    pub intermediate_size: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the token type table.
    pub type_vocab_size: usize,
    /// Of every normalisation, inside the root.
    pub layer_norm_eps: f32,
    /// The id of padding.
    pub pad_token_id: u32,
    /// Dropout of embeddings and of what is added to a residual.
    pub hidden_dropout_prob: f32,
    /// Dropout of attention probabilities.
    pub attention_probs_dropout_prob: f32,
    /// Standard deviation of initial weights.
    pub initializer_range: f32,
    /// Whether there is a pooler; checkpoints of masked language models may lack it. Loading sets this by the weights.
    pub add_pooling_layer: bool,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            model_type: BertKind::Bert,
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            pad_token_id: 0,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            initializer_range: 0.02,
            add_pooling_layer: true,
        }
    }
}

/// What a file must say: the two networks differ in most of it, so that a default would be a guess.
const REQUIRED: [&str; 9] = [
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "pad_token_id",
];

/// Far beyond every published model; a damaged file's sizes end here, before anything is made from them.
const MOST_LAYERS: usize = 1000;
const LARGEST_SIZE: usize = 1 << 24;

impl BertConfig {
    /// The configuration of `roberta-base`.
    pub fn roberta() -> Self {
        Self {
            model_type: BertKind::Roberta,
            vocab_size: 50_265,
            max_position_embeddings: 514,
            type_vocab_size: 1,
            layer_norm_eps: 1e-5,
            pad_token_id: 1,
            ..Self::default()
        }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`], naming the key, for what is missing, of another type, or not supported:
    /// another `model_type` or `hidden_act`, relative positions, a decoder. Sizes are checked when a network is made.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file: Map<String, Value> = read_json(path)?;
        if let Some(key) = REQUIRED.into_iter().find(|&key| !file.contains_key(key)) {
            return Err(Error::malformed(path, key, "is missing"));
        }
        let only = [
            ("hidden_act", json!("gelu")),
            ("position_embedding_type", json!("absolute")),
            ("is_decoder", json!(false)),
            ("add_cross_attention", json!(false)),
        ];
        for (key, supported) in only {
            if let Some(found) = file.get(key).filter(|&found| *found != supported) {
                let problem = format!("{found} is not supported; {supported} is");
                return Err(Error::malformed(path, key, problem));
            }
        }
        // Serde names the type that is wrong, and not the key; each is tried alone.
        for (key, value) in &file {
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            serde_json::from_value::<Self>(alone.into()).map_err(|e| Error::malformed(path, key, e))?;
        }
        serde_json::from_value(file.into()).map_err(|e| Error::malformed(path, "keys", e))
    }

    /// Refuses sizes and shares that no network has.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |argument, why| Err(Error::Argument { op: "BertConfig", argument, why });
        for (name, size, most) in [
            ("vocab_size", self.vocab_size, LARGEST_SIZE),
            ("hidden_size", self.hidden_size, LARGEST_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            ("intermediate_size", self.intermediate_size, LARGEST_SIZE),
            ("max_position_embeddings", self.max_position_embeddings, LARGEST_SIZE),
            ("type_vocab_size", self.type_vocab_size, LARGEST_SIZE),
        ] {
            if size == 0 || size > most {
                return bad(name, format!("must be from 1 to {most}, it is {size}"));
            }
        }
        for (name, share) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ] {
            if !(0.0..1.0).contains(&share) {
                return bad(name, format!("must be at least 0 and below 1, it is {share}"));
            }
        }
        for (name, value) in [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)] {
            if !(value > 0.0 && value.is_finite()) {
                return bad(name, format!("must be positive, it is {value}"));
            }
        }
        if self.pad_token_id as usize >= self.vocab_size {
            return bad("pad_token_id", format!("of {} is beyond the {} words", self.pad_token_id, self.vocab_size));
        }
        Ok(())
    }
}
