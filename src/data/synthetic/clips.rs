//! Short clips as pixels, with captions of the whole clip or of a part of it.

#[cfg(feature = "text")]
mod pairs;
mod write;

#[cfg(feature = "text")]
pub use pairs::ClipPairs;

use std::ops::{Range, RangeInclusive};

use serde::{Deserialize, Serialize};

use super::captions::{captions, phrase, vocabulary};
use super::events::Event;
use super::render::{Stage, render};
use super::stream;
use super::world::{World, WorldConfig};
use crate::data::Part;
use crate::random::Random;
use crate::{Error, Result};

/// Wordings of both events of a clip, and of one of them: the most captions of a kind.
const WORDINGS: usize = 4;

/// Most frames of a clip, and the sizes that a frame may have.
const MOST_FRAMES: usize = 64;
const SIZES: RangeInclusive<usize> = 16..=512;

/// What a [`ClipWorld`] is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipWorldConfig {
    /// The seed of everything.
    pub seed: u64,
    /// Videos to train on; an even number, as all three: each video has a twin. At least 2.
    pub train: usize,
    /// Videos to validate on.
    pub validation: usize,
    /// Videos to test on.
    pub test: usize,
    /// Frames of a clip; an even number from 4 to 64.
    pub frames: usize,
    /// Height and width of a frame in pixels, from 16 to 512.
    pub size: usize,
    /// Captions of each video that describe both of its events, from 1 to 4.
    pub whole_captions: usize,
    /// Captions of each video that describe one of its events, from 0 to 4.
    pub partial_captions: usize,
}

impl Default for ClipWorldConfig {
    /// Seed 0; 4,000 videos to train, 250 to validate and 500 to test on; 12 frames of 64 x 64 pixels; one caption of
    /// the whole and one of a part.
    fn default() -> Self {
        Self {
            seed: 0,
            train: 4000,
            validation: 250,
            test: 500,
            frames: 12,
            size: 64,
            whole_captions: 1,
            partial_captions: 1,
        }
    }
}

impl ClipWorldConfig {
    fn check(&self) -> Result<()> {
        let videos = [self.train, self.validation, self.test];
        let why = if videos.iter().any(|n| !n.is_multiple_of(2)) {
            format!("must have even numbers of videos, for each has a twin; has {videos:?}")
        } else if !self.frames.is_multiple_of(2) || !(4..=MOST_FRAMES).contains(&self.frames) {
            format!("must have an even number of frames from 4 to {MOST_FRAMES}; has {}", self.frames)
        } else if !SIZES.contains(&self.size) {
            format!("must have frames of {} to {} pixels; has {}", SIZES.start(), SIZES.end(), self.size)
        } else if !(1..=WORDINGS).contains(&self.whole_captions) || self.partial_captions > WORDINGS {
            format!("must have 1 to {WORDINGS} whole captions and at most as many partial ones")
        } else {
            return Ok(());
        };
        Err(Error::argument("ClipWorld::new", "config", why))
    }
}

/// A caption of a clip, and what it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipCaption {
    /// "a red square moves left then a blue circle rises", or one half of it.
    pub text: String,
    /// The events that it tells, in order: both of its clip's, or one.
    pub events: Vec<Event>,
}

impl ClipCaption {
    /// Whether it leaves an event of its clip out. It then fits other clips as well, see [`ClipWorld::fits`].
    pub fn is_partial(&self) -> bool {
        self.events.len() < 2
    }
}

/// A set of short clips as pixels, with captions that describe all of a clip or a part of it.
///
/// A clip shows two events one after the other, as a [`World`]'s does, in larger frames. Each has a twin, which shows
/// the same events in the other order; no pair of events, in whichever order, is in two splits. Videos are numbered
/// from 0: training, then validation, then test; a video and its twin are neighbours.
///
/// Frames are drawn when asked for: the pixels of 4,000 clips of 12 frames take 590 MB.
///
/// ```
/// use reelgrad::data::Part;
/// use reelgrad::data::synthetic::{ClipWorld, ClipWorldConfig};
///
/// let world = ClipWorld::new(ClipWorldConfig { train: 40, validation: 4, test: 6, ..Default::default() })?;
/// assert_eq!(world.frames(0)?.len(), 12 * 64 * 64 * 3);
/// for video in world.videos(Part::Test) {
///     for caption in world.captions(video)? {
///         println!("{}: {:?}", caption.text, world.fits(Part::Test, &caption));
///     }
/// }
/// # Ok::<(), reelgrad::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClipWorld {
    config: ClipWorldConfig,
    /// Which events are in which video. Only that is used of it.
    plan: World,
}

impl ClipWorld {
    /// Draws the events of all videos.
    ///
    /// # Errors
    /// [`Error::Argument`] for a number out of its range, and for more than the 20,592 videos that there are.
    pub fn new(config: ClipWorldConfig) -> Result<Self> {
        config.check()?;
        let ClipWorldConfig { seed, train, validation, test, .. } = config;
        let contents = WorldConfig { seed, train: train / 2, validation: validation / 2, test: test / 2 };
        Ok(Self { config, plan: World::new(contents)? })
    }

    /// What the world was made from.
    pub fn config(&self) -> &ClipWorldConfig {
        &self.config
    }

    /// The number of videos.
    pub fn len(&self) -> usize {
        self.plan.len()
    }

    /// Whether there are no videos; there always are.
    pub fn is_empty(&self) -> bool {
        self.plan.is_empty()
    }

    /// The videos of `part`.
    pub fn videos(&self, part: Part) -> Range<usize> {
        self.plan.videos(part)
    }

    /// The video with the same events in the other order.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn twin(&self, video: usize) -> Result<usize> {
        self.plan.twin(video)
    }

    /// The two events of `video`, in order.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn events(&self, video: usize) -> Result<[Event; 2]> {
        self.plan.events(video)
    }

    /// The captions of `video`, those of the whole first. No two are equal.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn captions(&self, video: usize) -> Result<Vec<ClipCaption>> {
        let events = self.events(video)?;
        let mut random = Random::new(self.config.seed, stream::CLIP_CAPTIONS + video as u64);
        let whole = captions(events, &mut random).into_iter().map(|text| ClipCaption { text, events: events.into() });
        let mut parts = [(events[0], false), (events[0], true), (events[1], false), (events[1], true)];
        random.shuffle(&mut parts);
        let partial =
            parts.map(|(event, other_words)| ClipCaption { text: phrase(event, other_words), events: vec![event] });
        Ok(whole
            .take(self.config.whole_captions)
            .chain(partial.into_iter().take(self.config.partial_captions))
            .collect())
    }

    /// All videos of `part` that show what `caption` tells, in that order: one for a caption of the whole, and every
    /// clip with that event for a partial one. Scored with its own clip alone, a partial caption counts as wrong most
    /// often when it is not.
    pub fn fits(&self, part: Part, caption: &ClipCaption) -> Vec<usize> {
        let shows = |&video: &usize| {
            let mut shown = self.events(video).into_iter().flatten();
            caption.events.iter().all(|&told| shown.any(|event| event == told))
        };
        self.videos(part).filter(shows).collect()
    }

    /// The frames of `video`: RGB bytes (frames, size, size, 3), the same whenever they are asked for.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn frames(&self, video: usize) -> Result<Vec<u8>> {
        let ClipWorldConfig { seed, frames, size, .. } = self.config;
        let mut random = Random::new(seed, stream::CLIP_FRAMES + video as u64);
        Ok(render(self.events(video)?, Stage { frames, size }, &mut random))
    }

    /// All words of all captions, sorted.
    pub fn vocabulary() -> Vec<&'static str> {
        vocabulary()
    }
}

#[cfg(test)]
mod tests;
