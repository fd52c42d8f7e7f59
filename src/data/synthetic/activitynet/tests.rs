use std::time::Instant;

use super::*;
use crate::data::moments::{MomentVideo, Problems, read_activitynet};
use crate::data::testing::outside;

fn video(id: &str, duration: f64) -> MomentVideo {
    MomentVideo { id: id.to_owned(), duration, index: 0 }
}

fn query(id: u64, video: &str, window: [f64; 2], text: &str) -> MomentQuery {
    MomentQuery::new(id, text, Some(video.to_owned()), vec![window])
}

fn small() -> MomentSplit {
    MomentSplit {
        queries: vec![
            query(1, "v_a", [0.0, 9.5], "A man walks his dog."),
            query(2, "v_b", [1.0, 700.3], "Two girls sing, then bow."),
            query(3, "v_a", [8.0, 21.0], "The dog barks at a man!"),
        ],
        videos: vec![video("v_a", 21.3), video("v_b", 701.1)],
    }
}

fn options() -> SimulationOptions {
    SimulationOptions { word_width: 17, clip_width: 31, max_tokens: 4, ..Default::default() }
}

fn simulate(split: MomentSplit, options: SimulationOptions) -> SimulatedActivityNet {
    SimulatedActivityNet::new(split, options).unwrap()
}

/// ActivityNet's validation.
fn real() -> MomentSplit {
    read_activitynet(outside("annotations/activitynet-captions/val_1.json"), &mut Problems::strict()).unwrap()
}

#[test]
fn clips_and_tokens_have_their_shapes() {
    let source = simulate(small(), options());
    assert_eq!(source.widths(), Widths { query: 17, video: 31, sub: 0 });
    let short = source.clips(0).unwrap();
    assert_eq!((short.video.as_ref().unwrap().shape(), short.seconds_per_clip), (&[11, 31][..], 2.0));
    // 351 clips of 2 s become 128.
    let long = source.clips(1).unwrap();
    assert_eq!(long.len(), 128);
    assert!((long.seconds_per_clip * 128.0 - 702.0).abs() < 1e-9 && long.sub.is_none());
    for row in long.video.unwrap().data().chunks_exact(31) {
        let norm: f32 = row.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-3);
    }
    assert_eq!(source.tokens(0).unwrap().shape(), [4, 17]);
    let sample = source.sample(2, 0).unwrap();
    assert_eq!((sample.span, source.video_of(2).unwrap()), ([4, 10], Some(0)));
    assert!(matches!(source.clips(2), Err(Error::IndexOutOfRange { .. })));
    assert!(matches!(source.tokens(3), Err(Error::IndexOutOfRange { .. })));
    assert!(matches!(source.video_of(3), Err(Error::IndexOutOfRange { .. })));
}

/// A clip of one sentence without noise or distractors is the projection of its words.
#[test]
fn clips_project_the_words_that_cover_them() {
    let source = simulate(small(), SimulationOptions { noise: 0.0, distractors: 0, ..options() });
    let clips = source.clips(0).unwrap().video.unwrap();
    let row = |clip: usize| &clips.data()[clip * 31..][..31];
    for (query, clip) in [(0, 0), (2, 7)] {
        let mut expected = Array::zeros([1, 31]);
        source.add_words(expected.data_mut(), source.words[query].iter().copied());
        l2_normalize_rows(&mut expected);
        let difference = row(clip).iter().zip(expected.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-4, "{difference}");
    }
    // The first sentence covers clips 0 to 4, the last one 4 to 10: clip 4 has both.
    assert_eq!(row(0), row(3));
    assert_eq!(row(5), row(10));
    assert_ne!(row(3), row(4));
    assert_ne!(row(4), row(5));
    // Case does not matter: "A" and "a", "dog" and "dog".
    let words = &source.words;
    assert_eq!((words[0][0], words[0][4]), (words[2][4], words[2][1]));
}

#[test]
fn features_are_functions_of_seed_video_and_words() {
    let bits = |source: &SimulatedActivityNet, place| {
        let clips = source.clips(place).unwrap().video.unwrap();
        clips.data().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let source = simulate(small(), options());
    let again = simulate(small(), options());
    assert_eq!(bits(&source, 0), bits(&again, 0));
    assert_eq!(bits(&source, 0), bits(&source, 0));
    let other = simulate(small(), SimulationOptions { seed: 1, ..options() });
    assert_ne!(bits(&source, 0), bits(&other, 0));
    // Fixed: a change of platform or code that alters the features shows here.
    let sum = |array: &Array| hash(&array.data().iter().map(|x| format!("{:08x}", x.to_bits())).collect::<String>());
    let sums = [sum(&source.clips(1).unwrap().video.unwrap()), sum(&source.tokens(1).unwrap())];
    assert_eq!(sums, [0x2974_1ebe_f391_1c16, 0xf7f0_764e_f25e_981e], "{sums:#018x?}");

    // Another split of the same seed: the same words have the same vectors; a video of another name has other noise.
    let mut validation = small();
    validation.videos[0].id = "v_c".to_owned();
    validation.queries.remove(1);
    validation.queries.iter_mut().for_each(|q| q.video = Some("v_c".to_owned()));
    validation.queries.reverse();
    let validation = simulate(validation, options());
    assert_eq!(validation.tokens(0).unwrap(), source.tokens(2).unwrap());
    let dog = |source: &SimulatedActivityNet, query: usize, word: usize| {
        source.projected.data()[source.words[query][word] as usize * 31..][..31].to_vec()
    };
    assert_eq!(dog(&validation, 0, 1), dog(&source, 2, 1));
    assert_ne!(bits(&validation, 0), bits(&source, 0));
}

#[test]
fn the_first_videos_can_be_taken_alone() {
    let source = simulate(small(), SimulationOptions { max_videos: Some(1), ..options() });
    assert_eq!((source.videos().len(), source.queries().len()), (1, 2));
    assert_eq!(source.video_of(1).unwrap(), Some(0));
    assert!(matches!(source.clips(1), Err(Error::IndexOutOfRange { .. })));
}

#[test]
fn bad_splits_and_options_are_errors() {
    let fails = |split: MomentSplit, options: SimulationOptions, words: &str| {
        let Err(Error::Argument { why, .. }) = SimulatedActivityNet::new(split, options) else { panic!("{words}") };
        assert!(why.contains(words), "{why}");
    };
    let change = |change: fn(&mut MomentSplit)| {
        let mut split = small();
        change(&mut split);
        split
    };
    fails(MomentSplit::default(), options(), "no videos");
    fails(change(|s| s.queries.clear()), options(), "no queries");
    fails(change(|s| s.queries[1].text = " ... ".to_owned()), options(), "without words: 2");
    fails(change(|s| s.queries[1].video = Some("v_x".to_owned())), options(), "v_x");
    fails(change(|s| s.videos[1].duration = f64::NAN), options(), "v_b");
    fails(change(|s| s.videos[1].duration = 0.0), options(), "v_b");
    for bad in [
        SimulationOptions { word_width: 0, ..options() },
        SimulationOptions { clip_width: 4097, ..options() },
        SimulationOptions { max_clips: usize::MAX, ..options() },
        SimulationOptions { distractors: usize::MAX, ..options() },
        SimulationOptions { max_tokens: 0, ..options() },
        SimulationOptions { max_videos: Some(0), ..options() },
        SimulationOptions { noise: f32::NAN, ..options() },
        SimulationOptions { seconds_per_clip: 0.0, ..options() },
    ] {
        fails(small(), bad, "must");
    }
    // Absurd but legal: a duration beyond all clips, and windows beyond the video.
    let endless = change(|s| {
        s.videos[0].duration = 1e300;
        s.queries[0].windows = vec![[1e301, 1e302], [f64::NAN, 5.0]];
    });
    assert_eq!(simulate(endless, options()).clips(0).unwrap().len(), 128);
    // No labels: no clips to mix it into, and nothing to train on.
    let unlabelled = simulate(change(|s| s.queries[0].video = None), options());
    assert_eq!(unlabelled.video_of(0).unwrap(), None);
    assert!(unlabelled.tokens(0).is_ok() && unlabelled.sample(0, 0).is_err());
}

#[test]
fn the_bell_is_nearly_normal() {
    let mut random = Random::new(9, 0);
    let n = 200_000;
    let mut moments = [0.0f64; 4];
    for _ in 0..n {
        let x = f64::from(bell(random.u32()));
        for (power, moment) in moments.iter_mut().enumerate() {
            *moment += x.powi(power as i32 + 1) / f64::from(n);
        }
    }
    for (got, expected) in moments.iter().zip([0.0, 1.0, 0.0, 2.7]) {
        assert!((got - expected).abs() < 0.03, "{moments:?}");
    }
}

/// On average a sentence's words score higher on its clips than on the other clips of the video, and of other videos.
#[test]
#[ignore = "reads files that are not part of this repository; CONTRIBUTING.md says how to run it"]
fn real_sentences_fit_their_own_clips() {
    let split = real();
    let (videos, queries) = (split.videos.len(), split.queries.len());
    let source = simulate(split, SimulationOptions::default());
    assert_eq!((videos, queries), (4917, 17505));
    assert_eq!((source.videos().len(), source.queries().len()), (videos, queries));
    let width = source.options.clip_width;
    let mut sums = [0.0f64; 3];
    let mut counts = [0.0f64; 3];
    for query in (0..queries).step_by(97) {
        let mut words = vec![0.0; width];
        source.add_words(&mut words, source.words[query].iter().copied());
        let own = source.video_of(query).unwrap().unwrap();
        let [first, last] = source.sample(query, 0).unwrap().span;
        for video in [own, (own + 11) % videos] {
            for (clip, row) in source.clips(video).unwrap().video.unwrap().data().chunks_exact(width).enumerate() {
                let score: f32 = row.iter().zip(&words).map(|(a, b)| a * b).sum();
                // The label's last clip may be one beyond the window.
                let kind = if video != own { 2 } else { usize::from(!(first..last.max(first + 1)).contains(&clip)) };
                sums[kind] += f64::from(score);
                counts[kind] += 1.0;
            }
        }
    }
    let [inside, outside, elsewhere]: [f64; 3] = std::array::from_fn(|i| sums[i] / counts[i]);
    println!("inside {inside:.2}, outside {outside:.2}, elsewhere {elsewhere:.2}");
    assert!(inside > 1.5 * outside && inside > 1.5 * elsewhere, "{inside} {outside} {elsewhere}");
}

/// Prints how long a batch takes; the bound is wide, for slow and busy machines.
#[test]
#[ignore = "reads files that are not part of this repository; CONTRIBUTING.md says how to run it"]
fn batches_are_fast() {
    let split = real();
    let started = Instant::now();
    let source = simulate(split, SimulationOptions::default());
    println!("prepared in {:?}; {} words", started.elapsed(), source.tokens.shape()[0]);
    let batch =
        |from: usize| (from..from + 128).map(|query| source.sample(query * 131 % 17505, 0).unwrap().clips.len());
    let started = Instant::now();
    let clips: usize = (0..5).flat_map(|b| batch(b * 128)).sum();
    let took = started.elapsed() / 5;
    println!("a batch of 128 samples, {} clips: {took:?}", clips / 5);
    assert!(took.as_millis() < 300);
}
