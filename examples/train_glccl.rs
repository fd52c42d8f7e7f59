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
use reelgrad::models::glccl::{Glccl, GlcclConfig, Guide};
use reelgrad::retrieval::RetrievalMetrics;
use reelgrad::run::clip::{Settings, Source, Texts, spreads};
use reelgrad::run::train_all;

mod common;
use common::bar::Bar;
use common::flags::{ClipFlags, conclude};

/// Trains GLCCL, on request with and without its two parts: the global-local interaction and the score consistency.
///
/// Without --data it renders its own clips and trains small towers from scratch. Ctrl-C saves and ends with 130; --resume
/// goes on to the bit where it stopped. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    flags: ClipFlags,
    /// Trains with and without GLIM and CSC, with so many seeds each, and prints means and spreads.
    #[arg(long, value_name = "SEEDS", conflicts_with = "resume")]
    ablation: Option<u64>,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(options: Options) -> Result<()> {
    let started = Instant::now();
    let Some((plan, data, gpu)) = options.flags.start::<Settings<GlcclConfig>>()? else { return Ok(()) };
    let stop = common::stop_on_ctrl_c();
    let bar = || Bar::new("GLCCL");
    let mut reports = Vec::new();
    if let Some(seeds) = options.ablation {
        let variants = variants(&plan.settings);
        let all = train_all(&gpu, (&variants, seeds), &data, &plan.folder, (&bar, &stop), |name, trained| {
            let found = test(&trained.model, &data.test)?;
            println!("{name}: R@1 {:.1}", found[0].1.r1);
            reports.push(trained.report);
            Ok(found)
        })?;
        print_table(&variants.iter().map(|(name, _)| *name).zip(all).collect::<Vec<_>>());
    } else {
        let mut trained = plan.train(&gpu, &data, &mut bar(), &stop)?;
        trained.load_best()?;
        println!("run      {}", trained.folder.path().display());
        print_table(&[("GLIM and CSC", vec![test(&trained.model, &data.test)?])]);
        reports.push(trained.report);
    }
    data.failures().iter().for_each(|failure| println!("not read {failure}"));
    conclude(&gpu, &reports, "pairs", started);
    Ok(())
}

/// The model, and without one or both of its parts.
fn variants(full: &Settings<GlcclConfig>) -> [(&'static str, Settings<GlcclConfig>); 4] {
    let (guide, consistency) = (full.model.guide, full.model.consistency_loss);
    let without = |name, guide: Guide, consistency_loss: f32| {
        (name, Settings { model: GlcclConfig { guide, consistency_loss, ..full.model.clone() }, ..full.clone() })
    };
    [
        without("GLIM and CSC", guide, consistency),
        without("GLIM", guide, 0.0),
        without("CSC", Guide::Mean, consistency),
        without("neither", Guide::Mean, 0.0),
    ]
}

/// Metrics of each kind of text that is counted apart.
type Found = Vec<(&'static str, RetrievalMetrics)>;

fn test(model: &Glccl, part: &Source) -> Result<Found> {
    let scores = part.score_all(model)?;
    let kinds = [("all texts", Texts::All), ("of the whole clip", Texts::Whole), ("of a part of it", Texts::Partial)];
    let shown = if part.texts(Texts::Partial).is_empty() { &kinds[..1] } else { &kinds };
    shown.iter().map(|&(kind, texts)| Ok((kind, part.text_to_video(&scores, texts)?))).collect()
}

/// A table a kind of text, a line a variant, over its seeds.
fn print_table(variants: &[(&str, Vec<Found>)]) {
    let first = variants.first().and_then(|(_, seeds)| seeds.first()).into_iter().flatten();
    for (i, (kind, _)) in first.enumerate() {
        println!("\ntest, text to video, {kind}; with several seeds mean and (largest - smallest)\n");
        println!("| with | R@1 | R@5 | R@10 | MdR |\n|---|---|---|---|---|");
        for (name, seeds) in variants {
            let results: Vec<RetrievalMetrics> = seeds.iter().map(|kinds| kinds[i].1).collect();
            println!("| {name} | {} |", spreads(&results));
        }
    }
}
