//! Trains EERCF and compares its two-stage retrieval with scoring everything.
//!
//! ```text
//! cargo run --release --features full --example train_eercf
//! cargo run --release --features full --example train_eercf -- --clip clip-vit-base-patch32 --data MSRVTT --videos MSRVTT/videos
//! ```

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use reelgrad::Result;
use reelgrad::models::eercf::EercfConfig;
use reelgrad::run::clip::{Settings, Way, ways};
use reelgrad::run::train_all;

mod common;
use common::bar::Bar;
use common::flags::{ClipFlags, conclude};

/// Trains EERCF and compares its two-stage retrieval with scoring everything.
///
/// Without --data it renders its own clips and trains small towers from scratch. Ctrl-C saves and ends with 130; --resume
/// goes on to the bit where it stopped. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    flags: ClipFlags,
    /// Trains with so many seeds, one after another, and prints means and spreads.
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    seeds: Option<u64>,
    /// Candidates of the first stage.
    #[arg(long, value_name = "K,..", value_delimiter = ',', default_values_t = [10, 50])]
    k: Vec<usize>,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(options: Options) -> Result<()> {
    let started = Instant::now();
    let Some((plan, data, gpu)) = options.flags.start::<Settings<EercfConfig>>()? else { return Ok(()) };
    let stop = common::stop_on_ctrl_c();
    let bar = || Bar::new("EERCF");
    let mut reports = Vec::new();
    if let Some(seeds) = options.seeds {
        let variants = [("EERCF", plan.settings.clone())];
        let all = train_all(&gpu, (&variants, seeds), &data, &plan.folder, (&bar, &stop), |name, trained| {
            let found = ways(&trained.model, &data.test, &options.k)?;
            print_table(name, &[&found]);
            reports.push(trained.report);
            Ok(found)
        })?;
        let title = format!("mean and (largest - smallest) of {seeds} seeds");
        print_table(&title, &all.iter().flatten().collect::<Vec<_>>());
    } else {
        let mut trained = plan.train(&gpu, &data, &mut bar(), &stop)?;
        trained.load_best()?;
        println!("run      {}", trained.folder.path().display());
        let title = format!("seed {}", plan.settings.fit.core.seed);
        print_table(&title, &[&ways(&trained.model, &data.test, &options.k)?]);
        reports.push(trained.report);
    }
    data.failures().iter().for_each(|failure| println!("not read {failure}"));
    conclude(&gpu, &reports, "pairs", started);
    Ok(())
}

/// A line a way to search, over the seeds.
fn print_table(title: &str, seeds: &[&Vec<Way>]) {
    println!("\ntest, captions of the whole clip, {title}\n\n{}", Way::HEAD);
    for i in 0..seeds.first().map_or(0, |ways| ways.len()) {
        println!("{}", Way::row(&seeds.iter().map(|ways| &ways[i]).collect::<Vec<_>>()));
    }
}
