use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Instant;

use super::*;
use crate::data::captions::{Dataset, VideoCaptions, read_msrvtt, read_msrvtt_test};
use crate::data::moments::Problems;
use crate::data::testing::Folder;

fn small() -> ClipWorldConfig {
    ClipWorldConfig { seed: 3, train: 60, validation: 4, test: 10, frames: 6, ..Default::default() }
}

#[test]
fn one_configuration_one_world() {
    let config = ClipWorldConfig { whole_captions: 3, partial_captions: 4, ..small() };
    let (world, again) = (ClipWorld::new(config).unwrap(), ClipWorld::new(config).unwrap());
    let other = ClipWorld::new(ClipWorldConfig { seed: 4, ..config }).unwrap();
    // In another order: no video depends on what was asked before.
    for video in (0..world.len()).rev().step_by(7) {
        assert_eq!(world.frames(video).unwrap(), again.frames(video).unwrap());
        assert_eq!(world.captions(video).unwrap(), again.captions(video).unwrap());
    }
    assert_ne!(world.frames(5).unwrap(), other.frames(5).unwrap());
    assert_eq!(world.frames(5).unwrap().len(), 6 * 64 * 64 * 3);
}

#[test]
fn no_pair_of_events_is_in_two_splits() {
    let world = ClipWorld::new(ClipWorldConfig::default()).unwrap();
    assert_eq!(Part::ALL.map(|part| world.videos(part)), [0..4000, 4000..4250, 4250..4750]);
    assert_eq!(world.len(), 4750);
    let mut seen = HashMap::new();
    for part in Part::ALL {
        for video in world.videos(part) {
            let twin = world.twin(video).unwrap();
            assert!(world.videos(part).contains(&twin));
            let mut pair = world.events(video).unwrap();
            assert_eq!(world.events(twin).unwrap(), [pair[1], pair[0]]);
            pair.sort();
            assert_eq!(*seen.entry(pair).or_insert(video.min(twin)), video.min(twin));
        }
    }
    assert_eq!(seen.len(), 2375);
}

#[test]
fn twins_differ_in_pixels_and_halves() {
    let world = ClipWorld::new(small()).unwrap();
    for video in world.videos(Part::Test) {
        let [clip, twin] = [video, world.twin(video).unwrap()].map(|v| world.frames(v).unwrap());
        let (first, second) = clip.split_at(clip.len() / 2);
        assert_ne!(clip, twin);
        assert_ne!([second, first].concat(), twin);
    }
}

#[test]
fn captions_tell_the_whole_or_a_part() {
    let world = ClipWorld::new(ClipWorldConfig { whole_captions: 2, ..small() }).unwrap();
    let wordings = |event: Event| [phrase(event, false), phrase(event, true)];
    let mut first_events = 0;
    let words: HashSet<_> = ClipWorld::vocabulary().into_iter().collect();
    for video in 0..world.len() {
        let [a, b] = world.events(video).unwrap();
        let captions = world.captions(video).unwrap();
        assert_eq!(captions.iter().map(ClipCaption::is_partial).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(captions.iter().map(|c| &c.text).collect::<HashSet<_>>().len(), 3);
        assert!(captions.iter().flat_map(|c| c.text.split(' ')).all(|word| words.contains(word)));
        for caption in &captions[..2] {
            let (first, second) = caption.text.split_once(" then ").unwrap();
            assert!(wordings(a).contains(&first.to_owned()) && wordings(b).contains(&second.to_owned()));
            assert_eq!(caption.events, [a, b]);
        }
        let part = &captions[2];
        let told = if part.events == [a] { a } else { b };
        assert!(wordings(told).contains(&part.text) && part.events == [told]);
        first_events += usize::from(told == a);
    }
    // Of 74 parts about half are the first event; five deviations are 21.
    assert!((16..=58).contains(&first_events), "{first_events}");
}

#[test]
fn captions_fit_all_clips_that_show_what_they_tell() {
    let config = ClipWorldConfig { train: 600, test: 500, partial_captions: 3, ..small() };
    let world = ClipWorld::new(config).unwrap();
    let mut fitting = 0;
    for part in Part::ALL {
        for video in world.videos(part).step_by(5) {
            for caption in world.captions(video).unwrap() {
                // By words alone: a clip fits if one of its own possible captions has these words.
                let fits = |other: &usize| {
                    let [a, b] = world.events(*other).unwrap();
                    [false, true].iter().any(|&first| {
                        [false, true].iter().any(|&second| {
                            let [a, b] = [phrase(a, first), phrase(b, second)];
                            let whole = format!("{a} then {b}");
                            [a, b, whole].contains(&caption.text)
                        })
                    })
                };
                let expected: Vec<usize> = world.videos(part).filter(fits).collect();
                assert_eq!(world.fits(part, &caption), expected, "{}", caption.text);
                assert!(expected.contains(&video) && (caption.is_partial() || expected.len() == 1));
                fitting += usize::from(caption.is_partial() && expected.len() > 1);
            }
        }
    }
    assert!(fitting > 100, "{fitting}");
}

#[test]
fn the_folder_is_read_as_msrvtt() {
    let world = ClipWorld::new(small()).unwrap();
    let folder = Folder::new();
    let root = folder.path("a/b");
    let mut saved = Vec::new();
    world
        .write(&root, 3, |path, frames, rate| {
            assert_eq!((frames.len(), rate), (6, 1.0));
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let video = name.strip_prefix("video").unwrap().parse().unwrap();
            assert_eq!(frames.concat(), world.frames(video).unwrap());
            saved.push(video);
            fs::write(path.with_extension("raw"), frames.concat()).map_err(|e| Error::io("write", path, e))
        })
        .unwrap();
    assert_eq!(saved, [0, 1, 2, 60, 61, 62, 64, 65, 66]);

    let texts = |video| world.captions(video).unwrap().into_iter().map(|c| c.text).collect::<Vec<_>>();
    let whole = |video| VideoCaptions::new(format!("video{video}"), vec![texts(video)[0].clone()]);
    let all = |video| VideoCaptions::new(format!("video{video}"), texts(video));
    let mut strict = Problems::strict();
    let train = Dataset::MsrVtt9k.read(&root, Part::Train, &mut strict).unwrap();
    assert_eq!(train.videos, world.videos(Part::Train).map(all).collect::<Vec<_>>());
    let test = Dataset::MsrVtt9k.read(&root, Part::Test, &mut strict).unwrap();
    assert_eq!(test.videos, world.videos(Part::Test).map(whole).collect::<Vec<_>>());
    let validation = read_msrvtt_test(root.join("MSRVTT_JSFUSION_val.csv"), &mut strict).unwrap();
    assert_eq!(validation.videos, world.videos(Part::Validation).map(whole).collect::<Vec<_>>());
    let everything = read_msrvtt(root.join("MSRVTT_data.json"), &mut strict).unwrap();
    assert_eq!(everything.videos, (0..world.len()).map(all).collect::<Vec<_>>());

    let videos = root.join("videos");
    let report = Dataset::MsrVtt9k.check(&root, |v| videos.join(format!("{}.raw", v.file)).exists()).unwrap();
    assert_eq!(report.parts.iter().map(|p| p.missing_files.len()).collect::<Vec<_>>(), [57, 7]);
    assert!(report.shared.is_empty());

    let again = ClipWorld::read(&root).unwrap();
    assert_eq!((again.config(), again.frames(9).unwrap()), (world.config(), world.frames(9).unwrap()));
    // A failure leaves no file that vouches for the rest.
    let failed = world.write(&root, 1, |path, _, _| Err(Error::malformed(path, "end", "disk on fire")));
    assert!(matches!(failed, Err(Error::Malformed { .. })));
    assert!(matches!(ClipWorld::read(&root), Err(Error::Io { .. })));
}

#[test]
fn bad_requests_are_errors() {
    for config in [
        ClipWorldConfig { train: 0, ..small() },
        ClipWorldConfig { train: 61, ..small() },
        ClipWorldConfig { test: 20_000, train: 20_000, ..small() },
        ClipWorldConfig { train: usize::MAX - 1, ..small() },
        ClipWorldConfig { frames: 7, ..small() },
        ClipWorldConfig { frames: 2, ..small() },
        ClipWorldConfig { frames: 66, ..small() },
        ClipWorldConfig { size: 8, ..small() },
        ClipWorldConfig { size: 1 << 20, ..small() },
        ClipWorldConfig { whole_captions: 0, ..small() },
        ClipWorldConfig { partial_captions: 5, ..small() },
    ] {
        assert!(matches!(ClipWorld::new(config), Err(Error::Argument { .. })), "{config:?}");
    }
    let world = ClipWorld::new(small()).unwrap();
    let beyond = world.len();
    assert!(world.frames(beyond).is_err() && world.captions(beyond).is_err() && world.events(beyond).is_err());
}

#[test]
#[cfg(feature = "text")]
fn pairs_beyond_the_last_are_errors() {
    use crate::data::pairs::PairSource;
    use crate::data::tokenizer::Tokenizer;

    let world = ClipWorld::new(small()).unwrap();
    let tokenizer = Tokenizer::from_words(&ClipWorld::vocabulary()).unwrap();
    let data = ClipPairs::new(&world, Part::Validation, &tokenizer, 32).unwrap();
    let (texts, videos) = (data.texts(), data.videos());
    assert_eq!((videos, data.video_of(0).unwrap(), data.video_of(texts - 1).unwrap()), (4, 0, 3));
    let beyond = |result: Result<()>, count: usize| {
        let count = count as u64;
        matches!(result, Err(Error::IndexOutOfRange { index, len, .. }) if [index, len] == [count, count])
    };
    assert!(beyond(data.video_of(texts).map(drop), texts) && beyond(data.tokens(texts).map(drop), texts));
    assert!(data.caption(texts).is_none() && data.fits(texts).is_empty());
    assert!(beyond(data.frames(videos).map(drop), videos));
}

/// Training reads 32 clips a step on one processor. The bound is loose: tests are not built for speed, nor run alone.
#[test]
fn clips_are_drawn_quickly() {
    let world = ClipWorld::new(small()).unwrap();
    let start = Instant::now();
    let sum: usize = (0..64).map(|video| world.frames(video).unwrap()[9999] as usize).sum();
    let each = start.elapsed().as_secs_f64() * 1000.0 / 64.0;
    println!("{each:.2} ms for a clip of 6 frames ({sum})");
    assert!(each < 50.0, "{each} ms");
}
