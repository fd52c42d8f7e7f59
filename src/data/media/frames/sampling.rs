//! Frames by the time at which they are shown.

use super::{Choice, Published};
use crate::{Error, Result};

/// How much later than asked a frame may come and still be the one shown then, in seconds: times are written with six
/// digits.
pub const MOMENT: f64 = 1e-6;

/// Which frames of a video file are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// Those that are shown at equally spaced times, whatever the file says of its rate.
    Shown(Shown),
    /// Those that the published loaders read: by number, whole frames a second. In parity with CLIP4Clip's successors,
    /// and wrong in time where the rate is no whole number, or varies.
    Published(Published),
}

impl Default for Sampling {
    /// The frames shown at every second.
    fn default() -> Self {
        Sampling::Shown(Shown::default())
    }
}

/// The frames that a player shows at equally spaced times: at each the last one that has begun. Times are seconds from the
/// first frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    /// How far the times are apart.
    pub density: Density,
    /// The first time.
    pub start: f64,
    /// No time is at or after this one; without it, the video's end, which is where its last frame ends.
    pub end: Option<f64>,
}

/// How many times there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Density {
    /// So many a second: `start`, `start + 1/rate` and so on. It may be below one.
    Rate(f64),
    /// So many in all, at equal distances, the first at `start` and the last where the last frame begins; a single one is
    /// in the middle between them. A video that has no more frames gives each once.
    Count(usize),
}

impl Default for Shown {
    /// One a second, all along.
    fn default() -> Self {
        Self::rate(1.0)
    }
}

/// When the frames of a video are shown.
#[derive(Clone, Copy, Debug)]
pub struct Timeline<'a> {
    /// Where each begins: seconds, ascending.
    pub times: &'a [f64],
    /// Where the last one ends.
    pub end: f64,
    /// Frames a second, as the container states them; the published rule believes it.
    pub fps: Option<f64>,
}

impl Timeline<'_> {
    /// The frame that is shown at `time`; before the first one, the first.
    pub fn shown(&self, time: f64) -> usize {
        self.times.partition_point(|&begin| begin <= time + MOMENT).saturating_sub(1)
    }
}

impl Sampling {
    /// The numbers of all frames that are read, ascending, each once.
    ///
    /// # Errors
    /// [`Error::Argument`] for a rate, count or stretch that is none, and where the published rule has no answer.
    pub fn frames(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        match self {
            Sampling::Shown(shown) => shown.frames(timeline),
            Sampling::Published(published) => {
                let why = "is not stated by the file, and the published rule needs it; sample by time";
                let fps = timeline.fps.ok_or_else(|| Error::argument("Sampling::frames", "fps", why))?;
                let grid = published.grid(fps)?;
                Ok((0..timeline.times.len()).filter(|&frame| grid.contains(frame as u64)).collect())
            }
        }
    }

    /// The numbers of those that stand for the video, at most `max_frames`, ascending. [`Choice::Uniform`] means equal
    /// distances in time where frames are read by time.
    ///
    /// # Errors
    /// As [`Sampling::frames`].
    pub fn chosen(&self, timeline: &Timeline, choice: Choice, max_frames: usize) -> Result<Vec<usize>> {
        let all = self.frames(timeline)?;
        if let (Sampling::Shown(shown), Choice::Uniform | Choice::Thinned) = (self, choice)
            && let Density::Rate(rate) = shown.density
            && all.len() > max_frames
        {
            let span = shown.span(timeline);
            let mut frames: Vec<usize> =
                choice.indices(span.targets(rate), max_frames).into_iter().map(|k| span.shown(k, rate)).collect();
            frames.dedup();
            return Ok(frames);
        }
        Ok(choice.indices(all.len(), max_frames).into_iter().map(|i| all[i]).collect())
    }
}

impl Shown {
    /// `rate` frames a second, all along.
    pub fn rate(rate: f64) -> Self {
        Self { density: Density::Rate(rate), start: 0.0, end: None }
    }

    /// `count` frames in all.
    pub fn count(count: usize) -> Self {
        Self { density: Density::Count(count), start: 0.0, end: None }
    }

    /// Whether it can be followed at all, which can be known before a video is opened.
    ///
    /// # Errors
    /// [`Error::Argument`] for a rate that is not positive or over a million, a count of 0, and a stretch that ends before it starts.
    pub fn check(&self) -> Result<()> {
        let bad = |argument, why: String| Err(Error::argument("Shown", argument, why));
        match self.density {
            Density::Rate(rate) if !(rate > 0.0 && rate <= 1.0 / MOMENT) => {
                let why = "it must be above 0 frames a second, 0.2 for one in five seconds, and at most a million";
                return bad("rate", format!("is {rate}; {why}"));
            }
            Density::Count(0) => return bad("count", "must not be 0".into()),
            _ => {}
        }
        if !(self.start.is_finite() && self.start >= 0.0) {
            return bad("start", format!("is {} s; it must not be below 0", self.start));
        }
        match self.end {
            Some(end) if end.is_nan() || end < self.start => {
                bad("end", format!("is {end} s, before the start of {} s", self.start))
            }
            _ => Ok(()),
        }
    }

    fn span<'a>(&self, timeline: &'a Timeline) -> Span<'a> {
        let first = timeline.times.first().copied().unwrap_or_default();
        let end = self.end.map_or(timeline.end, |end| timeline.end.min(first + end));
        Span { timeline, from: first + self.start, end }
    }

    fn frames(&self, timeline: &Timeline) -> Result<Vec<usize>> {
        self.check()?;
        let span = self.span(timeline);
        if timeline.times.is_empty() || span.from >= span.end - MOMENT {
            return Ok(Vec::new());
        }
        Ok(match self.density {
            Density::Rate(rate) => span.at_rate(rate),
            Density::Count(count) => span.counted(count),
        })
    }
}

/// The stretch of a video in which there are times.
struct Span<'a> {
    timeline: &'a Timeline<'a>,
    from: f64,
    end: f64,
}

impl Span<'_> {
    /// How many times there are at `rate` a second.
    fn targets(&self, rate: f64) -> usize {
        ((self.end - self.from - MOMENT) * rate).ceil().max(0.0) as usize
    }

    /// The frame that is shown at time number `k`.
    fn shown(&self, k: usize, rate: f64) -> usize {
        self.timeline.shown(self.from + k as f64 / rate)
    }

    /// A step for every frame that is met, however many times fall on it.
    fn at_rate(&self, rate: f64) -> Vec<usize> {
        let (count, mut k, mut frames) = (self.targets(rate), 0, Vec::new());
        while k < count {
            let frame = self.shown(k, rate);
            frames.push(frame);
            let Some(next) = self.timeline.times.get(frame + 1) else { break };
            let first_after = ((next - MOMENT - self.from) * rate).ceil().max(0.0) as usize;
            k = first_after.max(k + 1);
        }
        frames.dedup();
        frames
    }

    fn counted(&self, count: usize) -> Vec<usize> {
        let times = self.timeline.times;
        let (first, last) = (self.timeline.shown(self.from), self.timeline.shown(self.end - 2.0 * MOMENT));
        if last - first < count {
            return (first..=last).collect();
        }
        let to = times[last].max(self.from);
        let time = |i: usize| match count {
            1 => (self.from + to) / 2.0,
            _ => self.from + (to - self.from) * i as f64 / (count - 1) as f64,
        };
        let mut frames: Vec<usize> = (0..count).map(|i| self.timeline.shown(time(i))).collect();
        frames.dedup();
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(sampling: Shown, times: &[f64], end: f64) -> Vec<usize> {
        Sampling::Shown(sampling).frames(&Timeline { times, end, fps: None }).unwrap()
    }

    #[test]
    fn the_frame_at_a_time_is_the_last_that_has_begun() {
        let times: Vec<f64> = (0..100).map(|n| f64::from(n) * 1001.0 / 30000.0).collect();
        // Frame 30 begins at 1.001 s: at second 1 it is not yet there, and so on.
        assert_eq!(frames(Shown::rate(1.0), &times, 100.0 * 1001.0 / 30000.0), [0, 29, 59, 89]);
        // An offset shifts the times asked for.
        let late: Vec<f64> = times.iter().map(|t| t + 7.3).collect();
        assert_eq!(frames(Shown::rate(1.0), &late, late[99] + 0.03), [0, 29, 59, 89]);
        // A frame a second, and half a second asked for: each once. 0.2 a second: every fifth.
        let slow: Vec<f64> = (0..12).map(f64::from).collect();
        assert_eq!(frames(Shown::rate(2.0), &slow, 12.0), (0..12).collect::<Vec<_>>());
        assert_eq!(frames(Shown::rate(0.2), &slow, 12.0), [0, 5, 10]);
        // The last frame stands until the end.
        assert_eq!(frames(Shown::rate(1.0), &[0.0, 0.5, 1.5], 9.0), [0, 1, 2]);
        assert_eq!(frames(Shown { start: 3.0, end: Some(6.0), ..Shown::rate(1.0) }, &slow, 12.0), [3, 4, 5]);
        assert!(frames(Shown { start: 12.0, ..Shown::rate(1.0) }, &slow, 12.0).is_empty());
        assert_eq!(frames(Shown::rate(1e6), &slow, 1e9), (0..12).collect::<Vec<_>>());
        assert_eq!(frames(Shown::rate(1.0), &[5.0], 5.04), [0]);
    }

    #[test]
    fn counts_are_spread_over_time() {
        // Dense at first, then one frame every second.
        let times: Vec<f64> = (0..50).map(|n| f64::from(n) / 10.0).chain((5..=10).map(f64::from)).collect();
        assert_eq!(frames(Shown::count(5), &times, 11.0), [0, 25, 50, 52, 55]);
        assert_eq!(frames(Shown::count(1), &times, 11.0), [50]);
        assert_eq!(frames(Shown::count(64), &times, 11.0), (0..56).collect::<Vec<_>>());
        let timeline = Timeline { times: &times, end: 11.0, fps: None };
        let chosen = |choice| Sampling::Shown(Shown::rate(5.0)).chosen(&timeline, choice, 3).unwrap();
        // 55 times from 0 to 10.8; those numbered 0, 27 and 54.
        assert_eq!(chosen(Choice::Uniform), [0, 50, 55]);
        assert_eq!(chosen(Choice::Head), [0, 2, 4]);
        assert_eq!(chosen(Choice::Tail), [53, 54, 55]);
    }

    #[test]
    fn the_published_rule_counts_frames() {
        let times: Vec<f64> = (0..90).map(|n| f64::from(n) * 1001.0 / 30000.0).collect();
        let timeline = |fps| Timeline { times: &times, end: 3.003, fps };
        let published = Sampling::Published(Published::default());
        assert_eq!(published.frames(&timeline(Some(30000.0 / 1001.0))).unwrap(), [0, 29, 58, 87]);
        assert_eq!(published.chosen(&timeline(Some(29.97)), Choice::Uniform, 2).unwrap(), [0, 87]);
        assert!(matches!(published.frames(&timeline(None)), Err(Error::Argument { argument: "fps", .. })));
    }

    #[test]
    fn what_cannot_be_followed_is_an_error() {
        for shown in [
            Shown::rate(0.0),
            Shown::rate(-1.0),
            Shown::rate(f64::NAN),
            Shown::rate(1e300),
            Shown::count(0),
            Shown { start: -1.0, ..Shown::default() },
            Shown { start: 3.0, end: Some(2.0), ..Shown::default() },
        ] {
            assert!(matches!(shown.check(), Err(Error::Argument { .. })), "{shown:?}");
        }
    }
}
