//! Finds the video, and the moment in it, that a sentence describes.
//!
//! ```text
//! cargo run --release --features full --example find_moment -- --run runs/moments "a red square moves left"
//! cargo run --release --features full --example find_moment -- --run runs/tvr --part val --query 87175 --format json
//! ```

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use reelgrad::data::formats::atomic;
use reelgrad::data::moments::{MomentQuery, MomentSource, Problems};
use reelgrad::gpu::Gpu;
use reelgrad::models::reloclnet::Reloclnet;
use reelgrad::retrieval::moments::{IndexOptions, MomentIndex, MomentSearch, Prediction, SearchOptions, Stage};
use reelgrad::tensor::{Array, DType};
use reelgrad::train::{Progress, RunFolder, Slot};
use reelgrad::{Error, Result};
use serde_json::json;

mod common;
#[path = "common/moments.rs"]
mod moments;
#[path = "common/timeline.rs"]
mod timeline;
use common::bar::Bar;
use moments::Settings;

/// Finds the video, and the moment in it, that a sentence describes.
///
/// The videos of a part are encoded once and kept in an index; a search then takes milliseconds. Errors end with 2.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Sentences to search for. They need features: of the synthetic corpora they are computed, for a dataset use --query
    /// or --features.
    sentences: Vec<String>,
    /// Queries of the part, by number.
    #[arg(long, value_name = "ID")]
    query: Vec<u64>,
    /// A file of token features, .npy or .safetensors with one tensor, (tokens, width), as the model was trained on.
    #[arg(long, value_name = "FILE")]
    features: Vec<PathBuf>,
    /// Folder of a run of train_reloclnet.
    #[arg(long, value_name = "FOLDER", default_value = "runs/reloclnet")]
    run: PathBuf,
    /// A new place of the run's dataset.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The part whose videos are searched [default: the run's validation part].
    #[arg(long, value_name = "PART")]
    part: Option<String>,
    /// The index; it is made if it is not there [default: <RUN>/index-<PART>].
    #[arg(long, value_name = "FOLDER")]
    index: Option<PathBuf>,
    /// How the index keeps the encodings [default: f16 for a new one].
    #[arg(long, value_enum)]
    precision: Option<IndexPrecision>,
    /// Moments to list.
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Leaves out moments that overlap a better one of their video by more than this IoU; 1 keeps all.
    #[arg(long, value_name = "IOU", default_value_t = 0.5)]
    nms: f64,
    /// How the moments are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Also writes a timeline of every query's moments here, an SVG file each.
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    /// Skips videos that cannot be read, and counts them.
    #[arg(long)]
    lenient: bool,
    /// The adapter: fastest, low-power, its number, or a part of its name.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum IndexPrecision {
    F32,
    F16,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// What is searched for.
struct Wanted {
    text: String,
    features: Array,
    /// The labels, of a query of the part.
    truth: Option<MomentQuery>,
}

fn main() -> ExitCode {
    common::init_log();
    common::finish(run(&Options::parse()).map(|()| ExitCode::SUCCESS))
}

fn run(options: &Options) -> Result<()> {
    let mut settings = Settings::of_run(&options.run, &RunFolder::config(&options.run)?)?;
    if let Some(root) = &options.data {
        settings.data.root.clone_from(root);
    }
    let part = options.part.clone().unwrap_or_else(|| settings.data.validation.clone());
    let mut problems = if options.lenient { Problems::lenient() } else { Problems::strict() };
    let data = settings.open(&part, &mut problems)?;
    let wanted = wanted(options, &settings, &*data)?;
    let gpu = common::open_gpu(options.adapter.as_deref());
    let model = Reloclnet::open(&gpu, &options.run, Slot::Best)?;
    let folder = options.index.clone().unwrap_or_else(|| options.run.join(format!("index-{part}")));
    let index = index(&gpu, &model, &*data, &folder, options, &mut problems)?;
    if !problems.skipped().is_empty() {
        eprintln!("skipped {} videos, the first: {}", problems.skipped().len(), problems.skipped()[0]);
    }

    let nms = (options.nms < 1.0).then_some(options.nms);
    let search = SearchOptions { nms, keep: options.top, top: settings.search.top.max(options.top), ..settings.search };
    let features: Vec<&Array> = wanted.iter().map(|w| &w.features).collect();
    let found = MomentSearch::new(&model, &index, search)?.search(&features)?;
    match options.format {
        Format::Table => print_table(&wanted, &found.moments, &index, &found.stages),
        Format::Json => print_json(options, &wanted, &found.moments, &index, &found.stages),
    }
    let Some(folder) = &options.svg else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    for (number, (wanted, moments)) in wanted.iter().zip(&found.moments).enumerate() {
        let path = folder.join(format!("{number:03}.svg"));
        let svg = timeline::svg(&wanted.text, moments, &index, wanted.truth.as_ref());
        atomic::write(&path, |file| file.write_all(svg.as_bytes()))?;
        eprintln!("timeline {}", path.display());
    }
    Ok(())
}

/// Features of everything that is searched for.
fn wanted(options: &Options, settings: &Settings, data: &dyn MomentSource) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    if !options.sentences.is_empty() {
        let encoder = settings.sentence_encoder()?;
        for text in &options.sentences {
            wanted.push(Wanted { text: text.clone(), features: encoder(text)?, truth: None });
        }
    }
    for id in &options.query {
        let missing = || Error::Missing { path: settings.data.root.clone(), kind: "query", id: id.to_string() };
        let number = data.queries().iter().position(|q| q.id == *id).ok_or_else(missing)?;
        let query = &data.queries()[number];
        wanted.push(Wanted { text: query.text.clone(), features: data.tokens(number)?, truth: Some(query.clone()) });
    }
    for path in &options.features {
        wanted.push(Wanted { text: path.display().to_string(), features: read_features(path)?, truth: None });
    }
    if wanted.is_empty() {
        let why = "give a sentence, --query or --features".to_string();
        return Err(Error::Argument { op: "find_moment", argument: "sentences", why });
    }
    Ok(wanted)
}

fn read_features(path: &Path) -> Result<Array> {
    if path.extension().is_some_and(|e| e == "npy") {
        return reelgrad::data::formats::npy::read(path);
    }
    let mut tensors = reelgrad::data::formats::safetensors::read(path)?;
    match (tensors.len(), tensors.pop_first()) {
        (1, Some((_, array))) => Ok(array),
        (n, _) => Err(Error::malformed(path, "tensors", format!("must be one, there are {n}"))),
    }
}

/// Opens the index, or encodes the videos and keeps them for the next time.
fn index(
    gpu: &Gpu,
    model: &Reloclnet,
    data: &dyn MomentSource,
    folder: &Path,
    options: &Options,
    problems: &mut Problems,
) -> Result<MomentIndex> {
    let started = Instant::now();
    if folder.exists() {
        let index = MomentIndex::open(gpu, folder)?;
        expect_videos(&index, data, folder, options)?;
        eprintln!(
            "index    {} videos from {} in {:.1} s, {:.0} MB",
            index.videos().len(),
            folder.display(),
            started.elapsed().as_secs_f64(),
            index.bytes() as f64 / 1e6
        );
        return Ok(index);
    }
    let precision = options.precision.map_or(DType::F16, Into::into);
    let build = IndexOptions { precision, ..IndexOptions::default() };
    let mut bar = Bar::new("encoding");
    let index = MomentIndex::build(model, data, build, problems, &mut |done, total| {
        bar.step(done as u64, total as u64, "videos");
    })?;
    bar.finish();
    index.save(folder)?;
    eprintln!(
        "index    {} videos encoded into {} in {:.1} s, {:.0} MB",
        index.videos().len(),
        folder.display(),
        started.elapsed().as_secs_f64(),
        index.bytes() as f64 / 1e6
    );
    Ok(index)
}

/// Refuses an index of other videos than those that are to be searched.
fn expect_videos(index: &MomentIndex, data: &dyn MomentSource, folder: &Path, options: &Options) -> Result<()> {
    let of_data: HashMap<&str, u64> = data.videos().iter().map(|v| (v.id.as_str(), v.index)).collect();
    let same = index.videos().iter().all(|v| of_data.get(v.id.as_str()) == Some(&v.index));
    let wrong_precision = options.precision.is_some_and(|p| index.precision() != p.into());
    let whole = index.videos().len() == of_data.len() || options.lenient;
    if same && whole && !wrong_precision {
        return Ok(());
    }
    let what = if wrong_precision { "is of another precision" } else { "holds other videos than this part" };
    let why = format!("{} {what}: choose another folder with --index, or remove it", folder.display());
    Err(Error::Argument { op: "find_moment", argument: "index", why })
}

impl From<IndexPrecision> for DType {
    fn from(precision: IndexPrecision) -> Self {
        match precision {
            IndexPrecision::F32 => DType::F32,
            IndexPrecision::F16 => DType::F16,
        }
    }
}

fn video_of<'a>(index: &'a MomentIndex, moment: &Prediction) -> &'a str {
    index.video(moment.video).map_or("?", |v| v.id.as_str())
}

fn print_table(wanted: &[Wanted], moments: &[Vec<Prediction>], index: &MomentIndex, stages: &[Stage]) {
    for (wanted, moments) in wanted.iter().zip(moments) {
        println!("\n\"{}\"", wanted.text);
        if let Some(truth) = &wanted.truth {
            let windows: Vec<String> = truth.windows.iter().map(|[s, e]| format!("{s:.1} to {e:.1} s")).collect();
            println!("  labelled  {} {}", truth.video.as_deref().unwrap_or("?"), windows.join(", "));
        }
        println!("  rank   start     end  video                             score");
        for (rank, m) in moments.iter().enumerate() {
            let video = video_of(index, m);
            println!("  {:4}  {:6.1}  {:6.1}  {video:<30} {:8.3e}", rank + 1, m.start, m.end, m.score);
        }
    }
    let total: f64 = stages.iter().map(|s| s.time.as_secs_f64()).sum();
    println!("\n{} queries in {} videos: {:.1} ms", wanted.len(), index.videos().len(), 1e3 * total);
    for stage in stages {
        println!("  {:<16} {:8.1} ms", stage.name, 1e3 * stage.time.as_secs_f64());
    }
}

fn print_json(
    options: &Options,
    wanted: &[Wanted],
    moments: &[Vec<Prediction>],
    index: &MomentIndex,
    stages: &[Stage],
) {
    let stages: Vec<_> = stages.iter().map(|s| json!({ "name": s.name, "ms": 1e3 * s.time.as_secs_f64() })).collect();
    for (wanted, moments) in wanted.iter().zip(moments) {
        let result = |(rank, m): (usize, &Prediction)| {
            let video = video_of(index, m);
            json!({ "rank": rank + 1, "video_id": video, "score": m.score, "start": m.start, "end": m.end })
        };
        let line = json!({
            "schema": "reelgrad.search/1",
            "query": wanted.text,
            "model": options.run.display().to_string(),
            "index": { "videos": index.videos().len(), "precision": index.precision() },
            "stages": stages,
            "results": moments.iter().enumerate().map(result).collect::<Vec<_>>(),
        });
        println!("{line}");
    }
}
