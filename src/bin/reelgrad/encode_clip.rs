//! `encode clip`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use reelgrad::data::media::frames::Reading;
use reelgrad::models::clip::Pretrained;
use reelgrad::models::text_image::{OpenOptions, TextImageModel};
use reelgrad::retrieval::embed::{ClipEncoder, EmbedHooks, EmbedOptions, EmbedRun, Inputs};
use reelgrad::{Error, Gpu, Result};

use crate::bar::Bar;
use crate::limits::LimitFlags;
use crate::program::stop_on_ctrl_c;

#[derive(Args)]
pub struct Options {
    /// Folder of the model, in Hugging Face's layout or in open_clip's, with its tokenizer: a CLIP, SigLIP, SigLIP 2 or
    /// Chinese-CLIP. Or a file of weights.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Of weights without a configuration, their architecture by open_clip's name, such as ViT-B-32.
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
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
    /// Tokens of a sentence, where the model leaves a choice [default: 32, or the model's positions if these are fewer].
    #[arg(long, value_name = "N")]
    words: Option<usize>,
    /// The features of every patch of videos, too.
    #[arg(long)]
    patches: bool,
    /// The features of every token, too: "words", and "word_mask" with a 1 for each token.
    #[arg(long)]
    tokens: bool,
    /// A .safetensors file, or a folder for .npy files; beside them ids.json names the rows. It must not be there yet.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Counts damaged videos as failed; otherwise what of them can be decoded is used, with a note.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    limits: LimitFlags,
    /// Goes on with a run that was interrupted, with the same arguments.
    #[arg(long)]
    resume: bool,
}

fn parse_count(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| "must be from 1 to 4096".into())
}

pub fn encode(options: &Options, open_gpu: impl FnOnce() -> Gpu) -> Result<ExitCode> {
    let mut inputs = Inputs { texts: options.text.clone(), images: options.image.clone(), ..Inputs::default() };
    options.texts.iter().try_for_each(|path| inputs.add_text_file(path))?;
    options.video.iter().for_each(|path| inputs.add_video(path));
    options.videos.iter().try_for_each(|folder| inputs.add_folder(folder))?;
    // Before the minutes that a model takes, and the hours that files do.
    let config = Pretrained::configuration(&options.model, options.architecture.as_deref())?;
    let words = options.words.or(Some(config.positions.min(32)));
    let &Options { frames, rate, tokens, patches, strict, .. } = options;
    let wanted = EmbedOptions { words, frames, rate, tokens, patches, reading: Reading { strict, ..Reading::OWN } };
    wanted.check(&config)?;
    let run = EmbedRun::new(inputs, wanted, &options.model, &options.out, options.resume)?;
    let run = run.with_limits(options.limits.limits());
    let how = OpenOptions { half: options.half, architecture: options.architecture.as_deref() };
    eprintln!("loading  {}", options.model.display());
    let model = TextImageModel::open_with(&open_gpu(), &options.model, how)?;
    eprintln!("model    {}", model.description());
    model.notes().iter().for_each(|note| eprintln!("note     {note}"));
    let mut hooks = EmbedHooks { progress: &mut Bar::new("files"), stop: stop_on_ctrl_c() };
    let (summary, out, beside) = match run.run(&ClipEncoder::new(model), &mut hooks) {
        Err(Error::Interrupted { saved: Some(work) }) => {
            eprintln!("stopped  what is done lies in {}; the same command with --resume goes on", work.display());
            return Ok(ExitCode::from(130));
        }
        other => other?,
    };
    summary.cut.iter().for_each(|text| eprintln!("cut      {text:?}"));
    summary.notes.iter().for_each(|(id, note)| eprintln!("note     {id}: {note}"));
    summary.failed.iter().for_each(|failure| eprintln!("failed   {failure}"));
    for (name, array) in &out.arrays {
        answer!("{name:<8} {:?}", array.shape());
    }
    if let Some(ids) = beside {
        answer!("written  {} and {}", options.out.display(), ids.display());
    }
    eprintln!("{}", summary.line());
    Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
