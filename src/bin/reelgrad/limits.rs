//! What reading one video may take.

use clap::Args;
use reelgrad::data::media::video::{Limit, Limits};

/// What one video may take.
#[derive(Args)]
pub struct LimitFlags {
    /// Most frames that are taken of a video [default: 4096, and 60 for each second of it].
    #[arg(long, value_name = "N")]
    max_frames: Option<u32>,
    /// Most seconds that reading a video may take [default: 300, 4 for each second of it, and 1 for each MiB].
    #[arg(long, value_name = "S")]
    max_seconds: Option<u32>,
    /// Most pixels of a frame [default: 67108864].
    #[arg(long, value_name = "N")]
    max_pixels: Option<u32>,
    /// Most bytes that the frames taken have together, at three a pixel [default: 4 GiB, and 1 GiB for each second].
    #[arg(long, value_name = "N")]
    max_bytes: Option<u64>,
}

impl LimitFlags {
    /// The defaults, but for what was given.
    pub fn limits(&self) -> Limits {
        let known = Limits::default();
        let fixed = |given: Option<u32>, default| given.map_or(default, |n| Limit::fixed(f64::from(n)));
        Limits {
            frame_pixels: self.max_pixels.map_or(known.frame_pixels, |n| n as usize),
            frames: fixed(self.max_frames, known.frames),
            bytes: self.max_bytes.map_or(known.bytes, |n| Limit::fixed(n as f64)),
            seconds: fixed(self.max_seconds, known.seconds),
        }
    }
}
