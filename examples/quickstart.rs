//! The main job, end to end, on data that the crate makes itself: videos are rendered, features are computed and written
//! in BiC-Net's official layout, BiC-Net trains on the GPU and is evaluated on held-out videos, and a few captions are
//! searched.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use reelgrad::Result;
use reelgrad::data::Part;
use reelgrad::data::bicnet::{BicnetDataset, DatasetKind, SampleSource};
use reelgrad::data::moments::Problems;
use reelgrad::data::synthetic::{Manifest, World, WorldConfig};
use reelgrad::models::bicnet::Bicnet;
use reelgrad::models::mean_pool::{MeanPool, MeanPoolConfig};
use reelgrad::models::{Model, two_space::TwoSpaceModel};
use reelgrad::retrieval::two_space::{EncodeOptions, Evaluation, encode};
use reelgrad::run::bicnet::{Settings, evaluate_twins, train_twins};
use reelgrad::run::{Asked, Task, free_folder};

mod common;
use common::bar::Bar;

/// Renders a small world of videos, trains BiC-Net and a mean-pooling baseline on it, evaluates both on held-out videos
/// and searches a few captions.
#[derive(Parser)]
struct Options {
    /// Folder for the videos' features and the runs.
    #[arg(long, default_value = "runs/quickstart")]
    out: PathBuf,
    /// Training steps of BiC-Net; the baseline makes two thirds of them.
    #[arg(long, default_value_t = 1200)]
    steps: u64,
    /// Seeds the world, the initial values and the order of the data.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The adapter: a number, part of its name, "fastest" or "low-power".
    #[arg(long)]
    adapter: Option<String>,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(options: Options) -> Result<()> {
    let started = Instant::now();
    let gpu = common::open_gpu(options.adapter.as_deref());
    println!("adapter  {}", gpu.report().line());
    // Of each content there are two videos, twins, one for each order of its two events.
    let (root, config) = (options.out.join("world"), WorldConfig { seed: options.seed, ..WorldConfig::default() });
    if !Manifest::read(&root).is_ok_and(|manifest| manifest.config == config) {
        World::new(config)?.write(&root)?;
    }
    let mut settings = Settings::small();
    (settings.data.root, settings.data.split_name) = (root.clone(), "synthetic".into());
    settings.fit.core.seed = options.seed;
    let data = settings.open(&mut Problems::strict())?;
    settings.adapt(&data, &Asked::everything())?;
    settings.describe(&data).iter().for_each(|line| println!("data     {line}"));
    let stop = common::stop_on_ctrl_c();
    let lasting = |steps: u64| {
        let mut settings = settings.clone();
        (settings.fit.core.steps, settings.fit.core.evaluate_every) = (steps, steps.div_ceil(4));
        settings
    };
    let folder = |name| free_folder(&options.out, name);

    let bicnet = Bicnet::new(&gpu, settings.model.clone(), options.seed)?;
    println!("BiC-Net  {} parameters", bicnet.store().trained_elements());
    gpu.reset_peak_memory();
    let (run, mut bar) = (folder("BiC-Net"), Bar::new("BiC-Net"));
    let report = train_twins(&bicnet, &lasting(options.steps), &data, &run, &mut bar, &stop)?;
    let peak = gpu.memory_report().peak;
    let c = &settings.model;
    let (embedding_dim, text_dim, region_dim, global_dim) = (c.embedding_dim, c.text_dim, c.region_dim, c.global_dim);
    let config = MeanPoolConfig { embedding_dim, text_dim, region_dim, global_dim, ..MeanPoolConfig::default() };
    let baseline = MeanPool::new(&gpu, config, options.seed)?;
    let (run, mut bar) = (folder("mean pooling"), Bar::new("mean pooling"));
    train_twins(&baseline, &lasting(options.steps * 2 / 3), &data, &run, &mut bar, &stop)?;

    let (twins, videos) = (Manifest::read(&root)?.twins(&*data.test)?, data.test.len());
    println!("\nheld-out test: {} videos, one caption each; \"order\" is how often a caption prefers", videos / 2);
    println!("its video to the same two events in the other order\n\n{}   order %", Evaluation::HEAD);
    let results = [
        ("BiC-Net", evaluate_twins(&bicnet, &*data.test, &twins)?),
        ("mean pooling", evaluate_twins(&baseline, &*data.test, &twins)?),
    ];
    for (name, (metrics, order)) in results {
        println!("{}   {order:5.1}", metrics.row(name));
    }
    println!("{}    50.0", Evaluation::of_chance(videos / 2).row("chance"));
    search(&bicnet, &root)?;
    println!("\ntraining speed   {:.0} videos/s", report.samples_per_second);
    println!("peak GPU memory  {:.1} MB while BiC-Net trained", peak as f64 / 1e6);
    println!("whole run        {:.0} s, in {}", started.elapsed().as_secs_f64(), options.out.display());
    Ok(())
}

/// Searches three captions and prints what comes first.
fn search(model: &impl TwoSpaceModel, root: &std::path::Path) -> Result<()> {
    let test = BicnetDataset::open(root, &DatasetKind::MsrVtt { split: "synthetic".into() }, Part::Test)?;
    let encoded = encode(model, &test, &(0..test.len()).collect::<Vec<_>>(), &EncodeOptions::default())?;
    let captions = test.raw_captions()?;
    for query in [0, test.len() / 3, 2 * test.len() / 3] {
        println!("\n\"{}\" among all {} test videos", captions.videos[query].captions[0], test.len());
        for (video, score) in encoded.search(query, 3)? {
            let own = if video == query { "  <- its own video" } else { "" };
            println!("  {score:.3}  {:<10} {}{own}", captions.videos[video].id, captions.videos[video].captions[0]);
        }
    }
    Ok(())
}
