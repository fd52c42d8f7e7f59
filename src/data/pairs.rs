//! Texts and videos as the towers take them, one pair at a time: what a trainer reads.

use crate::data::frames::FrameSet;
use crate::{Error, Result};

/// Texts that belong to videos.
pub trait PairSource: Sync {
    /// How many texts there are.
    fn texts(&self) -> usize;

    /// How many videos there are.
    fn videos(&self) -> usize;

    /// The video of a text, one of the first [`PairSource::videos`] numbers.
    fn video_of(&self, text: usize) -> usize;

    /// Tokens of text `text`, padded to the model's length.
    ///
    /// # Errors
    /// What the source meets.
    fn tokens(&self, text: usize) -> Result<Vec<u32>>;

    /// Frames of video `video`.
    ///
    /// # Errors
    /// What the source meets.
    fn frames(&self, video: usize) -> Result<FrameSet>;
}

/// A batch on the host: text i belongs to video i.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairBatch {
    /// Token ids (B · n).
    pub ids: Vec<u32>,
    /// Normalised pixels (B · F, 3, H, W).
    pub pixels: Vec<f32>,
    /// 1 for frames, 0 for padding (B, F).
    pub mask: Vec<f32>,
}

/// The frames of `videos` one after another, with their mask (N, `frames`).
///
/// # Errors
/// What `source` returns; [`Error::Argument`] for a video with another number of frames, or of another size than the
/// first.
pub fn collate_frames(source: &dyn PairSource, videos: &[usize], frames: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    let (mut pixels, mut mask) = (Vec::new(), Vec::with_capacity(videos.len() * frames));
    for &video in videos {
        let set = source.frames(video)?;
        if set.mask.len() != frames || (!pixels.is_empty() && set.pixels.len() * mask.len() != pixels.len() * frames) {
            let why =
                format!("of video {video} differ in number or size from the model's {frames} or the first video's");
            return Err(Error::Argument { op: "collate", argument: "frames", why });
        }
        pixels.extend_from_slice(&set.pixels);
        mask.extend_from_slice(&set.mask);
    }
    Ok((pixels, mask))
}

/// The batch of the texts numbered `texts` and their videos.
///
/// # Errors
/// As [`collate_frames`].
pub fn collate(source: &dyn PairSource, texts: &[usize], frames: usize) -> Result<PairBatch> {
    let videos: Vec<usize> = texts.iter().map(|&t| source.video_of(t)).collect();
    let (pixels, mask) = collate_frames(source, &videos, frames)?;
    let mut ids = Vec::new();
    for &text in texts {
        ids.extend(source.tokens(text)?);
    }
    Ok(PairBatch { ids, pixels, mask })
}
