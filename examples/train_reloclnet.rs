//! Trains ReLoCLNet on videos with time-stamped queries, evaluates it while it learns, and writes the predictions of the
//! best checkpoint.
//!
//! ```text
//! cargo run --release --features full --example train_reloclnet -- --data TVR --run runs/tvr
//! cargo run --release --features full --example train_reloclnet -- --run runs/tvr --resume
//! cargo run --release --features full --example train_reloclnet -- --run runs/tvr --predict test_public
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use reelgrad::Result;
use reelgrad::data::moments::{MomentSource, Problems};
use reelgrad::models::reloclnet::Reloclnet;
use reelgrad::retrieval::moments::MomentMetrics;
use reelgrad::run::Task;
use reelgrad::run::moments::{Evaluated, Settings};
use reelgrad::train::{self, Slot};

mod common;
use common::bar::Bar;
use common::flags::{Flags, conclude};

/// Trains ReLoCLNet.
///
/// Evaluates on the validation part while it trains, keeps the best checkpoint (VCMR R@1 at IoU 0.5 and 0.7) and writes
/// that one's predictions in TVR's submission format. Ctrl-C saves and ends with 130; --resume goes on to the bit where it
/// stopped. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    flags: Flags,
    /// Instead of training: predictions of the run's best checkpoint for this part, evaluated where it has labels.
    #[arg(long, value_name = "PART", requires = "run", conflicts_with_all = ["resume", "profile"])]
    predict: Option<String>,
}

fn main() -> ExitCode {
    common::main(|Options { flags, predict: part }| match (&part, &flags.run) {
        (Some(part), Some(run)) => predict(&flags, run, part),
        _ => train(&flags),
    })
}

fn train(flags: &Flags) -> Result<()> {
    let started = Instant::now();
    let Some((plan, data, gpu)) = flags.start::<Settings>(Vec::new())? else { return Ok(()) };
    println!("\n{}", MomentMetrics::HEAD);
    let mut trained = plan.train(&gpu, &data, &mut Bar::new("ReLoCLNet"), &common::stop_on_ctrl_c())?;
    trained.load_best()?;
    let (best, step) = trained.report.best.unwrap_or_default();
    println!("\nbest     step {step}: VCMR R@1 of both overlaps {best:.2} on the validation part");
    conclude(&gpu, &[trained.report], "queries", started);
    let evaluated = match trained.evaluated {
        Some(evaluated) => evaluated,
        None => plan.settings.evaluate(&trained.model, &data)?,
    };
    report(trained.folder.path(), &plan.settings.data.validation, &*data.validation, &evaluated)
}

/// Predictions of the run's best checkpoint; the way to search may be another than in training.
fn predict(flags: &Flags, run: &Path, part: &str) -> Result<()> {
    let settings = flags.request(Vec::new()).changed(reelgrad::run::stored::<Settings>(run)?)?;
    let mut problems = if settings.data.lenient { Problems::lenient() } else { Problems::strict() };
    let data = settings.open_part(part, &mut problems)?;
    let left_out = |problems: &Problems, from: usize| {
        if let Some(first) = problems.skipped().get(from) {
            println!("left out {}, the first: {first}", problems.skipped().len() - from);
        }
    };
    left_out(&problems, 0);
    let opened = problems.skipped().len();
    let gpu = common::open_gpu(flags.adapter.as_deref());
    let model = train::open::<Reloclnet>(&gpu, run, Slot::Best)?;
    let evaluated = settings.evaluate_part(&model, &*data, &mut problems)?;
    left_out(&problems, opened);
    report(run, part, &*data, &evaluated)
}

/// Prints what became of a part's queries, and writes it to the run's folder.
fn report(run: &Path, part: &str, data: &dyn MomentSource, evaluated: &Evaluated) -> Result<()> {
    let simulated = if evaluated.is_simulated { " (simulated features)" } else { "" };
    let (queries, videos) = (data.queries().len(), data.videos().len());
    println!("\n{part}{simulated}: {queries} queries in {videos} videos, {:.1} s", evaluated.seconds);
    for stage in &evaluated.predicted.stages {
        println!("  {:<16} {:8.3} s", stage.name, stage.time.as_secs_f64());
    }
    if let Some(metrics) = &evaluated.metrics {
        println!("\n{}\n{}", MomentMetrics::HEAD, metrics.row(part));
        println!("chance: VR R@10 {:.2}", (1000.0 / videos as f64).min(100.0));
    }
    evaluated.write(run, part, data)?;
    println!("predictions      {}", run.join(format!("{part}_predictions.json")).display());
    Ok(())
}
