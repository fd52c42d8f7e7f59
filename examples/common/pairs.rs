//! What the trainers of models on CLIP's towers share: settings, data, training, and tables.

// Each example uses a part.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use reelgrad::data::captions::{Dataset, Part};
use reelgrad::data::media::frames::{Choice, Sampling};
use reelgrad::data::media::pixels::Preprocess;
use reelgrad::data::media::video::VideoInput;
use reelgrad::data::moments::Problems;
use reelgrad::data::pairs::PairSource;
use reelgrad::data::pairs::dataset::PairDataset;
use reelgrad::data::synthetic::{ClipPairs, ClipWorld, ClipWorldConfig, Split};
use reelgrad::data::tokenizer::{Cleaning, Tokenizer};
use reelgrad::gpu::Gpu;
use reelgrad::models::clip::{ClipConfig, TowerConfig, read_clip};
use reelgrad::models::clip4clip::{Base, BaseConfig};
use reelgrad::models::pair::{PairModel, TwoStageModel};
use reelgrad::optim::{Algorithm, Schedule};
use reelgrad::retrieval::gallery::{Gallery, TextTile};
use reelgrad::retrieval::{Counts, RetrievalMetrics, Ties};
use reelgrad::tensor::Array;
use reelgrad::train::{
    FitHooks, FitReport, PairFitOptions, Resumed, RunFolder, Slot, StopFlag, checkpoint, fit_pairs, is_frozen,
};
use reelgrad::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::common;
use crate::common::bar::Bar;
use crate::common::merge::{merge, read_object};

/// Videos, and texts, that are encoded and compared at a time.
const TILE: usize = 64;

/// A model that these programs train.
pub trait Method {
    type Model: TwoStageModel;
    type Config: Clone + Default + Serialize + DeserializeOwned;
    const NAME: &'static str;

    fn base(config: &mut Self::Config) -> &mut BaseConfig;
    /// What differs from the others' settings for the synthetic world.
    fn small(_: &mut Settings<Self::Config>) {}
    fn build(gpu: &Gpu, config: Self::Config, seed: u64, frozen: &dyn Fn(&str) -> bool) -> Result<Self::Model>;
}

/// Everything that decides what a run comes to; the run folder's `config.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings<C> {
    pub data: Data,
    pub model: C,
    pub fit: PairFitOptions,
}

/// Where texts and videos come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// The published annotation files; `None` for the synthetic world.
    pub root: Option<PathBuf>,
    /// Which dataset's.
    pub dataset: String,
    /// Videos or folders of frames.
    pub videos: Option<PathBuf>,
    /// The pretrained towers with their tokenizer.
    pub clip: Option<PathBuf>,
    /// Which frames of a video are read, and which of them are used.
    pub sampling: Sampling,
    pub choice: Choice,
    pub world: ClipWorldConfig,
}

impl Default for Data {
    fn default() -> Self {
        let world = ClipWorldConfig { frames: 6, ..ClipWorldConfig::default() };
        let (sampling, choice) = (Sampling::default(), Choice::default());
        Self { root: None, dataset: "msrvtt-9k".into(), videos: None, clip: None, sampling, choice, world }
    }
}

#[derive(Debug, Args)]
pub struct Options {
    /// Folder of a dataset's annotation files; without it, clips are rendered and small towers trained from scratch.
    #[arg(long, value_name = "FOLDER", requires = "clip", requires = "videos")]
    pub data: Option<PathBuf>,
    /// Which dataset it is: msrvtt-9k, msrvtt-7k, msvd, didemo, vatex, activitynet, lsmdc or neutral.
    #[arg(long, value_name = "NAME", default_value = "msrvtt-9k")]
    pub dataset: String,
    /// Folder of its videos (mp4, webm, mkv, avi) or of folders of frames.
    #[arg(long, value_name = "FOLDER")]
    pub videos: Option<PathBuf>,
    /// Folder of a pretrained CLIP in Hugging Face's layout, with its tokenizer.
    #[arg(long, value_name = "FOLDER")]
    pub clip: Option<PathBuf>,
    /// Folder of the run, or of the folders of several: configuration, logs, curves, checkpoints. The default is a new one
    /// in runs/.
    #[arg(long, value_name = "FOLDER")]
    pub run: Option<PathBuf>,
    /// Go on with the run in that folder, with its settings.
    #[arg(long, requires = "run", conflicts_with_all = ["data", "set", "steps", "config"])]
    pub resume: bool,
    /// Optimiser steps.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Seeds initial values and the order of the data.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// JSON file of settings, such as a run's config.json; --set wins over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Changes a setting by its name in config.json, such as fit.lr=2e-4 or model.base.frames=8. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub set: Vec<(String, Value)>,
    /// Leaves out what cannot be read in annotations and videos, and counts it.
    #[arg(long)]
    pub lenient: bool,
    /// The adapter: fastest, low-power, its number, or a part of its name.
    #[arg(long, value_name = "ADAPTER")]
    pub adapter: Option<String>,
}

/// `a.b=1` as a name and a JSON value; what is not JSON is text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.into(), serde_json::from_str(value).unwrap_or_else(|_| json!(value))))
}

pub fn wrong(argument: &'static str, why: impl Into<String>) -> Error {
    Error::Argument { op: "training", argument, why: why.into() }
}

impl Options {
    /// The settings: the run's that goes on, or those of the synthetic world or of the published recipe with what the user
    /// says.
    pub fn settings<M: Method>(&self) -> Result<Settings<M::Config>> {
        let stored = self.run.as_deref().filter(|_| self.resume).map(RunFolder::config).transpose()?;
        if let Some(stored) = stored {
            return serde_json::from_value(stored).map_err(|e| wrong("run", e.to_string()));
        }
        let mut settings: Settings<M::Config> = Settings::default();
        settings.data.root = self.data.clone();
        settings.data.dataset = self.dataset.clone();
        settings.data.videos = self.videos.clone();
        settings.data.clip = self.clip.clone();
        match &self.clip {
            Some(clip) => *M::base(&mut settings.model) = BaseConfig::on(read_clip(clip)?.0),
            None => {
                small::<M>(&mut settings);
                M::small(&mut settings);
            }
        }
        let mut value = json!(settings);
        if let Some(path) = &self.config {
            merge(&mut value, read_object(path)?, "").map_err(|(at, problem)| Error::malformed(path, at, problem))?;
        }
        let flags = [("fit.steps", self.steps.map(Value::from)), ("fit.seed", self.seed.map(Value::from))];
        let flags = flags.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
        for (name, setting) in flags.chain(self.set.iter().cloned()) {
            let patch = name.split('.').rev().fold(setting, |inner, key| json!({ key: inner }));
            merge(&mut value, patch, "").map_err(|(at, problem)| wrong("set", format!("{at} {problem}")))?;
        }
        serde_json::from_value(value).map_err(|e| wrong("set", e.to_string()))
    }

    pub fn problems(&self) -> Problems {
        if self.lenient { Problems::lenient() } else { Problems::strict() }
    }

    /// Where a run is kept; of several runs, `part` is the folder of each in what the user names.
    pub fn run_folder(&self, name: &str, part: Option<String>) -> PathBuf {
        let named = self.run.as_ref().map(|run| part.map_or_else(|| run.clone(), |part| run.join(part)));
        named.unwrap_or_else(|| common::free_folder(Path::new("runs"), name))
    }
}

/// Towers and a recipe at which the synthetic clips were seen to be learnt within minutes on a processor.
fn small<M: Method>(settings: &mut Settings<M::Config>) {
    let tower = TowerConfig { width: 64, heads: 4, layers: 2, mlp: 256 };
    let clip = ClipConfig {
        image_size: settings.data.world.size,
        patch_size: 32,
        vision: tower,
        text: tower,
        // The words, padding, unknown, start and end.
        vocabulary: ClipWorld::vocabulary().len() + 4,
        positions: 14,
        joint: 64,
        ..ClipConfig::vit_b_32()
    };
    *M::base(&mut settings.model) = BaseConfig {
        frames: settings.data.world.frames,
        words: clip.positions,
        temporal_layers: 1,
        temporal_heads: 4,
        frame_positions: clip.positions,
        ..BaseConfig::on(clip)
    };
    settings.fit = PairFitOptions {
        batch: 32,
        steps: 400,
        lr: 1e-3,
        tower_lr_scale: 1.0,
        schedule: Schedule::WarmupCosineRescaled,
        weight_decay: 0.01,
        algorithm: Algorithm::AdamW { beta1: 0.9, beta2: 0.98, eps: 1e-6 },
        freeze_layers: None,
        seed: 0,
        ..PairFitOptions::default()
    };
}

/// Texts and videos of one part, and for each text the videos that answer it.
pub struct Source {
    pub pairs: Box<dyn PairSource>,
    pub answers: Vec<Vec<usize>>,
    /// The texts that tell a part of their clip only; none in real datasets.
    pub partial: Vec<usize>,
}

/// Training, validation and test.
pub struct Sources {
    pub train: Source,
    pub validation: Source,
    pub test: Source,
}

impl Sources {
    pub fn open(data: &Data, base: &BaseConfig, problems: &mut Problems) -> Result<Self> {
        match &data.root {
            Some(root) => Self::real(root, data, base, problems),
            None => Self::synthetic(data, base),
        }
    }

    fn real(root: &Path, data: &Data, base: &BaseConfig, problems: &mut Problems) -> Result<Self> {
        let (Some(clip), Some(videos)) = (&data.clip, &data.videos) else {
            return Err(wrong("data", "needs --clip and --videos"));
        };
        let dataset: Dataset = data.dataset.parse()?;
        let towers = base.clip.clone().unwrap_or_else(ClipConfig::vit_b_32);
        let tokenizer = Tokenizer::open(clip)?.with_cleaning(Cleaning::Official);
        tokenizer.expect_below(towers.vocabulary)?;
        let input = VideoInput {
            sampling: data.sampling,
            choice: data.choice,
            max_frames: base.frames,
            preprocess: Preprocess::clip(towers.image_size),
        };
        let mut part = |part: Part| -> Result<Source> {
            let split = dataset.read(root, part, problems)?;
            let pairs = PairDataset::open(split, videos, &tokenizer, base.words, input.clone(), problems)?;
            if pairs.truncated() > 0 {
                println!("note     {}: {} captions cut to {} tokens", part.name(), pairs.truncated(), base.words);
            }
            let answers = (0..pairs.texts()).map(|t| vec![pairs.video_of(t)]).collect();
            Ok(Source { pairs: Box::new(pairs), answers, partial: Vec::new() })
        };
        let has = |part: &Part| dataset.parts().contains(part);
        // As published: where a part is missing, the other one serves for both.
        let validation = if has(&Part::Validate) { Part::Validate } else { Part::Test };
        let test = if has(&Part::Test) { Part::Test } else { Part::Validate };
        Ok(Self { train: part(Part::Train)?, validation: part(validation)?, test: part(test)? })
    }

    fn synthetic(data: &Data, base: &BaseConfig) -> Result<Self> {
        let world = ClipWorld::new(data.world)?;
        let tokenizer = Tokenizer::from_words(&ClipWorld::vocabulary())?;
        let part = |split: Split| -> Result<Source> {
            let pairs = ClipPairs::new(&world, split, &tokenizer, base.words)?;
            // Whoever trains needs no answers, and they are many.
            let texts = if split == Split::Train { 0 } else { pairs.texts() };
            let answers = (0..texts).map(|t| pairs.fits(t)).collect();
            let is_partial = |&t: &usize| pairs.caption(t).is_some_and(|c| c.is_partial());
            let partial = (0..texts).filter(is_partial).collect();
            Ok(Source { pairs: Box::new(pairs), answers, partial })
        };
        Ok(Self { train: part(Split::Train)?, validation: part(Split::Validation)?, test: part(Split::Test)? })
    }
}

/// Trains a model in a run folder of its own; at the end it holds the best checkpoint on the validation part.
pub fn train<M: Method>(
    gpu: &Gpu,
    settings: &Settings<M::Config>,
    sources: &Sources,
    folder: &Path,
    resume: bool,
    stop: &StopFlag,
) -> Result<(M::Model, FitReport)> {
    let fit = &settings.fit;
    let model = M::build(gpu, settings.model.clone(), fit.seed, &|name| is_frozen(name, fit.freeze_layers))?;
    let (mut run, checkpoint) = if resume {
        let Resumed { folder, checkpoint, .. } = RunFolder::resume(folder, Slot::Last)?;
        (folder, checkpoint)
    } else {
        if let Some(clip) = &settings.data.clip {
            let arrays = Base::complete(model.store(), read_clip(clip)?.1)?;
            model.store().load(&clip.display().to_string(), &arrays)?;
        }
        (RunFolder::create(folder, settings)?, None)
    };
    println!("model    {} parameters, {} trained", count(&model), model.store().trained_elements());
    let mut bar = Bar::new(M::NAME);
    let hooks = FitHooks {
        evaluate: &mut || {
            let metrics = evaluate(&model, &sources.validation)?.1;
            let named = [("r1", metrics.r1), ("r5", metrics.r5), ("r10", metrics.r10), ("mdr", metrics.mdr)];
            let named = named.into_iter().map(|(n, v)| (format!("validation/{n}"), v)).collect();
            Ok((metrics.rsum, named))
        },
        run: Some(&mut run),
        progress: &mut bar,
        stop,
    };
    let report = fit_pairs(&model, &*sources.train.pairs, fit, checkpoint.as_ref(), hooks);
    bar.finish();
    let report = report?;
    if report.best.is_some_and(|(_, step)| step != report.steps) {
        let best = checkpoint::load_model(run.checkpoint_path(Slot::Best))?;
        model.store().load("the best checkpoint", &best)?;
    }
    Ok((model, report))
}

fn count(model: &impl TwoStageModel) -> usize {
    model.store().parameters().iter().map(|p| p.len()).sum()
}

/// Encoded videos and texts of a part.
pub struct Encoded<V> {
    pub gallery: Gallery<V>,
    pub texts: Vec<TextTile>,
}

pub fn encode<M: TwoStageModel>(model: &M, source: &Source) -> Result<Encoded<M::Videos>> {
    let pairs = &*source.pairs;
    let videos: Vec<usize> = (0..pairs.videos()).collect();
    let texts: Vec<usize> = (0..pairs.texts()).collect();
    Ok(Encoded {
        gallery: Gallery::encode(model, pairs, &videos, TILE)?,
        texts: TextTile::of_source(pairs, &texts, TILE)?,
    })
}

/// Scores of all pairs, and their metrics over all texts.
pub fn evaluate<M: TwoStageModel>(model: &M, source: &Source) -> Result<(Array, RetrievalMetrics)> {
    let encoded = encode(model, source)?;
    let scores = reelgrad::retrieval::gallery::score_all(model, &encoded.texts, &encoded.gallery)?;
    let metrics = metrics(&scores, source, Texts::All)?;
    Ok((scores, metrics))
}

/// Which texts count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Texts {
    All,
    Whole,
    Partial,
}

/// Text-to-video metrics. A text that several videos answer counts by the best of them.
pub fn metrics(scores: &Array, source: &Source, texts: Texts) -> Result<RetrievalMetrics> {
    let partial = |t: &usize| source.partial.binary_search(t).is_ok();
    let chosen: Vec<usize> = (0..source.answers.len())
        .filter(|t| match texts {
            Texts::All => true,
            Texts::Whole => !partial(t),
            Texts::Partial => partial(t),
        })
        .collect();
    let answers: Vec<Vec<usize>> = chosen.iter().map(|&t| source.answers[t].clone()).collect();
    let rows: Vec<f32> = chosen.iter().flat_map(|&t| scores.row(t)).copied().collect();
    let videos = source.pairs.videos();
    Counts::of_any(&Array::new([chosen.len(), videos], rows)?, &answers)?.metrics(Ties::Expected)
}

/// Video-to-text metrics over the texts of the whole clip: a video counts by the best of its own.
pub fn video_to_text(scores: &Array, source: &Source) -> Result<RetrievalMetrics> {
    let (pairs, columns) = (&*source.pairs, source.pairs.videos());
    let texts: Vec<usize> = (0..source.answers.len()).filter(|t| source.partial.binary_search(t).is_err()).collect();
    let column = |v: usize| texts.iter().map(move |&t| scores.data()[t * columns + v]);
    let own = |v: usize| (0..texts.len()).filter(|&i| pairs.video_of(texts[i]) == v).collect::<Vec<usize>>();
    let data: Vec<f32> = (0..columns).flat_map(column).collect();
    let own: Vec<Vec<usize>> = (0..columns).map(own).collect();
    Counts::of_any(&Array::new([columns, texts.len()], data)?, &own)?.metrics(Ties::Expected)
}

/// Mean, and the distance of the largest from the smallest, of one figure over seeds.
pub fn cell(results: &[RetrievalMetrics], figure: fn(&RetrievalMetrics) -> f64) -> String {
    let values: Vec<f64> = results.iter().map(figure).collect();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    if values.len() < 2 { format!("{mean:.1}") } else { format!("{mean:.1} ({:.1})", high - low) }
}

/// R@1, R@5, R@10 and MdR.
pub fn cells(results: &[RetrievalMetrics]) -> String {
    let figures: [fn(&RetrievalMetrics) -> f64; 4] = [|m| m.r1, |m| m.r5, |m| m.r10, |m| m.mdr];
    figures.map(|figure| cell(results, figure)).join(" | ")
}

/// Ends a program: as [`common::finish`], and with 130 after a stop.
pub fn exit(result: Result<()>) -> ExitCode {
    match result {
        Err(error @ Error::Interrupted { .. }) => {
            eprintln!("{error}\ngo on with --resume and the run's folder as --run");
            ExitCode::from(130)
        }
        result => common::finish(result.map(|()| ExitCode::SUCCESS)),
    }
}

/// What a program says about where it runs and on what.
pub fn introduce(gpu: &Gpu, sources: &Sources, problems: &Problems) {
    if let Some(first) = problems.skipped().first() {
        println!("skipped  {} rows and videos, the first: {first}", problems.skipped().len());
    }
    println!("adapter  {}", gpu.report().line());
    for (name, part) in [("training", &sources.train), ("validation", &sources.validation), ("test", &sources.test)] {
        println!("data     {name}: {} texts, {} videos", part.pairs.texts(), part.pairs.videos());
    }
}

/// Time, speed and memory of a program.
pub fn conclude(gpu: &Gpu, sources: &Sources, reports: &[FitReport], started: Instant) {
    for source in [&sources.train, &sources.validation, &sources.test] {
        for failure in source.pairs.failures() {
            println!("not read {}: {}", failure.id, failure.error);
        }
    }
    let speed = reports.iter().map(|r| r.samples_per_second).sum::<f64>() / reports.len().max(1) as f64;
    println!("\ntraining speed   {speed:.1} pairs/s");
    println!("peak GPU memory  {:.1} MB", gpu.memory_report().peak as f64 / 1e6);
    println!("whole run        {:.0} s", started.elapsed().as_secs_f64());
}
