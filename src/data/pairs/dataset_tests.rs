use super::*;
use crate::data::captions::VideoCaptions;
use crate::data::media::frames::{Choice, Published};
use crate::data::media::pixels::Image;
use crate::data::media::preprocess::Preprocess;
use crate::data::pairs::{collate, collate_frames};
use crate::data::testing::Folder;

const WORDS: usize = 6;
const FRAMES: usize = 3;

fn input() -> VideoInput {
    let preprocess = Preprocess { scale: 1.0, mean: [0.0; 3], std: [1.0; 3], ..Preprocess::clip(2) };
    VideoInput::published(Published::default(), Choice::Uniform, FRAMES, preprocess)
}

/// Folders of frames, a grey level a frame.
fn frames(folder: &Folder, id: &str, greys: &[u8]) {
    std::fs::create_dir(folder.path(id)).unwrap();
    for (number, &grey) in greys.iter().enumerate() {
        let path = folder.path(id).join(format!("{id}_{number}.png"));
        image::RgbImage::from_pixel(4, 2, image::Rgb([grey; 3])).save(path).unwrap();
    }
}

fn split() -> Split {
    let video = |id: &str, captions: &[&str]| VideoCaptions::new(id, captions.iter().map(|c| c.to_string()).collect());
    let videos = vec![
        video("one", &["a dog", "dog a dog a dog a dog"]),
        video("gone", &["a"]),
        video("two", &["dog"]),
        video("damaged", &["a a", "dog dog", "a dog"]),
    ];
    Split { videos }
}

fn open(folder: &Folder, split: Split, problems: &mut Problems) -> Result<PairDataset> {
    // Padding 0, unknown 1, a 2, dog 3, start 4, end 5.
    let tokenizer = Tokenizer::from_words(&["a", "dog"]).unwrap();
    PairDataset::open(split, folder.root(), &tokenizer, WORDS, input(), problems)
}

fn folder() -> Folder {
    let folder = Folder::new();
    frames(&folder, "one", &[10, 20, 30, 40]);
    frames(&folder, "two", &[50]);
    frames(&folder, "damaged", &[60]);
    folder.file("damaged/damaged_1.png", "no picture");
    folder
}

#[test]
fn captions_and_frames_belong_together() {
    let folder = folder();
    let mut problems = Problems::lenient();
    let data = open(&folder, split(), &mut problems).unwrap();
    // Without "gone", which is on the list of problems; the long caption is cut.
    assert!(matches!(problems.skipped(), [Error::Missing { kind: "video", id, .. }] if id == "gone"));
    assert_eq!((data.texts(), data.videos()), (6, 3));
    assert_eq!(data.cut().collect::<Vec<_>>(), [("one", 1)]);
    let owners: Vec<usize> = (0..6).map(|text| data.video_of(text).unwrap()).collect();
    assert_eq!(owners, [0, 0, 1, 2, 2, 2]);
    assert_eq!(data.tokens(0).unwrap(), [4, 2, 3, 5, 0, 0]);
    assert_eq!(data.tokens(1).unwrap(), [4, 3, 2, 3, 2, 5]);
    assert!(matches!(data.video_of(6), Err(Error::IndexOutOfRange { index: 6, len: 6, .. })));
    assert!(matches!(collate(&data, &[0, 6], FRAMES), Err(Error::IndexOutOfRange { .. })));
    assert!(matches!(data.tokens(6), Err(Error::IndexOutOfRange { .. })));
    assert!(matches!(data.frames(3), Err(Error::IndexOutOfRange { .. })));

    let batch = collate(&data, &[2, 1], FRAMES).unwrap();
    assert_eq!(batch.ids, [4, 3, 5, 0, 0, 0, 4, 3, 2, 3, 2, 5]);
    assert_eq!(batch.mask, [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let greys: Vec<f32> = batch.pixels.chunks(3 * 2 * 2).map(|frame| frame[5]).collect();
    assert_eq!(greys, [50.0, 0.0, 0.0, 10.0, 20.0, 40.0]);
}

#[test]
fn videos_that_cannot_be_read_end_a_strict_run_and_are_left_out_of_a_lenient_one() {
    let folder = folder();
    assert!(matches!(open(&folder, split(), &mut Problems::strict()), Err(Error::Missing { kind: "video", .. })));
    let mut more = split();
    more.videos.push(VideoCaptions::new("away", vec!["a".into()]));
    let error = open(&folder, more, &mut Problems::strict()).map(drop).unwrap_err().to_string();
    assert!(error.ends_with("2 are missing: video \"gone\", video \"away\""), "{error}");
    let none = Split { videos: vec![VideoCaptions::new("gone", vec!["a".into()])] };
    let error = open(&folder, none, &mut Problems::lenient()).map(drop).unwrap_err().to_string();
    assert!(error.contains("none of the 1 listed videos is there"), "{error}");
    let mut without = split();
    without.videos.remove(1);
    let strict = open(&folder, without.clone(), &mut Problems::strict()).unwrap();
    let named = |error: Error| assert!(error.to_string().contains("damaged_1.png"), "{error}");
    named(collate(&strict, &[0, 4], FRAMES).unwrap_err());
    named(collate_frames(&strict, &[2], FRAMES).unwrap_err());

    let lenient = open(&folder, without, &mut Problems::lenient()).unwrap();
    let batch = collate(&lenient, &[3, 0, 5, 2], FRAMES).unwrap();
    assert_eq!(batch, collate(&strict, &[0, 2], FRAMES).unwrap());
    let none = collate(&lenient, &[3, 5], FRAMES).unwrap_err().to_string();
    assert!(none.contains("have no video that can be read, of 2"), "{none}");
    // In a gallery every video keeps its place.
    let (pixels, mask) = collate_frames(&lenient, &[2, 1], FRAMES).unwrap();
    assert_eq!(mask, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    assert!(pixels[..FRAMES * 12].iter().all(|&v| v == 0.0) && pixels[FRAMES * 12] == 50.0);
    // Named once, however often it was met, and not again.
    let failures = lenient.failures();
    assert_eq!(failures.iter().map(|f| f.id.as_str()).collect::<Vec<_>>(), ["damaged"]);
    named(failures.into_iter().next().unwrap().error);
    assert!(lenient.failures().is_empty());
}

#[test]
fn stretches_of_files_are_read_alone() {
    let ffmpeg = Ffmpeg::find().unwrap();
    let folder = Folder::new();
    // Ten seconds of ten frames; red is twice the frame's number.
    let frame = |number: u8| Image::new(4, 2, [number * 2, 9, 9].repeat(8)).unwrap();
    ffmpeg.encode(folder.path("v.mp4"), &(0..100).map(frame).collect::<Vec<_>>(), 10).unwrap();
    let stretch = |id: &str, start: f64, end: Option<f64>| VideoCaptions {
        file: "v".into(),
        start,
        end,
        ..VideoCaptions::new(id, vec!["a".into()])
    };
    let videos = vec![stretch("all", 0.0, None), stretch("middle", 3.2, Some(4.5)), stretch("end", 8.0, None)];
    let data = open(&folder, Split { videos }, &mut Problems::strict()).unwrap();
    let reds = |video: usize| -> Vec<u8> {
        let set = data.frames(video).unwrap();
        set.pixels.chunks(3 * 4).take(set.valid).map(|frame| (frame[0] / 20.0).round() as u8).collect()
    };
    assert_eq!((reds(0), reds(1), reds(2)), (vec![0, 4, 9], vec![3, 4, 5], vec![8, 9]));
}
