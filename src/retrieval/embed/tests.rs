use super::*;
use crate::Silent;
use crate::data::media::video::Listing;
use crate::data::testing::Folder;
use crate::kernels::testing::gpus;
use crate::models::Model;
use crate::models::clip::{ClipConfig, TowerConfig};

/// A folder with a small model and a tokenizer of four words.
fn model() -> Folder {
    let folder = Folder::new();
    let config = ClipConfig {
        image_size: 8,
        patch_size: 4,
        vision: TowerConfig { width: 64, heads: 1, layers: 1, mlp: 16 },
        text: TowerConfig { width: 64, heads: 1, layers: 1, mlp: 16 },
        vocabulary: 16,
        positions: 6,
        joint: 12,
        ..ClipConfig::vit_b_32()
    };
    let clip = Clip::new(&gpus()[0], config, 1).unwrap();
    clip.save_folder(folder.root()).unwrap();
    let tokenizer = Tokenizer::from_words(&["red", "blue", "square", "moves"]).unwrap();
    tokenizer.save(folder.path("tokenizer.json")).unwrap();
    folder
}

fn picture(path: &Path, grey: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_fn(9, 8, |x, y| image::Rgb([grey, (x * 20) as u8, (y * 20) as u8])).save(path).unwrap();
}

#[test]
fn texts_pictures_and_videos_become_rows() {
    let folder = model();
    let encoder = ClipEncoder::open(&gpus()[0], folder.root(), false).unwrap();
    let options = EmbedOptions { words: 6, frames: 3, tokens: true, patches: true, ..EmbedOptions::default() };
    let mut out = Embeddings::default();
    let texts = ["red square moves", "blue", "red blue red blue red blue"].map(String::from);
    assert_eq!(encoder.add_texts(&texts, &options, &mut out).unwrap(), 1);
    let (good, bad) = (folder.path("good.png"), folder.file("bad.png", "no picture"));
    picture(&good, 30);
    let failures = encoder.add_images(&[good.clone(), bad.clone()], &mut out).unwrap();
    assert_eq!(failures.iter().map(|f| f.id.as_str()).collect::<Vec<_>>(), [bad.to_str().unwrap()]);
    for (name, grey) in [("b/1.png", 30), ("b/2.png", 60), ("a/1.png", 30)] {
        picture(&folder.path("videos").join(name), grey);
    }
    // Without a frame.
    std::fs::create_dir(folder.path("videos").join("c")).unwrap();
    let videos = Listing::of(folder.path("videos")).unwrap().videos;
    assert_eq!(videos.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let failures = encoder.add_videos(&videos, &options, &mut out, &mut Silent).unwrap();
    assert_eq!(failures.iter().map(|f| f.id.as_str()).collect::<Vec<_>>(), ["c"]);

    let shapes = [
        ("text", vec![3, 12]),
        ("words", vec![3, 6, 12]),
        ("word_mask", vec![3, 6]),
        ("image", vec![1, 12]),
        ("video", vec![2, 12]),
        ("frames", vec![2, 3, 12]),
        ("mask", vec![2, 3]),
        ("patches", vec![2, 12, 12]),
    ];
    assert_eq!(out.arrays.len(), shapes.len());
    for (name, shape) in shapes {
        assert_eq!(out.arrays[name].shape(), shape, "{name}");
    }
    assert_eq!(out.arrays["mask"].data(), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    assert_eq!(out.arrays["word_mask"].data()[..12], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!((out.ids["image"].len(), &out.ids["video"]), (1, &vec!["a".to_string(), "b".to_string()]));
    // A video of one frame has the direction of its picture.
    let norm = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>().sqrt();
    let (image, video) = (out.arrays["image"].data(), out.arrays["video"].row(0));
    assert!(image.iter().zip(video).all(|(i, v)| (i / norm(image) - v).abs() < 1e-5), "{image:?} {video:?}");

    for path in [folder.path("all.safetensors"), folder.path("all")] {
        let beside = out.write(&path).unwrap();
        let ids: serde_json::Value = serde_json::from_slice(&std::fs::read(beside).unwrap()).unwrap();
        assert_eq!(ids["video"][1], "b");
    }
    assert_eq!(safetensors::read(folder.path("all.safetensors")).unwrap(), out.arrays);
    assert_eq!(npy::read(folder.path("all/frames.npy")).unwrap(), out.arrays["frames"]);
}

#[test]
fn what_cannot_be_encoded_is_an_error() {
    let folder = model();
    let encoder = ClipEncoder::open(&gpus()[0], folder.root(), true).unwrap();
    let (options, mut out) = (EmbedOptions::default(), Embeddings::default());
    let twice = [video_at(folder.root()), video_at(folder.root())];
    let refused = encoder.add_videos(&twice, &options, &mut out, &mut Silent).map(drop);
    assert!(matches!(refused, Err(Error::Argument { argument: "videos", .. })), "{refused:?}");
    assert_eq!(encoder.add_texts(&[], &options, &mut out).unwrap(), 0);
    assert!(encoder.add_images(&[], &mut out).unwrap().is_empty() && out.arrays.is_empty() && out.ids.is_empty());
    folder.file(
        "preprocessor_config.json",
        r#"{"crop_size": 16, "size": 16, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}"#,
    );
    let other = ClipEncoder::open(&gpus()[0], folder.root(), false).map(drop);
    assert!(matches!(other, Err(Error::Malformed { place, .. }) if place == "crop_size"));
}
