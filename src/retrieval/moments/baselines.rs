//! What guessing gives: numbers that a trained model must leave behind.

use std::collections::HashMap;
use std::ops::Range;

use super::metrics::is_right;
use crate::data::moments::{MomentQuery, MomentVideo};
use crate::{Error, Result};

/// The moments that a model can name: from one clip's start to another's, `lengths` clips later.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanGrid {
    /// Seconds from one clip's start to the next one's.
    pub seconds_per_clip: f64,
    /// Clips that a moment may last; ReLoCLNet's `2..16`.
    pub lengths: Range<usize>,
    /// Clips of a video that are looked at; ReLoCLNet's 128.
    pub max_clips: usize,
}

impl SpanGrid {
    /// All moments in a video of `duration` seconds, [start, end]. It has as many clips as have begun before its end,
    /// and both bounds are starts of such clips.
    fn spans(&self, duration: f64) -> impl Iterator<Item = [f64; 2]> {
        let clips = ((duration / self.seconds_per_clip).ceil().max(1.0) as usize).min(self.max_clips);
        let ends = move |start: usize| (start + self.lengths.start)..clips.min(start.saturating_add(self.lengths.end));
        let seconds = move |clip: usize| clip as f64 * self.seconds_per_clip;
        (0..clips).flat_map(move |start| ends(start).map(move |end| [seconds(start), seconds(end)]))
    }
}

/// R@1 that random guessing gets on average, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomSpan {
    /// A random moment of a random video: every video of the corpus is as likely, then every moment of it.
    pub vcmr: f64,
    /// A random moment of the query's own video.
    pub svmr: f64,
}

/// The expectation over all guesses, by enumeration: for each query the share of the moments of its video that reach
/// `threshold` by TVR's rule ([`is_right`]), in its mean over queries; for VCMR divided by the number of videos, as
/// only the query's own can be right. A video without a moment on the grid is never guessed right.
///
/// # Errors
/// [`Error::Argument`] without queries, for a grid without clips or seconds, and for a query without labels;
/// [`Error::Missing`] for a video that is not in `videos`.
pub fn random_span(
    queries: &[MomentQuery],
    videos: &[MomentVideo],
    grid: &SpanGrid,
    threshold: f32,
) -> Result<RandomSpan> {
    if !(grid.seconds_per_clip > 0.0 && grid.seconds_per_clip.is_finite()) || grid.max_clips == 0 {
        return Err(argument("grid", "needs clips that last".into()));
    }
    let share = |query: &MomentQuery, duration: f64| {
        let (mut right, mut all) = (0, 0);
        for span in grid.spans(duration) {
            all += 1;
            right += usize::from(is_right(span.map(|t| t as f32), &query.windows, threshold));
        }
        right as f64 / all.max(1) as f64
    };
    let svmr = mean_percent(queries, videos, share)?;
    Ok(RandomSpan { vcmr: svmr / videos.len() as f64, svmr })
}

/// Always the middle of the video: a moment of so many seconds, or the whole video if that is shorter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CentrePrior {
    /// How long the moment is.
    pub seconds: f64,
}

impl CentrePrior {
    /// As long as the mean moment of (training) queries.
    ///
    /// # Errors
    /// [`Error::Argument`] without moments.
    pub fn mean_seconds(queries: &[MomentQuery]) -> Result<Self> {
        let seconds: Vec<f64> = queries.iter().flat_map(|q| &q.windows).map(|w| w[1] - w[0]).collect();
        mean(&seconds).map(|seconds| Self { seconds })
    }

    fn window(self, duration: f64) -> [f64; 2] {
        let length = self.seconds.min(duration);
        [(duration - length) / 2.0, (duration + length) / 2.0]
    }

    /// SVMR R@1 in percent: queries for which this moment reaches `threshold` by TVR's rule ([`is_right`]).
    pub fn svmr(self, queries: &[MomentQuery], videos: &[MomentVideo], threshold: f32) -> Result<f64> {
        let right = |query: &MomentQuery, duration: f64| {
            let window = self.window(duration).map(|t| t as f32);
            f64::from(u8::from(is_right(window, &query.windows, threshold)))
        };
        mean_percent(queries, videos, right)
    }
}

/// The mean over labelled queries, in percent, of a share that depends on a query and the seconds that its video lasts.
fn mean_percent(queries: &[MomentQuery], videos: &[MomentVideo], of: impl Fn(&MomentQuery, f64) -> f64) -> Result<f64> {
    let durations: HashMap<&str, f64> = videos.iter().map(|v| (v.id.as_str(), v.duration)).collect();
    let share = |query: &MomentQuery| {
        let name = query.video.as_deref().filter(|_| !query.windows.is_empty());
        let name = name.ok_or_else(|| argument("queries", format!("hold no labels for {}", query.id)))?;
        Ok(of(query, *durations.get(name).ok_or_else(|| Error::missing("videos", "video", name))?))
    };
    Ok(100.0 * mean(&queries.iter().map(share).collect::<Result<Vec<f64>>>()?)?)
}

fn mean(values: &[f64]) -> Result<f64> {
    if values.is_empty() {
        return Err(argument("queries", "must not be empty".into()));
    }
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

fn argument(argument: &'static str, why: String) -> Error {
    Error::Argument { op: "moments::baselines", argument, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(id: &str, duration: f64) -> MomentVideo {
        MomentVideo { id: id.into(), duration, index: 0 }
    }

    fn query(video: &str, windows: &[[f64; 2]]) -> MomentQuery {
        let (text, video) = ("x".into(), Some(video.into()));
        MomentQuery { id: 1, text, video, windows: windows.to_vec(), kind: None, saliency: Vec::new() }
    }

    fn grid(seconds_per_clip: f64) -> SpanGrid {
        SpanGrid { seconds_per_clip, lengths: 2..4, max_clips: 128 }
    }

    #[test]
    fn all_moments_of_a_grid_are_counted() {
        // Five clips: starts 0 to 4, lengths 2 and 3.
        let spans: Vec<_> = grid(1.0).spans(4.5).collect();
        assert_eq!(spans, [[0.0, 2.0], [0.0, 3.0], [1.0, 3.0], [1.0, 4.0], [2.0, 4.0]]);
        assert_eq!(grid(1.0).spans(2.0).count(), 0);
        assert_eq!(SpanGrid { max_clips: 3, ..grid(1.0) }.spans(1e300).count(), 1);
    }

    #[test]
    fn random_moments_are_right_by_their_share() {
        let videos = [video("a", 4.5), video("b", 1.0), video("c", 9.0), video("d", 9.0)];
        // In a: overlaps 1, 2/3, 1/3, 1/4, 0 of the five. In b there is no moment to guess.
        let queries = [query("a", &[[0.0, 2.0]]), query("b", &[[0.0, 1.0]])];
        let random = random_span(&queries, &videos, &grid(1.0), 0.5).unwrap();
        approx::assert_abs_diff_eq!(random.svmr, 20.0, epsilon = 1e-9);
        approx::assert_abs_diff_eq!(random.vcmr, 5.0, epsilon = 1e-9);
        approx::assert_abs_diff_eq!(
            random_span(&queries[..1], &videos, &grid(1.0), 0.7).unwrap().svmr,
            20.0,
            epsilon = 1e-9
        );
    }

    #[test]
    fn centre_priors_take_means_of_training_moments() {
        let videos = [video("a", 10.0), video("b", 40.0)];
        let queries = [query("a", &[[0.0, 5.0]]), query("b", &[[10.0, 30.0], [15.0, 25.0]])];
        let seconds = CentrePrior::mean_seconds(&queries).unwrap();
        assert_eq!(seconds, CentrePrior { seconds: 35.0 / 3.0 });
        assert_eq!(seconds.window(10.0), [0.0, 10.0]);
        let fixed = CentrePrior { seconds: 20.0 };
        assert_eq!(fixed.window(40.0), [10.0, 30.0]);
        assert_eq!(fixed.svmr(&queries, &videos, 0.7).unwrap(), 50.0);
    }

    #[test]
    fn what_cannot_be_guessed_is_an_error() {
        let (queries, videos) = ([query("a", &[[0.0, 5.0]])], [video("a", 10.0)]);
        assert!(matches!(random_span(&[], &videos, &grid(1.0), 0.5), Err(Error::Argument { .. })));
        assert!(matches!(random_span(&queries, &[], &grid(1.0), 0.5), Err(Error::Missing { .. })));
        assert!(matches!(random_span(&[query("a", &[])], &videos, &grid(1.0), 0.5), Err(Error::Argument { .. })));
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(random_span(&queries, &videos, &grid(seconds), 0.5), Err(Error::Argument { .. })));
        }
        assert!(matches!(CentrePrior::mean_seconds(&[]), Err(Error::Argument { .. })));
    }
}
