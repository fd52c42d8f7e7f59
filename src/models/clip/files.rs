//! Weights from files and to files.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::names::{self, Naming};
use super::{Clip, ClipConfig, refusals};
use crate::data::formats::text::read_json;
use crate::data::formats::{atomic, safetensors, weights};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::nn::StoreBuilder;
use crate::tensor::Array;
use crate::{Error, Result};

/// Configurations by the names that hubs give them.
const HUGGING_FACE: &str = "config.json";
const OPEN_CLIP: &str = "open_clip_config.json";

/// What a folder or file says of a model: everything that is needed to make it.
pub struct Pretrained {
    /// Sizes and conventions.
    pub config: ClipConfig,
    /// The weights under this crate's names.
    pub arrays: BTreeMap<String, Array>,
    /// What stands in for what the files do not say, a sentence each.
    pub notes: Vec<String>,
    /// Where the weights are from.
    origin: String,
    naming: Naming,
}

impl Pretrained {
    /// Reads a model's folder, in Hugging Face's layout or in open_clip's. Of a weight file the folder that it lies in
    /// gives the configuration. Where there is none, `architecture` must name one ([`ClipConfig::of_architecture`]): what
    /// weights do not tell, such as the activation, is not guessed.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`] for the files, and for models of other kinds, which it names;
    /// [`Error::Argument`] for weights without configuration and architecture; [`Error::UnknownParameter`],
    /// [`Error::MissingParameter`], [`Error::ParameterShape`] and [`Error::NonFinite`], in the file's own names, where the
    /// weights do not fit the configuration.
    pub fn read(path: impl AsRef<Path>, architecture: Option<&str>) -> Result<Self> {
        let path = path.as_ref();
        let (config, mut notes) = (Self::configuration(path, architecture)?, Vec::new());
        let arrays = weights::read(path, names::is_no_weight, &mut notes)?;
        let naming = Naming::of(arrays.keys());
        let origin = path.display().to_string();
        let arrays = names::from_file(&origin, &config, &Clip::shapes(config.clone())?, arrays, &mut notes)?;
        Ok(Self { config, arrays, notes, origin, naming })
    }

    /// The same, after its notes went to the log, for whoever does not show them.
    #[must_use]
    pub fn told(self) -> Self {
        self.notes.iter().for_each(|note| log::warn!("{note}"));
        self
    }

    /// The configuration alone, as [`Pretrained::read`] reads it; the weights are not opened.
    ///
    /// # Errors
    /// As [`Pretrained::read`], as far as the configuration tells.
    pub fn configuration(path: impl AsRef<Path>, architecture: Option<&str>) -> Result<ClipConfig> {
        let path = path.as_ref();
        if !path.exists() {
            return Err(refusals::nothing_at(path));
        }
        configuration(path, Self::folder(path), architecture)
    }

    /// The folder that a model's configuration, tokenizer and preprocessing lie in: itself, or that of its weights.
    pub fn folder(path: &Path) -> &Path {
        if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) }
    }

    /// The `open_clip_config.json` that describes the model in `folder`, if one does. Where there are configuration and
    /// weights in Hugging Face's layout, too, these do.
    pub fn open_clip_file(folder: &Path) -> Option<PathBuf> {
        let both = folder.join(HUGGING_FACE).is_file() && folder.join("model.safetensors").is_file();
        Some(folder.join(OPEN_CLIP)).filter(|file| file.is_file() && !both)
    }

    /// The model; what `frozen` names is not trained.
    ///
    /// # Errors
    /// Device errors.
    pub fn build(self, gpu: &Gpu, frozen: impl Fn(&str) -> bool) -> Result<Clip> {
        Clip::build(self.config, StoreBuilder::from_arrays(gpu, self.origin, self.arrays).freeze(frozen))
    }

    /// The model for inference: nothing is trained, and matrices are held in half precision where
    /// [`StoreBuilder::halve`] can.
    ///
    /// # Errors
    /// [`Error::HalfOverflow`], in the file's own names; device errors.
    pub fn build_half(self, gpu: &Gpu) -> Result<Clip> {
        let Self { config, arrays, origin, naming, .. } = self;
        let shapes = Clip::shapes(config.clone())?;
        let builder = StoreBuilder::from_arrays(gpu, origin, arrays).freeze(|_| true).halve();
        Clip::build(config, builder).map_err(|error| match error {
            Error::HalfOverflow { origin, name, index, value } => {
                let shape = shapes.get(&name).map_or(&[][..], Vec::as_slice);
                let (name, index) = names::element_in_file(naming, &name, shape, index);
                Error::HalfOverflow { origin, name, index, value }
            }
            other => other,
        })
    }
}

/// The configuration of the model at `path`, whose files lie in `folder`.
fn configuration(path: &Path, folder: &Path, architecture: Option<&str>) -> Result<ClipConfig> {
    if let Some(name) = architecture {
        return ClipConfig::of_architecture(name);
    }
    if let Some(file) = Pretrained::open_clip_file(folder) {
        return ClipConfig::from_open_clip(&file, &read_json::<Value>(&file)?);
    }
    let file = folder.join(HUGGING_FACE);
    if file.is_file() {
        return ClipConfig::from_hugging_face(file);
    }
    // What the file is comes before what it lacks.
    let lone = weights::find(path)?;
    if path.is_dir() && lone.is_none() {
        return Err(refusals::nothing_at(path));
    }
    let known: Vec<&str> = super::architectures().collect();
    let why = format!(
        "must be given for {}, which has no config.json or open_clip_config.json beside it: weights do not tell their \
         activation and heads. There are {}, each also with -quickgelu behind it, as OpenAI's own models are",
        path.display(),
        known.join(", ")
    );
    Err(Error::argument("CLIP", "architecture", why))
}

impl Clip {
    /// The model of a folder, in Hugging Face's layout or in open_clip's, or of a weight file in such a folder. What
    /// `frozen` names is not trained.
    ///
    /// # Errors
    /// Those of [`Pretrained::read`]; device errors.
    pub fn open(gpu: &Gpu, path: impl AsRef<Path>, frozen: impl Fn(&str) -> bool) -> Result<Self> {
        Pretrained::read(path, None)?.told().build(gpu, frozen)
    }

    /// As [`Clip::open`], for inference: nothing is trained, and matrices are held in half precision where
    /// [`StoreBuilder::halve`] can.
    ///
    /// # Errors
    /// As [`Clip::open`]; [`Error::HalfOverflow`].
    pub fn open_half(gpu: &Gpu, path: impl AsRef<Path>) -> Result<Self> {
        Pretrained::read(path, None)?.told().build_half(gpu)
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
        let arrays = names::to_hugging_face(self.config().family, arrays)?;
        safetensors::write(folder.join("model.safetensors"), &arrays, &metadata)?;
        atomic::write(&folder.join(HUGGING_FACE), |file| write!(file, "{:#}", self.config().to_hugging_face()))
    }
}
