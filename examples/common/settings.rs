//! The settings of a training run: from flags and a file, or from the run that goes on.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use reelgrad::data::Part;
use reelgrad::data::bicnet::{BicnetDataset, DatasetKind, NeutralDataset, SampleSource};
use reelgrad::models::bicnet::{BicnetConfig, TemporalMode};
use reelgrad::retrieval::{Ties, two_space};
use reelgrad::train::FitOptions;
use reelgrad::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::common::merge::{differ, merge, read_object};

/// The official trainer's.
const EPOCHS: u64 = 100;

/// Everything that decides what a run comes to; the run folder's `config.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    pub data: Data,
    pub model: BicnetConfig,
    pub fit: FitOptions,
    pub evaluation: Evaluation,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Data {
    pub root: PathBuf,
    pub layout: Layout,
    pub split_name: String,
    pub train: String,
    pub validation: String,
    pub test: String,
    /// Of the training part: other data under the same name would go unnoticed.
    pub videos: usize,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Evaluation {
    pub captions: Captions,
    pub ties: Ties,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Captions {
    /// The first of every video.
    #[default]
    First,
    /// All of them.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Layout {
    /// MSR-VTT in BiC-Net's official layout.
    MsrVtt,
    /// MSVD in BiC-Net's official layout.
    Msvd,
    /// <part>.jsonl with <part>.safetensors or <part>.npz.
    Neutral,
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
            videos: 0,
        }
    }
}

impl Data {
    /// A part: of the official layouts train, validate or test, of the neutral one any name.
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
            _ => return Err(wrong("part", format!("{part:?} must be train, validate or test in this layout"))),
        };
        Ok(Box::new(BicnetDataset::open(&self.root, &kind, part)?))
    }
}

impl Evaluation {
    pub fn all_captions(&self) -> bool {
        self.captions == Captions::All
    }
}

impl From<Captions> for two_space::Captions {
    fn from(captions: Captions) -> Self {
        match captions {
            Captions::First => Self::First,
            Captions::All => Self::All,
        }
    }
}

/// What a user may set. A flag is named as the setting that it changes, so that one merge serves flags and files.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    data: DataFlags,
    /// JSON file with any of "model", "fit" and "evaluation", such as a run's config.json; flags win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    fit: FitFlags,
    #[command(flatten)]
    evaluation: EvaluationFlags,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Data")]
struct DataFlags {
    /// Folder of the features.
    #[arg(long = "data", value_name = "FOLDER", required_unless_present = "resume")]
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    /// How the folder is laid out [default: msrvtt].
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    layout: Option<Layout>,
    /// The split of MSR-VTT: MSRVTT_<NAME>_train.csv and so on [default: 9000].
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    split_name: Option<String>,
    /// The part to train on [default: train].
    #[arg(long, value_name = "PART")]
    #[serde(skip_serializing_if = "Option::is_none")]
    train: Option<String>,
    /// The part to choose a checkpoint on [default: validate]; the official trainer takes test.
    #[arg(long, value_name = "PART")]
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<String>,
    /// The part for the final numbers [default: test].
    #[arg(long, value_name = "PART")]
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<String>,
}

/// Widths of features and the number of regions come from the data.
#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Model")]
struct ModelFlags {
    /// Width of the embeddings and of every layer [default: 1024].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding_dim: Option<usize>,
    /// Attention heads [default: 16].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    num_heads: Option<usize>,
    /// Layers of both transformers [default: 4].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    layer_num: Option<usize>,
    /// Hidden width of feed-forward networks, as a multiple of the width [default: 2].
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    mlp_ratio: Option<f64>,
    /// Dropout of position codes and poolings [default: 0.1].
    #[arg(long, value_name = "P")]
    #[serde(skip_serializing_if = "Option::is_none")]
    dropout: Option<f32>,
    /// Dropout inside the transformers [default: 0.1].
    #[arg(long, value_name = "P")]
    #[serde(skip_serializing_if = "Option::is_none")]
    attn_drop: Option<f32>,
    /// Heads of the attention poolings [default: 2].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_heads: Option<usize>,
    /// Rows of the positional tables [default: 1000].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_positions: Option<usize>,
    /// Margin of the hinge losses [default: 0.2].
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    margin: Option<f32>,
    /// Hardest negatives instead of the sum over all [default: false].
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_violation: Option<bool>,
    /// What the second encoder of a region layer attends over: official, per_region_over_time or joint
    /// [default: official].
    #[arg(long, value_name = "MODE", value_parser = temporal_mode)]
    #[serde(skip_serializing_if = "Option::is_none")]
    temporal_mode: Option<TemporalMode>,
    /// Shows that encoder a code of the frame's position [default: false].
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    temporal_positions: Option<bool>,
    /// Standard deviation of the initial values [default: 0.01].
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    init_std: Option<f32>,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Training")]
struct FitFlags {
    /// Passes over the training part [default: 100].
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    #[serde(skip)]
    epochs: Option<u64>,
    /// Optimiser steps, instead of epochs.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u64>,
    /// Videos in a batch [default: 64].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
    /// Learning rate of Adam [default: 2e-4].
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lr: Option<f64>,
    /// Halves the rate when evaluations stop improving [default: true].
    #[arg(long, value_name = "BOOL")]
    #[serde(skip)]
    plateau: Option<bool>,
    /// Seeds initial values, data order, captions and dropout [default: 42].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// Steps between two evaluations and checkpoints, 0 for the end alone; the default is an epoch.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluate_every: Option<u64>,
    /// Steps between two lines of the log [default: 10].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_every: Option<u64>,
    /// Hides padded frames, which the official code shows [default: false].
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    mask_frames: Option<bool>,
    /// Never trains on a video's last caption, as the official code [default: true].
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    skip_last_caption: Option<bool>,
}

#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Evaluation")]
struct EvaluationFlags {
    /// Captions that are evaluated [default: first].
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    captions: Option<Captions>,
    /// How tied scores rank: optimistic, expected or pessimistic [default: expected].
    #[arg(long, value_parser = str::parse::<Ties>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    ties: Option<Ties>,
}

fn temporal_mode(name: &str) -> Result<TemporalMode, String> {
    serde_json::from_value(json!(name)).map_err(|_| "must be official, per_region_over_time or joint".into())
}

impl Settings {
    /// What a run was started with.
    pub fn of_run(run: &Path, config: &Value) -> Result<Self> {
        let path = run.join("config.json");
        serde_json::from_value(config.clone()).map_err(|e| Error::malformed(path, "settings", e))
    }
}

impl Flags {
    /// The run's settings or the defaults, then the file's, then the flags'.
    pub fn settings(&self, stored: Option<&Settings>) -> Result<Settings> {
        let mut settings = json!(stored.cloned().unwrap_or_default());
        if let Some(path) = &self.config {
            let mut file = self.file()?;
            // A run's own file may serve for another dataset.
            file.as_object_mut().and_then(|sections| sections.remove("data"));
            merge(&mut settings, file, "").map_err(|(place, problem)| Error::malformed(path, place, problem))?;
        }
        let flags = json!({ "data": self.data, "model": self.model, "fit": self.fit, "evaluation": self.evaluation });
        merge(&mut settings, flags, "").map_err(|(place, problem)| wrong("flag", format!("{place} {problem}")))?;
        let origin = self.config.as_deref().unwrap_or(Path::new("settings"));
        let mut settings: Settings =
            serde_json::from_value(settings).map_err(|e| Error::malformed(origin, "settings", e))?;
        settings.fit.plateau = match self.fit.plateau {
            Some(true) => settings.fit.plateau.or(FitOptions::default().plateau),
            Some(false) => None,
            None => settings.fit.plateau,
        };
        Ok(settings)
    }

    /// Sets what the data decide, and checks that a stored run is the one that is meant.
    pub fn resolve(&self, settings: &mut Settings, train: &dyn SampleSource, stored: Option<&Settings>) -> Result<()> {
        let dims = train.dims();
        let model = &mut settings.model;
        (model.text_dim, model.region_num, model.region_dim, model.global_dim) =
            (dims.text, dims.regions, dims.region, dims.global);
        settings.data.videos = train.len();
        let epoch = train.len().div_ceil(settings.fit.core.batch.max(1)) as u64;
        let file = self.file()?;
        let given = |flag: bool, key: &str| flag || stored.is_some() || file["fit"].get(key).is_some();
        if let Some(epochs) = self.fit.epochs {
            settings.fit.core.steps = epochs.saturating_mul(epoch);
        } else if !given(self.fit.steps.is_some(), "steps") {
            settings.fit.core.steps = EPOCHS * epoch;
        }
        if !given(self.fit.evaluate_every.is_some(), "evaluate_every") {
            settings.fit.core.evaluate_every = epoch;
        }
        let Some(stored) = stored else { return Ok(()) };
        let mut differences = Vec::new();
        differ(&json!(stored), &json!(settings), "", &mut differences);
        if differences.is_empty() {
            return Ok(());
        }
        Err(wrong("resume", format!("keeps the run's settings, but {}", differences.join("; "))))
    }

    fn file(&self) -> Result<Value> {
        self.config.as_deref().map_or(Ok(json!({})), read_object)
    }
}

fn wrong(argument: &'static str, why: String) -> Error {
    Error::Argument { op: "train_bicnet", argument, why }
}
