//! Files of embeddings: videos, pictures and sentences in CLIP's space, and token features of sentences by BERT.

mod encoder;
mod inputs;
mod run;
mod token_features;
mod work;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::data::formats::{atomic, npy, safetensors};
use crate::data::media::frames::{Reading, Shown};
use crate::models::clip::ClipConfig;
use crate::tensor::Array;
use crate::{Error, Result};

pub use encoder::ClipEncoder;
pub use inputs::Inputs;
pub use run::{EmbedHooks, EmbedRun};
pub use token_features::TokenFeatureInput;

/// What is encoded of texts and videos.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbedOptions {
    /// Tokens of a sentence, where the model leaves a choice; all its positions without it.
    pub words: Option<usize>,
    /// Frames of a video, at equal distances in time.
    pub frames: usize,
    /// Frames a second out of which these are chosen; 0.2 is one in five seconds.
    pub rate: f64,
    /// The features of every token, too.
    pub tokens: bool,
    /// The features of every patch of videos, too.
    pub patches: bool,
    /// How pictures and frames are read.
    pub reading: Reading,
}

impl EmbedOptions {
    /// That a model of this configuration can do it.
    ///
    /// # Errors
    /// [`Error::Argument`] for more words than the model has positions, and for no frames or no rate.
    pub fn check(&self, config: &ClipConfig) -> Result<()> {
        let bad = |argument, why: String| Err(Error::argument("encode", argument, why));
        match *self {
            Self { words: Some(words), .. } if !(2..=config.positions).contains(&words) => bad(
                "words",
                format!("must be from 2 to {}, the positions of the model; it is {words}", config.positions),
            ),
            Self { frames, .. } if !(1..=4096).contains(&frames) => {
                bad("frames", format!("must be from 1 to 4096; it is {frames}"))
            }
            Self { rate, .. } => Shown::rate(rate).check(),
        }
    }
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self { words: Some(32), frames: 12, rate: 1.0, tokens: false, patches: false, reading: Reading::OWN }
    }
}

/// Arrays by name, and the names of their rows.
///
/// "text", "image" and the "frames" of videos are as the towers give them, before they are brought to unit length; "video"
/// is the mean of its frames' directions, of unit length, as CLIP4Clip compares it. "mask" has a 1 for each frame and a 0
/// for padding, and "times" the presentation time of each in seconds, -1 where there is none; "words" and "patches" are the
/// features of tokens and patches, and "word_mask" has a 1 for each token.
#[derive(Clone, Debug, Default)]
pub struct Embeddings {
    /// Each with a row for every text, picture or video.
    pub arrays: BTreeMap<String, Array>,
    /// Names of the rows of "text", "image" and "video".
    pub ids: BTreeMap<&'static str, Vec<String>>,
}

impl Embeddings {
    /// Adds rows to those of `name`.
    fn extend(&mut self, name: &str, rows: Array) -> Result<()> {
        let (mut shape, mut data) = (rows.shape().to_vec(), Vec::new());
        if let Some(known) = self.arrays.remove(name) {
            shape[0] += known.shape()[0];
            data = known.into_data();
        }
        data.extend_from_slice(rows.data());
        self.arrays.insert(name.into(), Array::new(shape, data)?);
        Ok(())
    }

    /// Writes a `.safetensors` file, or a folder of `.npy` files, and beside them the ids, whose path it returns.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        let beside = if path.extension().is_some_and(|e| e == "safetensors") {
            safetensors::write(path, &self.arrays, &BTreeMap::new())?;
            path.with_extension("ids.json")
        } else {
            std::fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))?;
            for (name, array) in &self.arrays {
                npy::write_npy(path.join(format!("{name}.npy")), array)?;
            }
            path.join("ids.json")
        };
        atomic::write(&beside, |file| writeln!(file, "{:#}", json!(self.ids)))?;
        Ok(beside)
    }
}

#[cfg(test)]
mod tests;
