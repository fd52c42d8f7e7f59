//! `encode clip`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use reelgrad::data::media::video::Listing;
use reelgrad::retrieval::embed::{ClipEncoder, EmbedOptions, Embeddings, video_at};
use reelgrad::{Error, Gpu, Result};

use crate::common::bar::Bar;

#[derive(Args)]
pub struct Options {
    /// Folder of the model in Hugging Face's layout, with its tokenizer.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// Holds the matrices of affine maps in half precision: half of the memory.
    #[arg(long)]
    half: bool,
    /// A video file or a folder of frames. May be repeated.
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    video: Vec<PathBuf>,
    /// All videos and folders of frames in a folder.
    #[arg(long, value_name = "FOLDER")]
    videos: Option<PathBuf>,
    /// A JPEG or PNG file. May be repeated.
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    image: Vec<PathBuf>,
    /// A sentence. May be repeated.
    #[arg(long, value_name = "SENTENCE", allow_hyphen_values = true)]
    text: Vec<String>,
    /// A file with a sentence in each line.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Frames of a video, at equal distances in time.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = parse_count)]
    frames: usize,
    /// Frames a second out of which these are chosen: those shown at these times. 0.2 is one in five seconds.
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    rate: f64,
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

fn parse_count(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| "must be from 1 to 4096".into())
}

pub fn encode(options: &Options, open_gpu: impl FnOnce() -> Gpu) -> Result<ExitCode> {
    let mut texts = options.text.clone();
    if let Some(path) = &options.texts {
        let lines = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        texts.extend(lines.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from));
    }
    let mut videos: Vec<_> = options.video.iter().map(|path| video_at(path)).collect();
    if let Some(folder) = &options.videos {
        let Listing { videos: found, others } = Listing::of(folder)?;
        if let Some(first) = others.first() {
            println!("note     {} files in {} are no videos, such as {first}", others.len(), folder.display());
        }
        videos.extend(found);
    }
    if texts.is_empty() && videos.is_empty() && options.image.is_empty() {
        return Err(wrong("input", "is empty: give --video, --videos, --image, --text or --texts".into()));
    }
    // Before hours of work, not after them.
    let folder = options.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(wrong("out", format!("is in {}, which is not there", folder.display())));
    }
    let encoder = ClipEncoder::open(&open_gpu(), &options.model, options.half)?;
    let &Options { words, frames, rate, tokens, patches, .. } = options;
    let (wanted, mut out) = (EmbedOptions { words, frames, rate, tokens, patches }, Embeddings::default());
    let cut = encoder.add_texts(&texts, &wanted, &mut out)?;
    if cut > 0 {
        println!("note     {cut} sentences cut to {words} tokens");
    }
    let mut failures = encoder.add_images(&options.image, &mut out)?;
    failures.extend(encoder.add_videos(&videos, &wanted, &mut out, &mut Bar::new("videos"))?);
    out.notes.iter().for_each(|(id, note)| println!("note     {id}: {note}"));
    failures.iter().for_each(|failure| println!("failed   {}: {}", failure.id, failure.error));
    if !out.arrays.is_empty() {
        let beside = out.write(&options.out)?;
        for (name, array) in &out.arrays {
            println!("{name:<8} {:?}", array.shape());
        }
        println!("written  {} and {}", options.out.display(), beside.display());
    }
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed   {} files", failures.len());
    Ok(ExitCode::FAILURE)
}

fn wrong(argument: &'static str, why: String) -> Error {
    Error::Argument { op: "encode", argument, why }
}
