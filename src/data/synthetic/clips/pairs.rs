//! A split of the world as texts and videos for models on CLIP's towers.

use std::ops::Range;

use super::{ClipCaption, ClipWorld};
use crate::data::media::frames::FrameSet;
use crate::data::media::preprocess::Preprocess;
use crate::data::pairs::PairSource;
use crate::data::tokenizer::Tokenizer;
use crate::data::{Part, checked_index};
use crate::{Error, Result};

/// The videos of a split with all of their captions. Frames are drawn when they are asked for.
#[derive(Clone, Debug)]
pub struct ClipPairs {
    world: ClipWorld,
    part: Part,
    videos: Range<usize>,
    captions: Vec<(usize, ClipCaption)>,
    ids: Vec<u32>,
    words: usize,
    preprocess: Preprocess,
}

impl ClipPairs {
    /// The captions are tokenised once, to `words` ids each, padded with 0.
    ///
    /// # Errors
    /// [`Error::Argument`] for a caption that does not fit into `words`: it would lose what it tells.
    pub fn new(world: &ClipWorld, part: Part, tokenizer: &Tokenizer, words: usize) -> Result<Self> {
        let videos = world.videos(part);
        let mut captions = Vec::new();
        for video in videos.clone() {
            captions.extend(world.captions(video)?.into_iter().map(|caption| (video - videos.start, caption)));
        }
        let texts: Vec<&str> = captions.iter().map(|(_, caption)| caption.text.as_str()).collect();
        let tokens = tokenizer.encode(&texts, words)?;
        if let Some(first) = tokens.cut.first() {
            let why = format!("of {words} cut {} captions, the first {:?}", tokens.cut.len(), texts[*first]);
            return Err(Error::argument("ClipPairs", "words", why));
        }
        let preprocess = Preprocess::clip(world.config().size);
        Ok(Self { world: world.clone(), part, videos, captions, ids: tokens.ids, words, preprocess })
    }

    /// The caption of text `text`.
    pub fn caption(&self, text: usize) -> Option<&ClipCaption> {
        self.captions.get(text).map(|(_, caption)| caption)
    }

    /// The videos of this split that text `text` describes, its own among them.
    pub fn fits(&self, text: usize) -> Vec<usize> {
        let caption = self.caption(text).into_iter();
        caption.flat_map(|c| self.world.fits(self.part, c)).map(|video| video - self.videos.start).collect()
    }
}

impl PairSource for ClipPairs {
    fn texts(&self) -> usize {
        self.captions.len()
    }

    fn videos(&self) -> usize {
        self.videos.len()
    }

    fn video_of(&self, text: usize) -> Result<usize> {
        Ok(self.captions[checked_index("ClipPairs", text, self.captions.len())?].0)
    }

    fn tokens(&self, text: usize) -> Result<Vec<u32>> {
        let text = checked_index("ClipPairs", text, self.captions.len())?;
        Ok(self.ids[text * self.words..(text + 1) * self.words].to_vec())
    }

    fn frames(&self, video: usize) -> Result<FrameSet> {
        let video = self.videos.start + checked_index("ClipPairs", video, self.videos.len())?;
        let frames = self.world.frames(video)?;
        let size = self.world.config().size;
        let mut pixels = Vec::with_capacity(frames.len());
        for frame in frames.chunks_exact(3 * size * size) {
            // From pixels one after another to one plane a colour.
            let planes: Vec<u8> = (0..3).flat_map(|c| frame.iter().skip(c).step_by(3).copied()).collect();
            pixels.extend(self.preprocess.normalize(&planes));
        }
        let count = self.world.config().frames;
        FrameSet::new(pixels, count, count)
    }
}
