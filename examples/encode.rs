//! Videos, pictures and sentences to embeddings.
//!
//! ```text
//! cargo run --release --features full --example encode -- clip --model clip-vit-base-patch32 \
//!     --videos videos --text "a red square moves left" --out embeddings.safetensors
//! cargo run --release --features full --example encode -- bert --model bert-base-uncased --captions train.jsonl --out features
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use reelgrad::autograd::{Tape, Var};
use reelgrad::data::captions::read_jsonl;
use reelgrad::data::frames::{Choice, FrameSet, Sampling, read_image};
use reelgrad::data::moments::Problems;
use reelgrad::data::pixels::Preprocess;
use reelgrad::data::tokenizer::{Cleaning, Padding, Tokenizer};
use reelgrad::data::video::{EXTENSIONS, Ffmpeg, VideoInput, VideoSource};
use reelgrad::data::{atomic, npy, safetensors};
use reelgrad::gpu::Gpu;
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
    /// Embeddings of one space, by CLIP's towers, before they are brought to unit length.
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
    #[arg(long, value_name = "N", default_value_t = 12)]
    frames: usize,
    /// Frames of a second that are read before.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rate: u32,
    /// Tokens of a sentence.
    #[arg(long, value_name = "N", default_value_t = 32)]
    words: usize,
    /// The features of every patch, too.
    #[arg(long)]
    patches: bool,
    /// The features of every token, too.
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
            std::fs::create_dir_all(path).map_err(|source| Error::Io {
                action: "create",
                path: path.into(),
                source,
            })?;
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
        let lines =
            std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.clone(), source })?;
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
    let tokenizer = Tokenizer::open(&options.model)?.with_cleaning(Cleaning::Official);
    let processor = options.model.join("preprocessor_config.json");
    let gpu = common::open_gpu(adapter);
    println!("adapter  {}", gpu.report().line());
    let clip =
        if options.half { Clip::open_half(&gpu, &options.model)? } else { Clip::open(&gpu, &options.model, |_| true)? };
    let config = clip.config();
    tokenizer.expect_below(config.vocabulary)?;
    let preprocess =
        if processor.is_file() { Preprocess::from_json(processor)? } else { Preprocess::clip(config.image_size) };
    let (mut output, mut failed) = (Output::default(), 0);
    encode_texts(&clip, &tokenizer, &texts, options, &mut output)?;
    failed += encode_images(&clip, &preprocess, options, &mut output)?;
    failed += encode_videos(&clip, preprocess, &videos, options, &mut output)?;
    output.write(&options.out)?;
    if failed > 0 {
        println!("failed   {failed} files");
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Videos and folders, by name.
fn in_folder(folder: &Path) -> Result<Vec<(String, VideoSource)>> {
    let failed = |source| Error::Io { action: "list", path: folder.into(), source };
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

fn encode_texts(
    clip: &Clip,
    tokenizer: &Tokenizer,
    texts: &[String],
    options: &ClipOptions,
    output: &mut Output,
) -> Result<()> {
    let (mut sentences, mut words, mut cut) = (Vec::new(), Vec::new(), 0);
    for chunk in texts.chunks(TEXTS) {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let tokens = tokenizer.encode(&chunk, options.words, Padding::Zero)?;
        cut += tokens.truncated;
        let tape = Tape::inference(clip.store().gpu());
        let features = clip.towers().text.encode(&tape, &tokens.ids, options.words, None, options.tokens)?;
        sentences.extend(rows(&features.sentence)?);
        words.extend(features.words.iter().map(rows).collect::<Result<Vec<_>>>()?.concat());
    }
    if cut > 0 {
        println!("note     {cut} sentences cut to {} tokens", options.words);
    }
    output.ids.insert("text", texts.to_vec());
    output.stack("text", &sentences)?;
    output.stack("words", &words)
}

/// The rows of a variable along its first dimension.
fn rows(x: &Var) -> Result<Vec<Array>> {
    let shape = x.shape()[1..].to_vec();
    let data = x.value().to_vec()?;
    data.chunks_exact(shape.iter().product::<usize>().max(1)).map(|r| Array::new(shape.clone(), r.to_vec())).collect()
}

/// Returns how many failed.
fn encode_images(clip: &Clip, preprocess: &Preprocess, options: &ClipOptions, output: &mut Output) -> Result<usize> {
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
    let ffmpeg = Ffmpeg::find()?;
    let sampling = Sampling { per_second: options.rate, ..Sampling::default() };
    let input = VideoInput { sampling, choice: Choice::Uniform, max_frames: options.frames, preprocess };
    let mut bar = Bar::new("videos");
    let (mut done, mut means, mut frames, mut masks, mut patches) = (vec![], vec![], vec![], vec![], vec![]);
    for (i, (id, source)) in videos.iter().enumerate() {
        match source.load(&ffmpeg, &input) {
            Ok(FrameSet { pixels, mask, .. }) => {
                let features = clip.towers().image.encode(&pixels_of(clip, &pixels)?, options.patches)?;
                let width = features.image.value().width();
                let by_video = features.image.reshape([1, options.frames, width])?;
                let seen = Tensor::from_slice(clip.store().gpu(), [1, options.frames], &mask)?;
                // As CLIP4Clip compares it: the mean of the frames' unit vectors.
                let mean = by_video.l2_normalize(1e-12)?.masked_mean(Some(&seen))?.l2_normalize(1e-12)?;
                means.extend(rows(&mean)?);
                frames.extend(rows(&by_video)?);
                masks.push(Array::new([options.frames], mask)?);
                if let Some(p) = &features.patches {
                    let count = options.frames * p.shape()[1];
                    patches.extend(rows(&p.reshape([1, count, width])?)?);
                }
                done.push(id.clone());
            }
            Err(error) => bar.printer()(&format!("failed   {id}: {error}")),
        }
        bar.step(i as u64 + 1, videos.len() as u64, id);
    }
    bar.finish();
    let failed = videos.len() - done.len();
    output.stack("video", &means)?;
    output.stack("frames", &frames)?;
    output.stack("mask", &masks)?;
    output.stack("patches", &patches)?;
    output.ids.insert("video", done);
    Ok(failed)
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
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.clone(), source })?;
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let query: Query = serde_json::from_str(line).map_err(|e| Error::Malformed {
                path: path.clone(),
                place: format!("line {}", i + 1),
                problem: e.to_string(),
            })?;
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
        std::fs::create_dir_all(&options.out).map_err(|source| Error::Io {
            action: "create",
            path: options.out.clone(),
            source,
        })?;
        bert.write_bicnet_text(&options.out, &videos, &sentences)?;
    } else {
        bert.write_reloclnet_queries(&options.out, &queries, &sentences)?;
    }
    println!("written  {} sentences to {}", texts.len(), options.out.display());
    Ok(())
}
