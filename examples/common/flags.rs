//! The flags that all trainers have, and what all of them say.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use reelgrad::Result;
use reelgrad::data::formats::atomic;
use reelgrad::gpu::Gpu;
use reelgrad::run::{self, Plan, Request, Setting, Task};
use reelgrad::train::{FitReport, Slot};

/// What a run begins with.
type Started<S> = (Plan<S>, <S as Task>::Data, Gpu);

#[derive(Args)]
pub struct Flags {
    /// Folder of the dataset (data.root).
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Folder of the run: settings, logs, curves, checkpoints, results [default: a new one in runs/].
    #[arg(long, value_name = "FOLDER")]
    pub run: Option<PathBuf>,
    /// Go on with the run in that folder, from its last or its best checkpoint. A setting that is not the run's is an
    /// error, except --data, which may name a new place of the same files.
    #[arg(long, value_name = "last|best", num_args = 0..=1, default_missing_value = "last", requires = "run")]
    pub resume: Option<Slot>,
    /// JSON file of settings, such as a run's config.json; --set and the flags win over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Changes a setting by its name in config.json, such as fit.lr=2e-4. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<Setting>,
    /// The recipe for software GPUs instead of the published one: a small network, trained for minutes.
    #[arg(long)]
    pub small: bool,
    /// Optimiser steps (fit.steps).
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Seeds initial values, dropout and the order of the data (fit.seed).
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Instead of training: time the kernels of a few steps; with a file, write a Chrome trace (also for Perfetto).
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with = "resume")]
    pub profile: Option<Option<PathBuf>>,
    /// The adapter: fastest, low-power, its number, or a part of its name. The default is the environment variable
    /// REELGRAD_ADAPTER, else the fastest.
    #[arg(long, value_name = "ADAPTER")]
    pub adapter: Option<String>,
}

impl Flags {
    /// What the flags ask for, with a trainer's own ones.
    pub fn request(&self, own: Vec<Setting>) -> Request {
        let data = self.data.as_ref().map(|path| Setting::new("data.root", path.display()));
        let steps = self.steps.map(|steps| Setting::new("fit.steps", steps));
        let seed = self.seed.map(|seed| Setting::new("fit.seed", seed));
        let set = self.set.iter().cloned().chain(own).chain(data).chain(steps).chain(seed).collect();
        Request { run: self.run.clone(), config: self.config.clone(), set, small: self.small, resume: self.resume }
    }

    /// Resolves the settings, opens the data and the GPU, and says what they are; before the GPU, so that what is wrong
    /// with arguments and data shows at once. Nothing is left to do if a profile was asked for.
    pub fn start<S: Task>(&self, own: Vec<Setting>) -> Result<Option<Started<S>>> {
        let mut plan = Plan::<S>::new(&self.request(own))?;
        let (data, problems) = plan.open()?;
        println!("{}", run::list(&plan.settings)?);
        for (what, list) in [("mended", problems.mended()), ("left out", problems.skipped())] {
            if let Some(first) = list.first() {
                println!("{what:<8} {}, the first: {first}", list.len());
            }
        }
        plan.settings.describe(&data).iter().for_each(|line| println!("data     {line}"));
        let builder = Gpu::builder().adapter(super::choice(self.adapter.as_deref()));
        let gpu = super::open(builder.profile(self.profile.is_some()));
        println!("adapter  {}", gpu.report().line());
        let Some(trace) = &self.profile else { return Ok(Some((plan, data, gpu))) };
        let profile = run::profile(&gpu, &plan.settings, &data)?;
        println!("\n{}", profile.table());
        if let Some(trace) = trace {
            atomic::write(trace, |file| file.write_all(profile.chrome_trace().as_bytes()))?;
            println!("trace    {}", trace.display());
        }
        Ok(None)
    }
}

/// Speed, memory and time of a program.
pub fn conclude(gpu: &Gpu, reports: &[FitReport], unit: &str, started: Instant) {
    let speed = reports.iter().map(|r| r.samples_per_second).sum::<f64>() / reports.len().max(1) as f64;
    println!("\ntraining speed   {speed:.1} {unit}/s");
    println!("peak GPU memory  {:.1} MB", gpu.memory_report().peak as f64 / 1e6);
    println!("GPU pipelines    {} compiled", gpu.pipelines_compiled());
    println!("whole run        {:.0} s", started.elapsed().as_secs_f64());
}

/// The flags of trainers on CLIP's towers.
#[derive(Args)]
pub struct ClipFlags {
    #[command(flatten)]
    flags: Flags,
    /// Which dataset it is (data.dataset): msrvtt-9k, msrvtt-7k, msvd, didemo, vatex, activitynet, lsmdc or neutral.
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Folder of its videos (mp4, webm, mkv, avi) or of folders of frames (data.videos).
    #[arg(long, value_name = "FOLDER")]
    videos: Option<PathBuf>,
    /// Folder of a pretrained CLIP in Hugging Face's layout, with its tokenizer (data.clip).
    #[arg(long, value_name = "FOLDER")]
    clip: Option<PathBuf>,
}

impl ClipFlags {
    /// As [`Flags::start`].
    pub fn start<S: Task>(&self) -> Result<Option<Started<S>>> {
        let dataset = self.dataset.as_ref().map(|name| Setting::new("data.dataset", name));
        let videos = self.videos.as_ref().map(|path| Setting::new("data.videos", path.display()));
        let clip = self.clip.as_ref().map(|path| Setting::new("data.clip", path.display()));
        self.flags.start(dataset.into_iter().chain(videos).chain(clip).collect())
    }
}
