//! CLIP's weights from files and to files.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::{Clip, ClipConfig, names};
use crate::data::formats::{atomic, safetensors, weights};
use crate::gpu::Gpu;
use crate::nn::ParameterStore;
use crate::tensor::{Array, halves};
use crate::{Error, Result};

/// How [`Clip::save`] lays a model out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipLayout {
    /// A folder with `config.json` and `model.safetensors` under Hugging Face's names.
    HuggingFace,
    /// One safetensors file under OpenAI's names.
    OpenAi,
}

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

/// An overflow of halves by the name that the weights have in the file.
fn as_in_file(path: &Path, arrays: &BTreeMap<String, Array>, error: Error) -> Error {
    let Error::HalfOverflow { name, .. } = &error else { return error };
    let (Some(array), Ok(file)) = (arrays.get(name), weights::read(path, names::is_no_weight)) else { return error };
    if !names::is_hugging_face(&file) {
        return error;
    }
    let named = names::to_hugging_face(BTreeMap::from([(name.clone(), array.clone())]));
    let origin = path.display().to_string();
    named
        .and_then(|named| named.iter().try_for_each(|(n, a)| halves::check(&origin, n, a.data())))
        .err()
        .unwrap_or(error)
}

impl Clip {
    /// The model of a Hugging Face folder (one file or several) or of one safetensors file with either family of names.
    /// What `frozen` names is not trained.
    ///
    /// # Errors
    /// Those of [`read_clip`]; [`Error::MissingParameter`], [`Error::UnknownParameter`], [`Error::ParameterShape`] and
    /// [`Error::NonFinite`] where the weights do not fit the configuration; device errors.
    pub fn open(gpu: &Gpu, path: impl AsRef<Path>, frozen: impl Fn(&str) -> bool) -> Result<Self> {
        Self::open_with(gpu, path.as_ref(), |store| store.freeze(frozen))
    }

    /// As [`Clip::open`], for inference: nothing is trained, and matrices are held in half precision where
    /// [`ParameterStore::halve`] can.
    ///
    /// # Errors
    /// As [`Clip::open`]; [`Error::HalfOverflow`].
    pub fn open_half(gpu: &Gpu, path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(gpu, path.as_ref(), |store| {
            store.freeze(|_| true)?;
            store.halve()
        })
    }

    fn open_with(gpu: &Gpu, path: &Path, prepare: impl FnOnce(&mut ParameterStore) -> Result<()>) -> Result<Self> {
        let (config, arrays) = read_clip(path)?;
        let origin = path.display().to_string();
        let mut clip = Self::declare(gpu, config)?;
        // Before there is memory for what a configuration promises and the weights do not hold.
        clip.store.check(&origin, &arrays)?;
        prepare(&mut clip.store)?;
        clip.store.allocate(0)?;
        clip.store.load(&origin, &arrays).map_err(|e| as_in_file(path, &arrays, e))?;
        Ok(clip)
    }

    /// Writes the model to `path`: a folder or a file, as `layout` says.
    ///
    /// # Errors
    /// [`Error::Io`]; device errors.
    pub fn save(&self, path: impl AsRef<Path>, layout: ClipLayout) -> Result<()> {
        let (path, arrays) = (path.as_ref(), self.store.to_arrays()?);
        let nothing = BTreeMap::new();
        if layout == ClipLayout::OpenAi {
            return safetensors::write(path, &arrays, &nothing);
        }
        std::fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))?;
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::write(path.join("model.safetensors"), &names::to_hugging_face(arrays)?, &metadata)?;
        atomic::write(&path.join("config.json"), |file| write!(file, "{:#}", self.config.to_hugging_face()))
    }
}
