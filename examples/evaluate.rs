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
use reelgrad::data::formats::{atomic, npy, safetensors};
use reelgrad::retrieval::compat::CompatMetrics;
use reelgrad::retrieval::ranking::{Source, Tiles};
use reelgrad::retrieval::{Compat, RetrievalMetrics, Ties};
use reelgrad::tensor::Array;
use reelgrad::{Error, Result};
use serde_json::{Map, Value, json};

mod common;
use common::submissions::MomentOptions;
use common::table;

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
    #[command(flatten)]
    moments: MomentOptions,
    /// The adapter: fastest, low-power, its number, or a part of its name. The default is the environment variable
    /// REELGRAD_ADAPTER, else the fastest.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
}

fn main() -> ExitCode {
    common::init_log();
    // Exits with 2 by itself when the arguments are wrong.
    let options = Options::parse();
    common::finish(evaluate(&options).map(|text| {
        println!("{text}");
        ExitCode::SUCCESS
    }))
}

fn evaluate(options: &Options) -> Result<String> {
    let (table, json) = match &options.moments.submission {
        Some(submission) => options.moments.evaluate(submission)?,
        None => ranks(options)?,
    };
    match options.json.as_deref() {
        None => return Ok(table),
        Some(path) if path == Path::new("-") => return Ok(format!("{json:#}")),
        Some(path) => atomic::write(path, |file| writeln!(file, "{json:#}"))?,
    }
    Ok(table)
}

/// Metrics of a matrix or of embeddings: the table, and the same as JSON.
fn ranks(options: &Options) -> Result<(String, Value)> {
    let (matrix, videos) = match (&options.similarity, &options.text, &options.video) {
        (Some(similarity), ..) => (finite(similarity, read(similarity)?)?, None),
        (None, Some(text), Some(video)) => (unit_rows(text, read(text)?)?, Some(unit_rows(video, read(video)?)?)),
        // The argument parser lets nothing else through.
        _ => return Err(usage("similarity", "or --text and --video must be given")),
    };
    let (source, video_count) = match &videos {
        Some(videos) => (Source::Embeddings(&matrix, videos), videos.shape()[0]),
        None => (Source::Matrix(&matrix), matrix.shape()[1]),
    };
    let texts = matrix.shape()[0];
    let captions = options.captions_per_video.as_deref().map(|counts| captions(counts, video_count)).transpose()?;
    let owners = owners(captions.as_deref(), texts, video_count)?;
    let gpu = common::open_gpu(options.adapter.as_deref());
    let tiles = Tiles::new(&gpu, source, &owners)?;
    let ranks = tiles.ranks()?;
    let mut report = Report {
        texts,
        videos: video_count,
        ties: options.ties,
        ours: vec![("text to video", "text_to_video", ranks.text_to_video.metrics(options.ties)?)],
        script: None,
    };
    if captions.is_some() {
        report.ours.push(("video to text", "video_to_text", tiles.video_to_text()?.metrics(options.ties)?));
        let captions = ranks.video_to_caption.metrics(options.ties)?;
        report.ours.push(("video to caption", "video_to_caption", captions));
    } else {
        // With one caption a video both are one.
        report.ours.push(("video to text", "video_to_text", ranks.video_to_caption.metrics(options.ties)?));
    }
    if let Some(compat) = options.compat {
        // The scripts' orders of tied scores need the whole matrix.
        let scores = tiles.to_scores()?;
        let theirs = vec![
            ("text to video", "text_to_video", compat.text_to_video(&scores)?),
            ("video to text", "video_to_text", compat.video_to_text(&scores)?),
        ];
        report.script = Some((compat, theirs));
    }
    Ok((report.table(), report.json()))
}

/// The video of every text, whose captions are consecutive.
fn owners(captions: Option<&[usize]>, texts: usize, videos: usize) -> Result<Vec<u32>> {
    let Some(captions) = captions else {
        if texts != videos {
            let why = format!("must be given for {texts} texts and {videos} videos");
            return Err(usage("captions_per_video", &why));
        }
        return Ok((0..videos as u32).collect());
    };
    let sum = captions.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
    if captions.len() != videos || sum != Some(texts) {
        let why = format!(
            "must be {videos} counts with a sum of {texts}, got {} with a sum of {}",
            captions.len(),
            sum.map_or("too many".into(), |n| n.to_string())
        );
        return Err(usage("captions_per_video", &why));
    }
    if let Some(video) = captions.iter().position(|&n| n == 0) {
        return Err(usage("captions_per_video", &format!("gives video {video} no caption")));
    }
    Ok(captions.iter().zip(0..).flat_map(|(&n, video)| std::iter::repeat_n(video, n)).collect())
}

/// Title, key and metrics of every direction.
type Rows<T> = Vec<(&'static str, &'static str, T)>;

struct Report {
    texts: usize,
    videos: usize,
    ties: Ties,
    ours: Rows<RetrievalMetrics>,
    script: Option<(Compat, Rows<CompatMetrics>)>,
}

impl Report {
    fn json(&self) -> Value {
        let mut report = json!({
            "schema": "reelgrad.evaluate/1",
            "texts": self.texts,
            "videos": self.videos,
            "ties": self.ties,
            "metrics": self.ours.iter().map(|(_, key, m)| (key.to_string(), json!(m))).collect::<Map<_, _>>(),
        });
        if let Some((compat, theirs)) = &self.script {
            let values =
                |m: &CompatMetrics| m.values.iter().map(|&(n, v)| (n.to_string(), json!(v))).collect::<Map<_, _>>();
            let directions: Map<_, _> = theirs.iter().map(|(_, key, m)| (key.to_string(), values(m).into())).collect();
            report["compat"] = json!({"script": format!("{compat:?}").to_lowercase(), "metrics": directions});
        }
        report
    }

    fn table(&self) -> String {
        let ties = json!(self.ties);
        let mut text = format!(
            "{} texts, {} videos; ties: {}; recalls in percent, ranks from 1\n\n{:<18}",
            self.texts,
            self.videos,
            ties.as_str().unwrap_or_default(),
            ""
        );
        for name in ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "RSum", "queries"] {
            text.push_str(&format!("{name:>9}"));
        }
        for (title, _, m) in &self.ours {
            text.push_str(&format!("\n{title:<18}"));
            for value in [m.r1, m.r5, m.r10, m.r50, m.mdr, m.mnr, m.rsum] {
                text.push_str(&format!("{value:>9.2}"));
            }
            text.push_str(&format!("{:>9}", m.queries));
        }
        if let Some((compat, theirs)) = &self.script {
            text.push_str(&format!("\n\nas {compat:?}'s script prints it"));
            for (title, _, m) in theirs {
                text.push_str(&format!("\n{title:<18}{}", table::script(m)));
            }
        }
        text
    }
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

/// The matrix, if it has two dimensions and no NaN or infinity.
fn finite(name: &str, matrix: Array) -> Result<Array> {
    let &[_, width] = matrix.shape() else {
        return Err(Error::malformed(
            name,
            "shape",
            format_args!("must be [rows, columns], it is {:?}", matrix.shape()),
        ));
    };
    if let Some((count, first)) = matrix.non_finite() {
        let place = format!("row {}, column {}", first / width, first % width);
        return Err(Error::NonFinite { origin: name.into(), place, count });
    }
    Ok(matrix)
}

/// Rows of length 1, by f64 sums: the products of two are cosines.
fn unit_rows(name: &str, embeddings: Array) -> Result<Array> {
    let mut embeddings = finite(name, embeddings)?;
    let width = embeddings.shape()[1].max(1);
    for (i, row) in embeddings.data_mut().chunks_exact_mut(width).enumerate() {
        let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        if norm == 0.0 {
            return Err(Error::malformed(name, format_args!("row {i}"), "all zeros have no direction"));
        }
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
    Ok(embeddings)
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
