use super::*;
use crate::data::formats::npy;
use crate::data::media::frames::Reading;
use crate::data::testing::Folder;
use crate::data::tokenizer::Tokenizer;
use crate::kernels::testing::gpus;
use crate::models::Model;
use crate::models::clip::{Clip, ClipConfig, TowerConfig};
use crate::models::text_image::{OpenOptions, TextImageModel};
use crate::retrieval::summary::Summary;
use crate::{Silent, StopFlag};

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

fn open(folder: &Folder, half: bool) -> Result<ClipEncoder> {
    let how = OpenOptions { half, ..OpenOptions::default() };
    TextImageModel::open_with(&gpus()[0], folder.root(), how).map(ClipEncoder::new)
}

fn picture(path: &Path, grey: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_fn(9, 8, |x, y| image::Rgb([grey, (x * 20) as u8, (y * 20) as u8])).save(path).unwrap();
}

const OPTIONS: EmbedOptions =
    EmbedOptions { words: Some(6), frames: 3, rate: 1.0, tokens: true, patches: true, reading: Reading::OWN };

/// Three sentences, two pictures of which one is none, and a folder of three videos: one has no frame.
fn inputs(folder: &Folder) -> Inputs {
    let mut inputs = Inputs::default();
    inputs
        .add_text_file(&folder.file("texts.txt", "red square moves\n\nblue\nred blue red blue red blue\n  \n"))
        .unwrap();
    let (good, bad) = (folder.path("good.png"), folder.file("bad.png", "no picture"));
    picture(&good, 30);
    inputs.images = vec![good, bad];
    for (name, grey) in [("b/1.png", 30), ("b/2.png", 60), ("a/1.png", 30)] {
        picture(&folder.path("videos").join(name), grey);
    }
    // Without a frame; and what is no video.
    std::fs::create_dir_all(folder.path("videos").join("c")).unwrap();
    for name in ["notes.txt", ".hidden"] {
        std::fs::write(folder.path("videos").join(name), "").unwrap();
    }
    inputs.add_folder(&folder.path("videos")).unwrap();
    inputs
}

/// A run that is stopped after so many pictures and videos. The model's folder changes with its inputs, so that the file of
/// its weights is what it goes by.
fn run_to(folder: &Folder, given: &Inputs, out: &Path, resume: bool, files: usize) -> Result<(Summary, Embeddings)> {
    let run = EmbedRun::new(given.clone(), OPTIONS, &folder.path("model.safetensors"), out, resume)?;
    let stop = StopFlag::new();
    let (mut seen, flag) = (0, stop.clone());
    let mut progress = |_, _, message: &str| {
        seen += usize::from(message != "sentences");
        if seen >= files {
            flag.stop();
        }
    };
    let mut hooks = EmbedHooks { progress: &mut progress, stop };
    run.run(&open(folder, false)?, &mut hooks).map(|(summary, all, _)| (summary, all))
}

#[test]
fn texts_pictures_and_videos_become_rows() {
    let folder = model();
    let outside = Folder::new();
    let run = EmbedRun::new(inputs(&folder), OPTIONS, folder.root(), &outside.path("all.safetensors"), false).unwrap();
    let mut hooks = EmbedHooks { progress: &mut Silent, stop: StopFlag::new() };
    let (summary, out, beside) = run.run(&open(&folder, false).unwrap(), &mut hooks).unwrap();
    assert_eq!(summary.line(), "6 read, 4 skipped (2 blank, 1 hidden, 1 no video), 2 failed");
    assert_eq!(summary.cut, ["red blue red blue red blue"]);
    let failed: Vec<String> = summary.failed.iter().map(|f| f.to_string()).collect();
    assert_eq!(failed.len(), 2);
    assert!(failed[0].matches("bad.png").count() == 1 && failed[1].contains("frame"), "{failed:?}");

    let shapes = [
        ("text", vec![3, 12]),
        ("words", vec![3, 6, 12]),
        ("word_mask", vec![3, 6]),
        ("image", vec![1, 12]),
        ("video", vec![2, 12]),
        ("frames", vec![2, 3, 12]),
        ("mask", vec![2, 3]),
        ("times", vec![2, 3]),
        ("patches", vec![2, 12, 12]),
    ];
    assert_eq!(out.arrays.len(), shapes.len());
    for (name, shape) in shapes {
        assert_eq!(out.arrays[name].shape(), shape, "{name}");
    }
    assert_eq!(out.arrays["mask"].data(), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    // Frames in folders have no times.
    assert_eq!(out.arrays["times"].data(), [-1.0; 6]);
    assert_eq!(out.arrays["word_mask"].data()[..12], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!((out.ids["image"].len(), &out.ids["video"]), (1, &vec!["a".to_string(), "b".to_string()]));
    // A video of one frame has the direction of its picture.
    let norm = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>().sqrt();
    let (image, video) = (out.arrays["image"].data(), out.arrays["video"].row(0));
    assert!(image.iter().zip(video).all(|(i, v)| (i / norm(image) - v).abs() < 1e-5), "{image:?} {video:?}");

    let ids: serde_json::Value = serde_json::from_slice(&std::fs::read(beside.unwrap()).unwrap()).unwrap();
    assert_eq!(ids["video"][1], "b");
    assert_eq!(safetensors::read(outside.path("all.safetensors")).unwrap(), out.arrays);
    out.write(&outside.path("all")).unwrap();
    assert_eq!(npy::read(outside.path("all/frames.npy")).unwrap(), out.arrays["frames"]);
    // Nothing of the work is left.
    let mut left: Vec<_> = std::fs::read_dir(outside.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["all", "all.ids.json", "all.safetensors"]);
}

/// Stopped after any file, a run that goes on gives the bytes of one that was not stopped, and repeats nothing.
#[test]
fn a_run_goes_on_where_it_was_stopped() {
    let folder = model();
    let (outside, given) = (Folder::new(), inputs(&folder));
    let (whole, _) = run_to(&folder, &given, &outside.path("whole.safetensors"), false, usize::MAX).unwrap();
    let bytes = std::fs::read(outside.path("whole.safetensors")).unwrap();
    for files in 1..=3 {
        let name = format!("{files}.safetensors");
        let stopped = run_to(&folder, &given, &outside.path(&name), false, files).map(drop);
        let Err(Error::Interrupted { saved: Some(work) }) = stopped else { panic!("{files}: {stopped:?}") };
        assert!(!outside.path(&name).exists() && work.is_dir());
        let again = run_to(&folder, &given, &outside.path(&name), false, usize::MAX).map(drop);
        assert!(matches!(&again, Err(Error::Argument { why, .. }) if why.contains("--resume")), "{again:?}");
        let (summary, _) = run_to(&folder, &given, &outside.path(&name), true, usize::MAX).unwrap();
        // The sentences, and of the files those that could be read.
        assert!(summary.resumed >= 3 + files - 1 && summary.resumed < 6, "{files}: {}", summary.line());
        assert_eq!(std::fs::read(outside.path(&name)).unwrap(), bytes);
        assert_eq!((summary.read, summary.failed.len()), (whole.read, whole.failed.len()));
        let done = run_to(&folder, &given, &outside.path(&name), false, usize::MAX).map(drop);
        assert!(matches!(&done, Err(Error::Argument { why, .. }) if why.contains("there already")), "{done:?}");
    }
    // One that ended before anything was done leaves nothing in the way.
    EmbedRun::new(given.clone(), OPTIONS, folder.root(), &outside.path("never.safetensors"), false).map(drop).unwrap();
    let nothing = run_to(&folder, &given, &outside.path("never.safetensors"), true, usize::MAX).map(drop);
    assert!(matches!(nothing, Err(Error::Missing { kind: "unfinished run", .. })), "{nothing:?}");
    run_to(&folder, &given, &outside.path("never.safetensors"), false, usize::MAX).unwrap();
}

/// A file that changed in between is done again, and another model or other options are another run.
#[test]
fn a_run_goes_on_with_what_it_began_with() {
    let folder = model();
    let (outside, given) = (Folder::new(), inputs(&folder));
    run_to(&folder, &given, &outside.path("a.safetensors"), false, 3).unwrap_err();
    picture(&folder.path("videos").join("a/2.png"), 99);
    let (summary, all) = run_to(&folder, &given, &outside.path("a.safetensors"), true, usize::MAX).unwrap();
    assert_eq!(all.arrays["mask"].data(), [1.0, 1.0, 0.0, 1.0, 1.0, 0.0], "{}", summary.line());
    run_to(&folder, &given, &outside.path("b.safetensors"), false, 1).unwrap_err();
    let other = EmbedOptions { frames: 4, ..OPTIONS };
    let got = EmbedRun::new(given, other, &folder.path("config.json"), &outside.path("b.safetensors"), true);
    assert!(matches!(got.map(drop), Err(Error::ResumeChanges { .. })));
}

#[test]
fn a_run_of_which_nothing_can_be_read_writes_nothing() {
    let (folder, outside) = (model(), Folder::new());
    let given = Inputs { images: vec![folder.path("none.png"), folder.file("bad.png", "x")], ..Inputs::default() };
    let (summary, all) = run_to(&folder, &given, &outside.path("a.safetensors"), false, usize::MAX).unwrap();
    assert_eq!(summary.line(), "0 read, 0 skipped, 2 failed");
    assert!(all.arrays.is_empty() && std::fs::read_dir(outside.root()).unwrap().next().is_none());
}

#[test]
fn what_cannot_be_encoded_is_an_error_before_the_model_is_read() {
    let folder = model();
    let outside = Folder::new();
    let new = |inputs: Inputs, out: &Path| EmbedRun::new(inputs, OPTIONS, folder.root(), out, false).map(drop);
    let mut twice = Inputs::default();
    twice.add_video(folder.root());
    twice.add_video(folder.root());
    let out = outside.path("x.safetensors");
    let got = new(twice, &out);
    assert!(matches!(&got, Err(Error::Argument { argument: "inputs", why, .. }) if why.contains("twice")), "{got:?}");
    assert!(matches!(new(Inputs::default(), &out), Err(Error::Argument { argument: "inputs", .. })));
    for bad in [outside.path("no/such/x.safetensors"), outside.root().to_path_buf(), "..".into()] {
        let got = new(inputs(&folder), &bad);
        assert!(matches!(got, Err(Error::Argument { argument: "out", .. })), "{}: {got:?}", bad.display());
    }
    let config = ClipConfig::vit_b_32();
    for bad in [
        EmbedOptions { words: Some(78), ..OPTIONS },
        EmbedOptions { words: Some(1), ..OPTIONS },
        EmbedOptions { frames: 0, ..OPTIONS },
        EmbedOptions { rate: 0.0, ..OPTIONS },
    ] {
        assert!(matches!(bad.check(&config), Err(Error::Argument { .. })), "{bad:?}");
    }
    folder.file(
        "preprocessor_config.json",
        r#"{"crop_size": 16, "size": 16, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}"#,
    );
    let other = open(&folder, true).map(drop);
    assert!(matches!(other, Err(Error::Malformed { place, .. }) if place == "size and crop_size"));
    assert!(matches!(Inputs::default().add_folder(&folder.path("none")), Err(Error::Io { .. })));
}
