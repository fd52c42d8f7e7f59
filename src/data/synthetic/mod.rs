//! Videos made by seed, for training and testing where no published videos can be had.
//!
//! A [`World`] holds short clips of 8 frames. In each, one coloured shape does something and then another one does
//! something else, with captions in a small grammar: "a red square moves left then a blue circle rises". Each clip has
//! a *twin*: the same two events in the other order, rendered anew. A clip and its twin have the same distribution of
//! frames, so no average over frames tells them apart; a model has to see time.
//!
//! [`World::write`] writes features and captions in the file layout of the MSR-VTT features that BiC-Net's authors
//! use, so that the loader of the real data reads them.
//!
//! A [`MomentWorld`] holds long videos instead, of several events each and with spoken lines, for moment retrieval;
//! [`MomentWorld::write`] writes them in TVR's layout. A [`ClipWorld`] holds larger clips as pixels, for models that see
//! them, with captions of the whole clip or of a part of it; [`ClipWorld::write`] writes them in MSR-VTT's layout. [`SimulatedActivityNet`] gives simulated features to the real
//! sentences and times of ActivityNet Captions.
//!
//! Everything is a pure function of the seed and the configuration, to the bit, on every platform and with any number
//! of threads.

mod activitynet;
mod captions;
mod clips;
mod events;
mod features;
mod moments;
mod render;
mod words;
mod world;
mod write;

pub use activitynet::{SimulatedActivityNet, SimulationOptions};
pub use captions::{MAX_TOKENS, TOKEN_DIMS};
#[cfg(feature = "text")]
pub use clips::ClipPairs;
pub use clips::{ClipCaption, ClipWorld, ClipWorldConfig};
pub use events::{Action, Colour, Event, Shape};
pub use features::{FRAME_DIMS, Features, REGION_DIMS, REGIONS};
pub use moments::{MomentManifest, MomentRecord, MomentWorld, MomentWorldConfig, SimulatedVideo, Stretch};
pub use render::{FRAMES, SIZE};
pub use world::{Clip, World, WorldConfig};
pub use write::{ClipRecord, Manifest};

/// The streams of the seed; the large ones have one for each video, counted up from here.
mod stream {
    pub const PLAN: u64 = 0;
    pub const FRAME_MATRIX: u64 = 1;
    pub const REGION_MATRIX: u64 = 2;
    pub const WORDS: u64 = 3;
    pub const TOKEN_MATRIX: u64 = 4;
    pub const MOMENT_WORDS: u64 = 5;
    pub const MOMENT_EVENTS: u64 = 6;
    pub const WORD_MATRIX: u64 = 7;
    pub const CAPTIONS: u64 = 1 << 40;
    pub const FRAMES: u64 = 2 << 40;
    pub const TIMELINES: u64 = 3 << 40;
    pub const SEEN: u64 = 4 << 40;
    pub const SAID: u64 = 5 << 40;
    pub const CLIP_CAPTIONS: u64 = 6 << 40;
    pub const CLIP_FRAMES: u64 = 7 << 40;
}
