//! `reelgrad search`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use reelgrad::data::media::frames::{Reading, read_image};
use reelgrad::data::media::video::Ffmpeg;
use reelgrad::retrieval::index::{Index, Video};
use reelgrad::retrieval::search::{Answers, Found, Query, SearchOptions, SearchTimes, Searcher};
use reelgrad::{Error, Gpu, Result};
use serde_json::{Value, json};

use crate::model::ModelFlags;
use crate::program::shown;
use crate::sheet::{self, Cell};

pub const EXAMPLE: &str = "\
Example: reelgrad search videos.index --model clip-vit-base-patch32 \"a dog jumps into a lake\" --sheet answer.png

Several sentences are searched together. --json prints one object of schema reelgrad.search/1, --jsonl a line for each
result.";

#[derive(Args)]
pub struct Options {
    /// Folder of the index.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
    /// What to look for. What begins with a hyphen comes after `--`.
    #[arg(value_name = "TEXT", required_unless_present_any = ["image", "like"])]
    texts: Vec<String>,
    /// Looks for what looks like a picture. May be repeated.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Looks for what is like a clip, by the number that an answer gives. May be repeated.
    #[arg(long, value_name = "CLIP")]
    like: Vec<usize>,
    #[command(flatten)]
    model: ModelFlags,
    /// How many clips are wanted [default: 10, or all if there are fewer].
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// At most so many of one video.
    #[arg(long, value_name = "N", default_value_t = 1)]
    per_video: usize,
    /// Clips that are ranked again by their frames.
    #[arg(long, value_name = "N", default_value_t = 200)]
    candidates: usize,
    /// GPU memory for the index, in MiB. What does not fit is read anew for each search.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    budget: u64,
    /// Prints one JSON object.
    #[arg(long, conflicts_with_all = ["jsonl", "table"])]
    json: bool,
    /// Prints a JSON object a line for every result.
    #[arg(long, conflicts_with = "table")]
    jsonl: bool,
    /// Prints a table; the default.
    #[arg(long)]
    table: bool,
    /// Says what each stage took.
    #[arg(long)]
    times: bool,
    /// Writes a sheet of pictures with score and time: .png, .jpg or .html.
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// Cuts the moments that were found out of their videos, into this folder.
    #[arg(long, value_name = "FOLDER")]
    clip_out: Option<PathBuf>,
}

/// A result with what is shown of it.
pub struct Row<'a> {
    rank: usize,
    found: &'a Found,
    video: &'a Video,
}

pub fn search(options: &Options, open_gpu: impl FnOnce() -> Gpu) -> Result<ExitCode> {
    // What is small is read first, and fails first.
    options.sheet.as_deref().map_or(Ok(()), sheet::check)?;
    let ffmpeg = options.clip_out.as_ref().map(|_| Ffmpeg::find()).transpose()?;
    let mut queries: Vec<Query> = options.texts.iter().map(|text| Query::Text(text.clone())).collect();
    for path in &options.image {
        queries.push(Query::Picture(read_image(path, &Reading::OWN)?));
    }
    queries.extend(options.like.iter().map(|&clip| Query::Clip(clip)));
    let index = Index::open(&options.index)?;
    let gpu = open_gpu();
    let searcher = Searcher::new(&gpu, options.model.open(&gpu)?, index, options.budget << 20)?;
    let &Options { top, per_video, candidates, times: timed, .. } = options;
    let asked = SearchOptions { top, per_video, candidates, timed, ..SearchOptions::default() };
    let answers = searcher.search(&queries, &asked)?;
    let names = names(options);
    for &query in &answers.cut {
        eprintln!("note     {:?} is longer than the model reads; its end does not count", names[query]);
    }
    let index = searcher.index();
    let rows: Vec<Vec<Row>> = answers.found.iter().map(|found| rows(index, found)).collect::<Result<_>>()?;
    match options {
        Options { json: true, .. } => answer!("{:#}", to_json(index, &answers, &names, &rows)),
        Options { jsonl: true, .. } => {
            let results = names.iter().zip(&rows).flat_map(|(name, rows)| rows.iter().map(move |row| (name, row)));
            results.for_each(|(name, row)| answer!("{}", with_query(row_json(row), name)));
        }
        _ => table(&names, &rows),
    }
    if let Some(taken) = answers.times.filter(|_| !options.json) {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        eprintln!(
            "times    queries {:.1} ms, clips {:.1} ms, frames {:.1} ms, moments {:.1} ms",
            ms(taken.encode),
            ms(taken.coarse),
            ms(taken.fine),
            ms(taken.moments)
        );
    }
    if let Some(path) = &options.sheet {
        sheet::write(path, &cells(index, &names, &rows)?)?;
        let more = if rows.iter().any(|rows| rows.len() > sheet::MOST) { ", with the first 500" } else { "" };
        eprintln!("written  {}{more}", path.display());
    }
    match (&options.clip_out, ffmpeg) {
        (Some(folder), Some(ffmpeg)) => cut(&ffmpeg, folder, &rows),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// What each query is called in answers.
fn names(options: &Options) -> Vec<String> {
    let images = options.image.iter().map(|path| path.display().to_string());
    let clips = options.like.iter().map(|clip| format!("clip {clip}"));
    options.texts.iter().cloned().chain(images).chain(clips).collect()
}

/// What was found, with its videos.
pub fn rows<'a>(index: &'a Index, found: &'a [Found]) -> Result<Vec<Row<'a>>> {
    let row = |(at, found): (usize, &'a Found)| Ok(Row { rank: at + 1, found, video: index.clip(found.clip)?.video });
    found.iter().enumerate().map(row).collect()
}

/// Prints what was found for each query.
pub fn table(names: &[String], rows: &[Vec<Row>]) {
    for (name, rows) in names.iter().zip(rows) {
        answer!("{name}");
        answer!("{:>4}  {:>6}  {:>9} - {:<9}  {:>7}  video", "", "score", "from", "to", "clip");
        for Row { rank, found, video } in rows {
            let Found { clip, score, moment, .. } = found;
            let (start, end) = (clock(moment.start), clock(moment.end));
            answer!("{rank:>4}  {score:>6.3}  {start:>9} - {end:<9}  {clip:>7}  {}", shown(&video.id));
        }
    }
}

/// Seconds as people write them: `1:02:03.4`.
pub fn clock(seconds: f64) -> String {
    let tenths = (seconds * 10.0).round().max(0.0) as u64;
    let (hours, minutes, seconds) = (tenths / 36_000, tenths / 600 % 60, tenths / 10 % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}.{}", tenths % 10),
        _ => format!("{hours}:{minutes:02}:{seconds:02}.{}", tenths % 10),
    }
}

/// A result, but for where its video is: of the server's answers and of `--json`.
pub fn result_json(rank: usize, found: &Found, video: &Video) -> Value {
    json!({
        "rank": rank,
        "video_id": video.id,
        "start": found.moment.start,
        "end": found.moment.end,
        "peak": found.moment.peak,
        "offset": video.offset,
        "score": found.score,
        "stage_scores": { "coarse": found.coarse, "frames": found.score },
        "clip": found.clip,
    })
}

fn row_json(row: &Row) -> Value {
    let mut result = result_json(row.rank, row.found, row.video);
    result["path"] = json!(row.video.path);
    result
}

/// What the stages took, in milliseconds.
pub fn stages_json(times: SearchTimes) -> Value {
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let named =
        [("queries", times.encode), ("clips", times.coarse), ("frames", times.fine), ("moments", times.moments)];
    named.into_iter().map(|(name, time)| json!({ "name": name, "ms": ms(time) })).collect()
}

fn with_query(mut row: Value, name: &str) -> Value {
    row["query"] = json!(name);
    row
}

fn to_json(index: &Index, answers: &Answers, names: &[String], rows: &[Vec<Row>]) -> Value {
    let one = |(number, (name, rows)): (usize, (&String, &Vec<Row>))| {
        json!({
            "query": name,
            "cut": answers.cut.contains(&number),
            "results": rows.iter().map(row_json).collect::<Vec<_>>(),
        })
    };
    json!({
        "schema": "reelgrad.search/1",
        "model": index.spec().model,
        "index": { "folder": index.folder(), "videos": index.videos().count(), "clips": index.len() },
        "stages": answers.times.map(stages_json),
        "answers": names.iter().zip(rows).enumerate().map(one).collect::<Vec<_>>(),
    })
}

/// What a sheet shows of it.
pub fn cells(index: &Index, names: &[String], rows: &[Vec<Row>]) -> Result<Vec<(String, Vec<Cell>)>> {
    let cell = |row: &Row| -> Result<Cell> {
        let Found { clip, score, moment, .. } = row.found;
        let name = Path::new(&row.video.id).file_name().unwrap_or_default().to_string_lossy();
        let caption = format!("{} {score:.3} {}-{}", row.rank, clock(moment.start), clock(moment.end));
        Ok(Cell { jpeg: index.thumbnail(*clip)?, lines: [caption, shown(&name)] })
    };
    let one = |(name, rows): (&String, &Vec<Row>)| {
        Ok((name.clone(), rows.iter().take(sheet::MOST).map(cell).collect::<Result<_>>()?))
    };
    names.iter().zip(rows).map(one).collect()
}

/// Cuts what was found; what cannot be cut, as the video is no longer there, is named.
fn cut(ffmpeg: &Ffmpeg, folder: &Path, rows: &[Vec<Row>]) -> Result<ExitCode> {
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let mut failed = 0;
    for (query, rows) in rows.iter().enumerate() {
        for Row { rank, found, video } in rows {
            let stem: String =
                Path::new(&video.id).file_stem().unwrap_or_default().to_string_lossy().chars().take(60).collect();
            let safe: String = stem.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
            let out = folder.join(format!("{:02}-{rank:02}-{safe}.mp4", query + 1));
            let [start, end] = [found.moment.start, found.moment.end].map(|time| time + video.offset);
            match ffmpeg.cut(video.path.as_deref().unwrap_or(&video.id), start, end, &out) {
                Ok(()) => eprintln!("written  {}", out.display()),
                Err(error) => {
                    eprintln!("failed   {error}");
                    failed += 1;
                }
            }
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
