//! Moment retrieval, end to end, on data that the crate makes itself: long videos with time-stamped queries are simulated
//! and written in TVR's layout, ReLoCLNet trains on the GPU and is evaluated on held-out videos, and a few sentences are
//! searched. With --ablation the two contrastive losses are left out in turn.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use reelgrad::data::moments::{MomentSource, Problems};
use reelgrad::data::synthetic::{MomentManifest, MomentWorld, MomentWorldConfig};
use reelgrad::models::reloclnet::Reloclnet;
use reelgrad::retrieval::moments::{IndexOptions, MomentIndex, MomentMetrics, MomentSearch};
use reelgrad::run::moments::{SPREADS, Settings, spreads};
use reelgrad::run::{Asked, Task, free_folder, train, train_all};
use reelgrad::tensor::{Array, DType};
use reelgrad::train::RunFolder;
use reelgrad::{Error, Result, Silent};

mod common;
use common::bar::Bar;

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
    /// Instead: trains with and without VideoCL and FrameCL, with so many seeds each, and prints means and spreads.
    #[arg(long, value_name = "SEEDS")]
    ablation: Option<u64>,
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
    let root = options.out.join("world");
    let world = MomentWorldConfig { train: 400, noise: 3.0, ..MomentWorldConfig::default() };
    if !MomentManifest::read(&root).is_ok_and(|manifest| manifest.config == world) {
        MomentWorld::new(world)?.write(&root)?;
    }
    let mut settings = Settings::short(options.steps, options.seed);
    settings.data.root = root;
    let mut problems = Problems::strict();
    let data = settings.open(&mut problems)?;
    let test = settings.open_part("test_public", &mut problems)?;
    settings.adapt(&data, &Asked::everything())?;
    settings.describe(&data).iter().for_each(|line| println!("data     {line}"));
    let evaluate = |model: &Reloclnet| {
        let unlabelled = || Error::Argument { op: "evaluate", argument: "part", why: "has no labels".into() };
        settings.evaluate_part(model, &*test, &mut Problems::strict())?.metrics.ok_or_else(unlabelled)
    };
    let (bar, stop) = (|| Bar::new("ReLoCLNet"), common::stop_on_ctrl_c());
    if let Some(seeds) = options.ablation {
        let (variants, folder) = (settings.ablation(), free_folder(&options.out, "ablation"));
        let all = train_all(&gpu, (&variants, seeds), &data, &folder, (&bar, &stop), |_, t| evaluate(&t.model))?;
        println!("\ntest, mean and (largest - smallest) of {seeds} seeds (simulated features)\n");
        println!("| losses | {SPREADS} |\n|---|---|---|---|---|---|---|");
        for ((name, _), results) in variants.iter().zip(&all) {
            println!("| {name} | {} |", spreads(results));
        }
        println!("\n{}", settings.guesses(&*data.train, &*test)?);
        return Ok(());
    }

    gpu.reset_peak_memory();
    let folder = RunFolder::create(free_folder(&options.out, "ReLoCLNet"), &settings)?;
    let trained = train(&gpu, &settings, &data, folder, None, &mut bar(), &stop)?;
    let peak = gpu.memory_report().peak;
    println!("\nheld-out test: {} queries, {} videos (simulated features)", test.queries().len(), test.videos().len());
    println!("\n{}\n{}", MomentMetrics::HEAD, evaluate(&trained.model)?.row("ReLoCLNet"));
    println!("{}", settings.guesses(&*data.train, &*test)?);
    search(&trained.model, &settings, &*test)?;
    println!("\ntraining speed   {:.0} queries/s", trained.report.samples_per_second);
    println!("peak GPU memory  {:.1} MB while it trained", peak as f64 / 1e6);
    println!("whole run        {:.0} s, in {}", started.elapsed().as_secs_f64(), options.out.display());
    Ok(())
}

/// Searches three queries in the test videos: what comes first, and how long each stage takes.
fn search(model: &Reloclnet, settings: &Settings, test: &dyn MomentSource) -> Result<()> {
    let build = IndexOptions { precision: DType::F16, ..IndexOptions::default() };
    let index = MomentIndex::build(model, test, build, &mut Problems::strict(), &mut Silent)?;
    let count = test.queries().len();
    let shown = [0, count / 3, 2 * count / 3];
    let tokens = shown.iter().map(|&query| test.tokens(query)).collect::<Result<Vec<Array>>>()?;
    let search = MomentSearch::new(model, &index, settings.search)?;
    let (found, stages) = search.search_timed(&tokens.iter().collect::<Vec<_>>())?;
    println!("\nsearches among all {} test videos", test.videos().len());
    for (&number, moments) in shown.iter().zip(&found.moments) {
        let query = &test.queries()[number];
        println!("\n\"{}\"", query.text);
        for m in moments.iter().take(3) {
            let id = index.video(m.video).map_or("?", |v| v.id.as_str());
            let label = query.windows.first().filter(|_| query.video.as_deref() == Some(id));
            let note = label.map_or_else(String::new, |[s, e]| format!("  <- labelled {s:.1} to {e:.1} s"));
            println!("  {id}  {:5.1} to {:5.1} s{note}", m.start, m.end);
        }
    }
    for stage in &stages {
        println!("  {:<16} {:7.1} ms", stage.name, 1e3 * stage.time.as_secs_f64());
    }
    Ok(())
}
