//! CLIP's weights from files and to files.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::{Clip, ClipConfig, names};
use crate::data::formats::{atomic, safetensors, weights};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::nn::StoreBuilder;
use crate::tensor::{Array, halves};
use crate::{Error, Result};

/// The configuration and the weights, under OpenAI's names, of a Hugging Face folder or of a safetensors file.
///
/// A folder's `config.json` gives the sizes; without one, as for a single file, the weights' shapes do.
///
/// # Errors
/// [`Error::Io`], [`Error::Malformed`] for the files; [`Error::UnknownParameter`], [`Error::MissingParameter`],
/// [`Error::ParameterShape`] where they are no CLIP model.
pub fn read_clip(path: impl AsRef<Path>) -> Result<(ClipConfig, BTreeMap<String, Array>)> {
    let path = path.as_ref();
    let origin = path.display().to_string();
    let arrays = names::to_openai(&origin, weights::read(path, names::is_no_weight)?)?;
    let json = path.join("config.json");
    let config =
        if json.is_file() { ClipConfig::from_hugging_face(json)? } else { ClipConfig::from_weights(&origin, &arrays)? };
    Ok((config, arrays))
}

impl Clip {
    /// The model of a Hugging Face folder (one file or several) or of one safetensors file with either family of names.
    /// What `frozen` names is not trained.
    ///
    /// # Errors
    /// Those of [`read_clip`]; [`Error::MissingParameter`], [`Error::UnknownParameter`], [`Error::ParameterShape`] and
    /// [`Error::NonFinite`] where the weights do not fit the configuration; device errors.
    pub fn open(gpu: &Gpu, path: impl AsRef<Path>, frozen: impl Fn(&str) -> bool) -> Result<Self> {
        let (config, builder) = read(gpu, path.as_ref())?;
        Self::build(config, builder.freeze(frozen))
    }

    /// As [`Clip::open`], for inference: nothing is trained, and matrices are held in half precision where
    /// [`StoreBuilder::halve`] can.
    ///
    /// # Errors
    /// As [`Clip::open`]; [`Error::HalfOverflow`].
    pub fn open_half(gpu: &Gpu, path: impl AsRef<Path>) -> Result<Self> {
        let (config, builder) = read(gpu, path.as_ref())?;
        Self::build(config, builder.freeze(|_| true).halve()).map_err(|error| as_in_file(path.as_ref(), error))
    }

    /// Writes the model to a folder with `config.json` and `model.safetensors` under Hugging Face's names;
    /// [`Model::save`] writes one file under OpenAI's.
    ///
    /// # Errors
    /// [`Error::Io`]; device errors.
    pub fn save_folder(&self, folder: impl AsRef<Path>) -> Result<()> {
        let (folder, arrays) = (folder.as_ref(), self.store().to_arrays()?);
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::write(folder.join("model.safetensors"), &names::to_hugging_face(arrays)?, &metadata)?;
        atomic::write(&folder.join("config.json"), |file| write!(file, "{:#}", self.config().to_hugging_face()))
    }
}

fn read(gpu: &Gpu, path: &Path) -> Result<(ClipConfig, StoreBuilder<'static>)> {
    let (config, arrays) = read_clip(path)?;
    Ok((config, StoreBuilder::from_arrays(gpu, path.display().to_string(), arrays)))
}

/// An overflow of halves by the name that the weights have in the file.
fn as_in_file(path: &Path, error: Error) -> Error {
    let Error::HalfOverflow { name, .. } = &error else { return error };
    match weights::read(path, names::is_no_weight) {
        Ok(file) if names::is_hugging_face(&file) => {}
        _ => return error,
    }
    let (origin, array) = (path.display().to_string(), read_clip(path).ok().and_then(|(_, mut all)| all.remove(name)));
    let named = array.map(|array| names::to_hugging_face(BTreeMap::from([(name.clone(), array)])));
    let Some(Ok(named)) = named else { return error };
    named.iter().find_map(|(n, a)| halves::check(&origin, n, a.data()).err()).unwrap_or(error)
}
