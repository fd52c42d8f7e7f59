//! Kinds of pictures and of folders of frames that went wrong once, a row each.

use std::path::Path;

use image::{Rgb, RgbImage};
use reelgrad::Error;
use reelgrad::data::media::frames::{Choice, FrameSet, Note, Reading, read_frames, read_image};
use reelgrad::data::media::preprocess::Preprocess;

use crate::make::Folder;

/// A picture of one grey.
fn save(path: &Path, grey: u8) {
    RgbImage::from_pixel(6, 4, Rgb([grey; 3])).save(path).unwrap();
}

fn read(folder: &Folder) -> reelgrad::Result<FrameSet> {
    let preprocess = Preprocess { scale: 1.0, mean: [0.0; 3], std: [1.0; 3], ..Preprocess::clip(3) };
    read_frames(folder.root(), Choice::Uniform, 8, &Reading::OWN, &preprocess)
}

#[test]
fn folders_of_frames_are_read_whatever_lies_beside_them() {
    for (names, strays) in [
        (&["frame1.jpg", "frame2.jpg", "frame10.jpg"][..], &[][..]),
        (&["img-0001.jpg", "img-0002.jpg"], &[]),
        (&["frame-1.png", "frame-2.png"], &[]),
        (&["frame 1.png", "frame 2.png"], &[]),
        (&["v_1.jpg", "v_2.jpg"], &["cover.jpg", "._v_1.jpg"]),
        (&["1.webp", "2.bmp", "3.gif", "4.tiff", "5.tif", "6.PNG"], &["7.avif", "notes.txt"]),
    ] {
        let folder = Folder::new();
        for (number, name) in names.iter().enumerate() {
            save(&folder.path(name), 10 * (number as u8 + 1));
        }
        strays.iter().for_each(|name| drop(folder.file(name, "no frame")));
        let set = read(&folder).unwrap();
        assert_eq!(set.valid, names.len(), "{names:?}");
        for (number, frame) in set.pixels.chunks(27).take(set.valid).enumerate() {
            assert!((frame[4] - 10.0 * (number as f32 + 1.0)).abs() <= 2.0, "{names:?}: {number} is {}", frame[4]);
        }
        let counted = match &set.notes[..] {
            [] => 0,
            [Note::Stray { count, .. }] => *count,
            other => panic!("{other:?}"),
        };
        assert_eq!(counted, strays.len());
    }
}

#[test]
fn cut_pictures_are_errors() {
    let folder = Folder::new();
    let noise = RgbImage::from_fn(64, 48, |x, y| Rgb([(x * 7) as u8, (y * 11) as u8, (x * y) as u8]));
    for ending in ["jpg", "png", "webp", "bmp", "gif", "tiff"] {
        let path = folder.path(&format!("1.{ending}"));
        noise.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(read_image(&path, &Reading::OWN).unwrap().width(), 64, "{ending}");
        folder.file(&format!("1.{ending}"), &bytes[..bytes.len() / 2]);
        for error in [read_image(&path, &Reading::OWN).map(drop), read(&folder).map(drop)] {
            assert!(matches!(error, Err(Error::Malformed { .. })), "half a {ending}: {error:?}");
        }
        std::fs::remove_file(path).unwrap();
    }
}

/// A JPEG with EXIF data that say: turn by 90 degrees clockwise.
#[test]
fn exif_rotation_is_an_option() {
    let folder = Folder::new();
    let path = folder.path("1.jpg");
    save(&path, 50);
    let mut bytes = std::fs::read(&path).unwrap();
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    bytes.splice(2..2, exif.iter().copied());
    let path = folder.file("1.jpg", bytes);
    let size = |reading: &Reading| read_image(&path, reading).map(|image| (image.width(), image.height())).unwrap();
    assert_eq!(size(&Reading::OWN), (6, 4));
    assert_eq!(size(&Reading { exif_rotation: true, ..Reading::OWN }), (4, 6));
}

#[test]
fn what_would_take_too_much_is_refused_before_it_is_decoded() {
    let folder = Folder::new();
    // 65535 x 65535 pixels that the header promises, and a pipe that never ends.
    let mut png = {
        let path = folder.path("1.png");
        save(&path, 1);
        std::fs::read(path).unwrap()
    };
    png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    for path in [folder.file("2.png", png), "/dev/zero".into()] {
        let refused = read_image(&path, &Reading::OWN);
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{}", path.display());
    }
}
