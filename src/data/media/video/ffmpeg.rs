//! Videos through the programs ffmpeg and ffprobe.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command};
use std::time::Duration;

use serde::Deserialize;

use super::child::{Ended, run};
use crate::data::formats::atomic;
use crate::data::media::frames::{Grid, Sampling};
use crate::data::media::pixels::{Image, MAX_PIXELS};
use crate::{Error, Result};

/// Most of ffprobe's answer that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// The containers that are opened, by ffmpeg's names: mp4 and mov, webm and mkv, avi. Others could name further files.
const CONTAINERS: &str = "mov,matroska,avi";

/// What decoding one video may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Most pixels of a frame.
    pub(super) frame_pixels: usize,
    /// Most frames that are taken from one video.
    pub(super) frames: usize,
    /// Most bytes of all frames together where they are kept, as [`Ffmpeg::decode`] does.
    pub(super) bytes: usize,
    /// Longest time from start to end, including what the caller does with the frames.
    pub(super) time: Duration,
}

impl Default for Limits {
    /// 64 Mi pixels, 4096 frames, 4 GiB, 5 minutes.
    fn default() -> Self {
        Self { frame_pixels: MAX_PIXELS, frames: 4096, bytes: 4 << 30, time: Duration::from_secs(300) }
    }
}

/// What a file says about its first video stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoInfo {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Frames a second.
    pub fps: f64,
    /// The length in seconds, where it is known.
    pub duration: Option<f64>,
    /// The number of frames, where it is known.
    pub frames: Option<u64>,
}

/// The programs ffmpeg and ffprobe, run as child processes without a shell: a file that makes them fail, hang or grow
/// ends them, and not this process. They read local files only.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    ffmpeg: PathBuf,
    ffprobe: PathBuf,
    pub(super) limits: Limits,
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

    fn with_programs(ffmpeg: impl Into<PathBuf>, ffprobe: impl Into<PathBuf>) -> Result<Self> {
        let found = Self { ffmpeg: ffmpeg.into(), ffprobe: ffprobe.into(), limits: Limits::default() };
        for program in [&found.ffmpeg, &found.ffprobe] {
            let (_, ended) = answer(Command::new(program).arg("-version"), Duration::from_secs(20))
                .map_err(|source| no_program(program, source))?;
            if !ended.success {
                return Err(no_program(program, io::Error::other(format!("it fails: {}", ended.complaints))));
            }
        }
        Ok(found)
    }

    /// What the file says about its first video stream.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such file; [`Error::Malformed`] for a file without a video stream, of an unknown
    /// frame rate, or with frames beyond the limits; [`Error::NoProgram`].
    pub fn probe(&self, path: impl AsRef<Path>) -> Result<VideoInfo> {
        let path = path.as_ref();
        let mut command = self.reader(&self.ffprobe, path)?;
        command.args(["-select_streams", "v:0", "-of", "json", "-show_entries"]);
        command.arg("stream=width,height,avg_frame_rate,r_frame_rate,nb_frames,duration:format=duration");
        let (json, ended) = answer(&mut command, self.limits.time).map_err(|e| no_program(&self.ffprobe, e))?;
        self.check_end(path, &ended)?;
        let bad = |place: &str, problem: &dyn std::fmt::Display| Error::malformed(path, place, problem);
        let found: Probe = serde_json::from_slice(&json).map_err(|e| bad("ffprobe's answer", &e))?;
        let stream = found.streams.first().ok_or_else(|| bad("streams", &"there is no video among them"))?;
        let (width, height) = (stream.width, stream.height);
        let pixels = width.checked_mul(height).filter(|&pixels| pixels > 0 && pixels <= self.limits.frame_pixels);
        if pixels.is_none() {
            let limit = self.limits.frame_pixels;
            return Err(bad("frame size", &format_args!("{width} x {height} is not within 1 to {limit} pixels")));
        }
        let rates = [&stream.avg_frame_rate, &stream.r_frame_rate];
        let fps = rates.into_iter().find_map(|rate| ratio(rate)).ok_or_else(|| bad("frame rate", &"is unknown"))?;
        let durations = [&stream.duration, &found.format.duration];
        let duration = durations.into_iter().find_map(|text| text.parse().ok()).filter(|d: &f64| *d >= 0.0);
        Ok(VideoInfo { width, height, fps, duration, frames: stream.nb_frames.parse().ok().filter(|&n| n > 0) })
    }

    /// The sampled frames, at their own size.
    ///
    /// # Errors
    /// As [`Ffmpeg::decode_each`]; [`Error::Malformed`] when they take more bytes than the limit.
    pub fn decode(&self, path: impl AsRef<Path>, sampling: &Sampling) -> Result<Vec<Image>> {
        let path = path.as_ref();
        let (mut images, mut bytes) = (Vec::new(), 0);
        self.decode_each(path, sampling, |image| {
            bytes += image.rgb().len();
            if bytes > self.limits.bytes {
                let problem = format!("the frames take more than {} bytes", self.limits.bytes);
                return Err(Error::malformed(path, "frames", problem));
            }
            images.push(image);
            Ok(())
        })?;
        Ok(images)
    }

    /// Hands the sampled frames to `take` one after the other, at their own size, and says how many they were. A file
    /// that is found to be damaged gives an error at its end, after its whole frames.
    ///
    /// # Errors
    /// As [`Ffmpeg::probe`]; [`Error::Argument`] for a sampling that does not fit the frame rate; [`Error::Malformed`]
    /// when there is no frame, when decoding fails, breaks off or takes too long, or for more frames than the limit;
    /// errors of `take`.
    pub fn decode_each(
        &self,
        path: impl AsRef<Path>,
        sampling: &Sampling,
        mut take: impl FnMut(Image) -> Result<()>,
    ) -> Result<usize> {
        let path = path.as_ref();
        let info = self.probe(path)?;
        let grid = sampling.grid(info.fps)?;
        let mut command = self.reader(&self.ffmpeg, path)?;
        // Frame k gets the time k s: then a constant rate of 1, which every version has, neither drops nor repeats any.
        let filter = format!("select='{}',setpts=N/TB", selection(&grid));
        let most =
            self.limits.frames.saturating_add(1).min(grid.end.map_or(usize::MAX, |end| grid.count(end) as usize));
        command.args(["-map", "0:v:0", "-vf", &filter, "-r", "1", "-frames:v", &most.to_string()]);
        command.args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]);
        let bad = |place: &str, problem: &dyn std::fmt::Display| Error::malformed(path, place, problem);
        let mut count = 0;
        let read = |stdout: &mut ChildStdout| -> Result<()> {
            let mut stdout = BufReader::with_capacity(1 << 16, stdout);
            while let Some(image) = read_ppm(&mut stdout, self.limits.frame_pixels).map_err(|e| bad("frames", &e))? {
                count += 1;
                if count > self.limits.frames {
                    let limit = self.limits.frames;
                    return Err(bad("frames", &format_args!("more than {limit} are sampled; sample fewer")));
                }
                take(image)?;
            }
            Ok(())
        };
        let (taken, ended) =
            run(&mut command, self.limits.time, |_| Ok(()), read).map_err(|e| no_program(&self.ffmpeg, e))?;
        if ended.late {
            self.check_end(path, &ended)?;
        }
        taken?;
        self.check_end(path, &ended)?;
        let complaints = if ended.complaints.is_empty() { "no complaint" } else { &ended.complaints };
        if count == 0 {
            return Err(bad("frames", &format_args!("there are none ({complaints})")));
        }
        // Containers that count their frames are believed but for two seconds; the rest if the decoder complains too.
        let estimated = info.duration.map_or(0, |seconds| (seconds * info.fps) as u64);
        let promised = grid.count(info.frames.unwrap_or(estimated));
        let missing = promised.saturating_sub(count as u64);
        let complained = missing > 0 && !ended.complaints.is_empty();
        if complained || (info.frames.is_some() && missing > 2 * grid.per_second) {
            return Err(bad("frames", &format_args!("they end after {count} of {promised} ({complaints})")));
        }
        Ok(count)
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
        let (encoders, _) = answer(command.args(["-hide_banner", "-encoders"]), self.limits.time)
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
            let (_, ended) = run(&mut command, self.limits.time, feed, |_| Ok::<(), io::Error>(()))?;
            let problem = if ended.late { "it takes too long" } else { &ended.complaints };
            if ended.success { Ok(()) } else { Err(io::Error::other(format!("ffmpeg fails: {problem}"))) }
        })
    }

    /// `program` with `path` as its input, restricted to what such a file needs.
    fn reader(&self, program: &Path, path: &Path) -> Result<Command> {
        // ffmpeg's own message would not name the reason; and an absolute path is never taken for an option.
        std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
        let mut command = Command::new(program);
        if program == self.ffmpeg {
            command.arg("-nostdin");
        }
        command.args(["-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file,pipe"]);
        // ffmpeg counts rows with their padding, so its own limit is wider; `probe` and `read_ppm` hold to the exact one.
        let padded = self.limits.frame_pixels.saturating_mul(2).clamp(1 << 20, i32::MAX as usize);
        command.args(["-format_whitelist", CONTAINERS, "-max_pixels", &padded.to_string()]);
        command.args([OsStr::new("-i"), absolute.as_os_str()]);
        Ok(command)
    }

    fn check_end(&self, path: &Path, ended: &Ended) -> Result<()> {
        if ended.late {
            let seconds = self.limits.time.as_secs_f64();
            return Err(Error::malformed(path, "decoding", format_args!("not done within {seconds} s")));
        }
        if !ended.success {
            return Err(Error::malformed(path, "decoding", &ended.complaints));
        }
        Ok(())
    }
}

fn no_program(program: &Path, source: io::Error) -> Error {
    Error::NoProgram { program: program.to_path_buf(), source }
}

/// Runs a program that answers briefly.
fn answer(command: &mut Command, limit: Duration) -> io::Result<(Vec<u8>, Ended)> {
    let read = |stdout: &mut ChildStdout| {
        let mut bytes = Vec::new();
        stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes).map(|_| bytes)
    };
    let (bytes, ended) = run(command, limit, |_| Ok(()), read)?;
    Ok((bytes?, ended))
}

/// The frames of `grid` as an expression of ffmpeg's filter `select`.
fn selection(grid: &Grid) -> String {
    let Grid { second, step, per_second, first, .. } = grid;
    let end = grid.end.map_or(String::new(), |end| format!("*lt(n,{end})"));
    format!("gte(n,{first}){end}*lt(mod(n,{second}),{})*not(mod(mod(n,{second}),{step}))", step * per_second)
}

/// The next picture of a stream of binary PPM files of 8 bits, or none at its end.
fn read_ppm(stream: &mut impl BufRead, max_pixels: usize) -> io::Result<Option<Image>> {
    let bad = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
    if stream.fill_buf()?.is_empty() {
        return Ok(None);
    }
    // Three lines: P6, the size, and the largest value.
    let mut header = Vec::new();
    for _ in 0..3 {
        stream.take(32).read_until(b'\n', &mut header)?;
    }
    let header = String::from_utf8_lossy(&header);
    let words: Vec<&str> = header.split_ascii_whitespace().collect();
    let ["P6", width, height, "255"] = words[..] else {
        return Err(bad(format!("the decoder sends {header:?} for a picture")));
    };
    let sides = width.parse::<usize>().ok().zip(height.parse::<usize>().ok());
    let size = sides.and_then(|(w, h)| w.checked_mul(h)).filter(|&pixels| pixels <= max_pixels);
    let (Some((width, height)), Some(pixels)) = (sides, size) else {
        return Err(bad(format!("a frame of {width} x {height} pixels exceeds the limit of {max_pixels}")));
    };
    let mut rgb = vec![0; pixels * 3];
    stream.read_exact(&mut rgb).map_err(|e| bad(format!("the last frame is cut: {e}")))?;
    Image::new(width, height, rgb).map(Some).map_err(|e| bad(e.to_string()))
}

/// The value of a text such as `30000/1001`, if it is a positive number.
fn ratio(text: &str) -> Option<f64> {
    let (numerator, denominator) = text.split_once('/')?;
    let ratio = numerator.parse::<f64>().ok()? / denominator.parse::<f64>().ok()?;
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

/// What ffprobe answers; it leaves out what it does not know.
#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Stream {
    width: usize,
    height: usize,
    avg_frame_rate: String,
    r_frame_rate: String,
    nb_frames: String,
    duration: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Format {
    duration: String,
}
