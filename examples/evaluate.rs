//! Retrieval metrics from a similarity matrix, from embeddings of texts and videos, or from a file of moments.
//!
//! ```text
//! cargo run --release --features full --example evaluate -- --similarity sims.npy
//! cargo run --release --features full --example evaluate -- --text text.npy --video video.npy --json
//! cargo run --release --features full --example evaluate -- --submission preds.json --ground-truth val.jsonl
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Parser};
use reelgrad::Result;
use reelgrad::data::formats::atomic;
use reelgrad::data::moments::Problems;
use reelgrad::retrieval::evaluation::RankingInput;
use reelgrad::retrieval::moments::{Benchmark, MomentFiles};
use reelgrad::retrieval::{Compat, Ties};
use serde_json::Value;

mod common;

/// Retrieval metrics: R@1, R@5, R@10, R@50, median and mean rank, in both directions.
///
/// Ranks are counted on the GPU, a tile of scores at a time: embeddings may be of any number. Matrices are read
/// from .npy, .safetensors (FILE, or FILE:NAME where it holds several) and .json (a list of rows, or an object with
/// "shape" and "data"). A NaN or infinite score is an error.
///
/// Moments that any system found are evaluated as TVR, DiDeMo, QVHighlights and Charades-STA do it.
#[derive(Parser)]
#[command(version, group(ArgGroup::new("source").required(true).args(["similarity", "text", "submission"])))]
struct Options {
    /// Similarity matrix: a row for every text, a column for every video.
    #[arg(long, value_name = "FILE")]
    similarity: Option<String>,
    /// Text embeddings, a row each; scores are cosines.
    #[arg(long, value_name = "FILE", requires = "video")]
    text: Option<String>,
    /// Video embeddings, a row each.
    #[arg(long, value_name = "FILE", requires = "text")]
    video: Option<String>,
    /// Captions of every video: one number for all, a list such as 3,1,4, or a .json file with a list. The captions of
    /// a video are consecutive rows. Without it, row i belongs to video i.
    #[arg(long, value_name = "COUNTS")]
    captions_per_video: Option<String>,
    /// How tied scores rank: optimistic, expected or pessimistic.
    #[arg(long, default_value = "expected", value_parser = str::parse::<Ties>)]
    ties: Ties,
    /// Also print the numbers of this script: clip4clip, bicnet or openclip.
    #[arg(long, value_name = "SCRIPT", value_parser = str::parse::<Compat>)]
    compat: Option<Compat>,
    /// Print JSON instead of a table; or with a file, write it there too.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Moments that a system found: TVR's submission (.json), or lines as for QVHighlights (.jsonl).
    #[arg(long, value_name = "FILE", requires = "ground_truth")]
    submission: Option<PathBuf>,
    /// The annotations that it is evaluated against: TVR's and QVHighlights' .jsonl, DiDeMo's .json, Charades-STA's .txt or
    /// .jsonl.
    #[arg(long, value_name = "FILE", requires = "submission")]
    ground_truth: Option<PathBuf>,
    /// What both files are: tvr, didemo, qvhighlights or charades. A submission for DiDeMo is in TVR's form, one for
    /// Charades-STA in QVHighlights'.
    #[arg(long, default_value = "tvr", value_parser = str::parse::<Benchmark>)]
    format: Benchmark,
    /// All videos of TVR with their durations, tvr_video2dur_idx.json; needed for TVR's form.
    #[arg(long, value_name = "FILE", requires = "submission")]
    durations: Option<PathBuf>,
    /// The part of --durations.
    #[arg(long, default_value = "val")]
    split: String,
    /// First drop moments that overlap a better one of the same video by more than this; TVR's form only.
    #[arg(long, value_name = "IOU", requires = "submission")]
    nms: Option<f64>,
    /// Count missing queries and bad rows as misses and list them, instead of ending at the first.
    #[arg(long, requires = "submission")]
    lenient: bool,
    /// The adapter: fastest, low-power, its number, or a part of its name. The default is the environment variable
    /// REELGRAD_ADAPTER, else the fastest.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(mut options: Options) -> Result<()> {
    let json = options.json.take();
    let (table, report) = evaluate(options)?;
    match json.as_deref() {
        Some(path) if path == Path::new("-") => println!("{report:#}"),
        path => {
            path.map_or(Ok(()), |path| atomic::write(path, |file| writeln!(file, "{report:#}")))?;
            println!("{table}");
        }
    }
    Ok(())
}

/// The table, and the same as JSON.
fn evaluate(options: Options) -> Result<(String, Value)> {
    let Options { format: benchmark, durations, split, nms, .. } = options;
    if let (Some(submission), Some(ground_truth)) = (options.submission, options.ground_truth) {
        let mut problems = if options.lenient { Problems::lenient() } else { Problems::strict() };
        let files = MomentFiles { benchmark, submission, ground_truth, durations, split, nms };
        let report = files.evaluate(&mut problems)?;
        return Ok((report.to_string(), report.to_json()));
    }
    let captions = options.captions_per_video.as_deref();
    let input = match (&options.text, &options.video) {
        (Some(text), Some(video)) => RankingInput::embeddings(text, video, captions)?,
        _ => RankingInput::similarity(options.similarity.as_deref().unwrap_or_default(), captions)?,
    };
    let report = input.evaluate(&common::open_gpu(options.adapter.as_deref()), options.ties, options.compat)?;
    Ok((report.to_string(), report.to_json()))
}
