//! Trains GLCCL, on request with and without its two parts: the global-local interaction and the score consistency.
//!
//! ```text
//! cargo run --release --features full --example train_glccl
//! cargo run --release --features full --example train_glccl -- --clip clip-vit-base-patch32 --data MSRVTT --videos MSRVTT/videos
//! ```

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use reelgrad::Result;
use reelgrad::gpu::Gpu;
use reelgrad::models::Model;
use reelgrad::models::clip4clip::BaseConfig;
use reelgrad::models::glccl::{Glccl, GlcclConfig, Guide};
use reelgrad::retrieval::RetrievalMetrics;

mod common;
#[path = "common/pairs.rs"]
mod pairs;
use pairs::{Method, Settings, Sources, Texts, metrics};

/// Trains GLCCL, on request with and without its two parts: the global-local interaction and the score consistency.
///
/// Without --data it renders its own clips and trains small towers from scratch. Ctrl-C saves and ends with 130; --resume
/// goes on to the bit where it stopped. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    common: pairs::Options,
    /// Trains with and without GLIM and CSC, with so many seeds each, and prints means and spreads.
    #[arg(long, value_name = "SEEDS", conflicts_with = "resume")]
    ablation: Option<u64>,
}

struct Training;

impl Method for Training {
    type Model = Glccl;
    type Config = GlcclConfig;
    const NAME: &'static str = "GLCCL";

    fn base(config: &mut GlcclConfig) -> &mut BaseConfig {
        &mut config.base
    }

    fn build(gpu: &Gpu, config: GlcclConfig, seed: u64, frozen: &dyn Fn(&str) -> bool) -> Result<Glccl> {
        Glccl::frozen(gpu, config, seed, frozen)
    }
}

fn main() -> ExitCode {
    common::init_log();
    pairs::exit(run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let settings = options.common.settings::<Training>()?;
    let mut problems = options.common.problems();
    let sources = Sources::open(&settings.data, &settings.model.base, &mut problems)?;
    let gpu = common::open_gpu(options.common.adapter.as_deref());
    pairs::introduce(&gpu, &sources, &problems);
    let consistency = settings.model.consistency_loss;
    let variants = [
        ("GLIM and CSC", settings.model.guide, consistency),
        ("GLIM", settings.model.guide, 0.0),
        ("CSC", Guide::Mean, consistency),
        ("neither", Guide::Mean, 0.0),
    ];
    let shown = if options.ablation.is_some() { variants.len() } else { 1 };
    let stop = common::stop_on_ctrl_c();
    let (mut reports, mut table) = (Vec::new(), Vec::new());
    for &(name, guide, consistency_loss) in &variants[..shown] {
        let mut results = Vec::new();
        for seed in 0..options.ablation.unwrap_or(1).max(1) {
            let mut settings: Settings<GlcclConfig> = settings.clone();
            settings.model.guide = guide;
            settings.model.consistency_loss = consistency_loss;
            settings.fit.core.seed += seed;
            let part = options.ablation.map(|_| format!("{name}-{}", settings.fit.core.seed).replace(' ', "-"));
            let folder = options.common.run_folder("glccl", part);
            let resume = options.common.resume;
            let (model, report) = pairs::train::<Training>(&gpu, &settings, &sources, &folder, resume, &stop)?;
            println!("run      {}", folder.display());
            reports.push(report);
            let (scores, _) = pairs::evaluate(&model, &sources.test)?;
            let kinds = if sources.test.partial.is_empty() { &KINDS[..1] } else { &KINDS };
            results.push(
                kinds.iter().map(|&(_, texts)| metrics(&scores, &sources.test, texts)).collect::<Result<Vec<_>>>()?,
            );
            if options.ablation.is_some() {
                println!("{name}, seed {}: R@1 {:.1}", settings.fit.core.seed, results.last().map_or(0.0, |r| r[0].r1));
            }
        }
        table.push((name, results));
    }
    print_table(&table);
    pairs::conclude(&gpu, &sources, &reports, started);
    Ok(())
}

/// The texts that are counted apart.
const KINDS: [(&str, Texts); 3] =
    [("all texts", Texts::All), ("of the whole clip", Texts::Whole), ("of a part of it", Texts::Partial)];

/// For each variant and seed the metrics of each kind of text.
type Results = Vec<Vec<RetrievalMetrics>>;

fn print_table(table: &[(&str, Results)]) {
    let kinds = table.first().and_then(|(_, seeds)| seeds.first()).map_or(0, Vec::len);
    for (i, (kind, _)) in KINDS.iter().enumerate().take(kinds) {
        println!("\ntest, text to video, {kind}; with several seeds mean and (largest - smallest)\n");
        println!("| with | R@1 | R@5 | R@10 | MdR |\n|---|---|---|---|---|");
        for (name, seeds) in table {
            let results: Vec<RetrievalMetrics> = seeds.iter().map(|kinds| kinds[i]).collect();
            println!("| {name} | {} |", pairs::cells(&results));
        }
    }
}
