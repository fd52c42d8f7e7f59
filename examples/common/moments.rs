//! What the examples on moments share: settings, data, evaluation.

// Each example uses a part.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use reelgrad::data::moments::{
    MomentSource, Problems, Timing, TvrDataset, TvrFiles, TvrOptions, l2_normalize_rows, read_activitynet,
};
use reelgrad::data::synthetic::{MomentManifest, MomentWorld, SimulatedActivityNet, SimulationOptions};
use reelgrad::models::reloclnet::{Reloclnet, ReloclnetConfig, Streams};
use reelgrad::retrieval::moments::{
    IndexOptions, MomentIndex, MomentMetrics, MomentSearch, MomentSearchOptions, Predicted, evaluate,
};
use reelgrad::tensor::Array;
use reelgrad::train::{MomentFitOptions, Silent};
use reelgrad::{Error, Result};
use serde::{Deserialize, Serialize};

/// Everything that decides what a run comes to; the run folder's `config.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    pub data: Data,
    pub model: ReloclnetConfig,
    pub fit: MomentFitOptions,
    pub search: MomentSearchOptions,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    pub root: PathBuf,
    pub layout: Layout,
    pub train: String,
    pub validation: String,
    /// Seconds of a clip.
    pub clip_seconds: f64,
    /// How long the clips of a resampled video last.
    pub timing: Timing,
    /// Simulation: width of clips and of words, noise, and words that do not belong.
    pub clip_width: usize,
    pub word_width: usize,
    pub noise: f32,
    pub distractors: usize,
    /// Simulation: uses the first videos alone.
    pub max_videos: Option<usize>,
    /// Of the training part: other data under the same name would go unnoticed.
    pub queries: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// TVR's annotations and HDF5 features.
    #[default]
    Tvr,
    /// ActivityNet Captions' annotations (train.json, val_1.json); features are simulated.
    SimulatedActivitynet,
}

impl Default for Data {
    fn default() -> Self {
        let simulation = SimulationOptions::default();
        Self {
            root: PathBuf::new(),
            layout: Layout::Tvr,
            train: "train".into(),
            validation: "val".into(),
            clip_seconds: 1.5,
            timing: Timing::Official,
            clip_width: simulation.clip_width,
            word_width: simulation.word_width,
            noise: simulation.noise,
            distractors: simulation.distractors,
            max_videos: None,
            queries: 0,
        }
    }
}

/// Makes token features of a sentence.
pub type SentenceEncoder = Box<dyn Fn(&str) -> Result<Array>>;

impl Settings {
    /// What a run was started with.
    pub fn of_run(run: &Path, config: &serde_json::Value) -> Result<Self> {
        serde_json::from_value(config.clone()).map_err(|e| Error::malformed(run.join("config.json"), "settings", e))
    }

    /// A part of the dataset; what is skipped goes to `problems`.
    pub fn open(&self, part: &str, problems: &mut Problems) -> Result<Box<dyn MomentSource>> {
        let (data, model) = (&self.data, &self.model);
        match data.layout {
            Layout::Tvr => {
                let options = TvrOptions {
                    max_clips: model.max_clips,
                    max_tokens: model.max_tokens,
                    clip_seconds: data.clip_seconds,
                    timing: data.timing,
                    ..TvrOptions::default()
                };
                Ok(Box::new(TvrDataset::open(&TvrFiles::in_folder(&data.root, part), options, problems)?))
            }
            Layout::SimulatedActivitynet => {
                if data.timing != Timing::Rescaled {
                    let why = "must be rescaled: simulated clips are computed at their length".to_string();
                    return Err(Error::Argument { op: "train_reloclnet", argument: "data.timing", why });
                }
                let split = read_activitynet(data.root.join(format!("{part}.json")), problems)?;
                Ok(Box::new(SimulatedActivityNet::new(split, self.simulation())?))
            }
        }
    }

    fn simulation(&self) -> SimulationOptions {
        SimulationOptions {
            word_width: self.data.word_width,
            clip_width: self.data.clip_width,
            seconds_per_clip: self.data.clip_seconds,
            max_clips: self.model.max_clips,
            max_tokens: self.model.max_tokens,
            noise: self.data.noise,
            distractors: self.data.distractors,
            max_videos: self.data.max_videos,
            ..SimulationOptions::default()
        }
    }

    /// Makes token features of sentences, where they can be computed: for the synthetic corpora.
    pub fn sentence_encoder(&self) -> Result<SentenceEncoder> {
        if self.data.layout == Layout::SimulatedActivitynet {
            let simulation = self.simulation();
            return Ok(Box::new(move |text| simulation.encode_query(text)));
        }
        if !MomentManifest::is_in(&self.data.root) {
            let why = "need a text encoder, which this dataset's features do not come with; use --query or --features";
            return Err(Error::Argument { op: "find_moment", argument: "sentences", why: why.into() });
        }
        let manifest = MomentManifest::read(&self.data.root)?;
        let world = MomentWorld::new(manifest.config)?;
        let most = self.model.max_tokens;
        // As the reader does with the queries of the corpus.
        Ok(Box::new(move |text| {
            let tokens = world.encode_query(text)?;
            let (rows, width) = (tokens.shape()[0].min(most), tokens.shape()[1]);
            let mut tokens = Array::new([rows, width], tokens.into_data()[..rows * width].to_vec())?;
            l2_normalize_rows(&mut tokens);
            Ok(tokens)
        }))
    }

    /// Sets what the data decide.
    pub fn fit_to(&mut self, train: &dyn MomentSource) {
        let widths = train.widths();
        (self.model.query_dim, self.model.video_dim, self.model.sub_dim) = (widths.query, widths.video, widths.sub);
        self.model.streams = match (widths.video, widths.sub, self.model.streams) {
            (_, 0, Streams::Both) => Streams::Video,
            (0, _, Streams::Both) => Streams::Sub,
            (_, _, streams) => streams,
        };
        self.data.queries = train.queries().len();
    }
}

/// What became of a part's queries.
pub struct Evaluated {
    pub predicted: Predicted,
    /// Where there are labels.
    pub metrics: Option<MomentMetrics>,
    /// What encoding, searching and counting took.
    pub seconds: f64,
}

/// Encodes a part's videos, searches for its queries, and evaluates what is found where it has labels.
pub fn evaluate_part(
    model: &Reloclnet,
    part: &dyn MomentSource,
    search: MomentSearchOptions,
    problems: &mut Problems,
) -> Result<Evaluated> {
    let started = Instant::now();
    let index = MomentIndex::build(model, part, IndexOptions::default(), problems, &mut Silent)?;
    let predicted = MomentSearch::new(model, &index, search)?.predict(part, problems, &mut Silent)?;
    let labelled = part.queries().iter().all(|q| q.video.is_some() && !q.windows.is_empty());
    let metrics = labelled.then(|| evaluate(&predicted.submission, part.queries(), problems)).transpose()?;
    Ok(Evaluated { predicted, metrics, seconds: started.elapsed().as_secs_f64() })
}

/// What the log says of an evaluation.
pub fn named(metrics: &MomentMetrics) -> Vec<(String, f64)> {
    metrics.figures().into_iter().map(|(name, value)| (format!("val/{name}"), value)).collect()
}
