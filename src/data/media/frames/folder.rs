//! Folders of frames.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Choice, FrameSet, Note, Reading, read_image};
use crate::data::media::preprocess::Preprocess;
use crate::{Error, Result};

/// The endings of pictures that can be frames.
const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"];

/// The chosen frames of a video, at most `max_frames`, out of a folder of pictures whose names end in the frame's number,
/// such as `7.jpg`, `v_7.png`, `frame7.webp` or `img-0007.bmp`; ordered by these numbers. Other files and folders in it are
/// left out, and counted by a [`Note::Stray`]. Frames in folders have no times.
///
/// # Errors
/// [`Error::Io`]; [`Error::Missing`] if there is no frame; [`Error::Duplicate`] for two of one number; those of
/// [`read_image`] and [`Preprocess::apply`].
pub fn read_frames(
    folder: impl AsRef<Path>,
    choice: Choice,
    max_frames: usize,
    reading: &Reading,
    preprocess: &Preprocess,
) -> Result<FrameSet> {
    let (files, stray) = list(folder.as_ref())?;
    let chosen = choice.indices(files.len(), max_frames);
    let mut pixels = Vec::new();
    for &frame in &chosen {
        pixels.extend(preprocess.apply(&read_image(&files[frame], reading)?)?);
    }
    let set = FrameSet::new(pixels, chosen.len(), max_frames)?;
    Ok(FrameSet { notes: stray.into_iter().collect(), ..set })
}

/// The files of the frames in `folder`, in order, and what else lies there.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, Option<Note>)> {
    let mut frames: Vec<(Number, PathBuf)> = Vec::new();
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))? {
        let file = entry.map_err(|e| Error::io("list", folder, e))?.path();
        match Number::of(&file).filter(|_| file.is_file()) {
            Some(number) => frames.push((number, file)),
            None => others.push(file.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        }
    }
    others.sort();
    let stray = others.first().map(|first| Note::Stray { count: others.len(), first: first.clone() });
    if frames.is_empty() {
        let named = format!("<anything><number>.{}", ENDINGS.join(", ."));
        let found = stray.map_or("the folder is empty".into(), |note| note.to_string());
        return Err(Error::missing(folder, "frame", format!("{named} ({found})")));
    }
    frames.sort();
    if let Some(pair) = frames.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let place = pair[1].1.file_name().unwrap_or_default().to_string_lossy();
        return Err(Error::duplicate(folder, place, "frame", &pair[0].0.digits));
    }
    Ok((frames.into_iter().map(|(_, file)| file).collect(), stray))
}

/// The number at the end of a frame's name, however long it is. Without leading zeros, the shorter one is the smaller one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Number {
    length: usize,
    digits: String,
}

impl Number {
    /// None for hidden files, other endings, and names that do not end in a digit.
    fn of(file: &Path) -> Option<Self> {
        let (stem, ending) = (file.file_stem()?.to_str()?, file.extension()?.to_str()?.to_ascii_lowercase());
        let digits = &stem[stem.trim_end_matches(|c: char| c.is_ascii_digit()).len()..];
        if stem.starts_with('.') || !ENDINGS.contains(&ending.as_str()) || digits.is_empty() {
            return None;
        }
        let digits = digits.trim_start_matches('0');
        let digits = if digits.is_empty() { "0" } else { digits };
        Some(Self { length: digits.len(), digits: digits.into() })
    }
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
        let read = |choice, most| read_frames(folder.root(), choice, most, &Reading::OWN, &preprocess).unwrap();
        let set = read(Choice::Uniform, 5);
        assert_eq!(set.notes, [Note::Stray { count: 1, first: "notes_5.txt".into() }]);
        assert_eq!((set.valid, set.pixels.len()), (4, 5 * 27));
        for (frame, grey) in set.pixels.chunks(27).zip([10.0, 20.0, 100.0, 200.0, 0.0]) {
            // JPEG may be off by a level.
            assert!(frame.iter().all(|v: &f32| (v - grey).abs() <= 1.0), "{frame:?}, {grey}");
        }
        let two = read(Choice::Tail, 2);
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
        for name in ["a_01.jpg", "a_1.png"] {
            fs::remove_file(folder.path(name)).unwrap();
        }
        save(&folder.path("cover.jpg"), 2, 2, 1);
        assert!(matches!(list(folder.root()), Err(Error::Missing { id, .. }) if id.contains("1 files")));
    }

    #[test]
    fn any_name_that_ends_in_a_number_is_a_frame() {
        let folder = Folder::new();
        for (names, stray) in [
            (["frame1.jpg", "frame02.jpg", "frame10.jpg"], "cover.jpg"),
            (["img-0001.webp", "img-0002.bmp", "img-0010.tiff"], "._v_1.jpg"),
            (["frame 1.png", "frame 2.gif", "frame 99999999999999999999.PNG"], "a_.png"),
            (["frame-1.jpg", "frame-2.jpeg", "3.tif"], "x.avif"),
        ] {
            let names_and_stray = names.iter().chain([&stray]);
            names_and_stray.for_each(|name| drop(folder.file(name, "")));
            let (files, note) = list(folder.root()).unwrap();
            assert_eq!(files, names.map(|name| folder.path(name)));
            assert_eq!(note, Some(Note::Stray { count: 1, first: stray.into() }));
            files.iter().chain([&folder.path(stray)]).for_each(|file| fs::remove_file(file).unwrap());
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
            assert_eq!(read_image(&path, &Reading::OWN).unwrap().height(), 17);
            // A JPEG may survive a changed byte; nothing may panic or take more than the limits.
            for bytes in mutations(&good, 200) {
                let _ = read_image(folder.file(name, bytes), &Reading::OWN);
            }
            // The decoder alone takes half a JPEG, and the pixels of a PNG are there before its end.
            for length in [20, good.len() / 2, good.len() - if name == "a.jpg" { 1 } else { 20 }] {
                let cut = read_image(folder.file(name, &good[..length]), &Reading::OWN);
                assert!(matches!(cut, Err(Error::Malformed { .. })), "{name}: {length} of {}", good.len());
            }
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
            assert!(matches!(read_image(folder.file("c.png", bytes), &Reading::OWN), Err(Error::Malformed { .. })));
        }
        assert!(matches!(read_image(folder.path("none.png"), &Reading::OWN), Err(Error::Io { .. })));
    }
}
