//! The chosen frames of a video, with the times at which they are shown.
//!
//! The list of packets, which costs no decoding, says which frames would be shown at the times that are asked for. These
//! are then decoded, and while it decodes ffmpeg tells the time of every frame that it really has. Where that list chooses
//! others (damage, frames that cannot be decoded, containers that do not know the times), they are fetched in another pass.
//! So what is handed out always follows from the decoder's own times; and only what is handed out is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::child::run;
use super::ffmpeg::{Ffmpeg, late, no_program};
use super::probe::{MAX_LISTED, Packets, VideoInfo, expect_undisturbed, too_many, without_address};
use crate::data::media::frames::{Choice, Note, Reading, Sampling, Timeline};
use crate::data::media::pixels::Image;
use crate::{Error, Result};

/// How often frames are decoded at most until the decoder's times choose no others. A file needs one pass, a damaged one
/// two; more are needed only if the decoder gives other frames each time.
const PASSES: usize = 4;

/// Longest choice of frames that is handed over as an argument.
const ARGUMENT_BYTES: usize = 8000;

/// Which frames of a video are read, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// Which frames are read.
    pub sampling: Sampling,
    /// Which of them are kept.
    pub choice: Choice,
    /// How many are kept at most.
    pub max_frames: usize,
    /// How they are read.
    pub reading: Reading,
}

impl Selection {
    /// Every frame of `sampling`.
    pub fn all(sampling: Sampling, reading: Reading) -> Self {
        Self { sampling, choice: Choice::Head, max_frames: usize::MAX, reading }
    }
}

/// What was read of a video.
#[derive(Clone, Debug)]
pub struct Frames<T> {
    /// What the file says of itself.
    pub info: VideoInfo,
    /// Seconds from the begin of the first frame to the end of the last one.
    pub duration: f64,
    /// The presentation times of all sampled frames, in seconds, as ffprobe prints them: the first frame need not be at 0.
    pub sampled: Vec<f64>,
    /// Those that were kept, with what became of them; ascending, none twice.
    pub kept: Vec<(f64, T)>,
    /// What is wrong with the file.
    pub notes: Vec<Note>,
}

impl Ffmpeg {
    /// Hands the chosen frames to `take` one after the other, upright and at their own size, with their times, and keeps
    /// what it makes of them. Of a damaged file `take` may get frames that are not kept in the end.
    ///
    /// # Errors
    /// As [`Ffmpeg::probe`]; [`Error::Argument`] for a sampling that is none; [`Error::Malformed`] when there is no frame,
    /// when a limit is exceeded, and for damage where `reading` is strict; errors of `take`.
    pub fn read<T>(
        &self,
        path: impl AsRef<Path>,
        selection: &Selection,
        take: impl FnMut(f64, Image) -> Result<T>,
    ) -> Result<Frames<T>> {
        let path = path.as_ref();
        if let Sampling::Shown(shown) = selection.sampling {
            shown.check()?;
        }
        let info = self.probe(path)?;
        let packets = self.packets(path, &info)?;
        let times = packets.shown.iter().map(|packet| packet.0).collect();
        let reader =
            Reader { ffmpeg: self, path, info, selection, packets, times, take, kept: BTreeMap::new(), bytes: 0.0 };
        reader.read()
    }
}

/// One video while it is read.
struct Reader<'a, T, F> {
    ffmpeg: &'a Ffmpeg,
    path: &'a Path,
    info: VideoInfo,
    selection: &'a Selection,
    packets: Packets,
    /// When the frames are shown, in ticks, as far as is known.
    times: Vec<i64>,
    take: F,
    kept: BTreeMap<i64, T>,
    /// Bytes of the pictures that were taken.
    bytes: f64,
}

/// What ffmpeg told while it decoded.
#[derive(Default)]
struct Heard {
    /// The times of all frames, in ticks.
    times: Vec<i64>,
    complaints: u64,
    first: String,
}

/// A picture that follows on standard output.
struct Coming {
    time: i64,
    width: usize,
    height: usize,
}

impl<T, F: FnMut(f64, Image) -> Result<T>> Reader<'_, T, F> {
    fn read(mut self) -> Result<Frames<T>> {
        let mut heard = Heard::default();
        for pass in 0..=PASSES {
            let wanted = self.choose()?;
            let missing: BTreeSet<i64> = wanted.iter().filter(|time| !self.kept.contains_key(time)).copied().collect();
            if pass > 0 && missing.is_empty() {
                return self.finish(&wanted, heard);
            }
            if pass == PASSES {
                break;
            }
            let told = self.decode(&missing, pass > 0)?;
            // A later pass may end before the damage that an earlier one met.
            if told.complaints >= heard.complaints {
                heard = told;
            }
            if self.times.is_empty() {
                let why = if heard.first.is_empty() { "no complaint" } else { &heard.first };
                return Err(self.bad("frames", &format_args!("there are none ({why})")));
            }
        }
        Err(self.bad("frames", &"the decoder gives others each time: the file is damaged"))
    }

    fn bad(&self, place: &str, problem: &dyn std::fmt::Display) -> Error {
        Error::malformed(self.path, place, problem)
    }

    /// The known times in seconds, and the end of the last one.
    fn timeline(&self) -> (Vec<f64>, f64) {
        let seconds: Vec<f64> = self.times.iter().map(|&ticks| self.info.seconds(ticks)).collect();
        let Some(&last) = self.times.last() else { return (seconds, 0.0) };
        let stated = self.length_of(last);
        let before = seconds.len().checked_sub(2).map(|i| seconds[i]);
        let end = match (self.info.seconds(last), before) {
            (last, _) if stated > 0 => last + self.info.seconds(stated),
            // As long as the one before it; a single one for a second.
            (last, Some(before)) => 2.0 * last - before,
            (last, None) => last + 1.0,
        };
        (seconds, end)
    }

    /// For how long the packet that is shown at `time` stands; 0 if it is not known.
    fn length_of(&self, time: i64) -> i64 {
        let shown = &self.packets.shown;
        shown.binary_search_by_key(&time, |packet| packet.0).map_or(0, |place| shown[place].1)
    }

    /// The times of the frames that are kept, by what is known of the video.
    fn choose(&self) -> Result<Vec<i64>> {
        let (times, end) = self.timeline();
        let timeline = Timeline { times: &times, end, fps: self.info.fps };
        let Selection { sampling, choice, max_frames, .. } = self.selection;
        let chosen = sampling.chosen(&timeline, *choice, *max_frames)?;
        let seconds = end - times.first().copied().unwrap_or_default();
        let limit = self.ffmpeg.limits.frames.of(seconds);
        if chosen.len() as f64 > limit {
            let problem = format!("{} are asked for, and at most {limit:.0} may be; ask for fewer", chosen.len());
            return Err(self.bad("frames", &problem));
        }
        Ok(chosen.into_iter().map(|frame| self.times[frame]).collect())
    }

    fn finish(mut self, wanted: &[i64], heard: Heard) -> Result<Frames<T>> {
        let (times, end) = self.timeline();
        let first = times.first().copied().unwrap_or_default();
        let mut notes = self.damage(end - first, &heard)?;
        let back = heard.times.windows(2).filter(|pair| pair[1] <= pair[0]).count();
        let unordered = Note::Unordered { count: back.max(self.packets.unordered) };
        if unordered != (Note::Unordered { count: 0 }) {
            if self.selection.reading.strict {
                return Err(self.bad("times", &format_args!("{unordered}; strict reading refuses that")));
            }
            notes.push(unordered);
        }
        if wanted.is_empty() {
            let seconds = end - first;
            return Err(self.bad("frames", &format_args!("none is shown then: the video has {seconds:.1} s")));
        }
        let timeline = Timeline { times: &times, end, fps: self.info.fps };
        let sampled = self.selection.sampling.frames(&timeline)?.into_iter().map(|frame| times[frame]).collect();
        let info = self.info;
        let mut kept = Vec::with_capacity(wanted.len());
        for time in wanted {
            kept.extend(self.kept.remove(time).map(|value| (info.seconds(*time), value)));
        }
        Ok(Frames { info, duration: end - first, sampled, kept, notes })
    }

    /// What the decoder complained about, and what the file states and does not hold. The container's count of frames is
    /// no witness: it counts hidden ones.
    fn damage(&self, decoded: f64, heard: &Heard) -> Result<Vec<Note>> {
        let short = |stated: &f64| stated - decoded > (0.05 * stated).max(2.0);
        let complained = heard.complaints > 0;
        // Sound may go on after the video: without a complaint, only the stream's own length counts.
        let stated = if complained { self.info.duration } else { self.info.stated }.filter(short);
        if !complained && stated.is_none() {
            return Ok(Vec::new());
        }
        let note = Note::Damaged { decoded, stated, complaints: heard.complaints, first: heard.first.clone() };
        if self.selection.reading.strict {
            return Err(self.bad("decoding", &format_args!("{note}; strict reading refuses damaged files")));
        }
        Ok(vec![note])
    }

    /// Decodes the video up to the last of the frames that are shown at the times `missing`, keeps these, and corrects
    /// the list of times. Without any it goes to the end.
    fn decode(&mut self, missing: &BTreeSet<i64>, again: bool) -> Result<Heard> {
        let (seconds, end) = self.timeline();
        let length = self.info.duration.unwrap_or_default().max(end - seconds.first().copied().unwrap_or_default());
        let limit = self.ffmpeg.limits.time(length);
        let (mut command, filter) = self.command(missing, again)?;
        let (coming, announced) = channel();
        let most = self.ffmpeg.limits.bytes.of(length);
        let feed = |stdin: &mut std::process::ChildStdin| stdin.write_all(filter.as_bytes());
        // The sender goes with it: that ends the reader.
        let hear = move |stderr: &mut ChildStderr| hear(stderr, &coming);
        let read = |stdout: &mut ChildStdout| self.receive(stdout, &announced, missing, most);
        let (taken, ended) =
            run(&mut command, limit, feed, hear, read).map_err(|e| no_program(&self.ffmpeg.ffmpeg, e))?;
        if ended.late {
            return Err(late(self.path, limit));
        }
        let taken = taken?;
        expect_undisturbed(self.path, ended.stopped)?;
        let mut heard = ended.heard;
        if heard.times.len() > MAX_LISTED {
            return Err(too_many(self.path));
        }
        if !ended.success && heard.complaints == 0 {
            (heard.complaints, heard.first) = (1, "ffmpeg ended with an error".into());
        }
        let mut times = heard.times.clone();
        times.sort_unstable();
        times.dedup();
        if let (true, Some(&last)) = (taken >= missing.len() && !missing.is_empty(), times.last()) {
            // It stopped there; what comes after is not yet known better.
            times.extend(self.times.iter().filter(|&&time| time > last));
        }
        self.times = times;
        Ok(heard)
    }

    /// The call of ffmpeg that gives the frames at the times `missing` as raw pictures; and the filter for its standard
    /// input, if it is too long for an argument.
    fn command(&self, missing: &BTreeSet<i64>, again: bool) -> Result<(std::process::Command, String)> {
        let ffmpeg = self.ffmpeg;
        // Levels are written before each line, so that complaints can be told from what is told of frames.
        // On one thread a damaged file gives the same frames each time.
        let threads: &[&str] = if again { &["-threads", "1"] } else { &[] };
        let mut command = ffmpeg.reader(&ffmpeg.ffmpeg, "repeat+level+info", threads, self.path)?;
        let (numerator, denominator) = self.info.tick;
        let square = match self.selection.reading.square_pixels {
            true => format!("scale=w='clip(round(iw*sar),1,{}/ih+1)':h=ih,setsar=1,", ffmpeg.limits.frame_pixels),
            false => String::new(),
        };
        let filter = format!(
            "settb={numerator}/{denominator},showinfo@all=checksum=0,select='{}',{square}format=rgb24,\
             showinfo@out=checksum=0",
            self.expression(missing)
        );
        command.args(["-map", &format!("0:{}", self.info.stream), "-an", "-sn", "-dn"]);
        // Each picture keeps its size, and none is dropped or repeated.
        let passthrough = if ffmpeg.version >= (5, 1) { "-fps_mode" } else { "-vsync" };
        command.args(["-autoscale", "0", passthrough, "passthrough"]);
        if !missing.is_empty() {
            command.args(["-frames:v", &missing.len().to_string()]);
        }
        let from_input = filter.len() > ARGUMENT_BYTES;
        match (from_input, ffmpeg.version.0 >= 7) {
            (false, _) => command.args(["-vf", &filter]),
            (true, false) => command.args(["-filter_script:v", "pipe:0"]),
            (true, true) => command.args(["-/filter:v", "pipe:0"]),
        };
        command.args(["-c:v", "rawvideo", "-f", "rawvideo", "pipe:1"]);
        Ok((command, if from_input { filter } else { String::new() }))
    }

    /// The times `missing` for ffmpeg's filter `select`: a tree, as it is walked for every frame.
    fn expression(&self, missing: &BTreeSet<i64>) -> String {
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        let mut place = 0;
        for &time in missing {
            let found = self.times.partition_point(|&known| known < time);
            match ranges.last_mut() {
                Some(range) if found == place + 1 => range.1 = time,
                _ => ranges.push((time, time)),
            }
            place = found;
        }
        tree(&ranges)
    }

    /// Takes the announced pictures from `stdout`; says how many came. One that is cut ends it, as the decoder ended.
    fn receive(
        &mut self,
        stdout: &mut ChildStdout,
        announced: &Receiver<Coming>,
        missing: &BTreeSet<i64>,
        most: f64,
    ) -> Result<usize> {
        let mut stdout = BufReader::with_capacity(1 << 16, stdout);
        let (mut count, limit) = (0, self.ffmpeg.limits.frame_pixels);
        for Coming { time, width, height } in announced {
            let Some(pixels) = width.checked_mul(height).filter(|pixels| (1..=limit).contains(pixels)) else {
                let problem = format!("a frame of {width} x {height} pixels exceeds the limit of {limit}");
                return Err(self.bad("frame size", &problem));
            };
            let mut rgb = vec![0; pixels * 3];
            if stdout.read_exact(&mut rgb).is_err() {
                break;
            }
            count += 1;
            if !missing.contains(&time) || self.kept.contains_key(&time) {
                continue;
            }
            self.bytes += rgb.len() as f64;
            if self.bytes > most {
                return Err(self.bad("frames", &format_args!("take more than {most:.0} bytes; ask for fewer")));
            }
            let taken = (self.take)(self.info.seconds(time), Image::new(width, height, rgb)?)?;
            self.kept.insert(time, taken);
        }
        Ok(count)
    }
}

fn tree(ranges: &[(i64, i64)]) -> String {
    match ranges {
        [] => "0".into(),
        [(first, last)] => format!("between(pts,{first},{last})"),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            format!("if(lt(pts,{}),{},{})", right[0].0, tree(left), tree(right))
        }
    }
}

/// Reads what ffmpeg tells to its end: the times of frames, pictures that come, and complaints.
fn hear(stderr: &mut ChildStderr, coming: &Sender<Coming>) -> Heard {
    let (mut heard, mut lines, mut line) = (Heard::default(), BufReader::new(stderr), Vec::new());
    while let Ok(1..) = lines.by_ref().take(1 << 16).read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.starts_with("[showinfo@") {
            let Some(time) = value(text, " pts:").and_then(|ticks| ticks.parse().ok()) else {
                line.clear();
                continue;
            };
            if text.starts_with("[showinfo@all") && heard.times.len() <= MAX_LISTED {
                heard.times.push(time);
            } else if let Some((width, height)) = value(text, " s:").and_then(|size| size.split_once('x')) {
                let sides = width.parse().ok().zip(height.parse().ok());
                // Whoever took the pictures has stopped, and ffmpeg will soon.
                let _ = sides.map(|(width, height)| coming.send(Coming { time, width, height }));
            }
        } else {
            let text = without_address(text);
            let told = ["[error] ", "[fatal] ", "[panic] "].iter().find_map(|level| text.strip_prefix(level));
            heard.complaints += u64::from(told.is_some());
            if let (Some(told), true) = (told, heard.first.is_empty()) {
                heard.first = told.to_string();
            }
        }
        line.clear();
    }
    heard
}

/// The word behind `name`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split_once(name)?.1.split_ascii_whitespace().next()
}
