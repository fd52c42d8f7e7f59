//! What a model would see of a video.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ffmpeg::Ffmpeg;
use super::read::{Frames, Selection};
use crate::data::media::pixels::Image;
use crate::{Error, Result};

/// The frames of a video that a model would see, and what is to be known of the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Survey {
    /// The file.
    pub path: PathBuf,
    /// Pixels in a row of the first frame that is kept, upright, and with square pixels if these were asked for.
    pub width: usize,
    /// Its rows.
    pub height: usize,
    /// Degrees by which frames were turned clockwise.
    pub rotation: u32,
    /// Seconds from the begin of the first frame to the end of the last one.
    pub duration: f64,
    /// The sampled frames, ascending.
    pub frames: Vec<SurveyedFrame>,
    /// What is wrong with the file, in words.
    pub notes: Vec<String>,
}

/// A frame that was sampled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SurveyedFrame {
    /// When it is shown: its presentation time in seconds, as ffprobe prints it.
    pub time: f64,
    /// Whether it is among those that the model takes.
    pub kept: bool,
    /// Its picture, if pictures were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<PathBuf>,
}

impl Survey {
    /// Reads the frames of `selection`, and writes those that are kept into the folder `out` as PNG files, named by time and
    /// number: `t000012.345_0007.png`. The folder is made, and may hold nothing. As they end in a number, it can be read as
    /// a folder of frames.
    ///
    /// # Errors
    /// As [`Ffmpeg::read`]; [`Error::Argument`] for a folder that holds something; [`Error::Io`].
    pub fn of(ffmpeg: &Ffmpeg, path: impl AsRef<Path>, selection: &Selection, out: Option<&Path>) -> Result<Self> {
        let path = path.as_ref();
        let Some(folder) = out else {
            let found = ffmpeg.read(path, selection, |_, image| Ok((size(&image), None)))?;
            return Ok(Self::new(path, found));
        };
        fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        if fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?.next().is_some() {
            let why = format!("names the folder {}, which holds something; name a new one", folder.display());
            return Err(Error::argument("Survey::of", "out", why));
        }
        let mut written = Vec::new();
        let found = ffmpeg.read(path, selection, |_, image| {
            let file = folder.join(format!(".{}.png", written.len()));
            written.push(file.clone());
            write_png(&file, &image)?;
            Ok((size(&image), Some(file)))
        });
        let named = found.and_then(|mut found| {
            for (number, (time, (_, file))) in found.kept.iter_mut().enumerate() {
                let name = folder.join(format!("t{time:010.3}_{:04}.png", number + 1));
                if let Some(file) = file {
                    fs::rename(&file, &name).map_err(|e| Error::io("rename", &file, e))?;
                    *file = name;
                }
            }
            Ok(Self::new(path, found))
        });
        // What an error, or a damaged video's first choice, has left.
        written.iter().for_each(|file| drop(fs::remove_file(file)));
        named
    }

    fn new(path: &Path, found: Frames<((usize, usize), Option<PathBuf>)>) -> Self {
        let (width, height) = found.kept.first().map_or((0, 0), |(_, (size, _))| *size);
        let mut kept = found.kept.into_iter().peekable();
        let mut frame = |time| {
            let own = kept.next_if(|(at, _)| *at == time);
            SurveyedFrame { time: micros(time), kept: own.is_some(), picture: own.and_then(|(_, (_, file))| file) }
        };
        Self {
            path: path.to_path_buf(),
            width,
            height,
            rotation: found.info.rotation,
            duration: micros(found.duration),
            frames: found.sampled.into_iter().map(&mut frame).collect(),
            notes: found.notes.iter().map(ToString::to_string).collect(),
        }
    }
}

fn size(image: &Image) -> (usize, usize) {
    (image.width(), image.height())
}

/// With six digits, as ffprobe prints times.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

#[cfg(feature = "images")]
fn write_png(path: &Path, image: &Image) -> Result<()> {
    let (width, height) = (image.width() as u32, image.height() as u32);
    image::save_buffer(path, image.rgb(), width, height, image::ColorType::Rgb8)
        .map_err(|e| Error::io("write", path, std::io::Error::other(e)))
}

#[cfg(not(feature = "images"))]
fn write_png(path: &Path, _: &Image) -> Result<()> {
    Err(Error::malformed(path, "picture", "writing it needs the crate's feature `images`"))
}
