//! From a picture to what an image tower takes.

mod files;

use serde::{Deserialize, Serialize};

use super::pixels::{Filter, Image, check_size, resize};
use crate::{Error, Result};

/// The size before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resize {
    /// As it is.
    Keep,
    /// The shorter side gets this length; the longer one keeps the proportion, rounded down.
    Shorter(usize),
    /// The longer side gets this length; the shorter one keeps the proportion, rounded to the nearest, and what is missing
    /// to the square is filled at both ends.
    Longer {
        /// Pixels of the longer side.
        side: usize,
        /// The byte of every colour that fills.
        fill: u8,
    },
    /// Exactly this, whatever the proportion was.
    Exact {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
}

/// How half a pixel is rounded where the crop begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CropOffset {
    /// Down, as Hugging Face does.
    Floor,
    /// To the even neighbour, as torchvision does, and with it CLIP and CLIP4Clip.
    HalfEven,
}

/// From a picture to the network's input: resize, square crop from the middle, (byte · scale - mean) / std.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// The size before the crop.
    pub resize: Resize,
    /// How it is made.
    #[serde(default)]
    pub filter: Filter,
    /// Side of the square that is cut out.
    pub crop: usize,
    /// How the crop's offset is rounded.
    pub rounding: CropOffset,
    /// What a byte is multiplied by, mostly 1/255.
    pub scale: f64,
    /// Mean of red, green and blue after scaling.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue after scaling.
    pub std: [f32; 3],
}

impl Preprocess {
    pub(super) const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
    pub(super) const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

    /// What CLIP's authors do, for pictures of `size` by `size` pixels.
    pub fn clip(size: usize) -> Self {
        Self {
            resize: Resize::Shorter(size),
            filter: Filter::Bicubic,
            crop: size,
            rounding: CropOffset::HalfEven,
            scale: 1.0 / 255.0,
            mean: Self::CLIP_MEAN,
            std: Self::CLIP_STD,
        }
    }

    /// What SigLIP's authors do, for pictures of `size` by `size` pixels: squeezed to the square.
    pub fn siglip(size: usize, filter: Filter) -> Self {
        let resize = Resize::Exact { width: size, height: size };
        Self { resize, filter, mean: [0.5; 3], std: [0.5; 3], ..Self::clip(size) }
    }

    /// What Chinese-CLIP's authors do, for pictures of `size` by `size` pixels: squeezed to the square.
    pub fn chinese_clip(size: usize) -> Self {
        Self { resize: Resize::Exact { width: size, height: size }, ..Self::clip(size) }
    }

    /// The picture as (3, crop, crop), red plane first.
    ///
    /// # Errors
    /// [`Error::Argument`] when a side is shorter than the crop after resizing, or mean, standard deviation or scale
    /// cannot be computed with; [`Error::Shape`] when a size is 0, or over 64 Mi pixels after resizing.
    pub fn apply(&self, image: &Image) -> Result<Vec<f32>> {
        Ok(self.normalize(&self.pixels(image)?))
    }

    /// The bytes (3, crop, crop) after resize and crop; [`Preprocess::normalize`] does the rest.
    ///
    /// # Errors
    /// As [`Preprocess::apply`].
    pub fn pixels(&self, image: &Image) -> Result<Vec<u8>> {
        self.check()?;
        let (width, height) = (image.width(), image.height());
        let (new_width, new_height) = match self.resize {
            Resize::Keep => (width, height),
            Resize::Exact { width, height } => (width, height),
            Resize::Shorter(side) => (long_side(side, width, height)?, long_side(side, height, width)?),
            Resize::Longer { side, .. } => (short_side(side, width, height), short_side(side, height, width)),
        };
        let mut resized = resize(image, self.filter, new_width, new_height)?;
        if let Resize::Longer { side, fill } = self.resize {
            resized = padded(&resized, side, fill)?;
        }
        let (new_width, new_height, crop) = (resized.width(), resized.height(), self.crop);
        if crop > new_width.min(new_height) {
            let why = format!("is {crop}, the picture is only {new_width} x {new_height} pixels");
            return Err(Error::argument("Preprocess::pixels", "crop", why));
        }
        let offset = |size: usize| match (self.rounding, size - crop) {
            (CropOffset::HalfEven, spare) if spare % 4 == 3 => spare / 2 + 1,
            (_, spare) => spare / 2,
        };
        let (top, left) = (offset(new_height), offset(new_width));
        let mut planes = Vec::with_capacity(3 * crop * crop);
        for colour in 0..3 {
            for row in resized.rgb().chunks_exact(new_width * 3).skip(top).take(crop) {
                planes.extend(row[left * 3..(left + crop) * 3].iter().skip(colour).step_by(3));
            }
        }
        Ok(planes)
    }

    /// (byte · scale - mean) / std for pictures (n, 3, crop, crop), as the result of [`Preprocess::pixels`] or several of
    /// them one after the other.
    pub fn normalize(&self, pixels: &[u8]) -> Vec<f32> {
        let value = |byte: usize, colour: usize| {
            let scaled = (byte as f64 * self.scale) as f32;
            (scaled - self.mean[colour]) / self.std[colour]
        };
        let tables = [0, 1, 2].map(|colour| -> [f32; 256] { std::array::from_fn(|byte| value(byte, colour)) });
        let planes = pixels.chunks(self.crop.pow(2).max(1)).zip(tables.iter().cycle());
        planes.flat_map(|(plane, table)| plane.iter().map(|&byte| table[usize::from(byte)])).collect()
    }

    fn check(&self) -> Result<()> {
        check_size("Preprocess", self.crop, self.crop)?;
        let sides = match self.resize {
            Resize::Keep => [1, 1],
            Resize::Shorter(side) | Resize::Longer { side, .. } => [side, side],
            Resize::Exact { width, height } => [width, height],
        };
        check_size("Preprocess", sides[0], sides[1])?;
        let bad = |argument, why: &str| Error::argument("Preprocess", argument, why);
        if !self.scale.is_finite() || self.mean.iter().any(|m| !m.is_finite()) {
            return Err(bad("mean and scale", "must be finite"));
        }
        if self.std.iter().any(|s| !s.is_normal() || *s < 0.0) {
            return Err(bad("std", "must be positive"));
        }
        Ok(())
    }
}

/// How long a side of `length` pixels gets when the shorter one gets `side`; `other` is the other side's length.
fn long_side(side: usize, length: usize, other: usize) -> Result<usize> {
    if length <= other { Ok(side) } else { Ok(check_size("resize", side, length)? / other) }
}

/// How long a side of `length` pixels gets when the longer one gets `side`; `other` is the other side's length.
fn short_side(side: usize, length: usize, other: usize) -> usize {
    let ratio = length.max(other) as f64 / side as f64;
    (length as f64 / ratio).round_ties_even() as usize
}

/// The picture in the middle of a square, which is filled around it; of an odd number of pixels the second half is larger.
fn padded(image: &Image, side: usize, fill: u8) -> Result<Image> {
    let (width, height) = (image.width(), image.height());
    let (left, top) = ((side - width) / 2, (side - height) / 2);
    let mut rgb = vec![fill; 3 * check_size("padded", side, side)?];
    for (y, row) in image.rgb().chunks_exact(width * 3).enumerate() {
        let start = ((top + y) * side + left) * 3;
        rgb[start..start + row.len()].copy_from_slice(row);
    }
    Image::new(side, side, rgb)
}

#[cfg(test)]
#[path = "preprocess_tests.rs"]
mod tests;
