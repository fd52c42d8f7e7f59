//! `encode frames`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use reelgrad::data::media::frames::{Choice, Reading, Sampling, Shown};
use reelgrad::data::media::video::{Ffmpeg, Limit, Limits, Selection, Survey};
use reelgrad::{Error, Result};

#[derive(Args)]
pub struct Options {
    /// A video file.
    #[arg(value_name = "VIDEO")]
    video: PathBuf,
    /// All frames shown at so many times a second, counted from the first frame; 0.2 is one in five seconds. Without --rate
    /// and --count, the 12 out of one a second that `encode clip` takes.
    #[arg(long, value_name = "R", conflicts_with = "count", allow_hyphen_values = true)]
    rate: Option<f64>,
    /// The frames shown at so many times, at equal distances from the first frame to the last one.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Writes the pictures that are kept into this folder, named by time and number. It must be new or empty.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Refuses damaged videos, which are otherwise noted.
    #[arg(long)]
    strict: bool,
    /// Leaves anamorphic videos squeezed, as the published loaders do.
    #[arg(long)]
    stored_pixels: bool,
    #[command(flatten)]
    limits: LimitFlags,
}

/// What one video may take.
#[derive(Args)]
pub struct LimitFlags {
    /// Most frames that are taken of a video [default: 4096, and 60 for each second of it].
    #[arg(long, value_name = "N")]
    max_frames: Option<u32>,
    /// Most seconds that reading a video may take [default: 300, 4 for each second of it, and 1 for each MiB].
    #[arg(long, value_name = "S")]
    max_seconds: Option<u32>,
    /// Most pixels of a frame [default: 67108864].
    #[arg(long, value_name = "N")]
    max_pixels: Option<u32>,
    /// Most bytes that the frames taken have together, at three a pixel [default: 4 GiB, and 1 GiB for each second].
    #[arg(long, value_name = "N")]
    max_bytes: Option<u64>,
}

impl LimitFlags {
    /// The defaults, but for what was given.
    pub fn limits(&self) -> Limits {
        let known = Limits::default();
        let fixed = |given: Option<u32>, default| given.map_or(default, |n| Limit::fixed(f64::from(n)));
        Limits {
            frame_pixels: self.max_pixels.map_or(known.frame_pixels, |n| n as usize),
            frames: fixed(self.max_frames, known.frames),
            bytes: self.max_bytes.map_or(known.bytes, |n| Limit::fixed(n as f64)),
            seconds: fixed(self.max_seconds, known.seconds),
        }
    }
}

pub fn list(options: &Options) -> Result<ExitCode> {
    let reading = Reading { strict: options.strict, square_pixels: !options.stored_pixels, ..Reading::OWN };
    let all = |shown| Selection::all(Sampling::Shown(shown), reading);
    let selection = match (options.rate, options.count) {
        (Some(rate), _) => all(Shown::rate(rate)),
        (_, Some(count)) => all(Shown::count(count)),
        _ => Selection { sampling: Sampling::default(), choice: Choice::Uniform, max_frames: 12, reading },
    };
    let ffmpeg = Ffmpeg::find()?.with_limits(options.limits.limits());
    let survey = Survey::of(&ffmpeg, &options.video, &selection, options.out.as_deref())?;
    if options.json {
        let json = serde_json::to_string_pretty(&survey);
        println!("{}", json.map_err(|e| Error::malformed(&options.video, "answer", e))?);
        return Ok(ExitCode::SUCCESS);
    }
    let Survey { width, height, rotation, duration, frames, notes, .. } = &survey;
    let turned = if *rotation == 0 { String::new() } else { format!(", turned by {rotation} degrees") };
    println!("video    {}: {width} x {height}{turned}, {duration:.3} s", options.video.display());
    println!("{:>6}  {:>12}  kept", "frame", "time [s]");
    for (number, frame) in frames.iter().enumerate() {
        let kept = if frame.kept { "yes" } else { "" };
        println!("{number:>6}  {:>12.6}  {kept}", frame.time);
    }
    notes.iter().for_each(|note| println!("note     {note}"));
    if let Some(folder) = &options.out {
        let count = frames.iter().filter(|frame| frame.picture.is_some()).count();
        println!("written  {count} pictures to {}", folder.display());
    }
    Ok(ExitCode::SUCCESS)
}
