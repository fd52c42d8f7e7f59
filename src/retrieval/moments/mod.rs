//! Moment retrieval: encoded videos in an index, search for videos and moments, submissions and metrics.

mod index;
mod search;

pub use index::{IndexOptions, IndexedVideo, MomentIndex};
pub use search::{Found, MomentSearch, QueryVectors, SearchOptions, Stage};

/// TEMPORARY
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// a
    pub video: u64,
    /// a
    pub start: f32,
    /// a
    pub end: f32,
    /// a
    pub score: f32,
}
