//! The programs ffmpeg and ffprobe, and what they may take.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command};
use std::time::Duration;

use super::child::{Ended, run, tail};
use crate::data::formats::atomic;
use crate::data::media::pixels::{Image, MAX_PIXELS};
use crate::data::media::regular_file;
use crate::{Error, Result};

/// Most of ffprobe's answer that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// The containers that are opened, by ffmpeg's names; the content decides. Others, playlists among them, could name
/// further files or addresses.
const CONTAINERS: &str = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif,apng";

/// A limit that grows with the video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// What any video may take.
    pub base: f64,
    /// What is added for each second of it.
    pub per_second: f64,
}

impl Limit {
    /// The same for every video.
    pub const fn fixed(base: f64) -> Self {
        Self { base, per_second: 0.0 }
    }

    /// The limit for a video of `seconds`.
    pub fn of(&self, seconds: f64) -> f64 {
        self.base + self.per_second * seconds.max(0.0)
    }
}

/// What reading one video may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Most pixels of a frame.
    pub frame_pixels: usize,
    /// Most frames that are taken.
    pub frames: Limit,
    /// Most bytes that these have together, before they are made smaller.
    pub bytes: Limit,
    /// Longest time in seconds from start to end, including what the caller does with the frames; a second is added for
    /// each MiB of the file.
    pub seconds: Limit,
}

impl Default for Limits {
    /// 64 Mi pixels; 4096 frames and 60 for each second; 4 GiB and 1 GiB for each second; 300 s and 4 s for each second.
    fn default() -> Self {
        const GIB: f64 = (1u64 << 30) as f64;
        Self {
            frame_pixels: MAX_PIXELS,
            frames: Limit { base: 4096.0, per_second: 60.0 },
            bytes: Limit { base: 4.0 * GIB, per_second: GIB },
            seconds: Limit { base: 300.0, per_second: 4.0 },
        }
    }
}

impl Limits {
    /// The time for a video of `seconds`.
    pub(super) fn time(&self, seconds: f64) -> Duration {
        // A year stands for endless.
        Duration::from_secs_f64(self.seconds.of(seconds).clamp(0.0, 3e7))
    }
}

/// The programs ffmpeg and ffprobe, run as child processes without a shell: a file that makes them fail, hang or grow
/// ends them, and not this process. They read local files only. Version 4.4 or newer.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    pub(super) ffmpeg: PathBuf,
    pub(super) ffprobe: PathBuf,
    pub(super) limits: Limits,
    /// Major and minor version; the highest where it is not told.
    pub(super) version: (u32, u32),
}

impl Ffmpeg {
    /// Finds the programs where the system looks for programs.
    ///
    /// # Errors
    /// [`Error::NoProgram`], which says how to install them.
    pub fn find() -> Result<Self> {
        Self::with_programs("ffmpeg", "ffprobe")
    }

    /// Takes the programs from a folder.
    ///
    /// # Errors
    /// [`Error::NoProgram`].
    pub fn in_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let name = |program: &str| folder.as_ref().join(format!("{program}{}", std::env::consts::EXE_SUFFIX));
        Self::with_programs(name("ffmpeg"), name("ffprobe"))
    }

    /// The same programs within other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    fn with_programs(ffmpeg: impl Into<PathBuf>, ffprobe: impl Into<PathBuf>) -> Result<Self> {
        let (ffmpeg, ffprobe) = (ffmpeg.into(), ffprobe.into());
        let mut version = (u32::MAX, u32::MAX);
        for program in [&ffprobe, &ffmpeg] {
            let (text, ended) = answer(Command::new(program).arg("-version"), Duration::from_secs(20))
                .map_err(|source| no_program(program, source))?;
            if !ended.success {
                return Err(no_program(program, io::Error::other(format!("it fails: {}", ended.heard))));
            }
            version = version_of(&String::from_utf8_lossy(&text)).unwrap_or(version);
        }
        Ok(Self { ffmpeg, ffprobe, limits: Limits::default(), version })
    }

    /// Writes `images`, all of one size, as an mp4 of `fps` frames a second, atomically.
    ///
    /// With the encoder libx264rgb, which most builds of ffmpeg have, frames decode to the very same bytes. Otherwise it is
    /// MPEG-4 at its best quality, which keeps every second pixel of colour: on two test pictures its bytes were off by 1
    /// to 2 levels in the mean, and by 44 at worst.
    ///
    /// # Errors
    /// [`Error::Argument`] without an image, and for an `fps` outside 1 to 1000; [`Error::Shape`] for images of several
    /// sizes; [`Error::Io`] when encoding fails; [`Error::NoProgram`].
    pub fn encode(&self, path: impl AsRef<Path>, images: &[Image], fps: u32) -> Result<()> {
        let path = path.as_ref();
        let bad = |argument, why: &str| Error::argument("Ffmpeg::encode", argument, why);
        let Some(first) = images.first() else { return Err(bad("images", "are none")) };
        if !(1..=1000).contains(&fps) {
            return Err(bad("fps", "must be from 1 to 1000"));
        }
        let (width, height) = (first.width(), first.height());
        if let Some(other) = images.iter().find(|image| (image.width(), image.height()) != (width, height)) {
            let (expected, got) = (format!("[{height}, {width}, 3]"), vec![other.height(), other.width(), 3]);
            return Err(Error::Shape { op: "Ffmpeg::encode", argument: "images", expected, got });
        }
        let mut command = Command::new(&self.ffmpeg);
        let (encoders, _) = answer(command.args(["-hide_banner", "-encoders"]), self.limits.time(images.len() as f64))
            .map_err(|e| no_program(&self.ffmpeg, e))?;
        let lossless = String::from_utf8_lossy(&encoders).contains(" libx264rgb ");
        let encoder: &[&str] = if lossless {
            &["-c:v", "libx264rgb", "-preset", "veryfast", "-qp", "0"]
        } else {
            &["-c:v", "mpeg4", "-q:v", "1", "-qmin", "1", "-pix_fmt", "yuv420p"]
        };
        atomic::write_by(path, |temporary| {
            let mut command = Command::new(&self.ffmpeg);
            command.args(["-hide_banner", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]);
            command.args(["-s", &format!("{width}x{height}"), "-r", &fps.to_string(), "-i", "pipe:0"]);
            command.args(encoder).args(["-f", "mp4"]).arg(std::path::absolute(temporary)?);
            let feed = |stdin: &mut ChildStdin| images.iter().try_for_each(|i| stdin.write_all(i.rgb()));
            let (_, ended) =
                run(&mut command, self.limits.time(images.len() as f64), feed, tail, |_| Ok::<(), io::Error>(()))?;
            let problem = if ended.late { "it takes too long" } else { &ended.heard };
            if ended.success { Ok(()) } else { Err(io::Error::other(format!("ffmpeg fails: {problem}"))) }
        })
    }

    /// Writes what is shown of the video `path` from `start` to `end`, which are presentation times in seconds, as the mp4
    /// `out`, atomically; with its sound, where it has one.
    ///
    /// # Errors
    /// [`Error::Argument`] for an end before the start; [`Error::Malformed`] for what is no regular file; [`Error::Io`]
    /// when ffmpeg fails; [`Error::NoProgram`].
    pub fn cut(&self, path: impl AsRef<Path>, start: f64, end: f64, out: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if !(start.is_finite() && end > start && end < 1e9) {
            let why = format!("of {end} s is not after the start of {start} s");
            return Err(Error::argument("Ffmpeg::cut", "end", why));
        }
        let (from, length) = (start.to_string(), (end - start).to_string());
        let options = ["-y", "-seek_timestamp", "1", "-ss", &from, "-t", &length];
        let mut command = self.reader(&self.ffmpeg, "error", &options, path)?;
        atomic::write_by(out.as_ref(), |temporary| {
            command.args(["-map", "0:V:0", "-map", "0:a:0?", "-pix_fmt", "yuv420p"]);
            // Players want an even number of pixels.
            command.args(["-vf", "crop=trunc(iw/2)*2:trunc(ih/2)*2", "-avoid_negative_ts", "make_zero"]);
            command.args(["-f", "mp4"]).arg(std::path::absolute(temporary)?);
            let (_, ended) = answer(&mut command, self.limits.time(end - start))?;
            let problem = if ended.late { "it takes too long" } else { &ended.heard };
            if ended.success { Ok(()) } else { Err(io::Error::other(format!("ffmpeg fails: {problem}"))) }
        })
    }

    /// `program`, which tells what is of `level`, with `options` and `path` as its input, restricted to what such a file
    /// needs.
    pub(super) fn reader(&self, program: &Path, level: &str, options: &[&str], path: &Path) -> Result<Command> {
        regular_file(path)?;
        // ffmpeg's own message would not name the reason; and an absolute path is never taken for an option.
        std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
        let mut command = Command::new(program);
        if program == self.ffmpeg {
            command.args(["-nostdin", "-nostats", "-copyts"]);
        }
        command.args(["-hide_banner", "-loglevel", level, "-protocol_whitelist", "file,pipe"]);
        // ffmpeg counts rows with their padding, so its own limit is wider; the readers hold to the exact one.
        let padded = self.limits.frame_pixels.saturating_mul(2).clamp(1 << 20, i32::MAX as usize);
        command.args(["-format_whitelist", CONTAINERS, "-max_pixels", &padded.to_string()]);
        command.args(options).args([OsStr::new("-i"), absolute.as_os_str()]);
        Ok(command)
    }
}

pub(super) fn no_program(program: &Path, source: io::Error) -> Error {
    Error::NoProgram { program: program.to_path_buf(), source }
}

/// The error of a program whose time was over.
pub(super) fn late(path: &Path, limit: Duration) -> Error {
    let problem = format!("not done within {:.0} s; allow more seconds for a video", limit.as_secs_f64().ceil());
    Error::malformed(path, "decoding", problem)
}

/// Runs a program that answers briefly.
pub(super) fn answer(command: &mut Command, limit: Duration) -> io::Result<(Vec<u8>, Ended)> {
    let read = |stdout: &mut ChildStdout| {
        let mut bytes = Vec::new();
        stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes).map(|_| bytes)
    };
    let (bytes, ended) = run(command, limit, |_| Ok(()), tail, read)?;
    Ok((bytes?, ended))
}

/// The version in `ffmpeg version 5.1.9-0+deb12u1`; builds between versions have none.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let word = text.split_ascii_whitespace().nth(2)?.trim_start_matches('n');
    let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().ok());
    Some((numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, version) in [
            ("ffmpeg version 5.1.9-0+deb12u1 Copyright", Some((5, 1))),
            ("ffmpeg version n7.1 Copyright", Some((7, 1))),
            ("ffmpeg version 8 Copyright", Some((8, 0))),
            ("ffmpeg version N-109468-gd39b34123d Copyright", None),
            ("", None),
        ] {
            assert_eq!(version_of(text), version, "{text}");
        }
    }
}
