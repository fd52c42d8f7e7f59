//! The index: in memory, on disk, and from encodings made elsewhere.

use reelgrad::autograd::{Tape, Var};
use reelgrad::data::moments::{Clips, MomentSource, Problems, pad_clips};
use reelgrad::models::reloclnet::{Padding, Reloclnet, Streams, upload_streams};
use reelgrad::retrieval::moments::{Found, IndexOptions, IndexedVideo, MomentIndex, MomentSearch};
use reelgrad::tensor::Precision;
use reelgrad::{Array, Error, Result, Tensor};

use crate::common::gpu;
use crate::corpus::{Corpus, corpus, model, options};

fn build(model: &Reloclnet, source: &Corpus, options: IndexOptions) -> Result<MomentIndex> {
    MomentIndex::build(model, source, options, &mut Problems::strict(), &mut |_, _| ())
}

fn search(model: &Reloclnet, index: &MomentIndex) -> Found {
    let mut found = MomentSearch::new(model, index, options()).unwrap().search(&corpus().sentences()).unwrap();
    found.stages.clear();
    found
}

/// Videos with their encodings, (positions, D) for each stream, computed one at a time.
fn encoded(model: &Reloclnet, source: &Corpus) -> Vec<(IndexedVideo, Vec<Array>)> {
    let encode = |(i, clips): (usize, &Clips)| {
        let (video, sub, mask) = pad_clips(&[clips], model.config().batch_options()).unwrap();
        let streams = upload_streams(&gpu(), model.config(), [&video, &sub], &mask).unwrap();
        let tape = Tape::inference(&gpu());
        let features: Vec<Var> = streams.iter().map(|s| tape.constant(s.features.clone())).collect();
        let masks: Vec<Tensor> = streams.iter().map(|s| s.mask.clone()).collect();
        let levels = model.encode_clips(&features, &masks).unwrap();
        let array = |x: &Var| Array::new(&x.shape()[1..], x.value().to_vec().unwrap()).unwrap();
        let listed = &source.videos()[i];
        let video = IndexedVideo {
            id: listed.id.clone(),
            index: listed.index,
            duration: listed.duration,
            clips: clips.len(),
            seconds_per_clip: clips.seconds_per_clip,
        };
        (video, levels.iter().map(|l| array(&l.last)).collect())
    };
    source.clips.iter().enumerate().map(encode).collect()
}

fn assert_equal(a: &Found, b: &Found) {
    assert_eq!(a.videos, b.videos);
    assert_eq!(a.moments, b.moments);
}

#[test]
fn encodings_made_elsewhere_are_searched_alike() {
    for streams in [Streams::Both, Streams::Sub] {
        let model = model(streams, Padding::Official);
        let (source, encoded) = (corpus(), encoded(&model, &corpus()));
        for precision in [Precision::F32, Precision::F16] {
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
    let changed = |change: &dyn Fn(&mut (IndexedVideo, Vec<Array>)), precision| {
        let mut videos = good.clone();
        change(&mut videos[2]);
        MomentIndex::from_encodings(&model, videos.into_iter().map(Ok), precision).map(drop)
    };
    let single = |change: &dyn Fn(&mut (IndexedVideo, Vec<Array>))| changed(change, Precision::F32);
    assert!(matches!(single(&|v| drop(v.1.pop())), Err(Error::Argument { argument: "videos", .. })));
    assert!(matches!(single(&|v| v.1[1] = Array::zeros([2, 8])), Err(Error::Shape { .. })));
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let got = single(&|v| v.1[1].data_mut()[3 * 8] = bad);
        let Err(Error::NonFinite { place, count: 1, .. }) = got else { panic!("{got:?}") };
        assert_eq!(place, "video \"video 2\", stream sub, clip 3");
    }
    let large: &dyn Fn(&mut (IndexedVideo, Vec<Array>)) = &|v| v.1[0].data_mut()[0] = 1e6;
    assert!(single(large).is_ok());
    assert!(matches!(changed(large, Precision::F16), Err(Error::NonFinite { .. })));
    assert!(matches!(single(&|v| v.0.id = "video 0".into()), Err(Error::Duplicate { kind: "video", .. })));
    for clips in [0, 12, usize::MAX] {
        assert!(matches!(single(&|v| v.0.clips = clips), Err(Error::Malformed { .. })));
    }
    for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(single(&|v| v.0.duration = seconds), Err(Error::Malformed { .. })));
        assert!(matches!(single(&|v| v.0.seconds_per_clip = seconds), Err(Error::Malformed { .. })));
    }
    let none = MomentIndex::from_encodings(&model, [], Precision::F32);
    assert!(matches!(none, Err(Error::Argument { argument: "videos", .. })));
    let lost = || Error::Missing { path: "elsewhere".into(), kind: "video", id: "x".into() };
    let failed = MomentIndex::from_encodings(&model, [Ok(good[0].clone()), Err(lost())], Precision::F32);
    assert!(matches!(failed, Err(Error::Missing { .. })));
}
