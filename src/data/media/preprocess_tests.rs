use super::*;
use crate::data::testing::Folder;
use crate::parity::golden;

/// A picture whose bytes are all different from their neighbours'.
fn pattern(width: usize, height: usize) -> Image {
    let byte = |i: usize| (i * 37 % 256) as u8 ^ (i / 7) as u8;
    Image::new(width, height, (0..width * height * 3).map(byte).collect()).unwrap()
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
    let read = |text: &str| Preprocess::from_hugging_face(folder.file("p.json", text)).map(Option::unwrap);
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
        "[1]",
        r#"{"resample": 1}"#,
        r#"{"resample": "lanczos"}"#,
        r#"{"do_pad": true}"#,
        r#"{"do_resize": "yes"}"#,
        r#"{"image_processor_type": "PoolFormerImageProcessor"}"#,
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

/// What is `null` is as the class has it, and one number counts for three colours.
#[test]
fn nulls_and_names_are_read_as_the_hub_has_them() {
    let folder = Folder::new();
    let read = |text: &str| Preprocess::from_hugging_face(folder.file("p.json", text)).unwrap().unwrap();
    let siglip = Preprocess { rounding: CropOffset::Floor, ..Preprocess::siglip(64, Filter::Bilinear) };
    for text in [
        r#"{"image_processor_type": "SiglipImageProcessor", "size": 64, "resample": 2, "do_center_crop": null}"#,
        r#"{"image_processor_type": "SiglipImageProcessorFast", "size": {"height": 64, "width": 64}, "crop_size": null,
            "resample": "bilinear", "do_resize": null, "do_rescale": null, "rescale_factor": null, "image_mean": null}"#,
        r#"{"image_processor": {"image_processor_type": "SiglipImageProcessor", "size": 64, "resample": 2, "image_std": 0.5}}"#,
    ] {
        assert_eq!(read(text), siglip, "{text}");
    }
    let clip = read(r#"{"do_center_crop": null, "crop_size": null, "size": {"height": 64, "width": 64}}"#);
    assert_eq!((clip.resize, clip.crop), (Resize::Exact { width: 64, height: 64 }, 64));
    assert_eq!(read(r#"{"do_center_crop": null, "crop_size": null, "size": null, "resample": null}"#).crop, 224);
    // Before transformers 5 the file of this name was about something else.
    let old = folder.file("processor_config.json", r#"{"processor_class": "CLIPProcessor"}"#);
    assert_eq!(Preprocess::from_hugging_face(old).unwrap(), None);
}

#[test]
fn open_clips_three_ways_to_a_square() {
    let read = |cfg: &str| {
        let json = serde_json::from_str(&format!(r#"{{"preprocess_cfg": {cfg}}}"#)).unwrap();
        Preprocess::from_open_clip("open_clip_config.json", &json, 8)
    };
    assert_eq!(read("{}").unwrap(), Preprocess::clip(8));
    assert_eq!(read(r#"{"mode": "RGB", "size": [8, 8], "resize_mode": "shortest"}"#).unwrap(), Preprocess::clip(8));
    let squash = read(r#"{"resize_mode": "squash", "interpolation": "bilinear"}"#).unwrap();
    assert_eq!((squash.resize, squash.filter), (Resize::Exact { width: 8, height: 8 }, Filter::Bilinear));
    // 20 x 9 pixels become 8 x 4, which lie 2 below the top.
    let longest = Preprocess {
        mean: [0.0; 3],
        std: [1.0; 3],
        scale: 1.0,
        ..read(r#"{"resize_mode": "longest", "fill_color": 7}"#).unwrap()
    };
    let values = longest.apply(&Image::new(20, 9, vec![200; 540]).unwrap()).unwrap();
    for (i, &value) in values.iter().enumerate() {
        let y = i / 8 % 8;
        assert_eq!(value, if (2..6).contains(&y) { 200.0 } else { 7.0 }, "{i}");
    }
    for text in [
        r#"{"resize_mode": "stretch"}"#,
        r#"{"interpolation": "random"}"#,
        r#"{"size": [8, 9]}"#,
        r#"{"mode": "L"}"#,
        r#"{"std": [0.1]}"#,
    ] {
        assert!(matches!(read(text), Err(Error::Malformed { .. })), "{text}");
    }
}

#[test]
fn a_hugging_face_model_gets_its_pixels() {
    let folder = golden::path("clip-tiny-hf");
    let file = golden::open("clip-tiny-hf/expected");
    let preprocess = Preprocess::from_hugging_face(folder.join("preprocessor_config.json")).unwrap().unwrap();
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
