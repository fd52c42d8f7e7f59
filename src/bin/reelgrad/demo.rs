//! `reelgrad demo`: the whole way, from videos to answers, on videos that it makes itself.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use reelgrad::data::Part;
use reelgrad::data::formats::atomic;
use reelgrad::data::media::frames::Reading;
use reelgrad::data::media::pixels::Image;
use reelgrad::data::media::video::Ffmpeg;
use reelgrad::data::synthetic::{ClipWorld, ClipWorldConfig};
use reelgrad::models::eercf::EercfConfig;
use reelgrad::random::Random;
use reelgrad::retrieval::index::{ClipPlan, Index, IndexRun, IndexWriter};
use reelgrad::retrieval::search::{Query, SearchOptions, Searcher};
use reelgrad::run::clip::{Settings, open_trained};
use reelgrad::run::{Plan, Request, Setting, stored};
use reelgrad::tensor::DType;
use reelgrad::train::{Slot, StopFlag};
use reelgrad::{Error, Gpu, Result};
use serde_json::json;

use crate::bar::Bar;
use crate::program::stop_on_ctrl_c;
use crate::search::{cells, rows, table};
use crate::sheet;

pub const EXAMPLE: &str = "\
Example: reelgrad demo

It needs ffmpeg and no network. The model is trained for minutes, on shapes that move: what it finds says that the parts
work, and nothing about real videos. The same command again trains and indexes nothing twice.";

/// Clips of the synthetic world that a video shows, one after another.
const SHOWN: usize = 8;
/// Frames of a second.
const RATE: u32 = 2;
/// How much larger than the model sees them people see pictures.
const SCALE: usize = 4;
/// Bytes of GPU memory for the index.
const BUDGET: u64 = 1 << 30;

#[derive(Args)]
pub struct Options {
    /// Folder for videos, model, index and answers.
    #[arg(long, value_name = "FOLDER", default_value = "runs/demo")]
    out: PathBuf,
    /// Training steps.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Videos that are made.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=60))]
    videos: u32,
}

/// A sentence, and where it is to be seen.
struct Told {
    text: String,
    video: String,
    start: f64,
    end: f64,
}

pub fn demo(options: &Options, open_gpu: impl FnOnce() -> Gpu) -> Result<ExitCode> {
    let (started, ffmpeg) = (Instant::now(), Ffmpeg::find()?);
    let (gpu, stop) = (open_gpu(), stop_on_ctrl_c());
    let seconds = |since: Instant| since.elapsed().as_secs_f64();
    let [run, videos, index] = ["EERCF", "videos", "index"].map(|name| options.out.join(name));
    own(&options.out)?;

    answer!("1. a model: EERCF, trained from nothing on clips of two shapes that move");
    let settings = train(&gpu, options, &run, &stop)?;
    answer!("   {:.0} s\n", seconds(started));

    let since = Instant::now();
    let told = render(&ffmpeg, &settings.data.world, options.videos as usize, &videos)?;
    answer!(
        "2. videos: {} of {} s, none of whose clips it was trained on",
        options.videos,
        SHOWN * settings.data.world.frames / RATE as usize
    );
    answer!("   {:.0} s, in {}\n", seconds(since), videos.display());

    let since = Instant::now();
    let model = open_trained(&gpu, &run)?;
    let plan = ClipPlan { rate: RATE.into(), seconds: 3.0, step: 1.5, cut_below: None };
    let spec = model.spec(plan, DType::F16, false);
    // One of another model, such as of more steps, is made anew.
    if Index::open(&index).is_ok_and(|found| *found.spec() != spec) {
        fs::remove_dir_all(&index).map_err(|e| Error::io("remove", &index, e))?;
    }
    let mut writer = if index.exists() { IndexWriter::open(&index)? } else { IndexWriter::create(&index, spec)? };
    let decoders = std::thread::available_parallelism().map_or(1, usize::from);
    let filling =
        IndexRun { roots: vec![videos.clone()], prune: true, reading: Reading::OWN, thumbnails: true, decoders };
    filling.run(&*model, &mut writer, &ffmpeg, &mut Bar::new("videos"), &stop)?;
    let opened = writer.index()?;
    answer!("3. an index: {} videos, {} clips of 3 s", opened.videos().count(), opened.len());
    answer!("   {:.0} s, in {}\n", seconds(since), index.display());
    drop(writer);

    let searcher = Searcher::new(&gpu, model, opened, BUDGET)?;
    ask(options, &searcher, &told)?;
    answer!("\nwhole demo {:.0} s. To look at it and ask yourself:\n", seconds(started));
    answer!("  reelgrad serve {} --model {} --media-root {}\n", index.display(), run.display(), videos.display());
    answer!("and open the address that it prints. Sentences are such as \"{}\".", told[0].text);
    Ok(ExitCode::SUCCESS)
}

/// That the folder is the demo's own, which may throw away what it finds in it: a new one, or one that it made before.
fn own(folder: &Path) -> Result<()> {
    let mark = folder.join("demo.json");
    let mut held = fs::read_dir(folder).into_iter().flatten();
    if !mark.exists() && held.next().is_some() {
        let why = format!("names {}, which holds something else: give a new folder", folder.display());
        return Err(Error::Argument { op: "demo", argument: "--out", why });
    }
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    atomic::write(&mark, |file| writeln!(file, "{}", json!({ "made_by": "reelgrad demo" })))
}

/// The settings of the model in `folder`, which is trained unless it is.
fn train(gpu: &Gpu, options: &Options, folder: &Path, stop: &StopFlag) -> Result<Settings<EercfConfig>> {
    let set = |name: &str, value: u64| Setting::new(name, value);
    let asked = [("fit.steps", options.steps), ("fit.evaluate_every", options.steps), ("data.world.test", 500)];
    let set = asked.map(|(name, value)| set(name, value)).to_vec();
    let run = Some(folder.to_path_buf());
    let mut request = Request { run: run.clone(), set, small: true, ..Request::default() };
    match stored::<Settings<EercfConfig>>(folder) {
        Ok(known) if known.fit.core.steps == options.steps && folder.join("checkpoints/best").is_dir() => {
            return Ok(known);
        }
        // It was ended in the middle, and goes on.
        Ok(known) if known.fit.core.steps == options.steps && folder.join("checkpoints/last").is_dir() => {
            request = Request { run, resume: Some(Slot::Last), ..Request::default() };
        }
        _ if folder.exists() => fs::remove_dir_all(folder).map_err(|e| Error::io("remove", folder, e))?,
        _ => {}
    }
    let mut plan = Plan::<Settings<EercfConfig>>::new(&request)?;
    let (data, _) = plan.open()?;
    plan.train(gpu, &data, &mut Bar::new("training"), stop)?;
    Ok(plan.settings)
}

/// Videos of clips that follow one another, and what is told of each clip; in `captions.jsonl` beside their folder, too.
fn render(ffmpeg: &Ffmpeg, world: &ClipWorldConfig, count: usize, folder: &Path) -> Result<Vec<Told>> {
    let world = ClipWorld::new(*world)?;
    let mut clips: Vec<usize> = world.videos(Part::Test).collect();
    Random::new(world.config().seed, 0).shuffle(&mut clips);
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let length = world.config().frames as f64 / f64::from(RATE);
    let mut told = Vec::new();
    for (number, shown) in clips.chunks_exact(SHOWN).take(count).enumerate() {
        let name = format!("video-{:02}.mp4", number + 1);
        let mut images = Vec::new();
        for (at, &clip) in shown.iter().enumerate() {
            let text = world.captions(clip)?.swap_remove(0).text;
            let start = at as f64 * length;
            told.push(Told { text, video: name.clone(), start, end: start + length });
            images.extend(pictures(&world.frames(clip)?, world.config().size)?);
        }
        let path = folder.join(&name);
        if !path.exists() {
            ffmpeg.encode(&path, &images, RATE)?;
        }
    }
    let line = |(number, Told { text, video, start, end }): (usize, &Told)| json!({ "video_id": format!("{video}#{number}"), "path": video, "start": start, "end": end, "caption": text });
    let lines: String = told.iter().enumerate().map(|told| format!("{}\n", line(told))).collect();
    atomic::write(&folder.with_file_name("captions.jsonl"), |file| file.write_all(lines.as_bytes()))?;
    Ok(told)
}

/// Frames (n, size, size, 3), made larger.
fn pictures(frames: &[u8], size: usize) -> Result<Vec<Image>> {
    let side = size * SCALE;
    let larger = |frame: &[u8]| {
        let pixel = |i: usize| -> [u8; 3] {
            let from = 3 * (i / side / SCALE * size + i % side / SCALE);
            [frame[from], frame[from + 1], frame[from + 2]]
        };
        Image::new(side, side, (0..side * side).flat_map(pixel).collect())
    };
    frames.chunks_exact(3 * size * size).map(larger).collect()
}

/// Three questions, their answers, and where these are to be seen.
fn ask(options: &Options, searcher: &Searcher, told: &[Told]) -> Result<()> {
    let asked: Vec<&Told> = [0, told.len() / 3, 2 * told.len() / 3].iter().map(|&at| &told[at]).collect();
    let queries: Vec<Query> = asked.iter().map(|told| Query::Text(told.text.clone())).collect();
    let found = |top| SearchOptions { top: Some(top), timed: true, ..SearchOptions::default() };
    let index = searcher.index();
    // The first search compiles; the second one is timed.
    searcher.search(&queries, &found(5.min(index.len())))?;
    let answers = searcher.search(&queries, &found(5.min(index.len())))?;
    answer!("4. three questions");
    let names: Vec<String> = asked.iter().map(|told| told.text.clone()).collect();
    let rows: Vec<_> = answers.found.iter().map(|found| rows(index, found)).collect::<Result<_>>()?;
    for (told, (name, rows)) in asked.iter().zip(names.iter().zip(&rows)) {
        answer!();
        table(std::slice::from_ref(name), std::slice::from_ref(rows));
        answer!("      shown in {} from {:.1} to {:.1} s", told.video, told.start, told.end);
    }
    if let Some(times) = answers.times {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3 / queries.len() as f64;
        let (encode, coarse, fine, moments) = (ms(times.encode), ms(times.coarse), ms(times.fine), ms(times.moments));
        answer!(
            "\n   a question: text {encode:.1} ms, clips {coarse:.1} ms, frames {fine:.1} ms, moments {moments:.1} ms"
        );
    }
    let sheet = options.out.join("answers.png");
    sheet::write(&sheet, &cells(index, &names, &rows)?)?;
    answer!("   their pictures: {}", sheet.display());
    Ok(())
}
