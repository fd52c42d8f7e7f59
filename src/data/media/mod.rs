//! Videos and pictures: files that ffmpeg decodes, folders of frames, and what an image tower takes of them.

pub mod frames;
pub mod pixels;
pub mod preprocess;
pub mod video;
