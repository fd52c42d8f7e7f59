//! Runs of BiC-Net.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Asked, Parts, Task};
use crate::data::Part;
use crate::data::bicnet::{BicnetDataset, DatasetKind, Dims, NeutralDataset, SampleSource};
use crate::data::moments::Problems;
use crate::data::synthetic::Manifest;
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::bicnet::{Bicnet, BicnetConfig};
use crate::models::two_space::TwoSpaceModel;
use crate::retrieval::Ties;
use crate::retrieval::two_space::{self, Captions, EncodeOptions, Encoded};
use crate::train::{Checkpoint, Figures, FitCore, FitHooks, FitOptions, FitReport, Progress, RunFolder, StopFlag, fit};
use crate::{Error, Result};

/// The official trainer's, and those at which small networks have learnt the synthetic world.
const EPOCHS: u64 = 100;
const SMALL_EPOCHS: u64 = 10;

/// Everything that decides what a run comes to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The dataset.
    pub data: Data,
    /// The model; widths of features and the number of regions come from the data.
    pub model: BicnetConfig,
    /// The training.
    pub fit: FitOptions,
    /// The evaluation.
    pub evaluation: Evaluation,
}

/// A dataset of precomputed features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// Its folder.
    pub root: PathBuf,
    /// How the folder is laid out.
    pub layout: Layout,
    /// The split of MSR-VTT: `MSRVTT_<name>_train.csv` and so on.
    pub split_name: String,
    /// The part to train on: of the official layouts train, validate or test, of the neutral one any name.
    pub train: String,
    /// The part that chooses a checkpoint; the official trainer takes test.
    pub validation: String,
    /// The part for the final numbers.
    pub test: String,
    /// Videos of the training part: other data under the same name would go unnoticed.
    pub samples: usize,
}

/// How a folder of features is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// MSR-VTT in BiC-Net's official layout.
    MsrVtt,
    /// MSVD in BiC-Net's official layout.
    Msvd,
    /// `<part>.jsonl` with `<part>.safetensors` or `<part>.npz`.
    Neutral,
}

/// How a run evaluates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evaluation {
    /// Which captions of a video are searched for.
    pub captions: Captions,
    /// How tied scores rank.
    pub ties: Ties,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            root: PathBuf::new(),
            layout: Layout::MsrVtt,
            split_name: "9000".into(),
            train: "train".into(),
            validation: "validate".into(),
            test: "test".into(),
            samples: 0,
        }
    }
}

impl Data {
    /// A part by its name.
    ///
    /// # Errors
    /// [`Error::Setting`] for a part that the layout does not have; those of the datasets' readers.
    pub fn open(&self, part: &str) -> Result<Box<dyn SampleSource>> {
        let kind = match self.layout {
            Layout::Neutral => return Ok(Box::new(NeutralDataset::open(&self.root, part)?)),
            Layout::MsrVtt => DatasetKind::MsrVtt { split: self.split_name.clone() },
            Layout::Msvd => DatasetKind::Msvd,
        };
        let part = match part {
            "train" => Part::Train,
            "validate" => Part::Validation,
            "test" => Part::Test,
            _ => {
                let why = "parts of this layout are train, validate and test".to_string();
                return Err(Error::Setting { name: "a part of data".into(), value: part.into(), why });
            }
        };
        Ok(Box::new(BicnetDataset::open(&self.root, &kind, part)?))
    }
}

impl Settings {
    /// A network and a training at which the synthetic world was seen to teach order.
    pub fn small() -> Self {
        let model = BicnetConfig {
            embedding_dim: 64,
            num_heads: 4,
            layer_num: 1,
            dropout: 0.0,
            attn_drop: 0.0,
            ..BicnetConfig::default()
        };
        let fit = FitOptions {
            core: FitCore { batch: 32, lr: 4e-3, ..FitOptions::default().core },
            plateau: None,
            ..FitOptions::default()
        };
        Self { model, fit, ..Self::default() }
    }

    /// The vectors of a part.
    pub fn encode(&self, model: &Bicnet, part: &dyn SampleSource) -> Result<Encoded> {
        let options = EncodeOptions {
            captions: self.evaluation.captions,
            batch: self.fit.core.batch,
            mask_frames: self.fit.mask_frames,
        };
        two_space::encode(model, part, &(0..part.len()).collect::<Vec<_>>(), &options)
    }
}

impl Task for Settings {
    type Model = Bicnet;
    type Data = Parts<Box<dyn SampleSource>>;
    type Evaluated = two_space::Evaluation;
    const NAME: &'static str = "BiC-Net";

    fn recipe(_: &Value, small: bool) -> Result<Self> {
        Ok(if small { Self::small() } else { Self::default() })
    }

    fn open(&self, _: &mut Problems) -> Result<Self::Data> {
        super::expect_root(&self.data.root)?;
        let open = |part| self.data.open(part);
        Ok(Parts {
            train: open(&self.data.train)?,
            validation: open(&self.data.validation)?,
            test: open(&self.data.test)?,
        })
    }

    fn adapt(&mut self, data: &Self::Data, asked: &Asked) -> Result<()> {
        let dims = data.train.dims();
        let model = &mut self.model;
        (model.text_dim, model.region_num, model.region_dim, model.global_dim) =
            (dims.text, dims.regions, dims.region, dims.global);
        self.data.samples = data.train.len();
        let epoch = data.train.len().div_ceil(self.fit.core.batch.max(1)) as u64;
        let epochs = if asked.small { SMALL_EPOCHS } else { EPOCHS };
        asked.decide("fit.steps", &mut self.fit.core.steps, epochs * epoch);
        asked.decide("fit.evaluate_every", &mut self.fit.core.evaluate_every, epoch);
        Ok(())
    }

    fn describe(&self, data: &Self::Data) -> Vec<String> {
        let Dims { text, regions, region, global } = data.train.dims();
        let mut lines: Vec<String> = data.named().map(|(name, part)| format!("{name}: {} videos", part.len())).into();
        lines.push(format!("{regions} regions of {region}, frames of {global}, tokens of {text} features"));
        if self.data.validation == self.data.test {
            lines.push("the best checkpoint is chosen on the test part, which flatters the test numbers".into());
        }
        lines
    }

    fn build(&self, gpu: &Gpu) -> Result<Bicnet> {
        Bicnet::new(gpu, self.model.clone(), self.fit.core.seed)
    }

    fn fit(
        &self,
        model: &Bicnet,
        data: &Self::Data,
        resume: Option<&Checkpoint>,
        hooks: FitHooks<'_>,
    ) -> Result<FitReport> {
        // Every video by itself: no two must share a batch.
        let groups: Vec<Vec<usize>> = (0..data.train.len()).map(|video| vec![video]).collect();
        fit(model, &*data.train, &groups, &self.fit, resume, hooks)
    }

    fn evaluate(&self, model: &Bicnet, data: &Self::Data) -> Result<two_space::Evaluation> {
        self.encode(model, &*data.validation)?.evaluate(self.evaluation.ties)
    }

    fn figures(e: &two_space::Evaluation) -> Figures {
        let halves = [("t2v", &e.text_to_video), ("v2t", &e.video_to_text)];
        let values = halves.into_iter().flat_map(|(half, m)| {
            let names = ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR"];
            let values = [m.r1, m.r5, m.r10, m.r50, m.mdr, m.mnr];
            names.into_iter().zip(values).map(move |(name, value)| (format!("val/{half}/{name}"), value))
        });
        (e.video_to_text.r10 + e.text_to_video.r10, values.collect())
    }

    fn line(e: &two_space::Evaluation) -> String {
        format!(
            "text to video {}   video to text {}",
            super::recalls(&e.text_to_video),
            super::recalls(&e.video_to_text)
        )
    }
}

/// Trains a model on a synthetic world, in a new run folder: a video and its twin enter a batch together, and the log has
/// how often a caption tells them apart.
///
/// # Errors
/// Those of [`fit`], [`RunFolder::create`] and [`evaluate_twins`]; [`Error::Io`] for data that are no such world.
pub fn train_twins(
    model: &impl TwoSpaceModel,
    settings: &Settings,
    data: &Parts<Box<dyn SampleSource>>,
    folder: &Path,
    progress: &mut dyn Progress,
    stop: &StopFlag,
) -> Result<FitReport> {
    let mut run = RunFolder::create(folder, settings)?;
    let manifest = Manifest::read(&settings.data.root)?;
    let twins = manifest.twins(&*data.train)?.into_iter().enumerate();
    let groups: Vec<Vec<usize>> = twins.filter(|(a, b)| a < b).map(|(a, b)| vec![a, b]).collect();
    let twins = manifest.twins(&*data.validation)?;
    let hooks = FitHooks {
        evaluate: &mut |_, _| {
            let (e, order) = evaluate_twins(model, &*data.validation, &twins)?;
            let (mut figures, order) = (Settings::figures(&e), ("val/order".to_string(), order));
            figures.1.push(order);
            Ok(figures)
        },
        run: Some(&mut run),
        progress,
        stop,
    };
    fit(model, &*data.train, &groups, &settings.fit, None, hooks)
}

/// Recall among one video of each pair of twins, and how often (in percent) a caption prefers its video to the twin.
pub fn evaluate_twins(
    model: &impl TwoSpaceModel,
    part: &dyn SampleSource,
    twins: &[usize],
) -> Result<(two_space::Evaluation, f64)> {
    let all: Vec<usize> = (0..part.len()).collect();
    let encode = |videos: &[usize]| two_space::encode(model, part, videos, &EncodeOptions::default());
    let order = encode(&all)?.preference(twins)?;
    let one_of_each: Vec<usize> = all.into_iter().filter(|&video| video < twins[video]).collect();
    Ok((encode(&one_of_each)?.evaluate(Ties::Expected)?, order))
}
