//! Videos, pictures and sentences to embeddings.
//!
//! ```text
//! cargo run --release --features full --example encode -- clip --model clip-vit-base-patch32 \
//!     --videos videos --text "a red square moves left" --out embeddings.safetensors
//! cargo run --release --features full --example encode -- bert --model bert-base-uncased --captions train.jsonl --out features
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use reelgrad::autograd::{Tape, Var};
use reelgrad::data::captions::read_jsonl;
use reelgrad::data::formats::{atomic, npy, safetensors};
use reelgrad::data::media::frames::{Choice, FrameSet, Sampling, read_image};
use reelgrad::data::media::pixels::Preprocess;
use reelgrad::data::media::video::{EXTENSIONS, Ffmpeg, LoadFailure, VideoInput, VideoSource, load_all};
use reelgrad::data::moments::Problems;
use reelgrad::data::tokenizer::{Cleaning, Padding, Tokenizer};
use reelgrad::gpu::Gpu;
use reelgrad::models::Model;
use reelgrad::models::bert::{Bert, Sentences};
use reelgrad::models::clip::{Clip, ClipConfig};
use reelgrad::tensor::{Array, Tensor};
use reelgrad::train::Progress;
use reelgrad::{Error, Result};
use serde::Deserialize;
use serde_json::json;

mod common;
use common::bar::Bar;

/// Texts that go through a tower at a time.
const TEXTS: usize = 64;

/// Turns videos, pictures and sentences into embeddings.
///
/// Files that cannot be read are named and counted; what could be read is written, and the program ends with 1. Other
/// errors end with 2 and write nothing.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
    /// The adapter: fastest, low-power, its number, or a part of its name.
    #[arg(long, global = true, value_name = "ADAPTER")]
    adapter: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Embeddings of one space, by CLIP's towers.
    ///
    /// "text", "image" and the "frames" of videos are as the towers give them, before they are brought to unit length;
    /// "video" is the mean of its frames' directions, of unit length, as CLIP4Clip compares it. "mask" has a 1 for each
    /// frame and a 0 for padding.
    Clip(ClipOptions),
    /// Token features for BiC-Net or ReLoCLNet, in the files that their loaders read.
    Bert(BertOptions),
}

#[derive(Args)]
struct ClipOptions {
    /// Folder of the model in Hugging Face's layout, with its tokenizer.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// Holds the matrices of affine maps in half precision: half of the memory.
    #[arg(long)]
    half: bool,
    /// A video file or a folder of frames. May be repeated.
    #[arg(long = "video", value_name = "PATH", allow_hyphen_values = true)]
    video: Vec<PathBuf>,
    /// All videos and folders of frames in a folder.
    #[arg(long, value_name = "FOLDER")]
    videos: Option<PathBuf>,
    /// A JPEG or PNG file. May be repeated.
    #[arg(long = "image", value_name = "PATH", allow_hyphen_values = true)]
    image: Vec<PathBuf>,
    /// A sentence. May be repeated.
    #[arg(long = "text", value_name = "SENTENCE", allow_hyphen_values = true)]
    text: Vec<String>,
    /// A file with a sentence in each line.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Frames of a video, at equal distances.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = parse_count)]
    frames: usize,
    /// Frames of a second that are read before.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rate: u32,
    /// Tokens of a sentence.
    #[arg(long, value_name = "N", default_value_t = 32)]
    words: usize,
    /// The features of every patch of videos, too.
    #[arg(long)]
    patches: bool,
    /// The features of every token, too: "words", and "word_mask" with a 1 for each token.
    #[arg(long)]
    tokens: bool,
    /// A .safetensors file, or a folder for .npy files; beside them ids.json names the rows.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

#[derive(Args)]
struct BertOptions {
    /// Folder of a BERT or RoBERTa in Hugging Face's layout, with its tokenizer.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// For BiC-Net: a JSON line for each video, {"video_id": "..", "captions": ["..", ..]}.
    #[arg(long, value_name = "FILE", required_unless_present = "queries", conflicts_with = "queries")]
    captions: Option<PathBuf>,
    /// For ReLoCLNet: a JSON line for each query, {"desc_id": 1, "desc": ".."}, such as TVR's annotations.
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// Tokens of a sentence, special ones among them.
    #[arg(long, value_name = "N", default_value_t = 32)]
    words: usize,
    /// For BiC-Net a folder, for ReLoCLNet an HDF5 file.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

fn main() -> ExitCode {
    common::init_log();
    let options = Options::parse();
    let adapter = options.adapter.as_deref();
    common::finish(match &options.command {
        Command::Clip(options) => encode_clip(options, adapter),
        Command::Bert(options) => encode_bert(options, adapter).map(|()| ExitCode::SUCCESS),
    })
}

fn parse_count(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| "must be from 1 to 4096".into())
}

fn wrong(argument: &'static str, why: impl Into<String>) -> Error {
    Error::Argument { op: "encode", argument, why: why.into() }
}

/// What goes into the file: arrays by name, and the names of rows.
#[derive(Default)]
struct Output {
    arrays: BTreeMap<String, Array>,
    ids: BTreeMap<&'static str, Vec<String>>,
}

impl Output {
    /// Adds the rows of equal arrays, one for each id.
    fn stack(&mut self, name: &str, rows: &[Array]) -> Result<()> {
        if let Some(first) = rows.first() {
            let shape = [&[rows.len()], first.shape()].concat();
            let data = rows.iter().flat_map(|r| r.data()).copied().collect();
            self.arrays.insert(name.into(), Array::new(shape, data)?);
        }
        Ok(())
    }

    fn write(&self, path: &Path) -> Result<()> {
        let beside = if path.extension().is_some_and(|e| e == "safetensors") {
            safetensors::write(path, &self.arrays, &BTreeMap::new())?;
            path.with_extension("ids.json")
        } else {
            std::fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))?;
            for (name, array) in &self.arrays {
                npy::write_npy(path.join(format!("{name}.npy")), array)?;
            }
            path.join("ids.json")
        };
        atomic::write(&beside, |file| writeln!(file, "{:#}", json!(self.ids)))?;
        for (name, array) in &self.arrays {
            println!("{name:<8} {:?}", array.shape());
        }
        println!("written  {} and {}", path.display(), beside.display());
        Ok(())
    }
}

fn encode_clip(options: &ClipOptions, adapter: Option<&str>) -> Result<ExitCode> {
    let mut texts = options.text.clone();
    if let Some(path) = &options.texts {
        let lines = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        texts.extend(lines.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from));
    }
    let mut videos: Vec<(String, VideoSource)> = Vec::new();
    for path in &options.video {
        let source = if path.is_dir() { VideoSource::Frames(path.clone()) } else { VideoSource::File(path.clone()) };
        videos.push((path.display().to_string(), source));
    }
    if let Some(folder) = &options.videos {
        videos.extend(in_folder(folder)?);
    }
    if texts.is_empty() && videos.is_empty() && options.image.is_empty() {
        return Err(wrong("input", "is empty: give --video, --videos, --image, --text or --texts"));
    }
    // Before hours of work, not after them.
    let folder = options.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(wrong("out", format!("is in {}, which is not there", folder.display())));
    }
    let processor = options.model.join("preprocessor_config.json");
    let gpu = common::open_gpu(adapter);
    println!("adapter  {}", gpu.report().line());
    let clip =
        if options.half { Clip::open_half(&gpu, &options.model)? } else { Clip::open(&gpu, &options.model, |_| true)? };
    let config = clip.config();
    let preprocess =
        if processor.is_file() { Preprocess::from_json(&processor)? } else { Preprocess::clip(config.image_size) };
    if preprocess.crop != config.image_size {
        let problem = format!("is {}, the model takes pictures of {}", preprocess.crop, config.image_size);
        return Err(Error::malformed(&processor, "crop_size", problem));
    }
    let (mut output, mut failed) = (Output::default(), 0);
    encode_texts(&clip, &texts, options, &mut output)?;
    failed += encode_images(&clip, &preprocess, options, &mut output)?;
    failed += encode_videos(&clip, preprocess, &videos, options, &mut output)?;
    if !output.arrays.is_empty() {
        output.write(&options.out)?;
    }
    if failed > 0 {
        println!("failed   {failed} files");
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Videos and folders, by name.
fn in_folder(folder: &Path) -> Result<Vec<(String, VideoSource)>> {
    let failed = |e| Error::io("list", folder, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_string();
        let is_video = path.extension().is_some_and(|e| EXTENSIONS.iter().any(|known| e == *known));
        if path.is_dir() {
            found.push((name, VideoSource::Frames(path)));
        } else if is_video {
            found.push((name, VideoSource::File(path)));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn encode_texts(clip: &Clip, texts: &[String], options: &ClipOptions, output: &mut Output) -> Result<()> {
    if texts.is_empty() {
        return Ok(());
    }
    let tokenizer = Tokenizer::open(&options.model)?.with_cleaning(Cleaning::Official);
    tokenizer.expect_below(clip.config().vocabulary)?;
    let (mut sentences, mut words, mut masks, mut cut) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for chunk in texts.chunks(TEXTS) {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let tokens = tokenizer.encode(&chunk, options.words, Padding::Zero)?;
        cut += tokens.truncated;
        let tape = Tape::inference(clip.store().gpu());
        let features = clip.towers().text.encode(&tape, &tokens.ids, options.words, None, options.tokens)?;
        sentences.extend(rows(&features.sentence)?);
        if let Some(features) = &features.words {
            words.extend(rows(features)?);
            masks.extend(tokens.mask);
        }
    }
    if cut > 0 {
        println!("note     {cut} sentences cut to {} tokens", options.words);
    }
    output.ids.insert("text", texts.to_vec());
    output.stack("text", &sentences)?;
    output.stack("words", &words)?;
    let masks = masks.chunks_exact(options.words).map(|mask| Array::new([options.words], mask.to_vec()));
    output.stack("word_mask", &masks.collect::<Result<Vec<_>>>()?)
}

/// The rows of a variable along its first dimension.
fn rows(x: &Var) -> Result<Vec<Array>> {
    let shape = x.shape()[1..].to_vec();
    let data = x.value().to_vec()?;
    data.chunks_exact(shape.iter().product::<usize>().max(1)).map(|r| Array::new(shape.clone(), r.to_vec())).collect()
}

/// Returns how many failed.
fn encode_images(clip: &Clip, preprocess: &Preprocess, options: &ClipOptions, output: &mut Output) -> Result<usize> {
    if options.image.is_empty() {
        return Ok(0);
    }
    let (mut done, mut found) = (Vec::new(), Vec::new());
    for path in &options.image {
        match read_image(path).and_then(|image| preprocess.apply(&image)) {
            Ok(pixels) => {
                found.extend(rows(&clip.towers().image.encode(&pixels_of(clip, &pixels)?, false)?.image)?);
                done.push(path.display().to_string());
            }
            Err(error) => println!("failed   {}: {error}", path.display()),
        }
    }
    let failed = options.image.len() - done.len();
    output.stack("image", &found)?;
    output.ids.insert("image", done);
    Ok(failed)
}

fn pixels_of(clip: &Clip, pixels: &[f32]) -> Result<Var> {
    let ClipConfig { image_size: size, .. } = *clip.config();
    let gpu = clip.store().gpu();
    let pixels = Tensor::from_slice(gpu, [pixels.len() / (3 * size * size), 3, size, size], pixels)?;
    Ok(Tape::inference(gpu).constant(pixels))
}

/// Returns how many failed.
fn encode_videos(
    clip: &Clip,
    preprocess: Preprocess,
    videos: &[(String, VideoSource)],
    options: &ClipOptions,
    output: &mut Output,
) -> Result<usize> {
    if videos.is_empty() {
        return Ok(0);
    }
    let has_files = videos.iter().any(|(_, source)| matches!(source, VideoSource::File(_)));
    let ffmpeg = has_files.then(Ffmpeg::find).transpose()?;
    let sampling = Sampling { per_second: options.rate, ..Sampling::default() };
    let input = VideoInput { sampling, choice: Choice::Uniform, max_frames: options.frames, preprocess };
    let sources: BTreeMap<&str, &VideoSource> = videos.iter().map(|(id, source)| (id.as_str(), source)).collect();
    if sources.len() < videos.len() {
        return Err(wrong("video", "names a video twice, or two with the same name"));
    }
    let ids: Vec<String> = videos.iter().map(|(id, _)| id.clone()).collect();
    let mut encoded: Vec<Option<VideoRows>> = ids.iter().map(|_| None).collect();
    let (mut bar, mut done) = (Bar::new("videos"), 0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Decoded side by side, encoded one after the other as they come.
    let load = |id: &str| sources[id].load(ffmpeg.as_ref(), &input);
    let failures = load_all(&ids, threads, load, |number, set| {
        encoded[number] = Some(VideoRows::encode(clip, set, options.patches)?);
        done += 1;
        bar.step(done, ids.len() as u64, &ids[number]);
        Ok(())
    })?;
    bar.finish();
    for LoadFailure { id, error } in &failures {
        println!("failed   {id}: {error}");
    }
    let (mut means, mut frames, mut masks, mut patches) = (vec![], vec![], vec![], vec![]);
    for rows in encoded.iter_mut().filter_map(Option::take) {
        means.push(rows.mean);
        frames.push(rows.frames);
        masks.push(rows.mask);
        patches.extend(rows.patches);
    }
    output.stack("video", &means)?;
    output.stack("frames", &frames)?;
    output.stack("mask", &masks)?;
    output.stack("patches", &patches)?;
    let failed: BTreeSet<&str> = failures.iter().map(|failure| failure.id.as_str()).collect();
    output.ids.insert("video", ids.iter().filter(|id| !failed.contains(id.as_str())).cloned().collect());
    Ok(failures.len())
}

/// What is written of a video.
struct VideoRows {
    mean: Array,
    frames: Array,
    mask: Array,
    patches: Option<Array>,
}

impl VideoRows {
    fn encode(clip: &Clip, set: FrameSet, patches: bool) -> Result<Self> {
        let count = set.mask.len();
        let features = clip.towers().image.encode(&pixels_of(clip, &set.pixels)?, patches)?;
        let width = features.image.value().width();
        let frames = features.image.reshape([1, count, width])?;
        let seen = Tensor::from_slice(clip.store().gpu(), [1, count], &set.mask)?;
        // As CLIP4Clip compares it: the mean of the frames' unit vectors.
        let mean = frames.l2_normalize(1e-12)?.masked_mean(Some(&seen))?.l2_normalize(1e-12)?;
        let row = |x: &Var, shape: &[usize]| Array::new(shape, x.value().to_vec()?);
        let patches = features.patches.map(|p| row(&p, &[count * p.shape()[1], width])).transpose()?;
        Ok(Self {
            mean: row(&mean, &[width])?,
            frames: row(&frames, &[count, width])?,
            mask: Array::new([count], set.mask)?,
            patches,
        })
    }
}

#[derive(Deserialize)]
struct Query {
    desc_id: u64,
    desc: String,
}

fn encode_bert(options: &BertOptions, adapter: Option<&str>) -> Result<()> {
    let tokenizer = Tokenizer::open(&options.model)?;
    let (mut videos, mut queries, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(path) = &options.captions {
        for video in read_jsonl(path, &mut Problems::strict())?.videos {
            videos.push((video.id, video.captions.len()));
            texts.extend(video.captions);
        }
    }
    if let Some(path) = &options.queries {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let query: Query =
                serde_json::from_str(line).map_err(|e| Error::malformed(path, format_args!("line {}", i + 1), e))?;
            queries.push(query.desc_id);
            texts.push(query.desc);
        }
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let tokens = tokenizer.encode(&texts, options.words, Padding::Special)?;
    if tokens.truncated > 0 {
        println!("note     {} sentences cut to {} tokens", tokens.truncated, options.words);
    }
    let sentences = Sentences { ids: &tokens.ids, mask: &tokens.mask, token_types: None, length: options.words };
    let gpu: Gpu = common::open_gpu(adapter);
    println!("adapter  {}", gpu.report().line());
    let bert = Bert::open(&gpu, &options.model)?;
    tokenizer.expect_below(bert.config().vocab_size)?;
    if options.captions.is_some() {
        std::fs::create_dir_all(&options.out).map_err(|e| Error::io("create", &options.out, e))?;
        bert.write_bicnet_text(&options.out, &videos, &sentences)?;
    } else {
        bert.write_reloclnet_queries(&options.out, &queries, &sentences)?;
    }
    println!("written  {} sentences to {}", texts.len(), options.out.display());
    Ok(())
}
