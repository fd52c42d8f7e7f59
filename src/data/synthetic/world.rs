//! Which clips there are, and how they are split.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::captions::{TOKEN_DIMS, TokenEncoder, captions};
use super::events::Event;
use super::features::{self, Features};
use super::render::{Stage, render};
use super::stream;
use crate::data::{Part, checked_index};
use crate::random::Random;
use crate::tensor::Array;
use crate::{Error, Result};

/// What a [`World`] is made from.
///
/// A *content* is a pair of events; it gives two videos, one in each order. There are 10,296 contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorldConfig {
    /// The seed of everything.
    pub seed: u64,
    /// Contents to train on; at least one.
    pub train: usize,
    /// Contents to validate on.
    pub validation: usize,
    /// Contents to test on.
    pub test: usize,
}

impl Default for WorldConfig {
    /// Seed 0; 2,000 contents to train, 200 to validate and 500 to test on: 5,400 videos.
    fn default() -> Self {
        Self { seed: 0, train: 2000, validation: 200, test: 500 }
    }
}

/// A rendered clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// RGB bytes, row-major ([`FRAMES`](super::FRAMES), [`SIZE`](super::SIZE), [`SIZE`](super::SIZE), 3).
    pub frames: Vec<u8>,
    /// The two events, in order.
    pub events: [Event; 2],
    /// The same two events in four wordings.
    pub captions: Vec<String>,
    /// The video with the same events in the other order.
    pub twin: usize,
    /// What the video is for.
    pub part: Part,
}

/// A set of short clips and their captions.
///
/// Videos are numbered from 0: training, then validation, then test; a video and its twin are neighbours.
///
/// ```
/// use reelgrad::data::synthetic::{World, WorldConfig};
///
/// let world = World::new(WorldConfig { train: 10, validation: 2, test: 3, ..Default::default() })?;
/// assert_eq!(world.len(), 30);
/// let clip = world.clip(0)?;
/// let twin = world.clip(clip.twin)?;
/// assert_eq!(clip.events[0], twin.events[1]);
/// println!("{}", clip.captions[0]);
/// # Ok::<(), reelgrad::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct World {
    config: WorldConfig,
    /// The events of each video.
    events: Vec<[Event; 2]>,
    tokens: TokenEncoder,
}

impl World {
    /// Draws the contents of all splits; none occurs twice, in whichever order.
    ///
    /// # Errors
    /// [`Error::Argument`] if no content is for training, or if more contents are asked for than there are.
    pub fn new(config: WorldConfig) -> Result<Self> {
        let events: Vec<_> = Event::all().collect();
        let mut pairs = Vec::new();
        for (i, &a) in events.iter().enumerate() {
            pairs.extend(events[i + 1..].iter().map(|&b| [a, b]));
        }
        let invalid = |why: String| Err(Error::argument("World::new", "config", why));
        let wanted = [config.train, config.validation, config.test].into_iter().try_fold(0, usize::checked_add);
        let Some(wanted) = wanted.filter(|&wanted| wanted <= pairs.len()) else {
            return invalid(format!("asks for more than the {} contents that there are", pairs.len()));
        };
        if config.train == 0 {
            return invalid("must have training contents: they set the scale of the features".to_owned());
        }
        let mut random = Random::new(config.seed, stream::PLAN);
        random.shuffle(&mut pairs);
        let events = pairs[..wanted].iter().flat_map(|&[a, b]| {
            // Which order comes first must not tell anything.
            if random.below(2) == 0 { [[a, b], [b, a]] } else { [[b, a], [a, b]] }
        });
        Ok(Self { config, events: events.collect(), tokens: TokenEncoder::new(config.seed) })
    }

    /// What the world was made from.
    pub fn config(&self) -> &WorldConfig {
        &self.config
    }

    /// The number of videos.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are no videos; there always are.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The video with the same events in the other order.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn twin(&self, video: usize) -> Result<usize> {
        Ok(checked_index("World", video, self.len())? ^ 1)
    }

    /// The part that `video` belongs to.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn part(&self, video: usize) -> Result<Part> {
        let video = checked_index("World", video, self.len())?;
        let starts = |part: &Part| self.videos(*part).start <= video;
        Ok(Part::ALL.into_iter().rfind(starts).unwrap_or(Part::Train))
    }

    /// The videos of `part`.
    pub fn videos(&self, part: Part) -> Range<usize> {
        let WorldConfig { train, validation, test, .. } = self.config;
        let contents = match part {
            Part::Train => 0..train,
            Part::Validation => train..train + validation,
            Part::Test => train + validation..train + validation + test,
        };
        2 * contents.start..2 * contents.end
    }

    /// The two events of `video`, in order.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn events(&self, video: usize) -> Result<[Event; 2]> {
        Ok(self.events[checked_index("World", video, self.len())?])
    }

    /// The four captions of `video`. They say the same in other words, and come in a random order.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn captions(&self, video: usize) -> Result<Vec<String>> {
        let mut random = Random::new(self.config.seed, stream::CAPTIONS + video as u64);
        Ok(captions(self.events(video)?, &mut random))
    }

    /// Renders `video`.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn clip(&self, video: usize) -> Result<Clip> {
        Ok(Clip {
            events: self.events(video)?,
            captions: self.captions(video)?,
            twin: self.twin(video)?,
            part: self.part(video)?,
            frames: self.render(video),
        })
    }

    /// Renders all videos and computes their features, on all processors; it takes seconds for the default world.
    ///
    /// # Errors
    /// [`Error::Shape`] if the features do not fit into the address space.
    pub fn features(&self) -> Result<Features> {
        features::features(self.config.seed, self.len(), 2 * self.config.train, |video| self.render(video))
    }

    /// The token features of a caption, (tokens, [`TOKEN_DIMS`]): a fixed random mixture of word, previous word and
    /// position, squashed to -1 to 1. Tokens are separated by blanks.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first word that the grammar lacks.
    pub fn encode_caption(&self, caption: &str) -> Result<Array> {
        let features = self.tokens.encode(caption)?;
        Array::new([features.len() / TOKEN_DIMS, TOKEN_DIMS], features)
    }

    /// The frames of `video`, which is below [`World::len`].
    pub(super) fn render(&self, video: usize) -> Vec<u8> {
        let mut random = Random::new(self.config.seed, stream::FRAMES + video as u64);
        render(self.events[video], Stage::SMALL, &mut random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic::{FRAME_DIMS, FRAMES, REGION_DIMS};
    use std::collections::HashMap;

    fn small(seed: u64) -> World {
        World::new(WorldConfig { seed, train: 30, validation: 3, test: 5 }).unwrap()
    }

    #[test]
    fn no_content_is_in_two_splits() {
        let world = World::new(WorldConfig::default()).unwrap();
        assert_eq!(world.len(), 5400);
        let mut seen = HashMap::new();
        let mut counts = HashMap::new();
        for video in 0..world.len() {
            let mut content = world.events(video).unwrap();
            content.sort();
            assert_ne!(content[0], content[1]);
            let part = world.part(video).unwrap();
            assert!(world.videos(part).contains(&video));
            *counts.entry(part).or_insert(0) += 1;
            // Only the twin, which is the neighbour, has the same content.
            let first = *seen.entry(content).or_insert(video);
            assert!(first == video || (first == world.twin(video).unwrap() && part == world.part(first).unwrap()));
        }
        assert_eq!(seen.len(), 2700);
        assert_eq!(counts, HashMap::from([(Part::Train, 4000), (Part::Validation, 400), (Part::Test, 1000)]));
    }

    #[test]
    fn twins_share_events_in_reverse_but_no_pixels() {
        let world = small(1);
        for video in 0..world.len() {
            let clip = world.clip(video).unwrap();
            let twin = world.clip(clip.twin).unwrap();
            assert_eq!((twin.twin, twin.part), (video, clip.part));
            assert_eq!(twin.events, [clip.events[1], clip.events[0]]);
            let (first, second) = clip.frames.split_at(clip.frames.len() / 2);
            assert_ne!([second, first].concat(), twin.frames);
            assert!(clip.captions.iter().all(|c| !twin.captions.contains(c)));
        }
    }

    #[test]
    fn one_seed_one_world() {
        let (world, again, other) = (small(7), small(7), small(8));
        assert_eq!(world.clip(11).unwrap(), again.clip(11).unwrap());
        assert_ne!(world.clip(11).unwrap().frames, other.clip(11).unwrap().frames);
        let features = world.features().unwrap();
        assert_eq!(features, again.features().unwrap());
        assert_ne!(features, other.features().unwrap());
        let caption = &world.captions(0).unwrap()[0];
        let tokens = world.encode_caption(caption).unwrap();
        assert_eq!(tokens.shape(), [caption.split(' ').count(), TOKEN_DIMS]);
        assert_eq!(tokens, again.encode_caption(caption).unwrap());
        assert_ne!(tokens, other.encode_caption(caption).unwrap());
    }

    /// The bytes of one clip and some features, fixed: a change of platform or code that alters the world shows here.
    #[test]
    fn the_world_stays_as_it_is() {
        let world = small(0);
        let checksum = |bytes: &[u8]| {
            bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
        };
        let clip = world.clip(5).unwrap();
        assert_eq!(clip.captions[0], "a white cross goes right then a yellow triangle moves right");
        let features = world.features().unwrap();
        let bits = |array: &Array| checksum(&array.data().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        let tokens = world.encode_caption(&clip.captions[0]).unwrap();
        let sums = [checksum(&clip.frames), bits(&features.frames), bits(&features.regions), bits(&tokens)];
        let expected = [0x55d4_da10_9461_621f, 0x6744_4302_2e34_9cce, 0x1170_5896_ab9a_f2bb, 0x5788_44ff_563b_4b03];
        assert_eq!(sums, expected, "{sums:#018x?}");
    }

    #[test]
    fn features_are_standard_over_the_training_videos() {
        let world = small(2);
        let features = world.features().unwrap();
        for (array, dims) in [(&features.frames, FRAME_DIMS), (&features.regions, REGION_DIMS)] {
            assert_eq!(array.shape()[..2], [world.len(), FRAMES]);
            assert_eq!(array.non_finite(), None);
            let training = &array.data()[..array.len() / world.len() * 60];
            for dim in 0..dims {
                let column = || training.iter().skip(dim).step_by(dims).map(|&v| f64::from(v));
                let count = (training.len() / dims) as f64;
                let mean = column().sum::<f64>() / count;
                let variance = column().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
                assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4, "{dim}: {mean} {variance}");
            }
        }
    }

    /// The first half of a clip is drawn like the second half of its twin, so the mean frame cannot tell the order.
    #[test]
    fn halves_of_twins_have_the_same_statistics() {
        let world = World::new(WorldConfig { seed: 3, train: 300, validation: 0, test: 0 }).unwrap();
        let brightness = |bytes: &[u8]| bytes.iter().map(|&b| f64::from(b)).sum::<f64>() / bytes.len() as f64;
        let mut differences = Vec::new();
        for video in 0..world.len() {
            let [clip, twin] = [video, video ^ 1].map(|v| world.clip(v).unwrap().frames);
            let half = clip.len() / 2;
            differences.push(brightness(&clip[..half]) - brightness(&twin[half..]));
        }
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let variance = differences.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / count;
        assert!(mean.abs() < 4.0 * (variance / count).sqrt(), "{mean} against {variance}");
    }

    #[test]
    fn bad_requests_are_errors() {
        for (train, validation, test) in [(0, 1, 1), (10_296, 1, 0), (usize::MAX, 1, 1)] {
            let config = WorldConfig { seed: 0, train, validation, test };
            assert!(matches!(World::new(config), Err(Error::Argument { .. })));
        }
        let world = small(0);
        let beyond = world.len();
        assert!(matches!(world.clip(beyond), Err(Error::IndexOutOfRange { .. })));
        assert!(world.twin(beyond).is_err() && world.part(beyond).is_err() && world.captions(beyond).is_err());
        assert!(World::new(WorldConfig { train: 10_296, validation: 0, test: 0, seed: 0 }).is_ok());
    }
}
