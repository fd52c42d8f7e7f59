//! Retrieval: metrics of text-to-video and video-to-text search, and of moments in videos.
//!
//! Whatever computes on the GPU may return the device's errors, too; a function that says "as" another returns that one's.

pub mod compat;
#[cfg(all(feature = "datasets", feature = "images", feature = "text"))]
pub mod embed;
#[cfg(feature = "datasets")]
pub mod evaluation;
pub mod exact;
pub mod gallery;
pub mod index;
pub mod metrics;
pub mod moments;
pub mod ranking;
#[cfg(all(feature = "images", feature = "text"))]
pub mod search;
pub mod summary;
pub mod two_space;

pub use compat::Compat;
pub use metrics::{Counts, RetrievalMetrics, Scores, Ties};

use crate::{Error, Result};

/// The value that `text` names.
fn by_name<T: Copy, const N: usize>(
    (op, argument): (&'static str, &'static str),
    text: &str,
    values: [(&str, T); N],
) -> Result<T> {
    values.into_iter().find(|(name, _)| *name == text).map(|(_, value)| value).ok_or_else(|| {
        let names = values.map(|(name, _)| name);
        let why = format!("must be {} or {}, got {text:?}", names[..N - 1].join(", "), names[N - 1]);
        Error::Argument { op, argument, why }
    })
}
