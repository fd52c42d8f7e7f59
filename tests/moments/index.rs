//! The index in memory: of any segments and precision, and from encodings that were made elsewhere.

use reelgrad::models::Model;
use reelgrad::models::reloclnet::{Padding, Reloclnet, ReloclnetConfig, Streams};
use reelgrad::retrieval::moments::{FoundMoments, IndexOptions, MomentIndex, MomentSearch};
use reelgrad::tensor::DType;
use reelgrad::{Array, Error};

use crate::common::{gpu, gpus};
use crate::corpus::{Encoded, build, config, corpus, encoded, model, model_on, options};

pub fn search(model: &Reloclnet, index: &MomentIndex) -> FoundMoments {
    MomentSearch::new(model, index, options()).unwrap().search(&corpus().sentences()).unwrap()
}

pub fn assert_equal(a: &FoundMoments, b: &FoundMoments) {
    assert_eq!(a.videos, b.videos);
    assert_eq!(a.moments, b.moments);
}

#[test]
fn segments_change_nothing() {
    for gpu in gpus() {
        let (model, corpus) = (model_on(&gpu, Streams::Both, Padding::Official), corpus());
        let localize = |index: &MomentIndex| {
            let search = MomentSearch::new(&model, index, options()).unwrap();
            search.localize(&corpus.sentences(), &[6, 5, 4, 3, 2, 1, 0, 6]).unwrap()
        };
        let whole = build(&model, &corpus, IndexOptions::default()).unwrap();
        // A stream of a video takes 11 x 8 x 4 bytes.
        for (segment_bytes, batch) in [(0, 64), (352, 3), (705, 64), (1056, 2), (2464, 0), (usize::MAX, 1)] {
            let options = IndexOptions { batch, segment_bytes, ..IndexOptions::default() };
            let parts = build(&model, &corpus, options).unwrap();
            assert_eq!((parts.videos(), parts.bytes()), (whole.videos(), whole.bytes()));
            assert_equal(&search(&model, &parts), &search(&model, &whole));
            assert_eq!(localize(&parts), localize(&whole), "{segment_bytes} bytes");
        }
    }
}

#[test]
fn half_precision_is_close() {
    let (model, corpus) = (model(Streams::Both, Padding::Official), corpus());
    let whole = build(&model, &corpus, IndexOptions::default()).unwrap();
    let half = build(&model, &corpus, IndexOptions { precision: DType::F16, ..IndexOptions::default() }).unwrap();
    assert!(half.bytes() < whole.bytes() * 6 / 10);
    assert_close(&search(&model, &half), &search(&model, &whole));

    let odd = ReloclnetConfig { hidden_size: 9, num_heads: 3, ..config(Streams::Both, Padding::Official) };
    let model = Reloclnet::new(&gpu(), odd, 3).unwrap();
    let half = build(&model, &corpus, IndexOptions { precision: DType::F16, ..IndexOptions::default() });
    assert!(matches!(half, Err(Error::Argument { argument: "precision", .. })));
    assert!(build(&model, &corpus, IndexOptions::default()).is_ok());
}

/// Scores of videos by 1e-3 of a cosine, those of moments by 5 %.
pub fn assert_close(a: &FoundMoments, b: &FoundMoments) {
    for (a, b) in a.videos.iter().zip(&b.videos) {
        let apart = a.iter().zip(b).map(|(a, b)| (a.score / b.score).ln().abs() / options().alpha);
        assert!(a.len() == b.len() && apart.fold(0.0, f32::max) < 1e-3, "{a:?} {b:?}");
    }
    for (a, b) in a.moments.iter().zip(&b.moments) {
        let apart = a.iter().zip(b).map(|(a, b)| (a.score / b.score - 1.0).abs());
        assert!(a.len() == b.len() && apart.fold(0.0, f32::max) < 0.05, "{a:?} {b:?}");
    }
}

#[test]
fn encodings_made_elsewhere_are_searched_alike() {
    for (gpu, streams) in gpus().iter().flat_map(|gpu| [(gpu, Streams::Both), (gpu, Streams::Sub)]) {
        let model = model_on(gpu, streams, Padding::Official);
        let (source, encoded) = (corpus(), encoded(&model, &corpus()));
        for precision in [DType::F32, DType::F16] {
            let ours = build(&model, &source, IndexOptions { precision, ..IndexOptions::default() }).unwrap();
            let index = MomentIndex::from_encodings(&model, encoded.iter().cloned().map(Ok), precision).unwrap();
            assert_eq!((index.videos(), index.bytes()), (ours.videos(), ours.bytes()));
            assert_equal(&search(&model, &index), &search(&model, &ours));
        }
    }
}

#[test]
fn encodings_are_checked() {
    let model = model(Streams::Both, Padding::Official);
    let good = encoded(&model, &corpus());
    let changed = |change: &dyn Fn(&mut Encoded), precision| {
        let mut videos = good.clone();
        change(&mut videos[2]);
        MomentIndex::from_encodings(&model, videos.into_iter().map(Ok), precision).map(drop)
    };
    let single = |change: &dyn Fn(&mut Encoded)| changed(change, DType::F32);
    assert!(matches!(single(&|v| drop(v.1.pop())), Err(Error::Argument { argument: "videos", .. })));
    assert!(matches!(single(&|v| v.1[1] = Array::zeros([2, 8])), Err(Error::Shape { .. })));
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let got = single(&|v| v.1[1].data_mut()[3 * 8] = bad);
        let Err(Error::NonFinite { place, count: 1, .. }) = got else { panic!("{got:?}") };
        assert_eq!(place, "video \"video 2\", stream sub, clip 3");
    }
    let large: &dyn Fn(&mut Encoded) = &|v| v.1[0].data_mut()[0] = 1e6;
    assert!(single(large).is_ok());
    let got = changed(large, DType::F16);
    assert!(matches!(&got, Err(Error::HalfOverflow { name, index: 0, .. }) if name.contains("video 2")), "{got:?}");
    assert!(matches!(single(&|v| v.0.id = "video 0".into()), Err(Error::Duplicate { kind: "video", .. })));
    for clips in [0, 12, usize::MAX] {
        assert!(matches!(single(&|v| v.0.clips = clips), Err(Error::Malformed { .. })));
    }
    for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(single(&|v| v.0.duration = seconds), Err(Error::Malformed { .. })));
        assert!(matches!(single(&|v| v.0.seconds_per_clip = seconds), Err(Error::Malformed { .. })));
    }
    let none = MomentIndex::from_encodings(&model, [], DType::F32);
    assert!(matches!(none, Err(Error::Argument { argument: "videos", .. })));
    let lost = || Error::Missing { path: "elsewhere".into(), kind: "video", id: "x".into() };
    let failed = MomentIndex::from_encodings(&model, [Ok(good[0].clone()), Err(lost())], DType::F32);
    assert!(matches!(failed, Err(Error::Missing { .. })));
}
