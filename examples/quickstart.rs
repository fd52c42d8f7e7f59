//! The main job, end to end, on data that the crate makes itself: videos are rendered, features are computed and written
//! in BiC-Net's official layout, BiC-Net trains on the GPU and is evaluated on held-out videos, and a few captions are
//! searched.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use reelgrad::data::bicnet::{BicnetDataset, DatasetKind, SampleSource};
use reelgrad::data::captions::{Part, Split};
use reelgrad::data::synthetic::{Manifest, World, WorldConfig};
use reelgrad::models::bicnet::{Bicnet, BicnetConfig};
use reelgrad::models::mean_pool::MeanPool;
use reelgrad::models::two_space::TwoSpaceModel;
use reelgrad::retrieval::Ties;
use reelgrad::retrieval::two_space::{EncodeOptions, Encoded, Evaluation, encode};
use reelgrad::train::{FitHooks, FitOptions, FitReport, RunFolder, StopFlag, fit};
use reelgrad::{Error, Result};

mod common;
use common::bar::Bar;

/// Renders a small world of videos, trains BiC-Net and a mean-pooling baseline on it, evaluates both on held-out videos
/// and searches a few captions.
#[derive(Parser)]
struct Options {
    /// Folder for the videos' features and the runs.
    #[arg(long, default_value = "runs/quickstart")]
    out: PathBuf,
    /// Training steps of BiC-Net.
    #[arg(long, default_value_t = 1200)]
    steps: u64,
    /// Training steps of the baseline.
    #[arg(long, default_value_t = 800)]
    baseline_steps: u64,
    /// Seeds the world, the initial values and the order of the data.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Width of the embeddings.
    #[arg(long, default_value_t = 64)]
    dim: usize,
    /// Contents to train on; each is two videos, one for each order of its two events.
    #[arg(long, default_value_t = 2000)]
    train: usize,
    /// Contents to test on.
    #[arg(long, default_value_t = 500)]
    test: usize,
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

    let folder = options.out.join("world");
    let manifest = make_world(&folder, options)?;
    let kind = DatasetKind::MsrVtt { split: "synthetic".into() };
    let open = |part| BicnetDataset::open(&folder, &kind, part);
    let (train, validation, test) = (open(Part::Train)?, open(Part::Validate)?, open(Part::Test)?);
    println!("data     {} training, {} validation, {} test videos", train.len(), validation.len(), test.len());

    let dims = train.dims();
    let config = BicnetConfig {
        embedding_dim: options.dim,
        global_dim: dims.global,
        region_dim: dims.region,
        text_dim: dims.text,
        region_num: dims.regions,
        num_heads: 4,
        layer_num: 1,
        dropout: 0.0,
        attn_drop: 0.0,
        ..BicnetConfig::default()
    };
    let pairs = Pairs::new(&manifest, &train)?;
    let stop = common::stop_on_ctrl_c();
    let job = Job { train: &train, validation: &validation, manifest: &manifest, pairs: &pairs, options, stop: &stop };

    let bicnet = Bicnet::new(&gpu, config.clone(), options.seed)?;
    println!("BiC-Net  {} parameters", bicnet.store().trained_elements());
    gpu.reset_peak_memory();
    let report = job.train("BiC-Net", &bicnet, options.steps)?;
    let peak = gpu.memory_report().peak;
    let baseline = MeanPool::new(&gpu, config, options.seed)?;
    job.train("mean pooling", &baseline, options.baseline_steps)?;

    let rivals = twins(&manifest, &test)?;
    let (bicnet_test, bicnet_order) = evaluate(&bicnet, &test, &rivals)?;
    let (baseline_test, baseline_order) = evaluate(&baseline, &test, &rivals)?;
    println!(
        "\nheld-out test: {} videos, one caption each; \"order\" is how often a caption prefers its video",
        test.len() / 2
    );
    println!("to the same two events in the other order\n\n{}   order %", Evaluation::HEAD);
    println!("{}   {bicnet_order:5.1}", bicnet_test.row("BiC-Net"));
    println!("{}   {baseline_order:5.1}", baseline_test.row("mean pooling"));
    println!("{}    50.0", Evaluation::of_chance(test.len() / 2).row("chance"));

    search(&bicnet, &test)?;
    println!("\ntraining speed   {:.0} videos/s", report.samples_per_second);
    println!("peak GPU memory  {:.1} MB while BiC-Net trained", peak as f64 / 1e6);
    println!("whole run        {:.0} s", started.elapsed().as_secs_f64());
    println!("runs are in      {}", options.out.display());
    Ok(())
}

/// Renders the world, unless the folder holds just this one.
fn make_world(folder: &Path, options: &Options) -> Result<Manifest> {
    let config = WorldConfig { seed: options.seed, train: options.train, test: options.test, ..WorldConfig::default() };
    if let Ok(manifest) = Manifest::read(folder)
        && manifest.config == config
    {
        return Ok(manifest);
    }
    let started = Instant::now();
    let world = World::new(config)?;
    println!("world    rendering {} videos of {} frames ...", world.len(), reelgrad::data::synthetic::FRAMES);
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    world.write(folder)?;
    println!("world    written to {} in {:.1} s", folder.display(), started.elapsed().as_secs_f64());
    Manifest::read(folder)
}

/// The numbers, in a dataset, of each video and its twin.
struct Pairs(Vec<Vec<usize>>);

impl Pairs {
    fn new(manifest: &Manifest, data: &dyn SampleSource) -> Result<Self> {
        let twins = twins(manifest, data)?;
        Ok(Self(twins.iter().enumerate().filter(|(a, b)| a < *b).map(|(a, &b)| vec![a, b]).collect()))
    }
}

/// For each video of a dataset, the number of its twin.
fn twins(manifest: &Manifest, data: &dyn SampleSource) -> Result<Vec<usize>> {
    let twin_of: HashMap<&str, &str> = manifest.videos.iter().map(|v| (v.video_id.as_str(), v.twin.as_str())).collect();
    let mut number: HashMap<String, usize> = HashMap::new();
    for i in 0..data.len() {
        number.insert(data.id(i)?.to_string(), i);
    }
    (0..data.len())
        .map(|i| {
            let id = data.id(i)?;
            let twin = twin_of.get(id).and_then(|twin| number.get(*twin));
            twin.copied().ok_or_else(|| Error::Missing { path: "synthetic.json".into(), kind: "video", id: id.into() })
        })
        .collect()
}

/// What both models' training shares.
struct Job<'a> {
    train: &'a BicnetDataset,
    validation: &'a BicnetDataset,
    manifest: &'a Manifest,
    pairs: &'a Pairs,
    options: &'a Options,
    stop: &'a StopFlag,
}

impl Job<'_> {
    fn train(&self, name: &'static str, model: &dyn TwoSpaceModel, steps: u64) -> Result<FitReport> {
        // Settings at which this world was seen to teach order: a high constant rate, and twins in the batch.
        let fit_options = FitOptions {
            batch: 32,
            steps,
            lr: 4e-3,
            seed: self.options.seed,
            evaluate_every: steps.div_ceil(4),
            plateau: None,
            ..FitOptions::default()
        };
        let config = serde_json::json!({ "model": model.config(), "fit": fit_options });
        let mut run = RunFolder::create(common::free_folder(&self.options.out, name), &config)?;
        let rivals = twins(self.manifest, self.validation)?;
        let mut bar = Bar::new(name);
        let report = fit(
            model,
            self.train,
            &self.pairs.0,
            &fit_options,
            None,
            FitHooks {
                evaluate: &mut || {
                    let (e, order) = evaluate(model, self.validation, &rivals)?;
                    let (t2v, v2t) = (&e.text_to_video, &e.video_to_text);
                    let values = [("val/t2v/R@1", t2v.r1), ("val/v2t/R@1", v2t.r1), ("val/order", order)];
                    Ok((t2v.r10 + v2t.r10, values.map(|(n, v)| (n.to_string(), v)).to_vec()))
                },
                run: Some(&mut run),
                progress: &mut bar,
                stop: self.stop,
            },
        );
        bar.finish();
        report
    }
}

/// Recall among one video of each content, and order accuracy over all.
fn evaluate(model: &dyn TwoSpaceModel, data: &dyn SampleSource, rivals: &[usize]) -> Result<(Evaluation, f64)> {
    let all: Vec<usize> = (0..data.len()).collect();
    let order = encode(model, data, &all, &EncodeOptions::default())?.preference(rivals)?;
    let one_of_each: Vec<usize> = all.into_iter().filter(|&v| v < rivals[v]).collect();
    Ok((encode(model, data, &one_of_each, &EncodeOptions::default())?.evaluate(Ties::Expected)?, order))
}

/// Searches three captions and prints what comes first.
fn search(model: &dyn TwoSpaceModel, test: &BicnetDataset) -> Result<()> {
    let all: Vec<usize> = (0..test.len()).collect();
    let encoded: Encoded = encode(model, test, &all, &EncodeOptions::default())?;
    let captions: Split = test.raw_captions()?;
    println!("\nsearches among all {} test videos", test.len());
    for query in [0, test.len() / 3, 2 * test.len() / 3].into_iter().filter(|&q| q < test.len()) {
        println!("\n\"{}\"", captions.videos[query].captions[0]);
        for (rank, (video, score)) in encoded.search(query, 3)?.into_iter().enumerate() {
            let own = if video == query { "  <- its own video" } else { "" };
            let found = &captions.videos[video];
            println!("  {}. {score:.3}  {:<10} {}{own}", rank + 1, found.id, found.captions[0]);
        }
    }
    Ok(())
}
