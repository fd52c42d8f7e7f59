//! Pictures in files.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::Reading;
use crate::data::media::pixels::{Image, MAX_PIXELS};
use crate::{Error, Result};

/// Largest image file that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A JPEG, PNG, WebP, BMP, TIFF or GIF file, of the last two the first picture; transparency is left out. The content
/// decides what it is, not the name.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for other, damaged and cut files, for what is no regular file, for files over 256 MiB
/// and over 64 Mi pixels.
pub fn read_image(path: impl AsRef<Path>, reading: &Reading) -> Result<Image> {
    let path = path.as_ref();
    let bad = |problem: &dyn std::fmt::Display| Error::malformed(path, "picture", problem);
    let size = super::super::regular_file(path)?;
    if size > MAX_FILE_BYTES {
        return Err(bad(&format_args!("over {MAX_FILE_BYTES} bytes")));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    picture(&bytes, path, reading)
}

/// As [`read_image`], of a file's bytes; errors call it `name`.
///
/// # Errors
/// As [`read_image`], but for those of files.
pub fn image_of_bytes(bytes: &[u8], name: &str, reading: &Reading) -> Result<Image> {
    picture(bytes, Path::new(name), reading)
}

fn picture(bytes: &[u8], path: &Path, reading: &Reading) -> Result<Image> {
    let bad = |problem: &dyn std::fmt::Display| Error::malformed(path, "picture", problem);
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| Error::io("read", path, e))?;
    let Some(format) = reader.format().filter(|format| format.reading_enabled()) else {
        return Err(bad(&"is no JPEG, PNG, WebP, BMP, TIFF or GIF"));
    };
    // The decoder fills what is missing with grey, without a word.
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(bad(&"the JPEG is cut: its end is missing"));
    }
    decode(reader, reading).map_err(|problem| bad(&problem))
}

fn decode(mut reader: ImageReader<Cursor<&[u8]>>, reading: &Reading) -> std::result::Result<Image, String> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(1 << 16);
    limits.max_image_height = Some(1 << 16);
    // Room for 16 bits and four channels.
    limits.max_alloc = Some(MAX_PIXELS as u64 * 8);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS as u64 {
        return Err(format!("has {width} x {height} pixels, over {MAX_PIXELS}"));
    }
    let orientation = if reading.exif_rotation { decoder.orientation() } else { Ok(Orientation::NoTransforms) };
    let orientation = orientation.map_err(|e| e.to_string())?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    Image::new(image.width() as usize, image.height() as usize, image.into_raw()).map_err(|e| e.to_string())
}

/// Whether the markers of a JPEG go on to the one of its end. Those of a preview in its head do not count.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let (Some(&first), Some(&marker)) = (bytes.get(at), bytes.get(at + 1)) {
        match (first, marker) {
            (0xff, 0xd9) => return true,
            // Filling before a marker, markers without a length, and a byte of 255 in the pixels' data.
            (0xff, 0xff) => at += 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, _) => {
                let (Some(&high), Some(&low)) = (bytes.get(at + 2), bytes.get(at + 3)) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
            // Data of pixels.
            _ => at += 1,
        }
    }
    false
}
