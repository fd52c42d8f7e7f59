//! Similarities of texts, videos, frames and clips, as models and searches compare them.

pub mod aosm;
pub mod gates;
pub mod gathered;
pub mod max_similarity;
pub mod soft_similarity;
pub mod spans;
