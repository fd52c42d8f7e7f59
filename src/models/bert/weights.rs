//! Folders of Hugging Face: `config.json`, and weights in one file or several.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Bert, BertConfig};
use crate::data::formats::{atomic, weights};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::nn::StoreBuilder;
use crate::tensor::Array;
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// What a checkpoint may hold besides the encoder: the heads of language models.
const HEADS: [&str; 2] = ["cls.", "lm_head."];
/// Counted when needed; old checkpoints hold them.
const BUFFERS: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];

impl Bert {
    /// The network of a folder with `config.json` and weights, as [`weights::read`] reads them.
    ///
    /// # Errors
    /// Those of [`BertConfig::read`], [`weights::read`] and [`Bert::from_arrays`].
    pub fn open(gpu: &Gpu, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let config = BertConfig::read(folder.join(CONFIG))?;
        let arrays = weights::read(folder, |name| parameter_name(name).is_none(), &mut Vec::new())?;
        Self::from_arrays(gpu, config, &folder.display().to_string(), arrays)
    }

    /// The network with these weights, which are from `origin`. Names may begin with `bert.` or `roberta.`; those of
    /// the language model's head are left out, and the old `gamma` and `beta` of normalisations are known. There is a
    /// pooler if its weights are there.
    ///
    /// # Errors
    /// [`Error::Argument`] as [`Model::new`]; [`Error::MissingParameter`], [`Error::UnknownParameter`],
    /// [`Error::ParameterShape`] and [`Error::NonFinite`] where the weights do not fit the configuration;
    /// [`Error::DuplicateParameter`] for a parameter under two names; device errors.
    pub fn from_arrays(
        gpu: &Gpu,
        mut config: BertConfig,
        origin: &str,
        arrays: BTreeMap<String, Array>,
    ) -> Result<Self> {
        let mut named = BTreeMap::new();
        for (name, array) in arrays {
            let Some(name) = parameter_name(&name) else { continue };
            if named.insert(name.clone(), array).is_some() {
                return Err(Error::DuplicateParameter { name });
            }
        }
        config.add_pooling_layer = named.keys().any(|name| name.starts_with("pooler."));
        Self::build(config, StoreBuilder::from_arrays(gpu, origin, named))
    }

    /// Writes `config.json` and `model.safetensors` to `folder`, each atomically.
    ///
    /// # Errors
    /// [`Error::Io`]; device errors.
    pub fn save_folder(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        self.save(folder.join(WEIGHTS))?;
        atomic::write(&folder.join(CONFIG), |file| Ok(serde_json::to_writer_pretty(file, self.config())?))
    }
}

/// A checkpoint's name as the network has it; `None` for what is not part of the encoder.
fn parameter_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("module.").unwrap_or(name);
    if HEADS.iter().any(|head| name.starts_with(head)) {
        return None;
    }
    let name = ["bert.", "roberta."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    if BUFFERS.contains(&name) {
        return None;
    }
    Some(name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"))
}
