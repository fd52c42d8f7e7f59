//! Trains ReLoCLNet on videos with time-stamped queries, evaluates it while it learns, and writes the predictions of the
//! best checkpoint.
//!
//! ```text
//! cargo run --release --features full --example train_reloclnet -- --data TVR --run runs/tvr
//! cargo run --release --features full --example train_reloclnet -- --run runs/tvr --resume
//! cargo run --release --features full --example train_reloclnet -- --run runs/tvr --predict test_public
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use reelgrad::data::formats::atomic;
use reelgrad::data::moments::{MomentSource, Problems};
use reelgrad::gpu::Gpu;
use reelgrad::models::reloclnet::{Reloclnet, ReloclnetConfig};
use reelgrad::retrieval::moments::{HighlightPrediction, MomentMetrics};
use reelgrad::train::{
    Checkpoint, FitHooks, FitReport, MomentFitOptions, Resumed, RunFolder, Silent, Slot, StopFlag, checkpoint,
    fit_moments,
};
use reelgrad::{Error, Result};
use serde_json::{Value, json};

mod common;
#[path = "common/moments.rs"]
mod moments;
use common::bar::Bar;
use common::merge::{differ, merge, read_object};
use moments::{Evaluated, Layout, Settings, evaluate_part, named};

/// The official trainer's.
const EPOCHS: u64 = 100;

/// Trains ReLoCLNet.
///
/// Evaluates on the validation part while it trains, keeps the best checkpoint (VCMR R@1 at IoU 0.5 and 0.7) and writes
/// that one's predictions in TVR's submission format. Ctrl-C saves and ends with 130; --resume goes on to the bit where it
/// stopped. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Folder of the dataset.
    #[arg(long, value_name = "FOLDER", required_unless_present_any = ["resume", "predict"])]
    data: Option<PathBuf>,
    /// How it is laid out [default: tvr].
    #[arg(long, value_enum)]
    layout: Option<Layout>,
    /// Folder of the run: configuration, logs, curves, checkpoints, predictions.
    #[arg(long, value_name = "FOLDER", default_value = "runs/reloclnet")]
    run: PathBuf,
    /// Go on with the run in that folder. All settings are the run's; one that says something else is an error, except
    /// --data, which may name a new place of the same files.
    #[arg(long)]
    resume: bool,
    /// Instead of training: predictions of the run's best checkpoint for this part, evaluated where it has labels.
    #[arg(long, value_name = "PART", conflicts_with = "resume")]
    predict: Option<String>,
    /// A network and a schedule for software GPUs: width 96, 4 heads, 64 clips, batches of 64, one epoch.
    #[arg(long)]
    small: bool,
    /// Passes over the training part [default: 100, or 1 with --small].
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    epochs: Option<u64>,
    /// JSON file of settings, such as a run's config.json; --set wins over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Changes a setting by its name in config.json, such as model.hidden_size=256, fit.lr=2e-4 or
    /// model.padding=masked. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, Value)>,
    /// Skips videos and queries that cannot be read, and counts them.
    #[arg(long)]
    lenient: bool,
    /// Instead of training: time every kernel of a few steps, print a table and write a Chrome trace (also for Perfetto).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["resume", "predict"])]
    profile: Option<PathBuf>,
    /// The adapter: fastest, low-power, its number, or a part of its name. The default is the environment variable
    /// REELGRAD_ADAPTER, else the fastest.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
}

/// `a.b=1` as a name and a JSON value; what is not JSON is text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.into(), serde_json::from_str(value).unwrap_or_else(|_| json!(value))))
}

fn main() -> ExitCode {
    common::init_log();
    let options = Options::parse();
    match run(&options) {
        Err(error @ Error::Interrupted { .. }) => {
            eprintln!("{error}\ngo on with: train_reloclnet --run {} --resume", options.run.display());
            ExitCode::from(130)
        }
        result => common::finish(result.map(|()| ExitCode::SUCCESS)),
    }
}

fn run(options: &Options) -> Result<()> {
    let mut problems = if options.lenient { Problems::lenient() } else { Problems::strict() };
    let result = match &options.predict {
        Some(part) => predict(options, part, &mut problems),
        None => train(options, &mut problems),
    };
    if !problems.mended().is_empty() {
        println!("mended   {} moments, the first: {}", problems.mended().len(), problems.mended()[0]);
    }
    if !problems.skipped().is_empty() {
        println!("skipped  {} videos and queries, the first: {}", problems.skipped().len(), problems.skipped()[0]);
    }
    result
}

/// Before the GPU, so that what is wrong with the arguments and the data shows at once.
fn train(options: &Options, problems: &mut Problems) -> Result<()> {
    if !options.resume && options.profile.is_none() && options.run.join("config.json").exists() {
        let why = format!("{} holds a run already: add --resume, or choose another folder", options.run.display());
        return Err(wrong("run", why));
    }
    let resumed = options.resume.then(|| RunFolder::resume(&options.run, Slot::Last)).transpose()?;
    let stored = resumed.as_ref().map(|r| Settings::of_run(&options.run, &r.config)).transpose()?;
    let mut settings = options.settings(stored.as_ref())?;
    let train = settings.open(&settings.data.train, problems)?;
    let validation = settings.open(&settings.data.validation, problems)?;
    options.resolve(&mut settings, &*train, stored.as_ref())?;
    for (name, part) in [("training", &train), ("validation", &validation)] {
        println!("data     {name}: {} queries, {} videos", part.queries().len(), part.videos().len());
    }
    if settings.data.layout == Layout::SimulatedActivitynet {
        println!("note     real sentences and times, simulated features");
    }

    let gpu = open_gpu(options);
    let model = Reloclnet::new(&gpu, settings.model.clone(), settings.fit.seed)?;
    println!("model    {} parameters", model.store().trained_elements());
    if let Some(trace) = &options.profile {
        return profile(&model, &*train, &settings, trace);
    }
    let (mut folder, checkpoint) = match resumed {
        Some(Resumed { folder, checkpoint, .. }) => (folder, checkpoint),
        None => (RunFolder::create(&options.run, &settings)?, None),
    };
    if let Some(step) = checkpoint.as_ref().and_then(|c| c.state["step"].as_u64()) {
        println!("resumed  after {step} of {} steps", settings.fit.steps);
    }
    let started = Instant::now();
    let mut last = None;
    let parts = (&*train, &*validation);
    let report = fit(&model, parts, &settings, &mut folder, checkpoint.as_ref(), problems, &mut last)?;
    let (best, step) = report.best.unwrap_or_default();
    println!("\nbest     step {step}: VCMR R@1 of both overlaps {best:.2} on the validation part");
    println!("training speed   {:.1} queries/s", report.samples_per_second);
    println!("peak GPU memory  {:.1} MB", gpu.memory_report().peak as f64 / 1e6);
    println!("time             {:.0} s", started.elapsed().as_secs_f64());

    let part = &settings.data.validation;
    let evaluated = match last {
        // The model that was evaluated at the end is the best one.
        Some(evaluated) if report.steps == step => evaluated,
        _ => {
            let best = checkpoint::load_model(folder.checkpoint_path(Slot::Best))?;
            model.store().load("the best checkpoint", &best)?;
            evaluate_part(&model, &*validation, settings.search, problems)?
        }
    };
    write_predictions(options, &settings, &*validation, part, &evaluated)
}

/// Leaves the last evaluation in `last`.
fn fit(
    model: &Reloclnet,
    (train, validation): (&dyn MomentSource, &dyn MomentSource),
    settings: &Settings,
    folder: &mut RunFolder,
    checkpoint: Option<&Checkpoint>,
    problems: &mut Problems,
    last: &mut Option<Evaluated>,
) -> Result<FitReport> {
    let stop = common::stop_on_ctrl_c();
    let mut bar = Bar::new("ReLoCLNet");
    let print = bar.printer();
    print(&format!("\n{}", MomentMetrics::HEAD));
    let hooks = FitHooks {
        evaluate: &mut || {
            // What is skipped is counted once.
            let mut own = problems.fresh();
            let evaluated = evaluate_part(model, validation, settings.search, &mut own)?;
            let unlabelled = || wrong("validation", "has queries without labels".into());
            let metrics = evaluated.metrics.as_ref().ok_or_else(unlabelled)?;
            print(&metrics.row("validation"));
            let result = (metrics.selection(), named(metrics));
            *last = Some(evaluated);
            Ok(result)
        },
        run: Some(folder),
        progress: &mut bar,
        stop: &stop,
    };
    let report = fit_moments(model, train, &settings.fit, checkpoint, hooks);
    bar.finish();
    report
}

/// Times the kernels of three steps, after one that compiles the shaders.
fn profile(model: &Reloclnet, train: &dyn MomentSource, settings: &Settings, trace: &Path) -> Result<()> {
    let gpu = model.store().gpu();
    for steps in [1, 3] {
        // What came before is thrown away.
        gpu.profile()?;
        let options = MomentFitOptions { steps, log_every: 1, evaluate_every: 0, ..settings.fit.clone() };
        let hooks = FitHooks {
            evaluate: &mut || Ok((0.0, Vec::new())),
            run: None,
            progress: &mut Silent,
            stop: &StopFlag::new(),
        };
        fit_moments(model, train, &options, None, hooks)?;
    }
    let profile = gpu.profile()?;
    println!("\n3 steps of {} queries\n\n{}", settings.fit.batch, profile.table());
    atomic::write(trace, |file| file.write_all(profile.chrome_trace().as_bytes()))?;
    println!("trace    {}", trace.display());
    Ok(())
}

/// Predictions of the run's best checkpoint.
fn predict(options: &Options, part: &str, problems: &mut Problems) -> Result<()> {
    let stored = Settings::of_run(&options.run, &RunFolder::config(&options.run)?)?;
    let settings = options.settings(Some(&stored))?;
    let data = settings.open(part, problems)?;
    let gpu = open_gpu(options);
    let model = Reloclnet::open(&gpu, &options.run, Slot::Best)?;
    let evaluated = evaluate_part(&model, &*data, settings.search, problems)?;
    write_predictions(options, &settings, &*data, part, &evaluated)
}

fn write_predictions(
    options: &Options,
    settings: &Settings,
    data: &dyn MomentSource,
    part: &str,
    Evaluated { predicted, metrics, seconds }: &Evaluated,
) -> Result<()> {
    let simulated = if settings.data.layout == Layout::SimulatedActivitynet { " (simulated features)" } else { "" };
    let (queries, videos) = (data.queries().len(), data.videos().len());
    println!("\n{part}{simulated}: {queries} queries in {videos} videos, {seconds:.1} s");
    for stage in &predicted.stages {
        println!("  {:<16} {:8.3} s", stage.name, stage.time.as_secs_f64());
    }
    if let Some(metrics) = metrics {
        println!("\n{}\n{}", MomentMetrics::HEAD, metrics.row(part));
        let path = options.run.join(format!("{part}_metrics.json"));
        let mut text = json!(metrics);
        if settings.data.layout == Layout::SimulatedActivitynet {
            text["features"] = json!("simulated");
        }
        atomic::write(&path, |file| writeln!(file, "{text:#}"))?;
        println!("chance: VR R@10 {:.2}", 1000.0 / videos as f64);
        println!("metrics          {}", path.display());
    }
    let path = options.run.join(format!("{part}_predictions.jsonl"));
    HighlightPrediction::write_jsonl(&predicted.highlights(data), &path)?;
    println!("SVMR, by line    {}", path.display());
    let path = options.run.join(format!("{part}_predictions.json"));
    predicted.submission.write(&path)?;
    println!("predictions      {}", path.display());
    Ok(())
}

fn open_gpu(options: &Options) -> Gpu {
    let choice = common::choice(options.adapter.as_deref());
    let gpu = common::open(Gpu::builder().adapter(choice).profile(options.profile.is_some()));
    println!("adapter  {}", gpu.report().line());
    gpu
}

impl Options {
    /// The run's settings or the defaults, then the preset's, the file's, and what --set says.
    fn settings(&self, stored: Option<&Settings>) -> Result<Settings> {
        let mut settings = stored.cloned().unwrap_or_default();
        if stored.is_none() && self.layout == Some(Layout::SimulatedActivitynet) {
            settings.data.validation = "val_1".into();
            settings.data.clip_seconds = 2.0;
            settings.data.timing = reelgrad::data::moments::Timing::Rescaled;
            // Its moments last from seconds to the whole video.
            settings.search.min_length = 1;
            settings.search.alpha = 20.0;
        }
        if stored.is_none() && self.small {
            settings.model = ReloclnetConfig { hidden_size: 96, num_heads: 4, max_clips: 64, ..settings.model };
            settings.fit = MomentFitOptions { batch: 64, lr: 1e-3, warmup: 0.1, ..settings.fit };
        }
        let mut value = json!(settings);
        if let Some(path) = &self.config {
            let mut file = read_object(path)?;
            // A run's own file may serve for another dataset.
            file.as_object_mut().and_then(|sections| sections.remove("data"));
            merge(&mut value, file, "").map_err(|(place, problem)| Error::malformed(path, place, problem))?;
        }
        let mut patches: Vec<(String, Value)> = Vec::new();
        patches.extend(self.data.as_ref().map(|root| ("data.root".into(), json!(root))));
        patches.extend(self.layout.map(|layout| ("data.layout".into(), json!(layout))));
        for (name, setting) in patches.iter().chain(&self.set) {
            let patch = name.split('.').rev().fold(setting.clone(), |inner, key| json!({ key: inner }));
            merge(&mut value, patch, "").map_err(|(place, problem)| wrong("set", format!("{place} {problem}")))?;
        }
        serde_json::from_value(value).map_err(|e| wrong("set", e.to_string()))
    }

    /// Sets what the data decide, and checks that a stored run is the one that is meant.
    fn resolve(&self, settings: &mut Settings, train: &dyn MomentSource, stored: Option<&Settings>) -> Result<()> {
        settings.fit_to(train);
        let epoch = settings.fit.steps_per_epoch(train)?;
        let file = self.config.as_deref().map(read_object).transpose()?.unwrap_or_default();
        let given = |section: &str, key: &str| {
            let name = format!("{section}.{key}");
            stored.is_some() || file[section].get(key).is_some() || self.set.iter().any(|(set, _)| *set == name)
        };
        if settings.data.layout == Layout::SimulatedActivitynet && !given("search", "max_length") {
            settings.search.max_length = settings.model.max_clips + 1;
        }
        if !given("fit", "steps") {
            let epochs = self.epochs.unwrap_or(if self.small { 1 } else { EPOCHS });
            settings.fit.steps = epochs.saturating_mul(epoch);
        }
        if !given("fit", "evaluate_every") {
            settings.fit.evaluate_every = epoch;
        }
        let Some(stored) = stored else { return Ok(()) };
        let mut differences = Vec::new();
        differ(&json!(stored), &json!(settings), "", &mut differences);
        if differences.is_empty() {
            return Ok(());
        }
        Err(wrong("resume", format!("keeps the run's settings, but {}", differences.join("; "))))
    }
}

fn wrong(argument: &'static str, why: String) -> Error {
    Error::Argument { op: "train_reloclnet", argument, why }
}
