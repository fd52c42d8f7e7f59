//! Long videos of several events and spoken lines, with queries that ask for moments.

mod features;
mod script;
mod timeline;
mod write;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use self::features::Encoder;
use self::script::Question;
use self::timeline::{CLIP_SECONDS, FEWEST_CLIPS, MOST_EVENTS, event_stretches, line_stretches};
use super::events::Event;
use super::stream;
use crate::data::moments::{Clips, MomentQuery, MomentSplit, MomentVideo, Widths};
use crate::data::{Part, checked_index};
use crate::random::Random;
use crate::tensor::Array;
use crate::{Error, Result};

pub use timeline::Stretch;
pub use write::{MomentManifest, MomentRecord};

/// Most videos, and most clips of one: TVR has 21,793 of up to 182.
const MOST_VIDEOS: usize = 1_000_000;
const MOST_CLIPS: usize = 1_000;

/// What a [`MomentWorld`] is made from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MomentWorldConfig {
    /// The seed of everything.
    pub seed: u64,
    /// Videos to train on.
    pub train: usize,
    /// Videos to validate on.
    pub validation: usize,
    /// Videos to test on.
    pub test: usize,
    /// Fewest and most clips of a video, from 19 to 1,000.
    pub clips: [usize; 2],
    /// The deviation of the noise in what is seen; what is shown has 1.7 (three parts of variance 1).
    pub noise: f32,
    /// The deviation of the noise in what is said; words have 1.
    pub speech_noise: f32,
    /// The share of each split's videos that have a twin, from 0 to 1.
    pub twins: f64,
}

impl Default for MomentWorldConfig {
    /// Seed 0; 200, 100 and 100 videos of 20 to 40 clips (30 to 60 s), a quarter of them with a twin; noise of 4 in
    /// what is seen and of 1 in what is said.
    fn default() -> Self {
        Self {
            seed: 0,
            train: 200,
            validation: 100,
            test: 100,
            clips: [20, 40],
            noise: 4.0,
            speech_noise: 1.0,
            twins: 0.25,
        }
    }
}

impl MomentWorldConfig {
    fn check(&self) -> Result<()> {
        let videos = [self.validation, self.test].iter().try_fold(self.train, |sum, &n| sum.checked_add(n));
        let [fewest, most] = self.clips;
        let why = if !videos.is_some_and(|n| (1..=MOST_VIDEOS).contains(&n)) {
            format!("must ask for 1 to {MOST_VIDEOS} videos")
        } else if fewest < FEWEST_CLIPS || most < fewest || most > MOST_CLIPS {
            format!("must have clips from {FEWEST_CLIPS} to {MOST_CLIPS}, the fewest first; has {:?}", self.clips)
        } else if [self.noise, self.speech_noise].iter().any(|n| !n.is_finite() || *n < 0.0) {
            "must have finite deviations of noise that are not negative".to_owned()
        } else if !(0.0..=1.0).contains(&self.twins) {
            format!("must have a share of twins from 0 to 1; has {}", self.twins)
        } else {
            return Ok(());
        };
        Err(Error::argument("MomentWorld::new", "config", why))
    }
}

/// What happens in a video, and what is asked about it.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedVideo {
    /// "video" and its number of six digits or more.
    pub id: String,
    /// What the video is for.
    pub part: Part,
    /// The video with the same events in the opposite order.
    pub twin: Option<usize>,
    /// How many clips it has, of 1.5 s each.
    pub clips: usize,
    /// What is seen, in order: three to five different events.
    pub events: Vec<(Event, Stretch)>,
    /// What is said, in order; no line twice.
    pub lines: Vec<(String, Stretch)>,
    /// Four or five queries, no text twice, each with one window.
    pub queries: Vec<MomentQuery>,
    /// The ids of those queries that ask for two events in order.
    pub order_queries: Vec<u64>,
}

impl SimulatedVideo {
    /// Seconds.
    pub fn duration(&self) -> f64 {
        self.clips as f64 * CLIP_SECONDS
    }
}

/// A simulated corpus for moment retrieval.
///
/// A video is 20 to 40 clips of 1.5 s. Three to five of the 144 events of [`Event::all`] happen in it, each for 3 to 8
/// clips with gaps between, and lines of a small grammar are spoken at times of their own ("the train leaves at nine").
/// Events recur in many videos; no two videos have the same set of events, but for *twins*: pairs whose events come in
/// opposite orders, and whose lines are the same. So the splits share nothing but the vocabulary.
///
/// Queries ask for an event ("a red square moves left"), for two neighbouring events ("a red square moves left, then a
/// blue circle rises"; each twin has one such query), for a line ("someone says the train leaves at nine"), or for an
/// event while a line is spoken. Their types have about TVR's shares: 74 % video, 9 % text, 17 % both.
///
/// Nothing is rendered: features are sums of random vectors for colour, shape and event, of an offset of the video, and
/// of noise; what is said is the maximum over random vectors of the words. Figures measured here say nothing about real
/// videos, only about whether and why a model learns.
///
/// Videos are numbered from 0: training, then validation, then test; a video and its twin are neighbours.
///
/// ```
/// use reelgrad::data::synthetic::{MomentWorld, MomentWorldConfig};
///
/// let config = MomentWorldConfig { train: 4, validation: 2, test: 2, ..Default::default() };
/// let world = MomentWorld::new(config)?;
/// let video = world.video(0)?;
/// let query = &video.queries[0];
/// println!("{}: {:?}", query.text, query.windows);
/// assert_eq!(world.clips(0)?.len(), video.clips);
/// assert_eq!(world.encode_query("a red square moves left")?.shape(), [5, 64]);
/// # Ok::<(), reelgrad::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MomentWorld {
    config: MomentWorldConfig,
    videos: Vec<SimulatedVideo>,
    encoder: Encoder,
}

impl MomentWorld {
    /// Widths of the features: 64 of a query's token, 64 of what is seen, 48 of what is said.
    pub const WIDTHS: Widths = features::WIDTHS;

    /// Draws what happens in all videos, and the queries.
    ///
    /// # Errors
    /// [`Error::Argument`] for a `config` with a value out of its range, without videos, or with more than a million.
    pub fn new(config: MomentWorldConfig) -> Result<Self> {
        config.check()?;
        let lines = script::lines();
        let mut taken = HashSet::new();
        let mut videos: Vec<SimulatedVideo> = Vec::new();
        let mut next_query = 0;
        let parts = [(Part::Train, config.train), (Part::Validation, config.validation), (Part::Test, config.test)];
        for (part, count) in parts {
            let twins = 2 * (count as f64 * config.twins / 2.0) as usize;
            for place in 0..count {
                let index = videos.len();
                let mut random = Random::new(config.seed, stream::TIMELINES + index as u64);
                let (clips, events, lines) = match videos.last() {
                    Some(twin) if place < twins && place % 2 == 1 => reversed(twin),
                    _ => draw(&config, &lines, &mut taken, &mut random),
                };
                let mut video = SimulatedVideo {
                    id: format!("video{index:06}"),
                    part,
                    twin: (place < twins).then(|| if place % 2 == 0 { index + 1 } else { index - 1 }),
                    clips,
                    events,
                    lines,
                    queries: Vec::new(),
                    order_queries: Vec::new(),
                };
                ask(&mut video, &mut next_query, &mut random);
                videos.push(video);
            }
        }
        Ok(Self { config, videos, encoder: Encoder::new(config.seed) })
    }

    /// What the world was made from.
    pub fn config(&self) -> &MomentWorldConfig {
        &self.config
    }

    /// The number of videos.
    pub fn len(&self) -> usize {
        self.videos.len()
    }

    /// Whether there are no videos; there always are.
    pub fn is_empty(&self) -> bool {
        self.videos.is_empty()
    }

    /// What happens in `video`, and its queries.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn video(&self, video: usize) -> Result<&SimulatedVideo> {
        Ok(&self.videos[checked_index("MomentWorld", video, self.len())?])
    }

    /// The queries and videos of `part`, as a reader of the written folder gives them.
    pub fn split(&self, part: Part) -> MomentSplit {
        let videos = || self.videos.iter().enumerate().filter(|(_, v)| v.part == part);
        let entry = |(i, v): (usize, &SimulatedVideo)| MomentVideo {
            id: v.id.clone(),
            duration: v.duration(),
            index: i as u64,
        };
        MomentSplit {
            queries: videos().flat_map(|(_, v)| v.queries.iter().cloned()).collect(),
            videos: videos().map(entry).collect(),
        }
    }

    /// The features of `video`'s clips. What is seen is L2-normalised by row, as in TVR's joint file; what is said is
    /// not, and is zero where nobody speaks.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn clips(&self, video: usize) -> Result<Clips> {
        let plan = self.video(video)?;
        Ok(Clips {
            video: Some(self.encoder.seen(plan, &self.config, video)),
            sub: Some(self.encoder.said(plan, &self.config, video)),
            seconds_per_clip: CLIP_SECONDS,
        })
    }

    /// The features of a query's words, (words, 64): a random vector for the word and sinusoids for its position.
    /// Case and punctuation do not matter.
    ///
    /// # Errors
    /// [`Error::Argument`] for a text without words, or naming the first word that the world lacks.
    pub fn encode_query(&self, text: &str) -> Result<Array> {
        self.encoder.query(text)
    }
}

/// The clips, events and lines of a video.
type Happenings = (usize, Vec<(Event, Stretch)>, Vec<(String, Stretch)>);

/// A set of events that is not in `taken`.
fn draw(
    config: &MomentWorldConfig,
    lines: &[String],
    taken: &mut HashSet<Vec<Event>>,
    random: &mut Random,
) -> Happenings {
    let [fewest, most] = config.clips;
    let clips = fewest + random.below(most - fewest + 1);
    let all: Vec<_> = Event::all().collect();
    let events = loop {
        let mut events = all.clone();
        random.shuffle(&mut events);
        events.truncate(MOST_EVENTS - random.below(3));
        let mut set = events.clone();
        set.sort_unstable();
        if taken.insert(set) {
            break events;
        }
    };
    let mut spoken = lines.to_vec();
    random.shuffle(&mut spoken);
    let stretches = event_stretches(clips, events.len(), random);
    let lines = spoken.into_iter().zip(line_stretches(clips, random)).collect();
    (clips, events.into_iter().zip(stretches).collect(), lines)
}

/// The same with the events in the opposite order; each lasts as long as before.
fn reversed(twin: &SimulatedVideo) -> Happenings {
    let events = twin.events.iter().rev().map(|&(event, stretch)| (event, stretch.mirrored(twin.clips))).collect();
    (twin.clips, events, twin.lines.clone())
}

/// Gives a video its queries, numbered from `next`.
fn ask(video: &mut SimulatedVideo, next: &mut u64, random: &mut Random) {
    let count = 4 + random.below(2);
    while video.queries.len() < count {
        let question = if video.twin.is_some() && video.queries.is_empty() {
            Question::order(&video.events, random)
        } else {
            Question::any(&video.events, &video.lines, random)
        };
        // There are always enough others: each of three events has two wordings.
        if video.queries.iter().any(|q| q.text == question.text) {
            continue;
        }
        if question.order {
            video.order_queries.push(*next);
        }
        let query = MomentQuery::new(*next, question.text, Some(video.id.clone()), vec![question.stretch.window()]);
        video.queries.push(MomentQuery { kind: Some(question.kind), ..query });
        *next += 1;
    }
}

#[cfg(test)]
mod tests;
