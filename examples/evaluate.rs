//! Retrieval metrics from a similarity matrix, or from embeddings of texts and videos.
//!
//! ```text
//! cargo run --release --features full --example evaluate -- --similarity sims.npy
//! cargo run --release --features full --example evaluate -- --text text.npy --video video.npy --json
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Parser};
use reelgrad::data::{npy, safetensors};
use reelgrad::retrieval::compat::CompatMetrics;
use reelgrad::retrieval::{Compat, RetrievalMetrics, Scores, Ties};
use reelgrad::tensor::Array;
use reelgrad::{Error, Result};
use serde_json::{Map, Value, json};

/// Retrieval metrics: R@1, R@5, R@10, R@50, median and mean rank, in both directions.
///
/// Matrices are read from .npy, .safetensors (FILE, or FILE:NAME where it holds several) and .json (a list of rows, or
/// an object with "shape" and "data"). A NaN or infinite score is an error.
#[derive(Parser)]
#[command(version, group(ArgGroup::new("source").required(true).args(["similarity", "text"])))]
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
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    env_logger::init();
    // Exits with 2 by itself when the arguments are wrong.
    let options = Options::parse();
    match evaluate(&options) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

fn evaluate(options: &Options) -> Result<String> {
    let matrix = match (&options.similarity, &options.text, &options.video) {
        (Some(similarity), ..) => read(similarity)?,
        (None, Some(text), Some(video)) => cosines((text, read(text)?), (video, read(video)?))?,
        // The argument parser lets nothing else through.
        _ => return Err(usage("similarity", "or --text and --video must be given")),
    };
    let scores = match &options.captions_per_video {
        None => Scores::square(matrix)?,
        Some(counts) => {
            let videos = matrix.shape().get(1).copied().unwrap_or(0);
            Scores::grouped(matrix, &captions(counts, videos)?)?
        }
    };
    let mut ours = vec![
        ("text to video", "text_to_video", scores.text_to_video().metrics(options.ties)?),
        ("video to text", "video_to_text", scores.video_to_text().metrics(options.ties)?),
    ];
    if scores.is_grouped() {
        ours.push(("video to caption", "video_to_caption", scores.video_to_caption().metrics(options.ties)?));
    }
    let theirs = match options.compat {
        None => Vec::new(),
        Some(compat) => vec![
            ("text to video", "text_to_video", compat.text_to_video(&scores)?),
            ("video to text", "video_to_text", compat.video_to_text(&scores)?),
        ],
    };
    Ok(if options.json {
        to_json(options, &scores, &ours, &theirs)
    } else {
        to_table(options, &scores, &ours, &theirs)
    })
}

type Rows<'a, T> = [(&'a str, &'a str, T)];

fn to_json(options: &Options, scores: &Scores, ours: &Rows<RetrievalMetrics>, theirs: &Rows<CompatMetrics>) -> String {
    let mut report = json!({
        "schema": "reelgrad.evaluate/1",
        "texts": scores.texts(),
        "videos": scores.videos(),
        "ties": options.ties,
        "metrics": ours.iter().map(|(_, key, m)| (key.to_string(), json!(m))).collect::<Map<_, _>>(),
    });
    if let Some(compat) = options.compat {
        let values =
            |m: &CompatMetrics| m.values.iter().map(|&(n, v)| (n.to_string(), json!(v))).collect::<Map<_, _>>();
        let directions: Map<_, _> = theirs.iter().map(|(_, key, m)| (key.to_string(), values(m).into())).collect();
        report["compat"] = json!({"script": format!("{compat:?}").to_lowercase(), "metrics": directions});
    }
    format!("{report:#}")
}

fn to_table(options: &Options, scores: &Scores, ours: &Rows<RetrievalMetrics>, theirs: &Rows<CompatMetrics>) -> String {
    let ties = json!(options.ties);
    let mut text = format!(
        "{} texts, {} videos; ties: {}; recalls in percent, ranks from 1\n\n{:<18}",
        scores.texts(),
        scores.videos(),
        ties.as_str().unwrap_or_default(),
        ""
    );
    for name in ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "RSum", "queries"] {
        text.push_str(&format!("{name:>9}"));
    }
    for (title, _, m) in ours {
        text.push_str(&format!("\n{title:<18}"));
        for value in [m.r1, m.r5, m.r10, m.r50, m.mdr, m.mnr, m.rsum] {
            text.push_str(&format!("{value:>9.2}"));
        }
        text.push_str(&format!("{:>9}", m.queries));
    }
    if let Some(compat) = options.compat {
        text.push_str(&format!("\n\nas {compat:?}'s script prints it"));
        for (title, _, m) in theirs {
            let values: Vec<String> = m.values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
            text.push_str(&format!("\n{title:<18}{}", values.join("  ")));
        }
    }
    text
}

/// One number for all videos, a list, or a JSON file with a list.
fn captions(counts: &str, videos: usize) -> Result<Vec<usize>> {
    if counts.ends_with(".json") {
        let path = Path::new(counts);
        return serde_json::from_value(json_file(path)?)
            .map_err(|e| Error::malformed(path, "top level", format!("not a list of counts: {e}")));
    }
    let list: Vec<usize> = counts
        .split(',')
        .map(|count| {
            count.trim().parse().map_err(|_| usage("captions_per_video", "must be counts, such as 20 or 3,1,4"))
        })
        .collect::<Result<_>>()?;
    Ok(if let [count] = list[..] { vec![count; videos] } else { list })
}

/// Cosines of all pairs of rows, in f64 sums.
fn cosines((text_name, text): (&str, Array), (video_name, video): (&str, Array)) -> Result<Array> {
    let (text_rows, video_rows) = (unit_rows(text_name, &text)?, unit_rows(video_name, &video)?);
    if text.shape()[1] != video.shape()[1] {
        let (left, right) = (text.shape().to_vec(), video.shape().to_vec());
        return Err(Error::ShapeMismatch { op: "cosine", left, right, why: "rows must have the same width" });
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() as f32;
    let all = text_rows.iter().flat_map(|t| video_rows.iter().map(move |v| dot(t, v))).collect();
    Array::new([text_rows.len(), video_rows.len()], all)
}

fn unit_rows(name: &str, embeddings: &Array) -> Result<Vec<Vec<f64>>> {
    let [rows, width] = *embeddings.shape() else {
        let expected = "[rows, width]".into();
        return Err(Error::Shape { op: "cosine", argument: "embeddings", expected, got: embeddings.shape().to_vec() });
    };
    if let Some((count, first)) = embeddings.non_finite() {
        let place = format!("row {}, column {}", first / width, first % width);
        return Err(Error::NonFinite { origin: name.into(), place, count });
    }
    let unit = |row: usize| {
        let values: Vec<f64> = embeddings.row(row).iter().map(|&v| f64::from(v)).collect();
        let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm == 0.0 {
            return Err(Error::malformed(name, format_args!("row {row}"), "all zeros have no direction"));
        }
        Ok(values.iter().map(|v| v / norm).collect())
    };
    (0..rows).map(unit).collect()
}

/// Reads a matrix by the file's ending; `FILE.safetensors:NAME` names a tensor.
fn read(source: &str) -> Result<Array> {
    let (file, name) = match source.rsplit_once(':') {
        Some((file, name)) if file.ends_with(".safetensors") => (file, Some(name)),
        _ => (source, None),
    };
    let path = PathBuf::from(file);
    match path.extension().and_then(|e| e.to_str()) {
        Some("npy") => npy::read(&path),
        Some("json") => from_json(&path),
        Some("safetensors") => {
            let tensors = safetensors::TensorFile::open(&path)?;
            let mut names = tensors.names();
            match (name, names.next(), names.next()) {
                (Some(name), ..) | (None, Some(name), None) => tensors.array(name),
                _ => {
                    let all = tensors.names().collect::<Vec<_>>().join(", ");
                    Err(Error::malformed(&path, "header", format!("choose a tensor with {file}:NAME; it holds: {all}")))
                }
            }
        }
        _ => Err(usage("file", &format!("{file:?} must end in .npy, .safetensors or .json"))),
    }
}

fn json_file(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_slice(&text).map_err(|e| Error::malformed(path, format_args!("line {}", e.line()), e))
}

/// A list of rows; or `{"shape": [..], "data": [..]}`, also below the key "similarity".
fn from_json(path: &Path) -> Result<Array> {
    let bad = |problem: String| Error::malformed(path, "matrix", problem);
    let value = json_file(path)?;
    let value = value.get("similarity").unwrap_or(&value);
    if let (Some(shape), Some(data)) = (value.get("shape"), value.get("data")) {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).map_err(|e| bad(e.to_string()))?;
        let data: Vec<f32> = serde_json::from_value(data.clone()).map_err(|e| bad(e.to_string()))?;
        return Array::new(shape, data);
    }
    let rows: Vec<Vec<f32>> =
        serde_json::from_value(value.clone()).map_err(|e| bad(format!("no list of rows: {e}")))?;
    let width = rows.first().map_or(0, Vec::len);
    if let Some(row) = rows.iter().position(|row| row.len() != width) {
        return Err(bad(format!("row {row} has {} columns, row 0 has {width}", rows[row].len())));
    }
    Array::new([rows.len(), width], rows.concat())
}

fn usage(argument: &'static str, why: &str) -> Error {
    Error::Argument { op: "evaluate", argument, why: why.into() }
}
