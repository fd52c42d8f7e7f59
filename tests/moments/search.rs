//! Searches against a reference on the CPU.

use std::collections::{BTreeMap, HashSet};

use reelgrad::data::moments::{MomentSource, Problems};
use reelgrad::models::Model;
use reelgrad::models::reloclnet::{Padding, Reloclnet, Streams};
use reelgrad::optim::{Algorithm, GroupOptions, Optimizer};
use reelgrad::retrieval::moments::{
    FoundMoments, MomentIndex, MomentSearch, MomentSearchOptions, Prediction, QueryVectors, evaluate, iou,
};
use reelgrad::{Array, Error, Silent};

use crate::common::{gpus, noise};
use crate::corpus::{Corpus, build, corpus, model, model_on, options};
use crate::reference::Reference;

/// Of scores: the exponential makes 1e-6 of a cosine 3e-5.
const TOLERANCE: f64 = 3e-4;

/// A prediction's row, as bits: video, start, end.
type Row = (u64, u32, u32);

fn row(p: &Prediction) -> Row {
    (p.video, p.start.to_bits(), p.end.to_bits())
}

fn close(got: f32, want: f64) -> bool {
    (f64::from(got) - want).abs() <= TOLERANCE * want.abs()
}

/// Asserts that `found` are `count` rows with the highest scores of `all`, best first. Rows of nearly equal scores may
/// come in either order.
fn assert_best(found: &[Prediction], all: &BTreeMap<Row, f64>, count: usize, what: &str) {
    let mut scores: Vec<f64> = all.values().copied().collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    assert_eq!(found.len(), count.min(scores.len()), "{what}");
    assert!(found.is_sorted_by(|a, b| a.score >= b.score), "{what}");
    assert_eq!(found.iter().map(row).collect::<HashSet<_>>().len(), found.len(), "{what}: a row twice");
    for (p, best) in found.iter().zip(scores) {
        let own = all.get(&row(p)).unwrap_or_else(|| panic!("{what}: {p:?} is no span"));
        assert!(close(p.score, *own) && close(p.score, best), "{what}: {p:?}, computed {own}, the next best is {best}");
    }
}

/// Every span of these videos with `weight` times its probability.
fn spans(
    (reference, index): (&Reference, &MomentIndex),
    query: usize,
    videos: &[usize],
    o: &MomentSearchOptions,
    weight: impl Fn(usize) -> f64,
) -> BTreeMap<Row, f64> {
    let mut all = BTreeMap::new();
    for &video in videos {
        let listed = &index.videos()[video];
        let at = |clip: usize| ((clip as f64 * listed.seconds_per_clip) as f32).to_bits();
        for (i, j, probability) in reference.spans(query, video, o.min_length..o.max_length) {
            all.insert((listed.index, at(i), at(j)), weight(video) * probability);
        }
    }
    all
}

fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// Searches the whole corpus, and each video for the query of the same number, and compares all lists.
fn check(model: &Reloclnet, corpus: &Corpus, o: MomentSearchOptions) -> FoundMoments {
    let index = build(model, corpus, Default::default()).unwrap();
    let reference = Reference::new(model, corpus);
    let search = MomentSearch::new(model, &index, o).unwrap();
    let found = search.search(&corpus.sentences()).unwrap();
    let own: Vec<usize> = (0..corpus.tokens.len()).map(|q| (3 * q + 1) % index.videos().len()).collect();
    let localized = search.localize(&corpus.sentences(), &own).unwrap();
    assert_eq!((found.videos.len(), found.moments.len(), localized.len()), (own.len(), own.len(), own.len()));
    for query in 0..own.len() {
        let what = format!("{:?}, {:?}, query {query}", model.config().streams, model.config().padding);
        let scores = &reference.scores[query];
        let weight = |video: usize| (f64::from(o.alpha) * scores[video]).exp();
        let mut best = ranked(scores);
        best.truncate(o.max_videos);
        let videos = best.iter().map(|&v| ((index.videos()[v].index, 0, 0), weight(v))).collect();
        assert_best(&found.videos[query], &videos, o.max_videos, &what);
        let all = spans((&reference, &index), query, &best, &o, weight);
        assert_best(&found.moments[query], &all, o.keep, &what);
        let all = spans((&reference, &index), query, &own[query..=query], &o, |_| 1.0);
        assert_best(&localized[query], &all, o.keep, &what);
    }
    found
}

#[test]
fn moments_are_those_of_the_definition() {
    for gpu in gpus() {
        for streams in [Streams::Both, Streams::Video, Streams::Sub] {
            for padding in [Padding::Official, Padding::Masked] {
                check(&model_on(&gpu, streams, padding), &corpus(), options());
            }
        }
    }
}

#[test]
fn every_option_has_its_effect() {
    let (model, corpus) = (model(Streams::Both, Padding::Official), corpus());
    // More videos than there are, and room for every span.
    let all = MomentSearchOptions { max_videos: 100, top: 400, keep: 400, batch: 100, ..options() };
    check(&model, &corpus, all);
    check(&model, &corpus, MomentSearchOptions { max_videos: 1, batch: 1, ..options() });
    check(&model, &corpus, MomentSearchOptions { keep: 7, ..options() });
    check(&model, &corpus, MomentSearchOptions { top: 5, keep: 5, alpha: 3.0, ..options() });
    check(&model, &corpus, MomentSearchOptions { alpha: 0.0, ..all });
    check(&model, &corpus, MomentSearchOptions { min_length: 0, max_length: 1, ..all });
    check(&model, &corpus, MomentSearchOptions { min_length: 9, max_length: 1000, ..all });
    // No video is as long.
    let none = check(&model, &corpus, MomentSearchOptions { min_length: 11, max_length: 12, ..options() });
    assert!(none.moments.iter().all(Vec::is_empty));
    check(&model, &Corpus::new(&[4], &[1]), options());
}

/// Greedy: the best that overlaps no better one of its video by more than `threshold`.
fn suppressed(list: &[Prediction], threshold: f64, keep: usize) -> Vec<Prediction> {
    let mut kept: Vec<Prediction> = Vec::new();
    for p in list {
        if kept.len() < keep && !kept.iter().any(|k| k.video == p.video && iou(k.window(), p.window()) > threshold) {
            kept.push(*p);
        }
    }
    kept
}

#[test]
fn overlapping_moments_are_suppressed() {
    let (model, corpus) = (model(Streams::Both, Padding::Official), corpus());
    let index = build(&model, &corpus, Default::default()).unwrap();
    let plain = options();
    let search = |o: MomentSearchOptions| {
        let search = MomentSearch::new(&model, &index, o).unwrap();
        let own: Vec<usize> = corpus.sentences().iter().map(|_| 4).collect();
        let found = search.search(&corpus.sentences()).unwrap();
        (found.moments, search.localize(&corpus.sentences(), &own).unwrap(), found.videos)
    };
    let all = search(plain);
    for (threshold, keep) in [(0.5, 40), (0.2, 4)] {
        let thinned = search(MomentSearchOptions { nms: Some(threshold), keep, ..plain });
        let by_hand = |lists: &[Vec<Prediction>]| -> Vec<Vec<Prediction>> {
            lists.iter().map(|list| suppressed(list, threshold, keep)).collect()
        };
        assert_eq!(thinned.0, by_hand(&all.0));
        assert_eq!(thinned.1, by_hand(&all.1));
        assert_eq!(thinned.2, all.2, "videos stay");
        assert!(thinned.0.iter().zip(&all.0).all(|(thin, all)| thin.len() < all.len()));
    }
}

#[test]
fn scores_of_videos_are_the_same_in_training_and_search() {
    let (model, corpus) = (model(Streams::Both, Padding::Official), corpus());
    let index = build(&model, &corpus, Default::default()).unwrap();
    let search = MomentSearch::new(&model, &index, options()).unwrap();
    let queries = QueryVectors::encode(&model, &corpus.sentences()).unwrap();
    let scores = search.video_scores(&queries).unwrap();
    assert_eq!((queries.len(), scores.shape()), (8, &[8, 7][..]));
    let reference = Reference::new(&model, &corpus).scores.concat();
    for (got, want) in scores.to_vec().unwrap().into_iter().zip(reference) {
        assert!((f64::from(got) - want).abs() < 3e-6, "{got} {want}");
    }
}

#[test]
fn measuring_changes_nothing() {
    let (model, corpus) = (model(Streams::Both, Padding::Official), corpus());
    let index = build(&model, &corpus, Default::default()).unwrap();
    let search = MomentSearch::new(&model, &index, options()).unwrap();
    let (found, stages) = search.search_timed(&corpus.sentences()).unwrap();
    assert_eq!(found, search.search(&corpus.sentences()).unwrap());
    // Of three batches, one entry a stage.
    let names: Vec<&str> = stages.iter().map(|s| s.name).collect();
    assert_eq!(names, ["encode queries", "score videos", "choose videos", "predict spans", "decode spans"]);
}

/// The hash of the parameters is kept, but not over a change.
#[test]
fn an_index_belongs_to_the_parameters_that_encoded_it() {
    let (model, corpus) = (model(Streams::Both, Padding::Official), corpus());
    let index = build(&model, &corpus, Default::default()).unwrap();
    let opened = || MomentSearch::new(&model, &index, options()).map(drop);
    opened().unwrap();
    let arrays = model.store().to_arrays().unwrap();
    let mut other = arrays.clone();
    other.values_mut().next().unwrap().data_mut()[0] += 1.0;
    model.store().load("test", &other).unwrap();
    assert!(matches!(opened(), Err(Error::Argument { argument: "index", .. })));
    model.store().load("test", &arrays).unwrap();
    opened().unwrap();
    let mut optimizer = Optimizer::new(model.store(), Algorithm::ADAM, |_| GroupOptions::default()).unwrap();
    let gradient = model.store().parameters()[0].gradient().unwrap().clone();
    gradient.write(&vec![1.0; gradient.len()]).unwrap();
    optimizer.step(model.store(), 0.1).unwrap();
    assert!(matches!(opened(), Err(Error::Argument { argument: "index", .. })));
}

#[test]
fn a_whole_split_is_predicted() {
    let (model, mut corpus) = (model(Streams::Both, Padding::Official), corpus());
    // A video that is not in the index, and a query that cannot be read.
    let damage = |x: &mut Array| x.data_mut()[1] = f32::NAN;
    damage(corpus.clips[3].video.as_mut().unwrap());
    damage(&mut corpus.tokens[1]);
    let strict = MomentIndex::build(&model, &corpus, Default::default(), &mut Problems::strict(), &mut Silent);
    assert!(matches!(strict, Err(Error::NonFinite { place, .. }) if place == "video 3"));
    let (mut problems, mut steps) = (Problems::lenient(), Vec::new());
    let index = MomentIndex::build(&model, &corpus, Default::default(), &mut problems, &mut |done, all, _: &str| {
        steps.push((done, all))
    });
    let index = index.unwrap();
    assert_eq!((index.videos().len(), problems.skipped().len(), steps), (6, 1, vec![(7, 7)]));

    // In one batch, as queries are padded to the longest beside them and the last bits may hang on that.
    let search = MomentSearch::new(&model, &index, MomentSearchOptions { batch: 100, ..options() }).unwrap();
    let predict = |problems: &mut Problems| search.predict(&corpus, problems, &mut Silent);
    assert!(matches!(predict(&mut Problems::strict()), Err(Error::NonFinite { place, .. }) if place == "query 1"));
    let mut problems = Problems::lenient();
    let predicted = predict(&mut problems).unwrap();
    assert_eq!(problems.skipped().len(), 1);
    let readable = [0, 2, 3, 4, 5, 6, 7];
    let tokens: Vec<&Array> = readable.iter().map(|&q| &corpus.tokens[q]).collect();
    let found = search.search(&tokens).unwrap();
    // Query 3 has its video not in the index, query 7 has no known one.
    let known = [0, 2, 4, 5, 6];
    let tokens: Vec<&Array> = known.iter().map(|&q| &corpus.tokens[q]).collect();
    let localized = search.localize(&tokens, &[0, 2, 3, 4, 5]).unwrap();
    let submission = &predicted.submission;
    for (lists, wanted, queries) in [
        (&submission.vcmr, &found.moments, &readable[..]),
        (&submission.vr, &found.videos, &readable),
        (&submission.svmr, &localized, &known),
    ] {
        let lists = lists.as_ref().unwrap();
        assert!(lists.iter().map(|l| &l.predictions).eq(wanted));
        assert!(lists.iter().map(|l| l.id).eq(queries.iter().map(|&q| corpus.queries()[q].id)));
    }
    assert_eq!(submission.video2idx.len(), 6);
    assert_eq!(submission.video2idx["video 2"], 114);
    assert_eq!(predicted.stages.len(), 5);
    let (small, mut steps) = (MomentSearch::new(&model, &index, options()).unwrap(), Vec::new());
    let mut count = |done, all, _: &str| steps.push((done, all));
    let parts = small.predict(&corpus, &mut Problems::lenient(), &mut count).unwrap().submission;
    assert_eq!(steps, [(3, 8), (6, 8), (8, 8)]);
    for (got, want) in parts.vcmr.iter().flatten().zip(submission.vcmr.iter().flatten()) {
        assert_eq!((got.id, got.predictions.len()), (want.id, want.predictions.len()));
        assert!(got.predictions.iter().zip(&want.predictions).all(|(g, w)| close(g.score, w.score.into())));
    }
    // The submission misses the query that could not be read.
    let labelled: Vec<_> = corpus.queries()[..3].to_vec();
    let mut lists = submission.clone();
    for task in [&mut lists.vcmr, &mut lists.svmr, &mut lists.vr].into_iter().flatten() {
        task.truncate(2);
    }
    let missing = evaluate(&lists, &labelled, &mut Problems::strict());
    assert!(matches!(&missing, Err(Error::Missing { kind: "VCMR query", id, .. }) if id == "49"), "{missing:?}");
    let mut problems = Problems::lenient();
    evaluate(&lists, &labelled, &mut problems).unwrap();
    assert_eq!(problems.skipped().len(), 3, "one a task: {:?}", problems.skipped());
}

#[test]
fn searches_that_make_no_sense_are_errors() {
    let (model, corpus) = (model(Streams::Both, Padding::Official), corpus());
    let index = build(&model, &corpus, Default::default()).unwrap();
    let refused = |o: MomentSearchOptions, name: &str| match MomentSearch::new(&model, &index, o).map(drop) {
        Err(Error::Argument { argument, .. }) => assert_eq!(argument, name),
        other => panic!("{name}: {other:?}"),
    };
    refused(MomentSearchOptions { min_length: 3, max_length: 3, ..options() }, "max_length");
    refused(MomentSearchOptions { top: 0, ..options() }, "top");
    refused(MomentSearchOptions { top: usize::MAX, ..options() }, "top");
    refused(MomentSearchOptions { keep: 0, ..options() }, "keep");
    refused(MomentSearchOptions { keep: 41, ..options() }, "keep");
    refused(MomentSearchOptions { max_videos: 0, ..options() }, "max_videos");
    refused(MomentSearchOptions { max_videos: usize::MAX, ..options() }, "max_videos");
    for bad in [f32::NAN, 81.0] {
        refused(MomentSearchOptions { alpha: bad, ..options() }, "alpha");
    }
    for bad in [f64::NAN, -0.1, 1.1] {
        refused(MomentSearchOptions { nms: Some(bad), ..options() }, "nms");
    }

    let search = MomentSearch::new(&model, &index, options()).unwrap();
    let found = search.search(&[]).unwrap();
    assert!(found.videos.is_empty() && found.moments.is_empty() && search.search_timed(&[]).unwrap().1.is_empty());
    assert!(search.localize(&[], &[]).unwrap().is_empty());
    let one = &corpus.tokens[0];
    let (long, wide, empty) = (noise(&[6, 4], 1), noise(&[2, 5], 1), Array::zeros([0, 4]));
    for (bad, shape) in [(&long, [6, 4]), (&wide, [2, 5]), (&empty, [0, 4])] {
        for queries in [&[one, bad][..], &[bad]] {
            let Err(Error::Shape { argument: "queries", expected, got, .. }) = search.search(queries) else {
                panic!("{shape:?}")
            };
            assert_eq!((expected.as_str(), &got[..]), ("(tokens, 4) with 1 to 5 tokens", &shape[..]));
        }
    }
    let nan = Array::new([1, 4], vec![0.0, f32::NAN, 0.0, 0.0]).unwrap();
    assert!(matches!(search.search(&[one, &nan]), Err(Error::NonFinite { .. })));
    assert!(matches!(search.localize(&[one, one], &[0]), Err(Error::Argument { argument: "videos", .. })));
    assert!(matches!(search.localize(&[one], &[7]), Err(Error::IndexOutOfRange { index: 7, len: 7, .. })));
    assert!(matches!(search.localize(&[one], &[usize::MAX]), Err(Error::IndexOutOfRange { .. })));
    assert_eq!(search.search(&[one]).unwrap().moments[0].len(), 40);
}
