//! The rule by which the published loaders read video files: whole frames a second, by number.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which frames of a video file are read: so many a second, from the start of second `start` to the end of second `end`.
///
/// As in CLIP4Clip, a second is a whole number of frames, the frame rate rounded down: at 29.97 frames a second, row 200
/// shows second 193.5. It is kept for parity; [`Shown`](super::Shown) goes by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Frames of a second.
    pub per_second: u32,
    /// The first second, counted from 0.
    pub start: u32,
    /// The last second; without one, all seconds to the video's end.
    pub end: Option<u32>,
}

impl Default for Published {
    /// One frame a second, as published.
    fn default() -> Self {
        Self { per_second: 1, start: 0, end: None }
    }
}

impl Published {
    /// The grid of frame numbers for a video of `fps` frames a second.
    ///
    /// # Errors
    /// [`Error::Argument`] for no frame a second, an end before the start, and an `fps` below 1 or above 1000, of which
    /// the published rule makes nothing.
    pub fn grid(&self, fps: f64) -> Result<Grid> {
        let bad = |argument, why: String| Error::argument("Published::grid", argument, why);
        if !(1.0..=1000.0).contains(&fps) {
            return Err(bad("fps", format!("is {fps}; the published rule takes 1 to 1000; sample by time")));
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

/// The frames that a [`Published`] reads, by number: of each `second` frames those at 0, `step`, 2 `step` and so on, but
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(per_second: u32, start: u32, end: Option<u32>) -> Published {
        Published { per_second, start, end }
    }

    #[test]
    fn the_grid_is_the_published_one() {
        let numbers = |sampling: Published, fps: f64, frames: u64| {
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
}
