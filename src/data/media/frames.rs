//! Which frames of a video are used, and frames that lie in a folder as JPEG or PNG files.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

#[cfg(feature = "images")]
pub use folder::{read_frames, read_image};

#[cfg(feature = "images")]
mod folder;

/// Which frames of a video file are read: so many a second, from the start of second `start` to the end of second `end`.
///
/// As in CLIP4Clip, a second is a whole number of frames, the frame rate rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampling {
    /// Frames of a second.
    pub per_second: u32,
    /// The first second, counted from 0.
    pub start: u32,
    /// The last second; without one, all seconds to the video's end.
    pub end: Option<u32>,
}

impl Default for Sampling {
    /// One frame a second, as published.
    fn default() -> Self {
        Self { per_second: 1, start: 0, end: None }
    }
}

impl Sampling {
    /// The grid of frame numbers for a video of `fps` frames a second.
    ///
    /// # Errors
    /// [`Error::Argument`] for no frame a second, an end before the start, and an `fps` below 1 or above 1000, of which
    /// the published rule makes nothing.
    pub fn grid(&self, fps: f64) -> Result<Grid> {
        let bad = |argument, why: String| Error::argument("Sampling::grid", argument, why);
        if !(1.0..=1000.0).contains(&fps) {
            return Err(bad("fps", format!("is {fps}; it must be from 1 to 1000")));
        }
        if self.per_second == 0 {
            return Err(bad("per_second", "must not be 0".into()));
        }
        if let Some(end) = self.end.filter(|&end| end < self.start) {
            return Err(bad("end", format!("is {end} s, before the start of {} s", self.start)));
        }
        let second = fps as u64;
        let per_second = u64::from(self.per_second).min(second);
        Ok(Grid {
            second,
            step: second / per_second,
            per_second,
            first: u64::from(self.start) * second,
            end: self.end.map(|end| (u64::from(end) + 1) * second),
        })
    }
}

/// The frames that a [`Sampling`] reads, by number: of each `second` frames those at 0, `step`, 2 `step` and so on, but
/// no more than `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Frames in a second.
    pub second: u64,
    /// Frames from one that is read to the next in the same second.
    pub step: u64,
    /// Frames of a second that are read.
    pub per_second: u64,
    /// The first frame.
    pub first: u64,
    /// The frame at which reading ends, if it ends before the video does.
    pub end: Option<u64>,
}

impl Grid {
    /// How many frames are read of a video of `frames` frames.
    pub fn count(&self, frames: u64) -> u64 {
        // Below `frames`, counted from the start of a second.
        let below = |frames: u64| {
            let rest = (frames % self.second).div_ceil(self.step).min(self.per_second);
            frames / self.second * self.per_second + rest
        };
        let end = self.end.map_or(frames, |end| end.min(frames));
        below(end).saturating_sub(below(self.first))
    }

    /// Whether frame `number` is read.
    pub fn contains(&self, number: u64) -> bool {
        let place = number % self.second;
        number >= self.first
            && self.end.is_none_or(|end| number < end)
            && place < self.per_second * self.step
            && place.is_multiple_of(self.step)
    }
}

/// Which of a video's frames stand for it, when there are more than a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// The first ones.
    Head,
    /// The last ones.
    Tail,
    /// At equal distances, the first and the last one among them.
    #[default]
    Uniform,
    /// As EERCF does with folders of frames: of more than 256, 128 at equal distances first, and of these again.
    Thinned,
}

impl Choice {
    /// The numbers of the chosen frames, ascending: at most `max_frames` of `count`.
    pub fn indices(self, count: usize, max_frames: usize) -> Vec<usize> {
        match self {
            Choice::Head => (0..count.min(max_frames)).collect(),
            Choice::Tail => (count.saturating_sub(max_frames)..count).collect(),
            Choice::Uniform => spread(count, max_frames),
            Choice::Thinned if count > 256 => {
                let thinned = spread(count, 128);
                spread(thinned.len(), max_frames).into_iter().map(|i| thinned[i]).collect()
            }
            Choice::Thinned => spread(count, max_frames),
        }
    }
}

/// NumPy's `linspace(0, count - 1, most)` in f64, rounded down; all numbers if they are no more than `most`.
fn spread(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    let step = (count - 1) as f64 / most.saturating_sub(1) as f64;
    // NumPy sets the last value to the end of the interval, unless it is the first one too.
    (0..most).map(|i| if i > 0 && i + 1 == most { count - 1 } else { (i as f64 * step) as usize }).collect()
}

/// A video as a network takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameSet {
    /// Normalised pixels (max_frames, 3, crop, crop); zero, the mean colour, where there is no frame.
    pub pixels: Vec<f32>,
    /// 1 for each frame, 0 for what is missing up to max_frames.
    pub mask: Vec<f32>,
    /// How many frames there are; they come first.
    pub valid: usize,
}

impl FrameSet {
    /// Pads `pixels`, which hold `valid` frames, with zeros to `max_frames` frames.
    ///
    /// # Errors
    /// [`Error::Argument`] without a frame, or with more than `max_frames`; [`Error::Shape`] when the pixels do not divide
    /// into `valid` frames.
    pub fn new(mut pixels: Vec<f32>, valid: usize, max_frames: usize) -> Result<Self> {
        if valid == 0 || valid > max_frames {
            let why = format!("are {valid}; there must be 1 to {max_frames}");
            return Err(Error::argument("FrameSet::new", "frames", why));
        }
        if pixels.is_empty() || !pixels.len().is_multiple_of(valid) {
            let expected = format!("[{valid}, 3, crop, crop]");
            return Err(Error::Shape { op: "FrameSet::new", argument: "pixels", expected, got: vec![pixels.len()] });
        }
        pixels.resize(pixels.len() / valid * max_frames, 0.0);
        let mask = (0..max_frames).map(|frame| if frame < valid { 1.0 } else { 0.0 }).collect();
        Ok(Self { pixels, mask, valid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(per_second: u32, start: u32, end: Option<u32>) -> Sampling {
        Sampling { per_second, start, end }
    }

    #[test]
    fn the_grid_is_the_published_one() {
        let numbers = |sampling: Sampling, fps: f64, frames: u64| {
            let grid = sampling.grid(fps).unwrap();
            let numbers: Vec<u64> = (0..frames).filter(|&n| grid.contains(n)).collect();
            assert_eq!(grid.count(frames), numbers.len() as u64, "{sampling:?} {fps} {frames}");
            numbers
        };
        assert_eq!(numbers(sampling(1, 0, None), 29.97, 90), [0, 29, 58, 87]);
        assert_eq!(numbers(sampling(1, 0, None), 25.0, 50), [0, 25]);
        assert_eq!(numbers(sampling(1, 1, Some(2)), 10.0, 99), [10, 20]);
        assert_eq!(numbers(sampling(1, 1, Some(2)), 10.0, 15), [10]);
        assert_eq!(numbers(sampling(1, 9, None), 10.0, 15), [0; 0]);
        // 10 frames a second, 3 of them: 0, 3, 6, and not 9.
        assert_eq!(numbers(sampling(3, 0, None), 10.0, 20), [0, 3, 6, 10, 13, 16]);
        assert_eq!(numbers(sampling(3, 0, Some(0)), 10.0, 20), [0, 3, 6]);
        // As many as there are.
        assert_eq!(numbers(sampling(60, 0, None), 4.0, 5), [0, 1, 2, 3, 4]);
        for frames in 0..40 {
            for (per_second, fps) in [(1, 1.0), (2, 7.9), (5, 7.0), (3, 12.5)] {
                numbers(sampling(per_second, 1, Some(3)), fps, frames);
            }
        }
    }

    #[test]
    fn impossible_samplings_are_errors() {
        for (sampling, fps) in [
            (sampling(1, 0, None), 0.0),
            (sampling(1, 0, None), 0.5),
            (sampling(1, 0, None), f64::NAN),
            (sampling(1, 0, None), 90_000.0),
            (sampling(0, 0, None), 25.0),
            (sampling(1, 3, Some(2)), 25.0),
        ] {
            assert!(matches!(sampling.grid(fps), Err(Error::Argument { .. })), "{sampling:?} {fps}");
        }
        let longest = sampling(u32::MAX, u32::MAX, Some(u32::MAX)).grid(1000.0).unwrap();
        assert_eq!(longest.count(u64::MAX), 1000);
    }

    #[test]
    fn choices_are_those_of_the_published_loaders() {
        assert_eq!(Choice::Head.indices(5, 3), [0, 1, 2]);
        assert_eq!(Choice::Tail.indices(5, 3), [2, 3, 4]);
        assert_eq!(Choice::Uniform.indices(20, 12), [0, 1, 3, 5, 6, 8, 10, 12, 13, 15, 17, 19]);
        assert_eq!(Choice::Uniform.indices(13, 12), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]);
        assert_eq!(Choice::Uniform.indices(9, 1), [0]);
        for choice in [Choice::Head, Choice::Tail, Choice::Uniform, Choice::Thinned] {
            assert_eq!(choice.indices(4, 4), [0, 1, 2, 3]);
            assert_eq!(choice.indices(3, 12), [0, 1, 2]);
            assert!(choice.indices(0, 12).is_empty() && choice.indices(12, 0).is_empty());
        }
        assert_eq!(Choice::Thinned.indices(256, 12), Choice::Uniform.indices(256, 12));
        // linspace(0, 299, 128) at 0, 11, 23, 34, 46, 57, 69, 80, 92, 103, 115 and 127.
        let wanted = [0, 25, 54, 80, 108, 134, 162, 188, 216, 242, 270, 299];
        assert_eq!(Choice::Thinned.indices(300, 12), wanted);
    }

    #[test]
    fn short_videos_are_padded_with_zeros() {
        let set = FrameSet::new(vec![1.0; 2 * 3], 2, 4).unwrap();
        assert_eq!(set.pixels, [vec![1.0; 6], vec![0.0; 6]].concat());
        assert_eq!((set.mask, set.valid), (vec![1.0, 1.0, 0.0, 0.0], 2));
        assert!(matches!(FrameSet::new(vec![1.0; 6], 0, 4), Err(Error::Argument { .. })));
        assert!(matches!(FrameSet::new(vec![1.0; 6], 6, 4), Err(Error::Argument { .. })));
        assert!(matches!(FrameSet::new(vec![1.0; 7], 2, 4), Err(Error::Shape { .. })));
    }
}
