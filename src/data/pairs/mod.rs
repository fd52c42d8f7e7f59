//! Texts and videos as the towers take them, one pair at a time: what a trainer reads.

#[cfg(all(feature = "datasets", feature = "text"))]
pub mod dataset;

use crate::data::media::frames::FrameSet;
use crate::data::media::video::LoadFailure;
use crate::{Error, Result};

/// Texts that belong to videos.
pub trait PairSource: Sync {
    /// How many texts there are.
    fn texts(&self) -> usize;

    /// How many videos there are.
    fn videos(&self) -> usize;

    /// The video of a text, one of the first [`PairSource::videos`] numbers.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    fn video_of(&self, text: usize) -> Result<usize>;

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

    /// Frames of several videos; sources that decode do so on several threads.
    fn frames_of(&self, videos: &[usize]) -> Vec<Result<FrameSet>> {
        videos.iter().map(|&video| self.frames(video)).collect()
    }

    /// What stands for a video that cannot be read where one is needed; by default nothing but the `error` does. A source
    /// that gives something records the error: training then leaves the pair out and goes on.
    ///
    /// # Errors
    /// `error`.
    fn stand_in(&self, _video: usize, error: Error) -> Result<FrameSet> {
        Err(error)
    }

    /// The videos that something stood in for since this was last asked, each once.
    fn failures(&self) -> Vec<LoadFailure> {
        Vec::new()
    }
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
/// What `source` returns, unless it has a stand-in; [`Error::Argument`] for a video with another number of frames, or of
/// another size than the first.
pub fn collate_frames(source: &dyn PairSource, videos: &[usize], frames: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    let (mut pixels, mut mask) = (Vec::new(), Vec::with_capacity(videos.len() * frames));
    for (&video, set) in videos.iter().zip(read(source, videos)?) {
        let set = set.or_else(|error| source.stand_in(video, error))?;
        append(&mut pixels, &mut mask, set, frames)?;
    }
    Ok((pixels, mask))
}

/// The batch of the texts numbered `texts` and their videos. A pair whose video cannot be read is left out if the source
/// has a stand-in for it.
///
/// # Errors
/// As [`collate_frames`]; [`Error::Argument`] where nothing is left.
pub fn collate(source: &dyn PairSource, texts: &[usize], frames: usize) -> Result<PairBatch> {
    let videos: Vec<usize> = texts.iter().map(|&t| source.video_of(t)).collect::<Result<_>>()?;
    let mut batch = PairBatch::default();
    for ((&text, &video), set) in texts.iter().zip(&videos).zip(read(source, &videos)?) {
        match set {
            Ok(set) => {
                append(&mut batch.pixels, &mut batch.mask, set, frames)?;
                batch.ids.extend(source.tokens(text)?);
            }
            Err(error) => {
                source.stand_in(video, error)?;
            }
        }
    }
    if batch.mask.is_empty() && !texts.is_empty() {
        let why = format!("of a batch have no video that can be read, of {}", texts.len());
        return Err(Error::argument("collate", "texts", why));
    }
    Ok(batch)
}

fn read(source: &dyn PairSource, videos: &[usize]) -> Result<Vec<Result<FrameSet>>> {
    let sets = source.frames_of(videos);
    if sets.len() == videos.len() {
        return Ok(sets);
    }
    Err(Error::argument("collate", "source", format!("gave {} of {} videos", sets.len(), videos.len())))
}

fn append(pixels: &mut Vec<f32>, mask: &mut Vec<f32>, set: FrameSet, frames: usize) -> Result<()> {
    if set.mask.len() != frames || (!pixels.is_empty() && set.pixels.len() * mask.len() != pixels.len() * frames) {
        let why = format!("differ in number or size from the model's {frames} or from the first video's");
        return Err(Error::argument("collate", "frames", why));
    }
    pixels.extend_from_slice(&set.pixels);
    mask.extend_from_slice(&set.mask);
    Ok(())
}
