//! Trains EERCF and compares its two-stage retrieval with scoring everything.
//!
//! ```text
//! cargo run --release --features full --example train_eercf
//! cargo run --release --features full --example train_eercf -- --clip clip-vit-base-patch32 --data MSRVTT --videos MSRVTT/videos
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use reelgrad::Result;
use reelgrad::gpu::Gpu;
use reelgrad::models::clip4clip::BaseConfig;
use reelgrad::models::eercf::{Eercf, EercfConfig};
use reelgrad::models::pair::TwoStageModel;
use reelgrad::retrieval::RetrievalMetrics;
use reelgrad::retrieval::gallery::{StageTimes, VideoToText, score_all};

mod common;
#[path = "common/pairs.rs"]
mod pairs;
use pairs::{Method, Source, Sources, Texts, metrics};

/// Trains EERCF and compares its two-stage retrieval with scoring everything.
///
/// Without --data it renders its own clips and trains small towers from scratch. Ctrl-C saves and ends with 130; --resume
/// goes on to the bit where it stopped. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    common: pairs::Options,
    /// Trains with so many seeds, one after another, and prints means and spreads.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "resume")]
    seeds: u64,
    /// Candidates of the first stage.
    #[arg(long, value_name = "K,..", value_delimiter = ',', default_values_t = [10, 50])]
    k: Vec<usize>,
}

struct Training;

impl Method for Training {
    type Model = Eercf;
    type Config = EercfConfig;
    const NAME: &'static str = "EERCF";

    fn base(config: &mut EercfConfig) -> &mut BaseConfig {
        &mut config.base
    }

    /// Enough test videos for 50 candidates to be a small part of them.
    fn small(settings: &mut pairs::Settings<EercfConfig>) {
        settings.data.world.test = 1000;
        settings.fit.steps = 1000;
    }

    fn build(gpu: &Gpu, config: EercfConfig, seed: u64, frozen: &dyn Fn(&str) -> bool) -> Result<Eercf> {
        Eercf::frozen(gpu, config, seed, frozen)
    }
}

fn main() -> ExitCode {
    common::init_log();
    pairs::exit(run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let mut settings = options.common.settings::<Training>()?;
    let mut problems = options.common.problems();
    let sources = Sources::open(&settings.data, &settings.model.base, &mut problems)?;
    let gpu = common::open_gpu(options.common.adapter.as_deref());
    pairs::introduce(&gpu, &sources, &problems);
    let stop = common::stop_on_ctrl_c();
    let (mut reports, mut ways) = (Vec::new(), Vec::new());
    let first = settings.fit.seed;
    for seed in first..first + options.seeds.max(1) {
        settings.fit.seed = seed;
        let folder = options.common.run_folder("eercf", (options.seeds > 1).then(|| format!("seed-{seed}")));
        let resume = options.common.resume;
        let (model, report) = pairs::train::<Training>(&gpu, &settings, &sources, &folder, resume, &stop)?;
        println!("run      {}", folder.display());
        reports.push(report);
        let found = test(&model, &sources.test, &options.k)?;
        print_table(&format!("seed {seed}"), &[&found]);
        ways.push(found);
    }
    if ways.len() > 1 {
        print_table(
            &format!("mean and (largest - smallest) of {} seeds", ways.len()),
            &ways.iter().collect::<Vec<_>>(),
        );
    }
    pairs::conclude(&gpu, &sources, &reports, started);
    Ok(())
}

/// One way to search, and what it came to.
struct Way {
    name: String,
    metrics: RetrievalMetrics,
    video_to_text: RetrievalMetrics,
    /// A pair of a text and a video of the gallery, on average.
    multiply_adds: f64,
    per_query: Duration,
}

/// The first stage alone, both stages, and every score of every pair: texts of the whole clip.
fn test(model: &Eercf, source: &Source, ks: &[usize]) -> Result<Vec<Way>> {
    let encoded = pairs::encode(model, source)?;
    let (gallery, texts) = (&encoded.gallery, &encoded.texts);
    let (queries, videos) = (source.pairs.texts(), gallery.len());
    let pairs = (queries * videos).max(1) as f64;
    let [coarse, fine] = gallery.segments().first().map_or([0, 0], |s| model.pair_cost(&s.videos));
    let evaluated = |name: String, t2v: &_, v2t: &_, multiply_adds: f64, time: Duration| -> Result<Way> {
        Ok(Way {
            name,
            metrics: metrics(t2v, source, Texts::Whole)?,
            video_to_text: pairs::video_to_text(v2t, source)?,
            multiply_adds,
            per_query: time / queries.max(1) as u32,
        })
    };
    let mut ways = Vec::new();
    let clock = Instant::now();
    let scores = gallery.coarse_scores(model, texts)?;
    ways.push(evaluated("coarse only".into(), &scores, &scores, coarse as f64, clock.elapsed())?);
    for &k in ks {
        let found = gallery.rerank_all(model, texts, k, VideoToText::Official)?;
        let StageTimes { encode, coarse, fine, coarse_multiply_adds, fine_multiply_adds } = found.times;
        let multiply_adds = (coarse_multiply_adds + fine_multiply_adds) as f64 / pairs;
        let time = encode + coarse + fine;
        let (t2v, v2t) = (&found.text_to_video, &found.video_to_text);
        ways.push(evaluated(format!("two stages, k = {k}"), t2v, v2t, multiply_adds, time)?);
    }
    let clock = Instant::now();
    let scores = score_all(model, texts, gallery)?;
    ways.push(evaluated("full scoring".into(), &scores, &scores, (coarse + fine) as f64, clock.elapsed())?);
    Ok(ways)
}

fn print_table(title: &str, runs: &[&Vec<Way>]) {
    println!("\ntest, captions of the whole clip, {title}\n");
    println!("| search | t2v R@1 | R@5 | R@10 | MdR | v2t R@1 | multiply-adds a pair | ms a query |");
    println!("|---|---|---|---|---|---|---|---|");
    for (i, way) in runs.first().into_iter().flat_map(|ways| ways.iter().enumerate()) {
        let all: Vec<&Way> = runs.iter().map(|ways| &ways[i]).collect();
        let t2v: Vec<RetrievalMetrics> = all.iter().map(|w| w.metrics).collect();
        let v2t: Vec<RetrievalMetrics> = all.iter().map(|w| w.video_to_text).collect();
        let ms = all.iter().map(|w| w.per_query.as_secs_f64() * 1e3).sum::<f64>() / all.len() as f64;
        let (t2v, v2t) = (pairs::cells(&t2v), pairs::cell(&v2t, |m| m.r1));
        println!("| {} | {t2v} | {v2t} | {:.0} | {ms:.2} |", way.name, way.multiply_adds);
    }
}
