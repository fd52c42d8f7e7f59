//! Retrieval: metrics of text-to-video and video-to-text search, and of moments in videos.

pub mod compat;
#[cfg(all(feature = "datasets", feature = "images", feature = "text"))]
pub mod embed;
#[cfg(feature = "datasets")]
pub mod evaluation;
pub mod gallery;
pub mod metrics;
pub mod moments;
pub mod ranking;
pub mod two_space;

pub use compat::Compat;
pub use metrics::{Counts, RetrievalMetrics, Scores, Ties};
