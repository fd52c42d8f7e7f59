//! Folders of frames.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use image::{ImageFormat, ImageReader, Limits};

use super::{Choice, FrameSet};
use crate::data::media::pixels::{Image, MAX_PIXELS};
use crate::data::media::preprocess::Preprocess;
use crate::{Error, Result};

/// Largest image file that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A JPEG or PNG file; transparency is left out. The content decides what it is, not the name.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] for other and damaged files, files over 256 MiB, and over 64 Mi pixels.
pub fn read_image(path: impl AsRef<Path>) -> Result<Image> {
    let path = path.as_ref();
    let bad = |problem: &dyn std::fmt::Display| Error::malformed(path, "picture", problem);
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    if file.metadata().map_err(|e| Error::io("inspect", path, e))?.len() > MAX_FILE_BYTES {
        return Err(bad(&format_args!("over {MAX_FILE_BYTES} bytes")));
    }
    let reader = ImageReader::new(BufReader::new(file));
    let mut reader = reader.with_guessed_format().map_err(|e| Error::io("read", path, e))?;
    if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png)) {
        return Err(bad(&"is neither JPEG nor PNG"));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(1 << 16);
    limits.max_image_height = Some(1 << 16);
    // Room for 16 bits and four channels.
    limits.max_alloc = Some(MAX_PIXELS as u64 * 8);
    reader.limits(limits);
    let image = reader.decode().map_err(|e| bad(&e))?.into_rgb8();
    Image::new(image.width() as usize, image.height() as usize, image.into_raw()).map_err(|e| bad(&e))
}

/// The chosen frames of a video, at most `max_frames`, out of a folder that holds them as `<anything>_<number>` or
/// `<number>`, with the extension jpg, jpeg or png; ordered by their numbers. Files with other extensions are left alone.
///
/// # Errors
/// [`Error::Io`]; [`Error::Missing`] if there is no frame; [`Error::Malformed`] for a picture without a number;
/// [`Error::Duplicate`] for two of one number; those of [`read_image`] and [`Preprocess::apply`].
pub fn read_frames(
    folder: impl AsRef<Path>,
    choice: Choice,
    max_frames: usize,
    preprocess: &Preprocess,
) -> Result<FrameSet> {
    let files = list(folder.as_ref())?;
    let chosen = choice.indices(files.len(), max_frames);
    let mut pixels = Vec::new();
    for &frame in &chosen {
        pixels.extend(preprocess.apply(&read_image(&files[frame])?)?);
    }
    FrameSet::new(pixels, chosen.len(), max_frames)
}

/// The files of the frames in `folder`, in order.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut frames: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))? {
        let file = entry.map_err(|e| Error::io("list", folder, e))?.path();
        let extension = file.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
        if matches!(extension.as_str(), "jpg" | "jpeg" | "png") && file.is_file() {
            let number = number(&file);
            let lacks = || Error::malformed(&file, "name", "does not end in the frame's number");
            frames.push((number.ok_or_else(lacks)?, file));
        }
    }
    if frames.is_empty() {
        return Err(Error::missing(folder, "frame", "<number>.jpg or .png"));
    }
    frames.sort();
    if let Some(pair) = frames.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let place = pair[1].1.file_name().unwrap_or_default().to_string_lossy();
        return Err(Error::duplicate(folder, place, "frame", pair[0].0));
    }
    Ok(frames.into_iter().map(|(_, file)| file).collect())
}

/// The number at the end of a frame's name.
fn number(file: &Path) -> Option<u64> {
    let stem = file.file_stem()?.to_str()?;
    let digits = stem.rsplit_once('_').map_or(stem, |(_, digits)| digits);
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{Folder, mutations};

    fn save(path: &Path, width: u32, height: u32, grey: u8) {
        image::RgbImage::from_pixel(width, height, image::Rgb([grey; 3])).save(path).unwrap();
    }

    #[test]
    fn frames_come_in_the_order_of_their_numbers() {
        let folder = Folder::new();
        for (name, grey) in [("v_x_10.jpg", 100), ("v_x_2.JPG", 20), ("1.png", 10), ("a_0033.jpeg", 200)] {
            save(&folder.path(name), 6, 4, grey);
        }
        folder.file("notes_5.txt", "not a frame");
        let preprocess = Preprocess { scale: 1.0, mean: [0.0; 3], std: [1.0; 3], ..Preprocess::clip(3) };
        let set = read_frames(folder.root(), Choice::Uniform, 5, &preprocess).unwrap();
        assert_eq!((set.valid, set.pixels.len()), (4, 5 * 27));
        for (frame, grey) in set.pixels.chunks(27).zip([10.0, 20.0, 100.0, 200.0, 0.0]) {
            // JPEG may be off by a level.
            assert!(frame.iter().all(|v: &f32| (v - grey).abs() <= 1.0), "{frame:?}, {grey}");
        }
        let two = read_frames(folder.root(), Choice::Tail, 2, &preprocess).unwrap();
        assert_eq!(two.pixels, set.pixels[2 * 27..4 * 27]);
    }

    #[test]
    fn bad_folders_are_errors() {
        let folder = Folder::new();
        assert!(matches!(list(&folder.path("none")), Err(Error::Io { .. })));
        assert!(matches!(list(folder.root()), Err(Error::Missing { kind: "frame", .. })));
        save(&folder.path("a_1.png"), 2, 2, 1);
        save(&folder.path("a_01.jpg"), 2, 2, 1);
        assert!(matches!(list(folder.root()), Err(Error::Duplicate { .. })));
        for name in ["cover.jpg", "a_.png", "a_-3.jpg", "a_99999999999999999999.jpg"] {
            let file = folder.path(name);
            save(&file, 2, 2, 1);
            assert!(matches!(list(folder.root()), Err(Error::Malformed { .. })), "{name}");
            fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn damaged_pictures_are_errors() {
        let folder = Folder::new();
        for name in ["a.png", "a.jpg"] {
            let path = folder.path(name);
            let noise =
                image::RgbImage::from_fn(33, 17, |x, y| image::Rgb([(x * 7) as u8, (y * 11) as u8, (x * y) as u8]));
            noise.save(&path).unwrap();
            let good = fs::read(&path).unwrap();
            assert_eq!(read_image(&path).unwrap().height(), 17);
            // A JPEG may survive a changed byte; nothing may panic or take more than the limits.
            for bytes in mutations(&good, 200) {
                let _ = read_image(folder.file(name, bytes));
            }
            assert!(matches!(read_image(folder.file(name, &good[..20])), Err(Error::Malformed { .. })));
        }
        let mut png = fs::read({
            let path = folder.path("b.png");
            save(&path, 3, 3, 9);
            path
        })
        .unwrap();
        // The header's width, of a picture that the file cannot hold.
        png[16..20].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
        for bytes in [&b""[..], b"GIF89a", b"text", &png] {
            assert!(matches!(read_image(folder.file("c.png", bytes)), Err(Error::Malformed { .. })));
        }
        assert!(matches!(read_image(folder.path("none.png")), Err(Error::Io { .. })));
    }
}
