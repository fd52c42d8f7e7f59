//! What an index is made of and by, and how a video is cut into clips.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tensor::DType;
use crate::{Error, Result};

/// The model that made an index's vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// What kind of model it is, such as `CLIP`.
    pub family: String,
    /// Its folder's name.
    pub name: String,
    /// SHA-256 of its configuration and parameters.
    pub sha256: String,
}

/// What all videos of an index have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexSpec {
    /// What made the vectors; texts must come from the same.
    pub model: ModelIdentity,
    /// Numbers of a vector, D.
    pub width: usize,
    /// How vectors are kept: [`DType::F16`] or [`DType::F32`].
    pub precision: DType,
    /// Whether the first stage reads a byte a number. Its answers stay exact: what it finds is scored again from the
    /// vectors, and enough is found for that.
    pub bytes: bool,
    /// Patches of a frame whose vectors are kept too; 0 for none.
    pub patches: usize,
    /// How a video is cut.
    pub clips: ClipPlan,
    /// How pictures became what the model takes.
    pub preprocess: Value,
}

impl IndexSpec {
    pub(super) fn check(&self) -> Result<()> {
        self.precision.expect_float("Index", "precision")?;
        if self.width == 0 {
            return Err(Error::argument("Index", "width", "must not be 0"));
        }
        self.clips.check()
    }
}

/// How a video is cut into clips: windows of equal length that overlap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipPlan {
    /// Frames a second that are encoded.
    pub rate: f64,
    /// Seconds of a clip.
    pub seconds: f64,
    /// Seconds from the start of one clip to that of the next.
    pub step: f64,
    /// Clips end where neighbouring frames are less alike than this cosine, which is taken for a change of shot; without it
    /// shots do not matter.
    pub cut_below: Option<f32>,
}

impl Default for ClipPlan {
    /// A frame a second, clips of 8 s, one every 4 s.
    fn default() -> Self {
        Self { rate: 1.0, seconds: 8.0, step: 4.0, cut_below: None }
    }
}

/// A stretch of a video that has a vector of its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// Where it starts, in seconds from the video's first frame.
    pub start: f64,
    /// Where it ends.
    pub end: f64,
    /// Its first frame, among those of the video that are encoded.
    pub first: usize,
    /// How many of them it has.
    pub count: usize,
}

impl ClipPlan {
    /// That videos can be cut so.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check(&self) -> Result<()> {
        let bad = |argument, why: String| Err(Error::argument("ClipPlan", argument, why));
        let Self { rate, seconds, step, cut_below } = *self;
        if !(rate > 0.0 && rate <= 1000.0) {
            return bad("rate", format!("is {rate}; it must be above 0 and at most 1000 frames a second"));
        }
        if !(seconds > 0.0 && seconds <= 1e6) {
            return bad("seconds", format!("are {seconds}; clips must be longer than 0 and at most 1000000 s"));
        }
        if !(step >= 0.01 && step <= seconds) {
            return bad("step", format!("is {step} s; it must be from 0.01 to the {seconds} s of a clip"));
        }
        match cut_below {
            Some(cosine) if !(-1.0..=1.0).contains(&cosine) => {
                bad("cut_below", format!("is {cosine}; a cosine is from -1 to 1"))
            }
            _ => Ok(()),
        }
    }

    /// Cuts a video whose frames are shown at `times` (ascending, from 0) until `end`; `alike` has the cosine of each frame
    /// with the next one, where shots matter. Every frame is in a clip, and every clip has one.
    pub fn clips(&self, times: &[f64], end: f64, alike: &[f32]) -> Vec<Clip> {
        let mut clips = Vec::new();
        let Some(&last) = times.last() else { return clips };
        let end = end.max(last);
        let cuts = (1..times.len()).filter(|&i| {
            let alike = alike.get(i - 1).copied().unwrap_or(1.0);
            self.cut_below.is_some_and(|least| alike < least)
        });
        let edges: Vec<usize> = std::iter::once(0).chain(cuts).chain([times.len()]).collect();
        for shot in edges.windows(2) {
            let until = times.get(shot[1]).copied().unwrap_or(end);
            self.windows(times, shot[0]..shot[1], until, &mut clips);
        }
        clips
    }

    /// The windows of a shot, which has the frames `shot` and ends at `until`.
    fn windows(&self, times: &[f64], shot: std::ops::Range<usize>, until: f64, clips: &mut Vec<Clip>) {
        let from = times[shot.start];
        for number in 0.. {
            let start = from + number as f64 * self.step;
            let whole = start + self.seconds;
            // A rest that would be no longer than the overlap is in this window already.
            let ends = whole >= until - 1e-6;
            let end = if ends { until } else { whole };
            // The frame on the screen when the window starts belongs to it.
            let first = times[shot.clone()].partition_point(|&time| time <= start + 1e-6).max(1) - 1 + shot.start;
            let after = times[shot.clone()].partition_point(|&time| time < end - 1e-6).max(1) + shot.start;
            let count = after.max(first + 1) - first;
            match clips.last_mut() {
                // The same frames once more: a picture that stands longer than the step.
                Some(last) if (last.first, last.count) == (first, count) => last.end = end,
                _ => clips.push(Clip { start, end, first, count }),
            }
            if ends {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(plan: ClipPlan, times: &[f64], end: f64) -> Vec<(f64, f64, usize, usize)> {
        plan.clips(times, end, &[]).iter().map(|c| (c.start, c.end, c.first, c.count)).collect()
    }

    #[test]
    fn windows_overlap_by_half_and_reach_the_end() {
        let times: Vec<f64> = (0..20).map(f64::from).collect();
        let plan = ClipPlan::default();
        assert_eq!(cut(plan, &times[..3], 2.5), [(0.0, 2.5, 0, 3)]);
        assert_eq!(cut(plan, &times[..8], 8.0), [(0.0, 8.0, 0, 8)]);
        assert_eq!(cut(plan, &times[..9], 8.5), [(0.0, 8.0, 0, 8), (4.0, 8.5, 4, 5)]);
        let all = cut(plan, &times, 20.0);
        assert_eq!(all, [(0.0, 8.0, 0, 8), (4.0, 12.0, 4, 8), (8.0, 16.0, 8, 8), (12.0, 20.0, 12, 8)]);
        assert!(cut(plan, &[], 3.0).is_empty());
        // Windows in which the same picture stands are one.
        assert_eq!(cut(plan, &[0.0, 30.0], 38.0), [(0.0, 28.0, 0, 1), (24.0, 36.0, 0, 2), (32.0, 38.0, 1, 1)]);
    }

    #[test]
    fn every_frame_is_in_a_clip_at_any_rate() {
        for rate in [0.1, 0.3, 1.0, 2.5, 7.0] {
            for count in [1, 2, 9, 31, 200] {
                let times: Vec<f64> = (0..count).map(|i| f64::from(i) / rate).collect();
                let clips =
                    ClipPlan { rate, ..ClipPlan::default() }.clips(&times, times[count as usize - 1] + 0.04, &[]);
                let mut seen = vec![false; times.len()];
                for clip in &clips {
                    assert!(clip.count > 0 && clip.start < clip.end);
                    seen[clip.first..clip.first + clip.count].fill(true);
                }
                assert!(seen.iter().all(|&s| s), "{rate} {count}");
            }
        }
    }

    #[test]
    fn clips_end_where_shots_do() {
        let times: Vec<f64> = (0..12).map(f64::from).collect();
        let mut alike = [0.95; 11];
        alike[2] = 0.2;
        let plan = ClipPlan { cut_below: Some(0.5), ..ClipPlan::default() };
        let got: Vec<_> = plan.clips(&times, 12.0, &alike).iter().map(|c| (c.start, c.end, c.first, c.count)).collect();
        assert_eq!(got, [(0.0, 3.0, 0, 3), (3.0, 11.0, 3, 8), (7.0, 12.0, 7, 5)]);
        assert_eq!(ClipPlan::default().clips(&times, 12.0, &alike).len(), 2);
    }

    #[test]
    fn plans_that_cut_nothing_are_errors() {
        let plan = ClipPlan::default();
        for bad in [
            ClipPlan { rate: 0.0, ..plan },
            ClipPlan { rate: f64::NAN, ..plan },
            ClipPlan { seconds: 0.0, ..plan },
            ClipPlan { step: 0.0, ..plan },
            ClipPlan { step: 9.0, ..plan },
            ClipPlan { cut_below: Some(2.0), ..plan },
        ] {
            assert!(matches!(bad.check(), Err(Error::Argument { .. })), "{bad:?}");
        }
    }
}
