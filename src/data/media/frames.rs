//! Which frames of a video are used, and frames that lie in a folder as pictures.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub use published::{Grid, Published};
pub use sampling::{Density, MOMENT, Sampling, Shown, Timeline};

#[cfg(feature = "images")]
pub use folder::read_frames;
#[cfg(feature = "images")]
pub use picture::{image_of_bytes, read_image};

#[cfg(feature = "images")]
mod folder;
#[cfg(feature = "images")]
mod picture;
mod published;
mod sampling;

/// Which of a video's frames stand for it, when there are more than a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// The first ones.
    Head,
    /// The last ones.
    Tail,
    /// At equal distances, the first and the last one among them.
    #[default]
    Uniform,
    /// As EERCF does with folders of frames: of more than 256, 128 at equal distances first, and of these again.
    Thinned,
}

impl Choice {
    /// The numbers of the chosen frames, ascending: at most `max_frames` of `count`.
    pub fn indices(self, count: usize, max_frames: usize) -> Vec<usize> {
        match self {
            Choice::Head => (0..count.min(max_frames)).collect(),
            Choice::Tail => (count.saturating_sub(max_frames)..count).collect(),
            Choice::Uniform => spread(count, max_frames),
            Choice::Thinned if count > 256 => {
                let thinned = spread(count, 128);
                spread(thinned.len(), max_frames).into_iter().map(|i| thinned[i]).collect()
            }
            Choice::Thinned => spread(count, max_frames),
        }
    }
}

/// NumPy's `linspace(0, count - 1, most)` in f64, rounded down; all numbers if they are no more than `most`.
fn spread(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    let step = (count - 1) as f64 / most.saturating_sub(1) as f64;
    // NumPy sets the last value to the end of the interval, unless it is the first one too.
    (0..most).map(|i| if i > 0 && i + 1 == most { count - 1 } else { (i as f64 * step) as usize }).collect()
}

/// How videos and pictures are read, beside which frames of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Anamorphic videos are widened or narrowed as players do it, until their pixels are square. Without it they stay
    /// squeezed, as OpenCV leaves them, and with it the published loaders.
    pub square_pixels: bool,
    /// Pictures are turned as their EXIF data say. CLIP's own code does not do it. Videos are turned in any case.
    pub exif_rotation: bool,
    /// A damaged video is an error, and not a note.
    pub strict: bool,
}

impl Reading {
    /// For one's own videos: square pixels; pictures as they lie, as CLIP takes them; damage is noted.
    pub const OWN: Self = Self { square_pixels: true, exif_rotation: false, strict: false };

    /// As the published loaders read: pixels and pictures as they are stored; damage is noted.
    pub const PUBLISHED: Self = Self { square_pixels: false, ..Self::OWN };
}

/// What the reader of a video should know, though it could be read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// Parts of the file are damaged or missing; the frames are those that could be decoded.
    Damaged {
        /// Seconds from the first frame to the end of the last one.
        decoded: f64,
        /// Seconds that the file states, where it states more than that.
        stated: Option<f64>,
        /// How many complaints ffmpeg had.
        complaints: u64,
        /// The first of them; may be empty.
        first: String,
    },
    /// The times of the file go back: frames that have a time at which others were shown already. Where two have one time,
    /// the first is used.
    Unordered {
        /// How many.
        count: usize,
    },
    /// Files in a folder of frames that are none.
    Stray {
        /// How many.
        count: usize,
        /// The name of the first one.
        first: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Note::Damaged { decoded, stated, complaints, first } => {
                match stated {
                    Some(stated) => write!(f, "decoded {decoded:.1} of about {stated:.1} s")?,
                    None => write!(f, "decoded {decoded:.1} s of a damaged file")?,
                }
                match complaints {
                    0 => write!(f, "; the decoder did not complain"),
                    1 => write!(f, "; the decoder complained once: {first}"),
                    _ => write!(f, "; the decoder complained {complaints} times, first: {first}"),
                }
            }
            Note::Unordered { count } => {
                write!(f, "the times of the file go back: {count} frames fall on others and may be lost; remux it")
            }
            Note::Stray { count, first } => {
                write!(f, "{count} files that are no frames were left out, such as {first}")
            }
        }
    }
}

/// A video as a network takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameSet {
    /// Normalised pixels (max_frames, 3, crop, crop); zero, the mean colour, where there is no frame.
    pub pixels: Vec<f32>,
    /// 1 for each frame, 0 for what is missing up to max_frames.
    pub mask: Vec<f32>,
    /// How many frames there are; they come first.
    pub valid: usize,
    /// The presentation time of each valid frame in seconds, as ffprobe gives it; empty where frames have none, as in
    /// folders.
    pub times: Vec<f64>,
    /// What was wrong with the video, though it could be read.
    pub notes: Vec<Note>,
}

impl FrameSet {
    /// Pads `pixels`, which hold `valid` frames, with zeros to `max_frames` frames. They have no times and no notes yet.
    ///
    /// # Errors
    /// [`Error::Argument`] without a frame, or with more than `max_frames`; [`Error::Shape`] when the pixels do not divide
    /// into `valid` frames.
    pub fn new(mut pixels: Vec<f32>, valid: usize, max_frames: usize) -> Result<Self> {
        if valid == 0 || valid > max_frames {
            let why = format!("are {valid}; there must be 1 to {max_frames}");
            return Err(Error::argument("FrameSet::new", "frames", why));
        }
        if pixels.is_empty() || !pixels.len().is_multiple_of(valid) {
            let expected = format!("[{valid}, 3, crop, crop]");
            return Err(Error::Shape { op: "FrameSet::new", argument: "pixels", expected, got: vec![pixels.len()] });
        }
        pixels.resize(pixels.len() / valid * max_frames, 0.0);
        let mask = (0..max_frames).map(|frame| if frame < valid { 1.0 } else { 0.0 }).collect();
        Ok(Self { pixels, mask, valid, times: Vec::new(), notes: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_those_of_the_published_loaders() {
        assert_eq!(Choice::Head.indices(5, 3), [0, 1, 2]);
        assert_eq!(Choice::Tail.indices(5, 3), [2, 3, 4]);
        assert_eq!(Choice::Uniform.indices(20, 12), [0, 1, 3, 5, 6, 8, 10, 12, 13, 15, 17, 19]);
        assert_eq!(Choice::Uniform.indices(13, 12), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]);
        assert_eq!(Choice::Uniform.indices(9, 1), [0]);
        for choice in [Choice::Head, Choice::Tail, Choice::Uniform, Choice::Thinned] {
            assert_eq!(choice.indices(4, 4), [0, 1, 2, 3]);
            assert_eq!(choice.indices(3, 12), [0, 1, 2]);
            assert!(choice.indices(0, 12).is_empty() && choice.indices(12, 0).is_empty());
        }
        assert_eq!(Choice::Thinned.indices(256, 12), Choice::Uniform.indices(256, 12));
        // linspace(0, 299, 128) at 0, 11, 23, 34, 46, 57, 69, 80, 92, 103, 115 and 127.
        let wanted = [0, 25, 54, 80, 108, 134, 162, 188, 216, 242, 270, 299];
        assert_eq!(Choice::Thinned.indices(300, 12), wanted);
    }

    #[test]
    fn short_videos_are_padded_with_zeros() {
        let set = FrameSet::new(vec![1.0; 2 * 3], 2, 4).unwrap();
        assert_eq!(set.pixels, [vec![1.0; 6], vec![0.0; 6]].concat());
        assert_eq!((set.mask, set.valid), (vec![1.0, 1.0, 0.0, 0.0], 2));
        assert!(matches!(FrameSet::new(vec![1.0; 6], 0, 4), Err(Error::Argument { .. })));
        assert!(matches!(FrameSet::new(vec![1.0; 6], 6, 4), Err(Error::Argument { .. })));
        assert!(matches!(FrameSet::new(vec![1.0; 7], 2, 4), Err(Error::Shape { .. })));
    }
}
