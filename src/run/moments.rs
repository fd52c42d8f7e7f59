//! Runs of ReLoCLNet.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Asked, Spread, Task};
use crate::data::formats::atomic;
use crate::data::moments::{
    MomentSource, Problems, Timing, TvrDataset, TvrFiles, TvrOptions, l2_normalize_rows, read_activitynet,
};
use crate::data::synthetic::{MomentManifest, MomentWorld, SimulatedActivityNet, SimulationOptions};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::reloclnet::{Reloclnet, ReloclnetConfig, Streams};
use crate::retrieval::moments::baselines::{CentrePrior, SpanGrid, random_span};
use crate::retrieval::moments::{
    HighlightPrediction, IndexOptions, MomentIndex, MomentMetrics, MomentSearch, MomentSearchOptions, Predicted,
    evaluate,
};
use crate::tensor::Array;
use crate::train::{Checkpoint, Figures, FitCore, FitHooks, FitReport, MomentFitOptions, Silent, fit_moments};
use crate::{Error, Result};

/// The official trainer's; small networks make one pass.
const EPOCHS: u64 = 100;

/// Everything that decides what a run comes to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The dataset.
    pub data: Data,
    /// The model; widths of features and streams come from the data.
    pub model: ReloclnetConfig,
    /// The training.
    pub fit: MomentFitOptions,
    /// The search that evaluates.
    pub search: MomentSearchOptions,
}

/// A dataset of videos with time-stamped queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// Its folder.
    pub root: PathBuf,
    /// How the folder is laid out.
    pub layout: Layout,
    /// The part to train on.
    pub train: String,
    /// The part that chooses a checkpoint.
    pub validation: String,
    /// Leaves out videos and queries that cannot be read, and counts them.
    pub lenient: bool,
    /// Seconds of a clip.
    pub clip_seconds: f64,
    /// How long the clips of a resampled video last.
    pub timing: Timing,
    /// Simulation: width of clips.
    pub clip_width: usize,
    /// Simulation: width of words.
    pub word_width: usize,
    /// Simulation: the deviation of noise.
    pub noise: f32,
    /// Simulation: words of a clip that do not belong.
    pub distractors: usize,
    /// Simulation: uses the first videos alone.
    pub max_videos: Option<usize>,
    /// Queries of the training part: other data under the same name would go unnoticed.
    pub samples: usize,
}

/// How a folder of annotations and features is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// TVR's annotations and HDF5 features.
    #[default]
    Tvr,
    /// ActivityNet Captions' annotations (`train.json`, `val_1.json`); features are simulated.
    SimulatedActivitynet,
}

/// Token features (tokens, width) of a sentence.
pub type Encode = dyn Fn(&str) -> Result<Array>;

/// The two parts that a run needs.
pub struct Parts {
    /// What is trained on.
    pub train: Box<dyn MomentSource>,
    /// What chooses the best checkpoint.
    pub validation: Box<dyn MomentSource>,
}

impl Default for Data {
    fn default() -> Self {
        let simulation = SimulationOptions::default();
        Self {
            root: PathBuf::new(),
            layout: Layout::Tvr,
            train: "train".into(),
            validation: "val".into(),
            lenient: false,
            clip_seconds: 1.5,
            timing: Timing::Official,
            clip_width: simulation.clip_width,
            word_width: simulation.word_width,
            noise: simulation.noise,
            distractors: simulation.distractors,
            max_videos: None,
            samples: 0,
        }
    }
}

impl Settings {
    /// A network and a training at which the synthetic corpus was seen to be learnt within minutes.
    pub fn short(steps: u64, seed: u64) -> Self {
        let mut settings = Self::default();
        settings.model = ReloclnetConfig {
            hidden_size: 64,
            num_heads: 4,
            max_clips: 40,
            input_dropout: 0.0,
            dropout: 0.0,
            ..settings.model
        };
        settings.fit = MomentFitOptions {
            core: FitCore { batch: 64, steps, lr: 3e-3, seed, evaluate_every: steps.div_ceil(4), ..settings.fit.core },
            warmup: 0.1,
            patience: None,
            ..settings.fit
        };
        settings.search.max_videos = 50;
        settings
    }

    /// The settings, and those without one or both contrastive losses, for an ablation: evaluated at the end alone.
    pub fn ablation(&self) -> [(&'static str, Self); 4] {
        let without = |name, weight_video, weight_frame| {
            let mut variant = self.clone();
            (variant.model.weight_video, variant.model.weight_frame) = (weight_video, weight_frame);
            variant.fit.core.evaluate_every = 0;
            (name, variant)
        };
        let (video, frame) = (self.model.weight_video, self.model.weight_frame);
        [
            without("full", video, frame),
            without("no VideoCL", 0.0, frame),
            without("no FrameCL", video, 0.0),
            without("neither", 0.0, 0.0),
        ]
    }

    /// What guessing gives on a part, a line an overlap; lengths of moments are those of the training part.
    pub fn guesses(&self, train: &dyn MomentSource, part: &dyn MomentSource) -> Result<String> {
        let grid = SpanGrid {
            seconds_per_clip: self.data.clip_seconds,
            lengths: self.search.min_length..self.search.max_length,
            max_clips: self.model.max_clips,
        };
        let prior = CentrePrior::mean_seconds(train.queries())?;
        let line = |threshold: f32| -> Result<String> {
            let random = random_span(part.queries(), part.videos(), &grid, threshold)?;
            let centre = prior.svmr(part.queries(), part.videos(), threshold)?;
            Ok(format!(
                "guessing, IoU {threshold}: random span VCMR R@1 {:.3}, SVMR R@1 {:.2}; middle of the video SVMR R@1 {centre:.2}",
                random.vcmr, random.svmr
            ))
        };
        Ok([line(0.5)?, line(0.7)?].join("\n"))
    }

    /// A part of the dataset; what is left out goes to `problems`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a timing that is not the layout's; those of the datasets' readers.
    pub fn open_part(&self, part: &str, problems: &mut Problems) -> Result<Box<dyn MomentSource>> {
        let (data, model) = (&self.data, &self.model);
        super::expect_root(&data.root)?;
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
                    let why = "simulated clips are computed at their length, which is rescaled".to_string();
                    return Err(Error::Setting { name: "data.timing".into(), value: "official".into(), why });
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
    ///
    /// # Errors
    /// [`Error::Argument`] for a dataset whose text encoder is not here; those of reading the corpus' manifest.
    pub fn sentence_encoder(&self) -> Result<Box<Encode>> {
        if self.data.layout == Layout::SimulatedActivitynet {
            let simulation = self.simulation();
            return Ok(Box::new(move |text| simulation.encode_query(text)));
        }
        if !MomentManifest::is_in(&self.data.root) {
            let why = "need a text encoder, which this dataset's features do not come with; give features of tokens";
            return Err(Error::Argument { op: "sentence_encoder", argument: "sentences", why: why.into() });
        }
        let world = MomentWorld::new(MomentManifest::read(&self.data.root)?.config)?;
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

    /// Encodes a part's videos, searches for its queries, and evaluates what is found where it has labels.
    pub fn evaluate_part(
        &self,
        model: &Reloclnet,
        part: &dyn MomentSource,
        problems: &mut Problems,
    ) -> Result<Evaluated> {
        let started = Instant::now();
        let index = MomentIndex::build(model, part, IndexOptions::default(), problems, &mut Silent)?;
        let predicted = MomentSearch::new(model, &index, self.search)?.predict(part, problems, &mut Silent)?;
        let labelled = part.queries().iter().all(|q| q.video.is_some() && !q.windows.is_empty());
        let metrics = labelled.then(|| evaluate(&predicted.submission, part.queries(), problems)).transpose()?;
        let is_simulated = self.data.layout == Layout::SimulatedActivitynet;
        Ok(Evaluated { predicted, metrics, is_simulated, seconds: started.elapsed().as_secs_f64() })
    }
}

impl Task for Settings {
    type Model = Reloclnet;
    type Data = Parts;
    type Evaluated = Evaluated;
    const NAME: &'static str = "ReLoCLNet";

    fn recipe(asked: &Value, small: bool) -> Result<Self> {
        let mut settings = Self::default();
        if asked["data"]["layout"] == json!(Layout::SimulatedActivitynet) {
            settings.data.validation = "val_1".into();
            settings.data.clip_seconds = 2.0;
            settings.data.timing = Timing::Rescaled;
            // Its moments last from seconds to the whole video.
            settings.search.min_length = 1;
            settings.search.alpha = 20.0;
        }
        if small {
            settings.model = ReloclnetConfig { hidden_size: 96, num_heads: 4, max_clips: 64, ..settings.model };
            settings.fit = MomentFitOptions {
                core: FitCore { batch: 64, lr: 1e-3, ..settings.fit.core },
                warmup: 0.1,
                ..settings.fit
            };
        }
        Ok(settings)
    }

    fn is_lenient(&self) -> bool {
        self.data.lenient
    }

    fn open(&self, problems: &mut Problems) -> Result<Parts> {
        let train = self.open_part(&self.data.train, problems)?;
        Ok(Parts { train, validation: self.open_part(&self.data.validation, problems)? })
    }

    fn adapt(&mut self, data: &Parts, asked: &Asked) -> Result<()> {
        let widths = data.train.widths();
        (self.model.query_dim, self.model.video_dim, self.model.sub_dim) = (widths.query, widths.video, widths.sub);
        self.model.streams = match (widths.video, widths.sub, self.model.streams) {
            (_, 0, Streams::Both) => Streams::Video,
            (0, _, Streams::Both) => Streams::Sub,
            (_, _, streams) => streams,
        };
        self.data.samples = data.train.queries().len();
        if self.data.layout == Layout::SimulatedActivitynet && !asked.has("search.max_length") {
            self.search.max_length = self.model.max_clips + 1;
        }
        // Now, not at the first evaluation.
        self.search.check()?;
        let epoch = self.fit.steps_per_epoch(&*data.train)?;
        let epochs = if asked.small { 1 } else { EPOCHS };
        asked.decide("fit.steps", &mut self.fit.core.steps, epochs * epoch);
        asked.decide("fit.evaluate_every", &mut self.fit.core.evaluate_every, epoch);
        Ok(())
    }

    fn describe(&self, data: &Parts) -> Vec<String> {
        let part = |name, part: &dyn MomentSource| {
            format!("{name}: {} queries, {} videos", part.queries().len(), part.videos().len())
        };
        let mut lines = vec![part("training", &*data.train), part("validation", &*data.validation)];
        if self.data.layout == Layout::SimulatedActivitynet {
            lines.push("real sentences and times, simulated features".into());
        }
        lines
    }

    fn build(&self, gpu: &Gpu) -> Result<Reloclnet> {
        Reloclnet::new(gpu, self.model.clone(), self.fit.core.seed)
    }

    fn fit(
        &self,
        model: &Reloclnet,
        data: &Parts,
        resume: Option<&Checkpoint>,
        hooks: FitHooks<'_>,
    ) -> Result<FitReport> {
        fit_moments(model, &*data.train, &self.fit, resume, hooks)
    }

    fn evaluate(&self, model: &Reloclnet, data: &Parts) -> Result<Evaluated> {
        // What is left out was counted when the data were opened.
        let mut problems = if self.data.lenient { Problems::lenient() } else { Problems::strict() };
        let evaluated = self.evaluate_part(model, &*data.validation, &mut problems)?;
        if evaluated.metrics.is_none() {
            let why = "it has queries without labels".to_string();
            let value = self.data.validation.clone();
            return Err(Error::Setting { name: "data.validation".into(), value, why });
        }
        Ok(evaluated)
    }

    /// The figure is the one that the official trainer maximises: VCMR R@1 at both overlaps.
    fn figures(evaluated: &Evaluated) -> Figures {
        let Some(metrics) = &evaluated.metrics else { return (0.0, Vec::new()) };
        let values = metrics.figures().into_iter().map(|(name, value)| (format!("val/{name}"), value));
        (metrics.selection(), values.collect())
    }

    fn line(evaluated: &Evaluated) -> String {
        evaluated.metrics.as_ref().map_or_else(|| "no labels".into(), |metrics| metrics.row(""))
    }
}

/// What became of a part's queries.
pub struct Evaluated {
    /// What was found.
    pub predicted: Predicted,
    /// How right it is, where there are labels.
    pub metrics: Option<MomentMetrics>,
    /// Whether the features are simulated.
    pub is_simulated: bool,
    /// What encoding, searching and counting took.
    pub seconds: f64,
}

impl Evaluated {
    /// Writes the predictions for `part` to `folder`, in TVR's submission format and as JSON lines, and the metrics.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path, part: &str, data: &dyn MomentSource) -> Result<()> {
        let file = |end: &str| folder.join(format!("{part}_{end}"));
        if let Some(metrics) = &self.metrics {
            let mut text = json!(metrics);
            if self.is_simulated {
                text["features"] = json!("simulated");
            }
            atomic::write(&file("metrics.json"), |file| writeln!(file, "{text:#}"))?;
        }
        HighlightPrediction::write_jsonl(&self.predicted.highlights(data), file("predictions.jsonl"))?;
        self.predicted.submission.write(file("predictions.json"))
    }
}

/// Titles of a table of [`spreads`].
pub const SPREADS: &str =
    "VCMR R@1, IoU 0.5 | VCMR R@1, IoU 0.7 | SVMR R@1, IoU 0.5 | SVMR R@1, IoU 0.7 | VR R@1 | VR R@10";

/// The figures of an ablation over seeds, as cells of a table; 0 for a task that was not evaluated.
pub fn spreads(results: &[MomentMetrics]) -> String {
    let columns: [fn(&MomentMetrics) -> Option<f64>; 6] = [
        |m| m.vcmr.map(|r| r.half.r1),
        |m| m.vcmr.map(|r| r.tight.r1),
        |m| m.svmr.map(|r| r.half.r1),
        |m| m.svmr.map(|r| r.tight.r1),
        |m| m.vr.map(|r| r.r1),
        |m| m.vr.map(|r| r.r10),
    ];
    columns.map(|column| Spread::of(results, |m| column(m).unwrap_or(0.0)).to_string()).join(" | ")
}
