//! `encode frames`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use reelgrad::data::media::frames::{Choice, Reading, Sampling, Shown};
use reelgrad::data::media::video::{Ffmpeg, Selection, Survey};
use reelgrad::{Error, Result};

use crate::limits::LimitFlags;

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
        let json = serde_json::to_value(&survey);
        let mut json = json.map_err(|e| Error::malformed(&options.video, "answer", e))?;
        json["schema"] = "reelgrad.frames/1".into();
        answer!("{json:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let Survey { width, height, rotation, duration, frames, notes, .. } = &survey;
    let turned = if *rotation == 0 { String::new() } else { format!(", turned by {rotation} degrees") };
    answer!("video    {}: {width} x {height}{turned}, {duration:.3} s", options.video.display());
    answer!("{:>6}  {:>12}  kept", "frame", "time [s]");
    for (number, frame) in frames.iter().enumerate() {
        let kept = if frame.kept { "yes" } else { "" };
        answer!("{number:>6}  {:>12.6}  {kept}", frame.time);
    }
    notes.iter().for_each(|note| answer!("note     {note}"));
    if let Some(folder) = &options.out {
        let count = frames.iter().filter(|frame| frame.picture.is_some()).count();
        answer!("written  {count} pictures to {}", folder.display());
    }
    Ok(ExitCode::SUCCESS)
}
