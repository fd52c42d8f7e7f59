use super::*;
use crate::data::testing::Folder;
use crate::parity::golden;

/// A picture whose bytes are all different from their neighbours'.
fn pattern(width: usize, height: usize) -> Image {
    let byte = |i: usize| (i * 37 % 256) as u8 ^ (i / 7) as u8;
    Image::new(width, height, (0..width * height * 3).map(byte).collect()).unwrap()
}

#[test]
fn pictures_have_as_many_bytes_as_they_say() {
    assert_eq!(pattern(2, 3).rgb().len(), 18);
    for (width, height, bytes) in
        [(0, 3, 0), (3, 0, 0), (2, 2, 11), (2, 2, 13), (usize::MAX, 2, 6), (1 << 14, 1 << 13, 0)]
    {
        assert!(matches!(Image::new(width, height, vec![0; bytes]), Err(Error::Shape { .. })), "{width} x {height}");
    }
    assert!(matches!(resize(&pattern(2, 2), 0, 1), Err(Error::Shape { .. })));
    assert!(matches!(resize(&pattern(2, 2), usize::MAX, 2), Err(Error::Shape { .. })));
}

#[test]
fn resizing_keeps_what_it_must() {
    let image = pattern(7, 5);
    assert_eq!(resize(&image, 7, 5).unwrap(), image);
    let grey = Image::new(13, 9, vec![201; 13 * 9 * 3]).unwrap();
    for (width, height) in [(1, 1), (5, 17), (40, 3), (13, 4)] {
        let resized = resize(&grey, width, height).unwrap();
        assert_eq!((resized.width(), resized.height()), (width, height));
        assert!(resized.rgb().iter().all(|&byte| byte == 201), "{width} x {height}");
    }
    // An edge overshoots, and is clamped to the range of a byte.
    let edge: Vec<u8> = [0, 0, 0, 255, 255, 255].into_iter().flat_map(|v| [v; 3]).collect();
    let wide = resize(&Image::new(6, 1, edge).unwrap(), 18, 1).unwrap();
    assert_eq!(wide.rgb()[..3], [0; 3]);
    assert_eq!(wide.rgb()[51..], [255; 3]);
    assert!(wide.rgb().windows(4).all(|w| w[0] <= w[3]), "{:?}", wide.rgb());
}

#[test]
fn weights_are_those_of_the_kernel() {
    // Doubling: the cubic kernel with a = -0.5 at distances of 1.25, 0.25, 0.75 and 1.75, in 128ths.
    let taps = &Taps::bicubic(10, 20)[9];
    let weights: Vec<f64> = taps.weights.iter().map(|&w| f64::from(w) / f64::from(1 << 15)).collect();
    let wanted = [-9.0, 111.0, 29.0, -3.0];
    assert_eq!(taps.first, 3);
    assert!(weights.iter().zip(wanted).all(|(w, v)| (w - v).abs() < 1e-3), "{weights:?}");
    for (input, output) in [(1, 9), (9, 1), (97, 224), (320, 298), (3, 2)] {
        for taps in Taps::bicubic(input, output) {
            let sum: i32 = taps.weights.iter().sum();
            assert!((sum - (1 << WEIGHT_BITS)).unsigned_abs() <= taps.weights.len() as u32);
            assert!(taps.first + taps.weights.len() <= input);
        }
    }
}

#[test]
fn crops_begin_where_their_rule_says() {
    // Offsets of 0.5, 1.5 and 2.5 pixels, in a picture that is not resized.
    for (width, floor, even) in [(5, 0, 0), (7, 1, 2), (9, 2, 2), (4, 0, 0), (6, 1, 1)] {
        let image = pattern(width, 4);
        for (rounding, left) in [(CropOffset::Floor, floor), (CropOffset::HalfEven, even)] {
            let preprocess = Preprocess { rounding, ..Preprocess::clip(4) };
            let pixels = preprocess.pixels(&image).unwrap();
            for (i, &byte) in pixels.iter().enumerate() {
                let (colour, y, x) = (i / 16, i / 4 % 4, i % 4);
                assert_eq!(byte, image.rgb()[(y * width + left + x) * 3 + colour], "{width} {rounding:?}");
            }
        }
    }
}

#[test]
fn values_are_normalised_by_colour() {
    let preprocess = Preprocess::clip(2);
    let white = Image::new(3, 2, vec![255; 18]).unwrap();
    let values = preprocess.apply(&white).unwrap();
    for (i, value) in values.iter().enumerate() {
        let wanted = (1.0 - Preprocess::CLIP_MEAN[i / 4]) / Preprocess::CLIP_STD[i / 4];
        assert!((value - wanted).abs() < 1e-6);
    }
    let twice = [preprocess.pixels(&white).unwrap(), preprocess.pixels(&white).unwrap()].concat();
    assert_eq!(preprocess.normalize(&twice), [&values[..], &values].concat());
}

#[test]
fn settings_that_make_no_sense_are_errors() {
    let image = pattern(6, 4);
    let good = Preprocess::clip(4);
    for bad in [
        Preprocess { crop: 5, ..good.clone() },
        Preprocess { resize: Resize::Keep, crop: 5, ..good.clone() },
        Preprocess { std: [0.0, 1.0, 1.0], ..good.clone() },
        Preprocess { mean: [f32::NAN, 1.0, 1.0], ..good.clone() },
        Preprocess { scale: f64::INFINITY, ..good.clone() },
    ] {
        assert!(matches!(bad.apply(&image), Err(Error::Argument { .. })), "{bad:?}");
    }
    for bad in [
        Preprocess { crop: 0, ..good.clone() },
        Preprocess { crop: usize::MAX, ..good.clone() },
        Preprocess { resize: Resize::Shorter(0), ..good.clone() },
        Preprocess { resize: Resize::Shorter(1 << 40), ..good.clone() },
        Preprocess { resize: Resize::Exact { width: 0, height: 9 }, ..good.clone() },
    ] {
        assert!(matches!(bad.apply(&image), Err(Error::Shape { .. })), "{bad:?}");
    }
    // A strip whose longer side would be a hundred million pixels.
    let strip = Image::new(1 << 20, 1, vec![0; 3 << 20]).unwrap();
    assert!(matches!(Preprocess::clip(224).apply(&strip), Err(Error::Shape { .. })));
}

#[test]
fn configurations_of_hugging_face_are_read() {
    let folder = Folder::new();
    let read = |text: &str| Preprocess::from_json(folder.file("p.json", text));
    let clip = Preprocess { rounding: CropOffset::Floor, ..Preprocess::clip(224) };
    for text in [
        "{}",
        r#"{"size": 224, "crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor"}"#,
        r#"{"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "resample": 3}"#,
    ] {
        assert_eq!(read(text).unwrap(), clip);
    }
    let plain =
        r#"{"size": {"height": 16, "width": 16}, "do_center_crop": false, "do_normalize": false, "do_rescale": false}"#;
    let plain = read(plain).unwrap();
    assert_eq!(plain.resize, Resize::Exact { width: 16, height: 16 });
    assert_eq!((plain.crop, plain.scale, plain.mean, plain.std), (16, 1.0, [0.0; 3], [1.0; 3]));
    assert_eq!(read(r#"{"do_resize": false, "resample": 2, "crop_size": 8}"#).unwrap().resize, Resize::Keep);
    for text in [
        "",
        r#"{"resample": 2}"#,
        r#"{"size": -1}"#,
        r#"{"size": {"longest_edge": 224}}"#,
        r#"{"crop_size": {"height": 224, "width": 200}}"#,
        r#"{"do_center_crop": false}"#,
        r#"{"image_std": [0, 1, 1]}"#,
        r#"{"image_mean": [0, 1]}"#,
        r#"{"crop_size": 0}"#,
        r#"{"size": 99999999999}"#,
    ] {
        assert!(matches!(read(text), Err(Error::Malformed { .. })), "{text}");
    }
}

#[test]
fn a_hugging_face_model_gets_its_pixels() {
    let folder = golden::path("clip-tiny-hf");
    let file = golden::open("clip-tiny-hf/expected");
    let preprocess = Preprocess::from_json(folder.join("preprocessor_config.json")).unwrap();
    let mut values = Vec::new();
    for name in ["input.image0", "input.image1", "input.image2"] {
        values.extend(preprocess.apply(&file.image(name).unwrap()).unwrap());
    }
    let wanted = file.array("input.pixel_values").unwrap();
    assert_eq!(values.len(), wanted.len());
    let worst = values.iter().zip(wanted.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // A byte is worth 0.0146 here.
    assert!(worst <= 1e-6, "{worst}");
}
