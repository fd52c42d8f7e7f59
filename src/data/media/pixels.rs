//! Pictures, and what an image tower takes of them.
//!
//! Resizing follows the Python package PIL bit for bit, because the published models were trained on its pixels: a
//! bicubic kernel that is widened when shrinking, weights of 22 fractional bits, and bytes between the two passes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::formats::text::read_json;
use crate::{Error, Result};

/// Most pixels in a picture that is read or made: 64 megapixels.
pub const MAX_PIXELS: usize = 64 << 20;

/// A picture of one byte a colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Image {
    /// A picture of bytes (height, width, RGB), row-major from the top left.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are 1 to 64 Mi pixels and three bytes for each.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        if check_size("Image::new", width, height)? * 3 != rgb.len() {
            let expected = format!("[{height}, {width}, 3]");
            return Err(Error::Shape { op: "Image::new", argument: "rgb", expected, got: vec![rgb.len()] });
        }
        Ok(Self { width, height, rgb })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes (height, width, RGB).
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

/// The number of pixels, if it is one that a picture may have.
pub(super) fn check_size(op: &'static str, width: usize, height: usize) -> Result<usize> {
    let pixels = width.checked_mul(height).filter(|pixels| (1..=MAX_PIXELS).contains(pixels));
    let expected = || format!("[height, width] with 1 to {MAX_PIXELS} pixels");
    pixels.ok_or_else(|| Error::Shape { op, argument: "image", expected: expected(), got: vec![height, width] })
}

/// Fractional bits of a weight.
const WEIGHT_BITS: u32 = 22;

/// The weights of one output pixel in a row or column.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    /// PIL's weights for `output` pixels out of `input`, in its order of operations in f64.
    fn bicubic(input: usize, output: usize) -> Vec<Self> {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let narrow = 1.0 / stretch;
        let taps = |pixel: usize| {
            let centre = (pixel as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let last = ((centre + support + 0.5) as usize).min(input);
            let weights: Vec<f64> = (first..last).map(|i| kernel((i as f64 - centre + 0.5) * narrow)).collect();
            let total: f64 = weights.iter().sum();
            let quantise = |w: f64| (w / total * f64::from(1 << WEIGHT_BITS)).round() as i32;
            Self { first, weights: weights.into_iter().map(quantise).collect() }
        };
        (0..output).map(taps).collect()
    }

    /// The input pixels of this output pixel, with their weights, out of `pixels` of `size` bytes.
    fn zip<'a>(&'a self, pixels: &'a [u8], size: usize) -> impl Iterator<Item = (&'a [u8], i32)> {
        pixels[self.first * size..].chunks_exact(size).zip(self.weights.iter().copied())
    }
}

/// A weighted sum of bytes, to the nearest byte.
fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// Where a weighted sum of bytes begins: with a half, so that [`to_byte`] rounds.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// The cubic kernel with a = -0.5.
fn kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    match x {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

/// `image` at another size, by PIL's bicubic resampling.
///
/// # Errors
/// [`Error::Shape`] for a size of 0 or of over 64 Mi pixels.
pub fn resize(image: &Image, width: usize, height: usize) -> Result<Image> {
    check_size("resize", width, height)?;
    // Between the passes the picture has the new width and the old height.
    check_size("resize", width, image.height)?;
    let mut rgb = image.rgb.clone();
    if width != image.width {
        let columns = Taps::bicubic(image.width, width);
        rgb = Vec::with_capacity(width * image.height * 3);
        for row in image.rgb.chunks_exact(image.width * 3) {
            for taps in &columns {
                let mut sums = [HALF; 3];
                for (pixel, weight) in taps.zip(row, 3) {
                    sums.iter_mut().zip(pixel).for_each(|(sum, &byte)| *sum += i32::from(byte) * weight);
                }
                rgb.extend(sums.map(to_byte));
            }
        }
    }
    if height != image.height {
        let mut sums = vec![HALF; width * 3];
        let mut resized = Vec::with_capacity(width * height * 3);
        for taps in Taps::bicubic(image.height, height) {
            sums.fill(HALF);
            for (row, weight) in taps.zip(&rgb, width * 3) {
                sums.iter_mut().zip(row).for_each(|(sum, &byte)| *sum += i32::from(byte) * weight);
            }
            resized.extend(sums.iter().map(|&sum| to_byte(sum)));
        }
        rgb = resized;
    }
    Ok(Image { width, height, rgb })
}

/// The size before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resize {
    /// As it is.
    Keep,
    /// The shorter side gets this length; the longer one keeps the proportion, rounded down.
    Shorter(usize),
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
    const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
    const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

    /// What CLIP's authors do, for pictures of `size` by `size` pixels.
    pub fn clip(size: usize) -> Self {
        Self {
            resize: Resize::Shorter(size),
            crop: size,
            rounding: CropOffset::HalfEven,
            scale: 1.0 / 255.0,
            mean: Self::CLIP_MEAN,
            std: Self::CLIP_STD,
        }
    }

    /// Reads a Hugging Face `preprocessor_config.json`. What it leaves out is as in their CLIP processor.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for another form, a filter other than bicubic, a crop that is not square, and
    /// numbers with which nothing can be computed.
    pub fn from_json(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file: ProcessorFile = read_json(path)?;
        let bad = |key: &str, problem: &str| Error::malformed(path, key, problem);
        if file.do_resize && file.resample != 3 {
            return Err(bad("resample", "must be 3, bicubic"));
        }
        let resize = match file.size {
            _ if !file.do_resize => Resize::Keep,
            Size::Side(side) | Size::Shortest { shortest_edge: side } => Resize::Shorter(side),
            Size::Sides { height, width } => Resize::Exact { width, height },
        };
        let crop = match (file.do_center_crop, file.crop_size, resize) {
            (true, Size::Side(side) | Size::Shortest { shortest_edge: side }, _) => side,
            (true, Size::Sides { height, width }, _) if height == width => height,
            (false, _, Resize::Exact { width, height }) if height == width => height,
            _ => return Err(bad("crop_size", "the result must be a square of a fixed size")),
        };
        let scale = if file.do_rescale { file.rescale_factor } else { 1.0 };
        let (mean, std) = if file.do_normalize { (file.image_mean, file.image_std) } else { ([0.0; 3], [1.0; 3]) };
        let read = Self { resize, crop, rounding: CropOffset::Floor, scale, mean, std };
        read.check().map_err(|e| Error::malformed(path, "values", e))?;
        Ok(read)
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
        let Image { width, height, .. } = *image;
        let (new_width, new_height) = match self.resize {
            Resize::Keep => (width, height),
            Resize::Exact { width, height } => (width, height),
            Resize::Shorter(side) => (long_side(side, width, height)?, long_side(side, height, width)?),
        };
        let resized = resize(image, new_width, new_height)?;
        let crop = self.crop;
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
            for row in resized.rgb.chunks_exact(new_width * 3).skip(top).take(crop) {
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
            Resize::Shorter(side) => [side, side],
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

/// The keys of a `preprocessor_config.json` that count here.
#[derive(Deserialize)]
#[serde(default)]
struct ProcessorFile {
    do_resize: bool,
    size: Size,
    resample: i64,
    do_center_crop: bool,
    crop_size: Size,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

impl Default for ProcessorFile {
    fn default() -> Self {
        Self {
            do_resize: true,
            size: Size::Side(224),
            resample: 3,
            do_center_crop: true,
            crop_size: Size::Side(224),
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: Preprocess::CLIP_MEAN,
            image_std: Preprocess::CLIP_STD,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Side(usize),
    Shortest { shortest_edge: usize },
    Sides { height: usize, width: usize },
}

#[cfg(test)]
#[path = "pixels_tests.rs"]
mod tests;
