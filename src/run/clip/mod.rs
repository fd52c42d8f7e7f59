//! Runs of models on CLIP's towers: EERCF and GLCCL.

#[cfg(feature = "images")]
mod indexing;
mod parts;

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Asked, Parts, Task};
use crate::data::media::frames::{Choice, Published};
use crate::data::moments::Problems;
use crate::data::synthetic::{ClipWorld, ClipWorldConfig};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::clip::{ClipConfig, Pretrained, TowerConfig};
use crate::models::clip4clip::{Base, BaseConfig};
use crate::models::eercf::{Eercf, EercfConfig};
use crate::models::glccl::{Glccl, GlcclConfig};
use crate::models::towers::TwoStageModel;
use crate::optim::{Algorithm, Moments, Schedule};
use crate::retrieval::RetrievalMetrics;
use crate::train::{Checkpoint, Figures, FitCore, FitHooks, FitReport, PairFitOptions, fit_pairs, is_frozen};
use crate::{Error, Result};

#[cfg(feature = "images")]
pub use indexing::{TrainedModel, open_trained};
pub use parts::{Source, Texts, Way, spreads, ways};

/// Texts that lost tokens that are told by name.
const NAMED: usize = 3;

/// The configuration of a model on CLIP's towers.
pub trait Config: Clone + Default + Serialize + DeserializeOwned {
    /// The model.
    type Model: TwoStageModel<Config = Self> + Send + Sync;
    /// Its name.
    const NAME: &'static str;
    /// Videos of the synthetic world to test on, and steps to train for, in the small recipe.
    const SMALL: (usize, u64);

    /// The part about the towers.
    fn base(&self) -> &BaseConfig;

    /// The default on these towers.
    fn on(base: BaseConfig) -> Self;
}

impl Config for EercfConfig {
    type Model = Eercf;
    const NAME: &'static str = "EERCF";
    /// Enough test videos for 50 candidates to be a small part of them.
    const SMALL: (usize, u64) = (1000, 1000);

    fn base(&self) -> &BaseConfig {
        &self.base
    }

    fn on(base: BaseConfig) -> Self {
        Self { base, ..Self::default() }
    }
}

impl Config for GlcclConfig {
    type Model = Glccl;
    const NAME: &'static str = "GLCCL";
    const SMALL: (usize, u64) = (500, 400);

    fn base(&self) -> &BaseConfig {
        &self.base
    }

    fn on(base: BaseConfig) -> Self {
        Self { base, ..Self::default() }
    }
}

/// Everything that decides what a run comes to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings<C> {
    /// The dataset.
    pub data: Data,
    /// The model.
    pub model: C,
    /// The training.
    pub fit: PairFitOptions,
}

/// Where texts and videos come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// The folder of the published annotation files; `None` for the synthetic world.
    pub root: Option<PathBuf>,
    /// Which dataset's.
    pub dataset: String,
    /// The folder of videos, or of folders of frames.
    pub videos: Option<PathBuf>,
    /// The folder of the pretrained towers with their tokenizer.
    pub clip: Option<PathBuf>,
    /// Leaves out what cannot be read in annotations and videos, and counts it.
    pub lenient: bool,
    /// Which frames of a video are read, by the published rule.
    pub sampling: Published,
    /// Which of them are used.
    pub choice: Choice,
    /// The synthetic world.
    pub world: ClipWorldConfig,
    /// Texts of the training part: other data under the same name would go unnoticed.
    pub samples: usize,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            root: None,
            dataset: "msrvtt-9k".into(),
            videos: None,
            clip: None,
            lenient: false,
            sampling: Published::default(),
            choice: Choice::default(),
            world: ClipWorldConfig { frames: 6, ..ClipWorldConfig::default() },
            samples: 0,
        }
    }
}

impl<C: Config> Settings<C> {
    /// Towers and a recipe at which the synthetic clips were seen to be learnt within minutes on a processor.
    pub fn small() -> Self {
        let mut data = Data::default();
        let steps;
        (data.world.test, steps) = C::SMALL;
        let tower = TowerConfig { width: 64, heads: 4, layers: 2, mlp: 256 };
        let clip = ClipConfig {
            image_size: data.world.size,
            patch_size: 32,
            vision: tower,
            text: tower,
            // The words, padding, unknown, start and end.
            vocabulary: ClipWorld::vocabulary().len() + 4,
            positions: 14,
            joint: 64,
            ..ClipConfig::vit_b_32()
        };
        let base = BaseConfig {
            frames: data.world.frames,
            words: clip.positions,
            temporal_layers: 1,
            temporal_heads: 4,
            frame_positions: clip.positions,
            ..BaseConfig::on(clip)
        };
        let fit = PairFitOptions {
            core: FitCore { batch: 32, steps, lr: 1e-3, seed: 0, ..PairFitOptions::default().core },
            tower_lr_scale: 1.0,
            schedule: Schedule::WarmupCosineRescaled,
            weight_decay: 0.01,
            algorithm: Algorithm::AdamW(Moments { beta1: 0.9, beta2: 0.98, eps: 1e-6 }),
            freeze_layers: None,
            ..PairFitOptions::default()
        };
        Self { data, model: C::on(base), fit }
    }
}

impl<C: Config> Task for Settings<C> {
    type Model = C::Model;
    type Data = Parts<Source>;
    type Evaluated = RetrievalMetrics;
    const NAME: &'static str = C::NAME;

    /// Without a dataset, small towers on rendered clips; else the published recipe on the pretrained towers.
    fn recipe(asked: &Value, small: bool) -> Result<Self> {
        let refuse = |argument, why: &str| Err(Error::Argument { op: C::NAME, argument, why: why.into() });
        let named = |key: &str| asked["data"][key].as_str();
        match (named("root"), named("clip"), named("videos")) {
            (Some(_), Some(clip), Some(_)) if !small => {
                let base = BaseConfig::on(Pretrained::configuration(clip, None)?);
                Ok(Self { model: C::on(base), ..Self::default() })
            }
            (Some(_), _, _) if small => refuse("small", "is a recipe for rendered clips; leave data.root out"),
            (Some(_), _, _) => refuse("data", "needs the folders of the videos and of a pretrained CLIP, too"),
            (None, Some(_), _) => refuse("clip", "needs a dataset: rendered clips train small towers from scratch"),
            (None, _, Some(_)) => refuse("videos", "needs the folder of the dataset's annotations"),
            (None, None, None) => Ok(Self::small()),
        }
    }

    fn is_lenient(&self) -> bool {
        self.data.lenient
    }

    fn open(&self, problems: &mut Problems) -> Result<Self::Data> {
        Parts::open(&self.data, self.model.base(), problems)
    }

    fn adapt(&mut self, data: &Self::Data, _: &Asked) -> Result<()> {
        self.data.samples = data.train.pairs.texts();
        Ok(())
    }

    fn describe(&self, data: &Self::Data) -> Vec<String> {
        let line = |(name, part): (&str, &Source)| {
            let (few, more) = part.cut.split_at(part.cut.len().min(NAMED));
            let cut = match few {
                [] => String::new(),
                few => {
                    let dots = if more.is_empty() { "" } else { ", .." };
                    let (count, words) = (part.cut.len(), self.model.base().words);
                    format!("; texts cut to {words} tokens: {count} ({}{dots})", few.join(", "))
                }
            };
            format!("{name}: {} texts, {} videos{cut}", part.pairs.texts(), part.pairs.videos())
        };
        data.named().map(line).into()
    }

    fn build(&self, gpu: &Gpu) -> Result<C::Model> {
        let frozen = |name: &str| is_frozen(name, self.fit.freeze_layers);
        C::Model::frozen(gpu, self.model.clone(), self.fit.core.seed, frozen)
    }

    fn load_initial(&self, model: &C::Model) -> Result<()> {
        let Some(clip) = &self.data.clip else { return Ok(()) };
        let arrays = Base::complete(model.store(), Pretrained::read(clip, None)?.told().arrays)?;
        model.store().load(&clip.display().to_string(), &arrays)
    }

    fn fit(
        &self,
        model: &C::Model,
        data: &Self::Data,
        resume: Option<&Checkpoint>,
        hooks: FitHooks<'_>,
    ) -> Result<FitReport> {
        fit_pairs(model, &*data.train.pairs, &self.fit, resume, hooks)
    }

    fn evaluate(&self, model: &C::Model, data: &Self::Data) -> Result<RetrievalMetrics> {
        data.validation.text_to_video(&data.validation.score_all(model)?, Texts::All)
    }

    fn figures(m: &RetrievalMetrics) -> Figures {
        let named = [("r1", m.r1), ("r5", m.r5), ("r10", m.r10), ("mdr", m.mdr)];
        (m.rsum, named.map(|(name, value)| (format!("validation/{name}"), value)).into())
    }

    fn line(metrics: &RetrievalMetrics) -> String {
        format!("text to video {}", super::recalls(metrics))
    }
}
