//! Pictures, and how they get another size.
//!
//! Resizing follows the Python package PIL bit for bit, because the published models were trained on its pixels: a
//! kernel that is widened when shrinking, weights of 22 fractional bits, and bytes between the two passes.

use serde::{Deserialize, Serialize};

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

/// The kernel that new pixels are weighted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Straight lines, over two pixels.
    Bilinear,
    /// Cubics with a = -0.5, over four pixels.
    #[default]
    Bicubic,
}

impl Filter {
    /// How far the kernel reaches from its centre, in pixels.
    fn reach(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Bicubic => 0.0,
        }
    }
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
    fn new(filter: Filter, input: usize, output: usize) -> Vec<Self> {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = filter.reach() * stretch;
        let narrow = 1.0 / stretch;
        let taps = |pixel: usize| {
            let centre = (pixel as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let last = ((centre + support + 0.5) as usize).min(input);
            let weights: Vec<f64> = (first..last).map(|i| filter.weight((i as f64 - centre + 0.5) * narrow)).collect();
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

/// `image` at another size, resampled as PIL does it.
///
/// # Errors
/// [`Error::Shape`] for a size of 0 or of over 64 Mi pixels.
pub fn resize(image: &Image, filter: Filter, width: usize, height: usize) -> Result<Image> {
    check_size("resize", width, height)?;
    // Between the passes the picture has the new width and the old height.
    check_size("resize", width, image.height)?;
    let mut rgb = image.rgb.clone();
    if width != image.width {
        let columns = Taps::new(filter, image.width, width);
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
        for taps in Taps::new(filter, image.height, height) {
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

#[cfg(test)]
#[path = "pixels_tests.rs"]
mod tests;
