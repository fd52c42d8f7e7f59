//! Small pictures.

use image::codecs::jpeg::JpegEncoder;
use image::{ColorType, ImageEncoder};

use crate::data::media::pixels::{Filter, Image, resize};
use crate::{Error, Result};

/// Pixels of the longer side.
const SIDE: usize = 192;
const QUALITY: u8 = 75;

/// A picture as a small JPEG; one that is small already keeps its size.
pub(super) fn jpeg(image: &Image) -> Result<Vec<u8>> {
    let (width, height) = (image.width(), image.height());
    let longer = width.max(height);
    let scaled = |side: usize| if longer > SIDE { (side * SIDE / longer).max(1) } else { side };
    let small = resize(image, Filter::Bilinear, scaled(width), scaled(height))?;
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    let written = encoder.write_image(small.rgb(), small.width() as u32, small.height() as u32, ColorType::Rgb8.into());
    written.map_err(|e| Error::argument("thumbnail", "image", e.to_string()))?;
    Ok(bytes)
}
