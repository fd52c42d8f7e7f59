//! What a file says about its video, before anything is decoded.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::ChildStdout;

use serde::Deserialize;

use super::child::{run, tail};
use super::ffmpeg::{Ffmpeg, answer, late, no_program};
use crate::data::media::regular_file;
use crate::{Error, Result};

/// Most frames of a video: 38 hours at 60 a second.
pub(super) const MAX_LISTED: usize = 1 << 23;

/// What a file says about the first video stream that is no attached picture. It may be wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoInfo {
    /// Pixels in a row, as they are stored.
    pub width: usize,
    /// Rows, as they are stored.
    pub height: usize,
    /// How much wider than high a pixel is; 1 where nothing is said.
    pub pixel_aspect: f64,
    /// Degrees by which frames are turned clockwise when they are shown. The decoder has done it already.
    pub rotation: u32,
    /// Frames a second, where it is known: a mean, or a guess.
    pub fps: Option<f64>,
    /// The length in seconds, where it is known.
    pub duration: Option<f64>,
    /// The number of the stream in the file.
    pub(super) stream: u32,
    /// Seconds in a tick, as a fraction.
    pub(super) tick: (i64, i64),
    /// The length of the stream alone, where the container states it.
    pub(super) stated: Option<f64>,
}

impl VideoInfo {
    /// Ticks in seconds.
    pub(super) fn seconds(&self, ticks: i64) -> f64 {
        ticks as f64 * self.tick.0 as f64 / self.tick.1 as f64
    }
}

/// When the packets of a video are shown.
#[derive(Default)]
pub(super) struct Packets {
    /// Ticks at which each is shown, ascending, none twice, and for how many; 0 where that is not said.
    pub(super) shown: Vec<(i64, i64)>,
    /// How many have a time at which others were shown before the file's times went back, as in joined transport streams.
    pub(super) unordered: usize,
    /// The latest time so far.
    latest: Option<i64>,
    /// The last time of decoding.
    decoded: Option<i64>,
    /// The latest time before they last went back.
    floor: Option<i64>,
}

impl Packets {
    fn push(&mut self, packet: Packet) {
        let Packet { shown, decoded, duration } = packet;
        if decoded.zip(self.decoded).is_some_and(|(now, before)| now < before) {
            self.floor = self.latest;
        }
        self.latest = self.latest.max(Some(shown));
        self.decoded = decoded.or(self.decoded);
        self.unordered += usize::from(self.floor.is_some_and(|floor| shown <= floor));
        self.shown.push((shown, duration));
    }
}

/// A packet that is shown: when, when it is decoded if that is said, and for how long it stands, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Packet {
    shown: i64,
    decoded: Option<i64>,
    duration: i64,
}

impl Ffmpeg {
    /// What the file says about its first video stream; attached pictures such as covers are none.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such file; [`Error::Malformed`] for what is no regular file, a file without a video
    /// stream, or with frames beyond the limits; [`Error::NoProgram`].
    pub fn probe(&self, path: impl AsRef<Path>) -> Result<VideoInfo> {
        let path = path.as_ref();
        refuse_by_content(path)?;
        let mut command = self.reader(&self.ffprobe, "error", &[], path)?;
        command.args(["-select_streams", "v", "-of", "json", "-show_entries"]);
        command.arg(
            "stream=index,width,height,sample_aspect_ratio,time_base,avg_frame_rate,r_frame_rate,duration\
             :stream_disposition=attached_pic:stream_side_data=rotation:stream_tags=rotate:format=duration",
        );
        let limit = self.limits.time(0.0);
        let (json, ended) = answer(&mut command, limit).map_err(|e| no_program(&self.ffprobe, e))?;
        let bad = |place: &str, problem: &dyn std::fmt::Display| Error::malformed(path, place, problem);
        if ended.late {
            return Err(late(path, limit));
        }
        expect_undisturbed(path, ended.stopped)?;
        if !ended.success {
            let named =
                std::path::absolute(path).map_or_else(|_| String::new(), |path| format!("{}: ", path.display()));
            let problem = without_address(&ended.heard).replace(&named, "");
            let problem = problem.replace("not on whitelist", "is not one that is read");
            return Err(bad("container", &format_args!("ffprobe says: {problem}")));
        }
        let found: Probe = serde_json::from_slice(&json).map_err(|e| bad("ffprobe's answer", &e))?;
        let covers = found.streams.iter().filter(|stream| stream.disposition.attached_pic != 0).count();
        let Some(stream) = found.streams.iter().find(|stream| stream.disposition.attached_pic == 0) else {
            let covers = if covers > 0 { ", only an attached picture" } else { "" };
            return Err(bad("streams", &format_args!("there is no video among them{covers}")));
        };
        self.info(path, stream, &found.format)
    }

    fn info(&self, path: &Path, stream: &Stream, format: &Format) -> Result<VideoInfo> {
        let bad = |place: &str, problem: &dyn std::fmt::Display| Error::malformed(path, place, problem);
        let (width, height) = (stream.width, stream.height);
        let aspect = ratio(&stream.sample_aspect_ratio, ':').unwrap_or(1.0);
        let limit = self.limits.frame_pixels;
        let stored = width.checked_mul(height).filter(|&pixels| pixels > 0 && pixels <= limit);
        if stored.is_none_or(|pixels| pixels as f64 * aspect > limit as f64) {
            let shape = if aspect == 1.0 { String::new() } else { format!(" with pixels of {aspect}:1") };
            return Err(bad(
                "frame size",
                &format_args!("{width} x {height}{shape} is not within 1 to {limit} pixels"),
            ));
        }
        let tick = stream.time_base.split_once('/').and_then(|(n, d)| n.parse().ok().zip(d.parse().ok()));
        let tick = tick.filter(|&(n, d): &(i64, i64)| n > 0 && d > 0);
        let rates = [&stream.avg_frame_rate, &stream.r_frame_rate];
        let seconds = |text: &str| text.parse().ok().filter(|d: &f64| d.is_finite() && *d > 0.0);
        let (own, all) = (seconds(&stream.duration), seconds(&format.duration));
        // A matrix turns counterclockwise, the older tag clockwise.
        let matrix = stream.side_data_list.iter().find_map(|data| data.rotation).map(|degrees| -degrees);
        let rotation = matrix.or_else(|| stream.tags.rotate.parse().ok()).unwrap_or(0.0);
        Ok(VideoInfo {
            width,
            height,
            pixel_aspect: aspect,
            rotation: (rotation.round() as i64).rem_euclid(360) as u32,
            fps: rates.into_iter().find_map(|rate| ratio(rate, '/')),
            duration: own.or(all),
            stream: stream.index,
            tick: tick.ok_or_else(|| bad("time base", &"is unknown"))?,
            // An edit list may show less of the stream than there is.
            stated: own.map(|own| all.map_or(own, |all| own.min(all))),
        })
    }

    /// When the packets are shown, in ticks, ascending: without those that are only there to decode others. It is cheap,
    /// and what the decoder makes of them may differ.
    ///
    /// # Errors
    /// [`Error::Malformed`] for too many, and when it takes too long; [`Error::NoProgram`].
    pub(super) fn packets(&self, path: &Path, info: &VideoInfo) -> Result<Packets> {
        let mut command = self.reader(&self.ffprobe, "error", &[], path)?;
        command.args(["-select_streams", &info.stream.to_string(), "-of", "csv=p=0"]);
        command.args(["-show_entries", "packet=pts,dts,duration,flags"]);
        let read = |stdout: &mut ChildStdout| -> Result<Packets> {
            let (mut lines, mut line, mut found) = (BufReader::new(stdout), Vec::new(), Packets::default());
            loop {
                line.clear();
                let length = lines.by_ref().take(1 << 16).read_until(b'\n', &mut line);
                if length.map_err(|e| Error::io("list", path, e))? == 0 {
                    return Ok(found);
                }
                packet(&String::from_utf8_lossy(&line)).into_iter().for_each(|packet| found.push(packet));
                if found.shown.len() > MAX_LISTED {
                    return Err(too_many(path));
                }
            }
        };
        let limit = self.limits.time((regular_file(path)? >> 20) as f64 + info.duration.unwrap_or_default());
        let (found, ended) =
            run(&mut command, limit, |_| Ok(()), tail, read).map_err(|e| no_program(&self.ffprobe, e))?;
        if ended.late {
            return Err(late(path, limit));
        }
        let mut found = found?;
        expect_undisturbed(path, ended.stopped)?;
        found.shown.sort_unstable();
        found.shown.dedup_by_key(|packet| packet.0);
        Ok(found)
    }
}

/// An error for a program that somebody ended.
pub(super) fn expect_undisturbed(path: &Path, stopped: bool) -> Result<()> {
    if stopped { Err(Error::malformed(path, "decoding", "ffmpeg was stopped from outside; try again")) } else { Ok(()) }
}

pub(super) fn too_many(path: &Path) -> Error {
    Error::malformed(path, "frames", format_args!("are more than {MAX_LISTED}; cut the video"))
}

/// Formats for which ffmpeg would have no clear words.
fn refuse_by_content(path: &Path) -> Result<()> {
    regular_file(path)?;
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    file.take(64).read_to_end(&mut head).map_err(|e| Error::io("read", path, e))?;
    let bad = |problem| Err(Error::malformed(path, "container", problem));
    match &head[..] {
        [] => bad("the file is empty"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            bad("is a WebP; ffmpeg does not decode animated ones: turn it into a GIF, an APNG or an mp4")
        }
        [0xff, 0xd8, 0xff, ..] => bad("is a JPEG picture and no video"),
        _ if head.starts_with(b"#EXTM3U") || head.starts_with(b"ffconcat") => {
            bad("is a playlist; name the videos themselves")
        }
        _ => Ok(()),
    }
}

/// One line of ffprobe's list: time shown, time decoded, duration, flags, of which the second letter tells what is not shown.
fn packet(line: &str) -> Option<Packet> {
    let mut fields = line.trim_end().split(',');
    let mut number = || fields.next().and_then(|field| field.parse::<i64>().ok());
    let (shown, decoded, duration) = (number(), number(), number());
    let hidden = fields.next().is_some_and(|flags| flags.as_bytes().get(1) == Some(&b'D'));
    let packet = Packet { shown: shown.or(decoded)?, decoded, duration: duration.unwrap_or(0).max(0) };
    Some(packet).filter(|_| !hidden)
}

/// `line` without the names and addresses by which ffmpeg's parts call themselves: `[h264 @ 0x55dc07f65cc0] `.
pub(super) fn without_address(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        match after.split_once("] ") {
            Some((inside, behind)) if inside.contains(" @ 0x") => rest = behind,
            _ => {
                text.push('[');
                rest = after;
            }
        }
    }
    text + rest
}

/// The value of a text such as `30000/1001`, if it is a positive number.
fn ratio(text: &str, sign: char) -> Option<f64> {
    let (numerator, denominator) = text.split_once(sign)?;
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
    index: u32,
    width: usize,
    height: usize,
    sample_aspect_ratio: String,
    time_base: String,
    avg_frame_rate: String,
    r_frame_rate: String,
    duration: String,
    disposition: Disposition,
    side_data_list: Vec<SideData>,
    tags: Tags,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Disposition {
    attached_pic: u32,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SideData {
    rotation: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tags {
    rotate: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Format {
    duration: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_from_ffprobes_lines() {
        for (line, wanted) in [
            ("129600,126000,3600,K_,side_data,\n", Some((129_600, 3600))),
            ("N/A,7,N/A,__\n", Some((7, 0))),
            ("-80896,-81920,1024,_D\n", None),
            ("N/A,N/A,1,K_\n", None),
            ("\n", None),
            ("side_data,\n", None),
        ] {
            assert_eq!(packet(line).map(|packet| (packet.shown, packet.duration)), wanted, "{line}");
        }
    }

    #[test]
    fn times_that_go_back_are_counted() {
        let mut packets = Packets::default();
        // With a frame that is shown after the one decoded next; and from 40 on anew at 20.
        for (shown, decoded) in [(0, -1), (20, 0), (10, 1), (40, 2), (20, 0), (30, 1), (40, 2), (50, 3)] {
            packets.push(Packet { shown, decoded: Some(decoded), duration: 10 });
        }
        assert_eq!(packets.unordered, 3);
    }

    #[test]
    fn complaints_lose_their_addresses() {
        let line = "[h264 @ 0x55dc07f65cc0] Reference 9 >= 4; [a] b [mov,mp4 @ 0x5] c";
        assert_eq!(without_address(line), "Reference 9 >= 4; [a] b c");
    }
}
