//! Trains BiC-Net on a dataset of precomputed features, evaluates it while it learns, and tests the best checkpoint.
//!
//! ```text
//! cargo run --release --features full --example train_bicnet -- --data MSRVTT --run runs/msrvtt
//! cargo run --release --features full --example train_bicnet -- --run runs/msrvtt --resume
//! ```

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use reelgrad::data::formats::atomic;
use reelgrad::retrieval::Compat;
use reelgrad::retrieval::two_space::{Captions, Encoded, Evaluation};
use reelgrad::run::bicnet::Settings;
use reelgrad::{Error, Result};
use serde_json::json;

mod common;
use common::bar::Bar;
use common::flags::{Flags, conclude};

/// Trains BiC-Net on a dataset of precomputed features.
///
/// Evaluates on the validation part while it trains, keeps the best checkpoint (video-to-text R@10 + text-to-video
/// R@10), and reports that one's numbers on the test part. Ctrl-C saves and ends with 130; --resume goes on to the bit
/// where it stopped. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    flags: Flags,
    /// Also print what this script prints on the test part: bicnet, clip4clip or openclip.
    #[arg(long, value_name = "SCRIPT", value_parser = str::parse::<Compat>)]
    compat: Option<Compat>,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(options: Options) -> Result<()> {
    let started = Instant::now();
    let Some((plan, data, gpu)) = options.flags.start::<Settings>(Vec::new())? else { return Ok(()) };
    let settings = &plan.settings;
    let one_caption = settings.evaluation.captions == Captions::First;
    if let Some(compat) = options.compat.filter(|&c| c != Compat::Clip4Clip && !one_caption) {
        let why = format!("{compat:?}'s script evaluates one caption a video; set evaluation.captions=first");
        return Err(Error::Argument { op: "train_bicnet", argument: "compat", why });
    }

    let mut trained = plan.train(&gpu, &data, &mut Bar::new("BiC-Net"), &common::stop_on_ctrl_c())?;
    trained.load_best()?;
    let (figure, step) = trained.report.best.unwrap_or_default();
    println!("\nbest     step {step}: R@10 of both directions {figure:.2} on the validation part");

    let encoded = settings.encode(&trained.model, &*data.test)?;
    let test = encoded.evaluate(settings.evaluation.ties)?;
    println!("\n{}\n{}", Evaluation::HEAD, test.row("test"));
    if one_caption {
        println!("{}", Evaluation::of_chance(data.test.len()).row("chance"));
    }
    let scripts = options.compat.map(|c| compat(c, &encoded)).transpose()?;
    let result = json!({ "step": step, "validation": figure, "test": test, "compat": scripts });
    let path = trained.folder.path().join("test.json");
    atomic::write(&path, |file| writeln!(file, "{result:#}"))?;
    conclude(&gpu, &[trained.report], "videos", started);
    println!("results          {}", path.display());
    Ok(())
}

/// Prints the script's numbers, and returns them.
fn compat(compat: Compat, encoded: &Encoded) -> Result<serde_json::Value> {
    let directions = compat.both(&encoded.to_scores()?)?;
    println!("\nas {compat:?}'s script prints it");
    directions.iter().for_each(|(title, metrics)| println!("{title:<14} {metrics}"));
    Ok(directions.iter().map(|(title, metrics)| (title.replace(' ', "_"), json!(metrics))).collect())
}
