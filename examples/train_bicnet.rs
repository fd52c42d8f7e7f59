//! Trains BiC-Net on a dataset of precomputed features, evaluates it while it learns, and tests the best checkpoint.
//!
//! ```text
//! cargo run --release --features full --example train_bicnet -- --data MSRVTT --split-name 9000 --run runs/msrvtt
//! cargo run --release --features full --example train_bicnet -- --run runs/msrvtt --resume
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use reelgrad::data::bicnet::{Dims, SampleSource};
use reelgrad::data::formats::atomic;
use reelgrad::gpu::Gpu;
use reelgrad::models::bicnet::Bicnet;
use reelgrad::models::two_space::TwoSpaceModel;
use reelgrad::retrieval::Compat;
use reelgrad::retrieval::two_space::{EncodeOptions, Encoded, Evaluation, encode};
use reelgrad::train::{FitHooks, FitOptions, FitReport, Resumed, RunFolder, Silent, Slot, StopFlag, checkpoint, fit};
use reelgrad::{Error, Result};
use serde_json::json;

mod common;
#[path = "common/settings.rs"]
mod settings;
use common::bar::Bar;
use settings::{Flags, Settings};

/// Trains BiC-Net on a dataset of precomputed features.
///
/// Evaluates on the validation part while it trains, keeps the best checkpoint (video-to-text R@10 + text-to-video
/// R@10), and reports that one's numbers on the test part. Ctrl-C saves and ends with 130; --resume goes on to the bit
/// where it stopped. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Folder of the run: configuration, logs, curves, checkpoints, results.
    #[arg(long, value_name = "FOLDER", default_value = "runs/bicnet")]
    run: PathBuf,
    /// Go on with the run in that folder, from its last or its best checkpoint. All settings are the run's; a flag that
    /// says something else is an error, except --data, which may name a new place of the same files.
    #[arg(long, value_name = "last|best", num_args = 0..=1, default_missing_value = "last", value_parser = slot)]
    resume: Option<Slot>,
    #[command(flatten)]
    flags: Flags,
    /// Also print what this script prints on the test part: bicnet, clip4clip or openclip.
    #[arg(long, value_name = "SCRIPT", value_parser = str::parse::<Compat>)]
    compat: Option<Compat>,
    /// Instead of training: time every kernel of a few steps, print a table and write a Chrome trace (also for Perfetto).
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    profile: Option<PathBuf>,
    /// Steps that are profiled, after one to warm up.
    #[arg(long, value_name = "N", default_value_t = 3, requires = "profile")]
    profile_steps: u64,
    /// The adapter: fastest, low-power, its number, or a part of its name. The default is the environment variable
    /// REELGRAD_ADAPTER, else the fastest.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
}

fn slot(name: &str) -> Result<Slot, String> {
    match name {
        "last" => Ok(Slot::Last),
        "best" => Ok(Slot::Best),
        _ => Err("must be last or best".into()),
    }
}

fn main() -> ExitCode {
    common::init_log();
    let options = Options::parse();
    match run(&options) {
        Err(error @ Error::Interrupted { .. }) => {
            eprintln!("{error}\ngo on with: train_bicnet --run {} --resume", options.run.display());
            ExitCode::from(130)
        }
        result => common::finish(result.map(|()| ExitCode::SUCCESS)),
    }
}

fn run(options: &Options) -> Result<()> {
    // Before the GPU: what is wrong with the arguments and the data shows at once.
    if options.resume.is_none() && options.profile.is_none() && options.run.join("config.json").exists() {
        let why = format!("{} holds a run already: add --resume, or choose another folder", options.run.display());
        return Err(Error::Argument { op: "train_bicnet", argument: "run", why });
    }
    let resumed = options.resume.map(|slot| RunFolder::resume(&options.run, slot)).transpose()?;
    let stored = resumed.as_ref().map(|r| Settings::of_run(&options.run, &r.config)).transpose()?;
    let mut settings = options.flags.settings(stored.as_ref())?;
    let parts = Parts {
        train: settings.data.open(&settings.data.train)?,
        validation: settings.data.open(&settings.data.validation)?,
        test: settings.data.open(&settings.data.test)?,
    };
    options.flags.resolve(&mut settings, &*parts.train, stored.as_ref())?;
    let settings = &settings;
    if let Some(compat) = options.compat.filter(|&c| c != Compat::Clip4Clip && settings.evaluation.all_captions()) {
        let why = format!("{compat:?}'s script evaluates one caption a video; use --captions first");
        return Err(Error::Argument { op: "train_bicnet", argument: "compat", why });
    }
    let Dims { text, regions, region, global } = parts.train.dims();
    println!(
        "data     {} training, {} validation, {} test videos",
        parts.train.len(),
        parts.validation.len(),
        parts.test.len()
    );
    println!("         {regions} regions of {region}, frames of {global}, tokens of {text} features");
    if settings.data.validation == settings.data.test {
        println!("note     the best checkpoint is chosen on the test part, which flatters the test numbers");
    }

    let gpu = common::open(
        Gpu::builder().adapter(common::choice(options.adapter.as_deref())).profile(options.profile.is_some()),
    );
    println!("adapter  {}", gpu.report().line());
    let model = Bicnet::new(&gpu, settings.model.clone(), settings.fit.seed)?;
    println!("model    {} parameters", model.store().trained_elements());
    if let Some(trace) = &options.profile {
        return profile(&model, &parts, settings, trace, options.profile_steps);
    }
    let (mut folder, checkpoint) = match resumed {
        Some(Resumed { folder, checkpoint, .. }) => (folder, checkpoint),
        None => (RunFolder::create(&options.run, settings)?, None),
    };
    let done = checkpoint.as_ref().and_then(|c| c.state["step"].as_u64()).unwrap_or(0);
    if options.resume.is_some() {
        println!("resumed  after {done} of {} steps", settings.fit.steps);
    }
    let report = train(&model, &parts, settings, &mut folder, checkpoint.as_ref(), done)?;

    let (figure, step) = report.best.unwrap_or_default();
    println!("\nbest     step {step}: R@10 of both directions {figure:.2} on the validation part");
    model.store().load("the best checkpoint", &checkpoint::load_model(folder.checkpoint_path(Slot::Best))?)?;
    let encoded = encode_part(&model, &*parts.test, settings)?;
    let test = encoded.evaluate(settings.evaluation.ties)?;
    println!("\n{}", Evaluation::HEAD);
    println!("{}", test.row("test"));
    if !settings.evaluation.all_captions() {
        println!("{}", Evaluation::of_chance(parts.test.len()).row("chance"));
    }
    let scripts = options.compat.map(|c| compat(c, &encoded)).transpose()?;
    let result = json!({ "step": step, "validation": figure, "test": test, "compat": scripts });
    let path = folder.path().join("test.json");
    atomic::write(&path, |file| writeln!(file, "{result:#}"))?;
    if report.samples_per_second > 0.0 {
        println!("\ntraining speed   {:.1} videos/s", report.samples_per_second);
    }
    println!("peak GPU memory  {:.1} MB", gpu.memory_report().peak as f64 / 1e6);
    println!("results          {}", path.display());
    Ok(())
}

/// The three parts of the dataset.
struct Parts {
    train: Box<dyn SampleSource>,
    validation: Box<dyn SampleSource>,
    test: Box<dyn SampleSource>,
}

impl Parts {
    /// Every video by itself: no two must share a batch.
    fn groups(&self) -> Vec<Vec<usize>> {
        (0..self.train.len()).map(|video| vec![video]).collect()
    }
}

fn train(
    model: &Bicnet,
    parts: &Parts,
    settings: &Settings,
    folder: &mut RunFolder,
    checkpoint: Option<&checkpoint::Checkpoint>,
    done: u64,
) -> Result<FitReport> {
    let stop = common::stop_on_ctrl_c();
    let FitOptions { steps, evaluate_every, .. } = settings.fit;
    let every = if evaluate_every == 0 { steps.max(1) } else { evaluate_every };
    let mut bar = Bar::new("BiC-Net");
    let print = bar.printer();
    if done < steps {
        print(&format!("\n{}", Evaluation::HEAD));
    }
    let mut step = done;
    let report = fit(
        model,
        &*parts.train,
        &parts.groups(),
        &settings.fit,
        checkpoint,
        FitHooks {
            evaluate: &mut || {
                let e = encode_part(model, &*parts.validation, settings)?.evaluate(settings.evaluation.ties)?;
                step = ((step / every + 1) * every).min(steps);
                print(&e.row(&format!("step {step}")));
                Ok((e.video_to_text.r10 + e.text_to_video.r10, figures(&e)))
            },
            run: Some(folder),
            progress: &mut bar,
            stop: &stop,
        },
    );
    bar.finish();
    report
}

/// What the log says of an evaluation.
fn figures(e: &Evaluation) -> Vec<(String, f64)> {
    let halves = [("t2v", &e.text_to_video), ("v2t", &e.video_to_text)];
    let values = halves.into_iter().flat_map(|(half, m)| {
        let names = ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR"];
        let values = [m.r1, m.r5, m.r10, m.r50, m.mdr, m.mnr];
        names.into_iter().zip(values).map(move |(name, value)| (format!("val/{half}/{name}"), value))
    });
    values.collect()
}

fn encode_part(model: &Bicnet, data: &dyn SampleSource, settings: &Settings) -> Result<Encoded> {
    let options = EncodeOptions {
        captions: settings.evaluation.captions.into(),
        batch: settings.fit.batch,
        mask_frames: settings.fit.mask_frames,
    };
    encode(model, data, &(0..data.len()).collect::<Vec<_>>(), &options)
}

/// Prints the script's numbers, and returns them.
fn compat(compat: Compat, encoded: &Encoded) -> Result<serde_json::Value> {
    let scores = encoded.to_scores()?;
    println!("\nas {compat:?}'s script prints it");
    let mut values = serde_json::Map::new();
    for (title, key, metrics) in [
        ("text to video", "text_to_video", compat.text_to_video(&scores)?),
        ("video to text", "video_to_text", compat.video_to_text(&scores)?),
    ] {
        println!("{title:<14} {metrics}");
        values.insert(key.into(), metrics.values.iter().map(|&(name, v)| (name.to_string(), json!(v))).collect());
    }
    Ok(values.into())
}

/// Times the kernels of `steps` steps after the first.
fn profile(model: &Bicnet, parts: &Parts, settings: &Settings, trace: &Path, steps: u64) -> Result<()> {
    let gpu = model.store().gpu();
    for steps in [1, steps] {
        // What came before is thrown away: initial values, and the step that compiles the shaders.
        gpu.profile()?;
        let options = FitOptions { steps, log_every: 1, ..settings.fit.clone() };
        let hooks = FitHooks {
            evaluate: &mut || Ok((0.0, Vec::new())),
            run: None,
            progress: &mut Silent,
            stop: &StopFlag::new(),
        };
        fit(model, &*parts.train, &parts.groups(), &options, None, hooks)?;
    }
    let profile = gpu.profile()?;
    println!("\n{steps} steps of {} videos\n\n{}", settings.fit.batch, profile.table());
    atomic::write(trace, |file| file.write_all(profile.chrome_trace().as_bytes()))?;
    println!("trace    {}", trace.display());
    Ok(())
}
