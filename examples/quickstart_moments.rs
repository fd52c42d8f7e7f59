//! Moment retrieval, end to end, on data that the crate makes itself: long videos with time-stamped queries are simulated
//! and written in TVR's layout, ReLoCLNet trains on the GPU and is evaluated on held-out videos, and a few sentences are
//! searched. With --ablation the two contrastive losses are left out in turn.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use reelgrad::data::moments::{MomentSource, Problems};
use reelgrad::data::synthetic::{MomentManifest, MomentWorld, MomentWorldConfig};
use reelgrad::gpu::Gpu;
use reelgrad::models::reloclnet::{Reloclnet, ReloclnetConfig};
use reelgrad::retrieval::moments::baselines::{CentrePrior, SpanGrid, random_span};
use reelgrad::retrieval::moments::{IndexOptions, MomentIndex, MomentMetrics, MomentSearch};
use reelgrad::tensor::{Array, DType};
use reelgrad::train::{FitHooks, MomentFitOptions, RunFolder, StopFlag, fit_moments};
use reelgrad::{Error, Result};

mod common;
#[path = "common/moments.rs"]
mod moments;
use common::bar::Bar;
use moments::{Settings, evaluate_part, figure, figures};

/// Simulates a small corpus of long videos, trains ReLoCLNet on it, evaluates it on held-out videos and searches a few
/// sentences.
#[derive(Parser)]
struct Options {
    /// Folder for the corpus and the runs.
    #[arg(long, default_value = "runs/moments")]
    out: PathBuf,
    /// Training steps.
    #[arg(long, default_value_t = 250)]
    steps: u64,
    /// Seeds the initial values and the order of the data.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Learning rate at its peak.
    #[arg(long, default_value_t = 3e-3)]
    lr: f64,
    /// Width of the network.
    #[arg(long, default_value_t = 64)]
    hidden: usize,
    /// Videos to train on.
    #[arg(long, default_value_t = 400)]
    train: usize,
    /// Noise in what is seen, as a deviation; what is shown has 1.7.
    #[arg(long, default_value_t = 3.0)]
    noise: f32,
    /// Instead: trains with and without VideoCL and FrameCL, with so many seeds each, and prints means and spreads.
    #[arg(long, value_name = "SEEDS")]
    ablation: Option<u64>,
    /// The adapter: a number, part of its name, "fastest" or "low-power".
    #[arg(long)]
    adapter: Option<String>,
}

fn main() -> ExitCode {
    common::init_log();
    common::finish(run(&Options::parse()).map(|()| ExitCode::SUCCESS))
}

fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let gpu = common::open_gpu(options.adapter.as_deref());
    println!("adapter  {}", gpu.report().line());
    let root = options.out.join("world");
    make_world(&root, options)?;
    let mut settings = Settings::default();
    settings.data.root = root;
    settings.model = ReloclnetConfig {
        hidden_size: options.hidden,
        num_heads: 4,
        max_clips: 40,
        input_dropout: 0.0,
        dropout: 0.0,
        ..ReloclnetConfig::default()
    };
    // Settings at which this corpus was seen to be learnt within minutes.
    settings.fit = MomentFitOptions {
        batch: 64,
        steps: options.steps,
        lr: options.lr,
        warmup: 0.1,
        seed: options.seed,
        evaluate_every: options.steps.div_ceil(4),
        patience: None,
        ..MomentFitOptions::default()
    };
    settings.search.max_videos = 50;
    let mut problems = Problems::strict();
    let mut open = |part: &str| settings.open(part, &mut problems);
    let (train, validation, test) = (open("train")?, open("val")?, open("test_public")?);
    settings.fit_to(&*train);
    for (name, part) in [("training", &train), ("validation", &validation), ("test", &test)] {
        println!("data     {name}: {} queries, {} videos", part.queries().len(), part.videos().len());
    }
    let stop = common::stop_on_ctrl_c();
    let job = Job { gpu: &gpu, train: &*train, validation: &*validation, test: &*test, options, stop: &stop };
    if let Some(seeds) = options.ablation {
        return job.ablation(&settings, seeds.max(1));
    }

    gpu.reset_peak_memory();
    let (model, speed) = job.fit("ReLoCLNet", &settings)?;
    let peak = gpu.memory_report().peak;
    println!("\nheld-out test: {} queries, {} videos (simulated features)", test.queries().len(), test.videos().len());
    println!("\n{}", moments::head());
    println!("{}", moments::line("ReLoCLNet", &job.test(&model, &settings)?));
    baselines(&settings, &*train, &*test)?;
    search(&model, &settings, &*test)?;
    println!("\ntraining speed   {speed:.0} queries/s");
    println!("peak GPU memory  {:.1} MB while it trained", peak as f64 / 1e6);
    println!("whole run        {:.0} s", started.elapsed().as_secs_f64());
    println!("runs are in      {}", options.out.display());
    Ok(())
}

/// Simulates the corpus, unless the folder holds just this one.
fn make_world(folder: &Path, options: &Options) -> Result<()> {
    let config = MomentWorldConfig { train: options.train, noise: options.noise, ..MomentWorldConfig::default() };
    if MomentManifest::read(folder).is_ok_and(|manifest| manifest.config == config) {
        return Ok(());
    }
    let started = Instant::now();
    let world = MomentWorld::new(config)?;
    world.write(folder)?;
    let seconds = started.elapsed().as_secs_f64();
    println!("corpus   {} videos written to {} in {seconds:.1} s", world.len(), folder.display());
    Ok(())
}

struct Job<'a> {
    gpu: &'a Gpu,
    train: &'a dyn MomentSource,
    validation: &'a dyn MomentSource,
    test: &'a dyn MomentSource,
    options: &'a Options,
    stop: &'a StopFlag,
}

impl Job<'_> {
    /// Trains a model; it, and queries a second.
    fn fit(&self, name: &'static str, settings: &Settings) -> Result<(Reloclnet, f64)> {
        let model = Reloclnet::new(self.gpu, settings.model.clone(), settings.fit.seed)?;
        println!("model    {} parameters", model.store().trained_elements());
        let mut run = RunFolder::create(common::free_folder(&self.options.out, name), settings)?;
        let mut bar = Bar::new(name);
        let hooks = FitHooks {
            evaluate: &mut || {
                let metrics = self.evaluate(&model, self.validation, settings)?;
                Ok((figure(&metrics), figures(&metrics)))
            },
            run: Some(&mut run),
            progress: &mut bar,
            stop: self.stop,
        };
        let report = fit_moments(&model, self.train, &settings.fit, None, hooks);
        bar.finish();
        Ok((model, report?.samples_per_second))
    }

    fn evaluate(&self, model: &Reloclnet, part: &dyn MomentSource, settings: &Settings) -> Result<MomentMetrics> {
        let mut problems = Problems::strict();
        let metrics = evaluate_part(model, part, settings.search, &mut problems)?.metrics;
        let unlabelled = || Error::Argument { op: "evaluate", argument: "part", why: "has no labels".into() };
        metrics.ok_or_else(unlabelled)
    }

    fn test(&self, model: &Reloclnet, settings: &Settings) -> Result<MomentMetrics> {
        self.evaluate(model, self.test, settings)
    }

    /// The full model, and with one or both contrastive losses left out.
    fn ablation(&self, settings: &Settings, seeds: u64) -> Result<()> {
        let c = &settings.model;
        let variants = [
            ("full", c.weight_video, c.weight_frame),
            ("no VideoCL", 0.0, c.weight_frame),
            ("no FrameCL", c.weight_video, 0.0),
            ("neither", 0.0, 0.0),
        ];
        let mut rows = Vec::new();
        for (name, weight_video, weight_frame) in variants {
            let mut results = Vec::new();
            for seed in 0..seeds {
                let mut settings = settings.clone();
                settings.model.weight_video = weight_video;
                settings.model.weight_frame = weight_frame;
                settings.fit.seed = seed;
                settings.fit.evaluate_every = 0;
                let (model, _) = self.fit(name, &settings)?;
                let metrics = self.test(&model, &settings)?;
                println!("{}", moments::line(&format!("{name} {seed}"), &metrics));
                results.push(metrics);
            }
            rows.push((name, results));
        }
        println!("\ntest, mean and (largest - smallest) of {seeds} seeds (simulated features)\n");
        println!(
            "| losses | VCMR R@1, IoU 0.5 | VCMR R@1, IoU 0.7 | SVMR R@1, IoU 0.5 | SVMR R@1, IoU 0.7 | VR R@1 | VR R@10 |"
        );
        println!("|---|---|---|---|---|---|---|");
        for (name, results) in &rows {
            let cell = |get: &dyn Fn(&MomentMetrics) -> Option<f64>| {
                let values: Vec<f64> = results.iter().filter_map(get).collect();
                let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
                let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
                format!("{mean:.1} ({:.1})", high - low)
            };
            let at = |m: &Option<std::collections::BTreeMap<String, f64>>, key: &str| m.as_ref()?.get(key).copied();
            println!(
                "| {name} | {} | {} | {} | {} | {} | {} |",
                cell(&|m| at(&m.vcmr, "0.5-r1")),
                cell(&|m| at(&m.vcmr, "0.7-r1")),
                cell(&|m| at(&m.svmr, "0.5-r1")),
                cell(&|m| at(&m.svmr, "0.7-r1")),
                cell(&|m| at(&m.vr, "r1")),
                cell(&|m| at(&m.vr, "r10")),
            );
        }
        println!();
        baselines(settings, self.train, self.test)
    }
}

/// What guessing gives on the test part.
fn baselines(settings: &Settings, train: &dyn MomentSource, test: &dyn MomentSource) -> Result<()> {
    let grid = SpanGrid {
        seconds_per_clip: settings.data.clip_seconds,
        lengths: settings.search.min_length..settings.search.max_length,
        max_clips: settings.model.max_clips,
    };
    let prior = CentrePrior::mean_seconds(train.queries())?;
    for threshold in [0.5, 0.7] {
        let random = random_span(test.queries(), test.videos(), &grid, threshold)?;
        let centre = prior.svmr(test.queries(), test.videos(), threshold)?;
        println!(
            "guessing, IoU {threshold}: random span VCMR R@1 {:.3}, SVMR R@1 {:.2}; middle of the video SVMR R@1 {centre:.2}",
            random.vcmr, random.svmr
        );
    }
    Ok(())
}

/// Searches sentences in the test videos: what comes first, and how long each stage takes.
fn search(model: &Reloclnet, settings: &Settings, test: &dyn MomentSource) -> Result<()> {
    let build = IndexOptions { precision: DType::F16, ..IndexOptions::default() };
    let index = MomentIndex::build(model, test, build, &mut Problems::strict(), &mut |_, _| ())?;
    let search = MomentSearch::new(model, &index, settings.search)?;
    let count = test.queries().len();
    let shown = [0, count / 3, 2 * count / 3];
    let tokens: Vec<Array> = (0..count.min(50)).map(|i| test.tokens(i)).collect::<Result<_>>()?;
    let examples: Vec<Array> = shown.iter().map(|&i| test.tokens(i)).collect::<Result<_>>()?;
    println!("\nsearches among all {} test videos", test.videos().len());
    let found = search.search(&examples.iter().collect::<Vec<_>>())?;
    for (&number, moments) in shown.iter().zip(&found.moments) {
        let query = &test.queries()[number];
        println!("\n\"{}\"", query.text);
        for (rank, m) in moments.iter().take(3).enumerate() {
            let id = index.video(m.video).map_or("?", |v| v.id.as_str());
            let own = query.video.as_deref() == Some(id);
            let label = query.windows.first().filter(|_| own);
            let note = label.map_or_else(String::new, |[s, e]| format!("  <- labelled {s:.1} to {e:.1} s"));
            println!("  {}. {id}  {:5.1} to {:5.1} s{note}", rank + 1, m.start, m.end);
        }
    }
    let found = search.search(&tokens.iter().collect::<Vec<_>>())?;
    let total: f64 = found.stages.iter().map(|s| s.time.as_secs_f64()).sum();
    println!("\n{} queries in one call: {:.0} ms", tokens.len(), 1e3 * total);
    for stage in &found.stages {
        println!("  {:<16} {:7.1} ms", stage.name, 1e3 * stage.time.as_secs_f64());
    }
    Ok(())
}
