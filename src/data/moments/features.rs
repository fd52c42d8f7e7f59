//! Clip features as ReLoCLNet takes them: resampled, normalised, with endpoint features, padded, and labelled.

use serde::{Deserialize, Serialize};

use crate::data::batch::{mask, stack};
use crate::tensor::Array;
use crate::{Error, Result};

const OP: &str = "moments::collate";

/// A video's clips, and how long each lasts.
#[derive(Clone, Debug, PartialEq)]
pub struct Clips {
    /// What is seen, (clips, width).
    pub video: Option<Array>,
    /// What is said, (clips, width); as many rows.
    pub sub: Option<Array>,
    /// Seconds from one clip's start to the next one's, as times are computed.
    pub seconds_per_clip: f64,
}

impl Clips {
    /// The number of clips.
    pub fn len(&self) -> usize {
        self.video.as_ref().or(self.sub.as_ref()).and_then(|a| a.shape().first().copied()).unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How long a clip of a resampled video lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// As long as before resampling: what the official code computes with, wrong beyond its 128 clips.
    #[default]
    Official,
    /// Stretched, so that all clips together last as long as the video.
    Rescaled,
}

impl Timing {
    /// Seconds of a clip when `clips` of `seconds` each became `kept`.
    pub fn seconds_per_clip(self, seconds: f64, clips: usize, kept: usize) -> f64 {
        match self {
            Timing::Official => seconds,
            Timing::Rescaled => seconds * clips as f64 / kept.max(1) as f64,
        }
    }
}

/// A query with its video and the clips that it describes.
#[derive(Clone, Debug, PartialEq)]
pub struct MomentSample {
    /// Token features, (tokens, width).
    pub tokens: Array,
    /// The video.
    pub clips: Clips,
    /// The first and the last clip of the label, both inclusive.
    pub span: [usize; 2],
}

/// The label of a window in seconds: the clip that holds its start, and its end as the number of clips up to it,
/// rounded up; both at most the last clip. The end is thus one clip past the moment, as in the official code.
pub fn clip_span(window: [f64; 2], seconds_per_clip: f64, clips: usize) -> [usize; 2] {
    let last = clips.saturating_sub(1);
    let at = |clip: f64| (clip.max(0.0) as usize).min(last);
    [at((window[0] / seconds_per_clip).floor()), at((window[1] / seconds_per_clip).ceil())]
}

/// At most `max` rows: means of `max` stretches of a longer array, whose bounds are rounded to even. The last row of all
/// enters no mean, as in the official code.
///
/// # Errors
/// [`Error::Shape`] unless `x` is (rows, width), none of them 0; [`Error::Argument`] for a `max` of 0.
pub fn resample(x: &Array, max: usize) -> Result<Array> {
    const OP: &str = "moments::resample";
    let (n, width) = match *x.shape() {
        [n, width] if n > 0 && width > 0 => (n, width),
        _ => return Err(Error::shape(OP, "x", "(rows, width), none of them 0", x.shape())),
    };
    if max == 0 {
        return Err(Error::argument(OP, "max", "must not be 0"));
    }
    if n <= max {
        return Ok(x.clone());
    }
    // The official bounds are f64: k / max * n.
    let bound = |k: usize| ((k as f64 / max as f64 * n as f64).round_ties_even() as usize).min(n - 1);
    let mut y = Array::zeros([max, width]);
    for (k, row) in y.data_mut().chunks_exact_mut(width).enumerate() {
        let (from, to) = (bound(k), bound(k + 1));
        let rows = from..to.max(from + 1);
        for (c, out) in row.iter_mut().enumerate() {
            let sum: f64 = rows.clone().map(|r| f64::from(x.data()[r * width + c])).sum();
            *out = (sum / rows.len() as f64) as f32;
        }
    }
    Ok(y)
}

/// Divides each row of (.., width) by its norm plus 1e-5.
pub fn l2_normalize_rows(x: &mut Array) {
    let width = x.shape().last().copied().unwrap_or(1).max(1);
    for row in x.data_mut().chunks_exact_mut(width) {
        let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32;
        row.iter_mut().for_each(|v| *v /= norm + 1e-5);
    }
}

/// Where clip `i` of `n` starts and ends, as shares of the video.
pub fn endpoint_features(i: usize, n: usize) -> [f32; 2] {
    [i as f32 / n as f32, (i + 1) as f32 / n as f32]
}

/// How samples become a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Clips that every video is padded to; the official network wants all its positions.
    pub clips: usize,
    /// Whether two endpoint features are appended to every clip.
    pub endpoints: bool,
}

/// Padded samples.
#[derive(Clone, Debug, PartialEq)]
pub struct MomentBatch {
    /// Token features (B, Lq, width), padded to the longest query.
    pub query: Array,
    /// 1 for tokens (B, Lq).
    pub query_mask: Array,
    /// What is seen (B, Lc, width).
    pub video: Option<Array>,
    /// What is said (B, Lc, width).
    pub sub: Option<Array>,
    /// 1 for clips (B, Lc).
    pub clip_mask: Array,
    /// First and last clip of each label, inclusive.
    pub spans: Vec<[u32; 2]>,
}

/// Joins samples into one batch.
///
/// # Errors
/// [`Error::Argument`] without samples; [`Error::Shape`] for an array that is not (rows, width) with at least one row, or
/// has more clips than `options.clips`; [`Error::ShapeMismatch`] where widths differ, or a stream is not in every sample.
pub fn collate(samples: &[MomentSample], options: BatchOptions) -> Result<MomentBatch> {
    let tokens: Vec<&Array> = samples.iter().map(|s| &s.tokens).collect();
    let clips: Vec<&Clips> = samples.iter().map(|s| &s.clips).collect();
    let (query, query_mask) = pad_tokens(&tokens)?;
    let (video, sub, clip_mask) = pad_clips(&clips, options)?;
    let spans = samples.iter().map(|s| s.span.map(|c| c as u32)).collect();
    Ok(MomentBatch { query, query_mask, video, sub, clip_mask, spans })
}

/// Token features as (B, L, width) with their mask (B, L), padded with zeros to the longest.
///
/// # Errors
/// As [`collate`].
pub fn pad_tokens(queries: &[&Array]) -> Result<(Array, Array)> {
    let longest = queries.iter().map(|q| q.shape().first().copied().unwrap_or(0)).max().unwrap_or(0);
    let padded = stack(OP, "tokens", queries, &["tokens", "width"], longest)?;
    Ok((padded, mask(queries.iter().map(|q| q.shape()[0]), longest)))
}

/// Both streams as (B, clips, width), as far as there are any, with the mask (B, clips).
///
/// # Errors
/// As [`collate`].
pub fn pad_clips(videos: &[&Clips], options: BatchOptions) -> Result<(Option<Array>, Option<Array>, Array)> {
    let stream = |name: &'static str, part: fn(&Clips) -> Option<&Array>| -> Result<Option<Array>> {
        let parts: Vec<&Array> = videos.iter().filter_map(|c| part(c)).collect();
        if parts.is_empty() {
            return Ok(None);
        }
        if parts.len() != videos.len() {
            let why = "a stream must be in all samples of a batch or in none";
            return Err(Error::ShapeMismatch { op: OP, left: vec![parts.len()], right: vec![videos.len()], why });
        }
        let padded = stack(OP, name, &parts, &["clips", "width"], options.clips)?;
        if options.endpoints { with_endpoints(&parts, &padded).map(Some) } else { Ok(Some(padded)) }
    };
    let (video, sub) = (stream("video", |c| c.video.as_ref())?, stream("sub", |c| c.sub.as_ref())?);
    let of = |c: &&Clips| c.video.as_ref().zip(c.sub.as_ref()).map(|(v, s)| (v.shape()[0], s.shape()[0]));
    if let Some((left, right)) = videos.iter().filter_map(of).find(|(v, s)| v != s) {
        let why = "both streams of a video need as many clips";
        return Err(Error::ShapeMismatch { op: OP, left: vec![left], right: vec![right], why });
    }
    if videos.iter().any(|c| c.is_empty()) {
        return Err(Error::argument(OP, "clips", "of a sample have no stream"));
    }
    Ok((video, sub, mask(videos.iter().map(|c| c.len()), options.clips)))
}

/// `padded`, the stacked `videos`, with the endpoint features of every clip behind the others.
fn with_endpoints(videos: &[&Array], padded: &Array) -> Result<Array> {
    let (rows, width) = (padded.shape()[1], padded.shape()[2]);
    let mut data = Vec::with_capacity(videos.len() * rows * (width + 2));
    for (i, clip) in padded.data().chunks_exact(width).enumerate() {
        let (place, clips) = (i % rows, videos[i / rows].shape()[0]);
        data.extend_from_slice(clip);
        data.extend(if place < clips { endpoint_features(place, clips) } else { [0.0; 2] });
    }
    Array::new([videos.len(), rows, width + 2], data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(rows: usize, width: usize) -> Array {
        Array::new([rows, width], (0..rows * width).map(|i| i as f32).collect()).unwrap()
    }

    #[test]
    fn labels_are_clamped_to_the_last_clip() {
        assert_eq!(clip_span([3.2, 7.6], 1.5, 51), [2, 6]);
        assert_eq!(clip_span([33.02, 48.68], 1.5, 51), [22, 33]);
        assert_eq!(clip_span([70.0, 90.0], 1.5, 40), [39, 39]);
    }

    #[test]
    fn short_videos_stay_and_long_ones_shrink() {
        let x = array(5, 3);
        assert_eq!(resample(&x, 5).unwrap(), x);
        for flat in
            [Array::zeros([3]), Array::zeros([]), Array::zeros([0, 2]), Array::zeros([2, 0]), Array::zeros([1, 2, 3])]
        {
            assert!(matches!(resample(&flat, 1), Err(Error::Shape { .. })), "{:?}", flat.shape());
        }
        assert!(matches!(resample(&x, 0), Err(Error::Argument { .. })));
        let scalar = Clips { video: Some(Array::zeros([])), sub: None, seconds_per_clip: 1.0 };
        assert!(scalar.is_empty());
        let y = resample(&array(10, 1), 4).unwrap();
        // Bounds 0, 2 (2.5 to even), 5, 8 (7.5 to even), 9.
        assert_eq!(y.data(), &[0.5, 3.0, 6.0, 8.0]);
        assert_eq!(Timing::Official.seconds_per_clip(1.5, 10, 4), 1.5);
        assert_eq!(Timing::Rescaled.seconds_per_clip(1.5, 10, 4), 3.75);
    }

    #[test]
    fn batches_are_padded_and_carry_endpoints() {
        let clips = |n| Clips { video: Some(array(n, 2)), sub: Some(array(n, 3)), seconds_per_clip: 1.5 };
        let sample = |n, tokens| MomentSample { tokens: array(tokens, 4), clips: clips(n), span: [0, n - 1] };
        let options = BatchOptions { clips: 4, endpoints: true };
        let batch = collate(&[sample(2, 1), sample(3, 2)], options).unwrap();
        assert_eq!(batch.query.shape(), &[2, 2, 4]);
        assert_eq!(batch.query_mask.data(), &[1.0, 0.0, 1.0, 1.0]);
        assert_eq!(batch.video.as_ref().unwrap().shape(), &[2, 4, 4]);
        assert_eq!(&batch.video.unwrap().data()[..8], &[0.0, 1.0, 0.0, 0.5, 2.0, 3.0, 0.5, 1.0]);
        assert_eq!(batch.clip_mask.data(), &[1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(batch.spans, vec![[0, 1], [0, 2]]);

        assert!(matches!(collate(&[], options), Err(Error::Argument { .. })));
        assert!(matches!(collate(&[sample(5, 1)], options), Err(Error::Shape { argument: "video", .. })));
        let one = MomentSample { clips: Clips { sub: None, ..clips(2) }, ..sample(2, 1) };
        assert!(matches!(collate(&[one, sample(2, 1)], options), Err(Error::ShapeMismatch { .. })));
        let uneven = Clips { sub: Some(array(3, 3)), ..clips(2) };
        let uneven = MomentSample { clips: uneven, ..sample(2, 1) };
        assert!(matches!(collate(&[uneven], options), Err(Error::ShapeMismatch { .. })));
    }

    #[test]
    fn rows_of_zeros_stay_zeros() {
        let mut x = Array::new([2, 2], vec![0.0, 0.0, 3.0, 4.0]).unwrap();
        l2_normalize_rows(&mut x);
        assert_eq!(&x.data()[..2], &[0.0, 0.0]);
        assert!((x.data()[2] - 0.6).abs() < 1e-5);
    }
}
