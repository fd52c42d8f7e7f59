//! Candidates, galleries and two-stage search against the scores of all pairs.

mod common;

use std::ops::Range;

use common::pairs::Sizes;
use common::{builder, gpu};
use reelgrad::models::eercf::{EercfConfig, HeadWeights};
use reelgrad::models::glccl::{GlcclConfig, Guide};
use reelgrad::models::pairing::PairList;
use reelgrad::models::towers::TwoStageModel;
use reelgrad::retrieval::gallery::{Candidate, Gallery, TextTile, VideoToText, score_all};
use reelgrad::{Error, Result};

const SIZES: Sizes = Sizes { texts: 7, videos: 9, words: 5, frames: 4, patches: 3, width: 12 };

/// Runs `check` for EERCF, with everything that can be masked or gated, and for GLCCL.
fn of_both(check: impl Check) {
    for mask_padding in [false, true] {
        check.run(&SIZES.eercf(&gpu(), EercfConfig { mask_padding, gate_patches: true, ..EercfConfig::default() }));
    }
    for guide in [Guide::Softmax, Guide::SoftmaxLinearSoftmax] {
        check.run(&SIZES.glccl(&gpu(), GlcclConfig { guide, ..GlcclConfig::default() }));
    }
}

/// A check of any model.
trait Check {
    fn run<M: TwoStageModel>(&self, model: &M);
}

/// Texts of `sizes` in tiles of `each`.
fn tiles(sizes: &Sizes, each: usize) -> Vec<TextTile> {
    parts(sizes.texts, each).map(|range| TextTile::Features(sizes.text_features(&gpu(), range))).collect()
}

/// Videos of `sizes` in segments of `each`.
fn gallery<M: TwoStageModel>(model: &M, sizes: &Sizes, each: usize) -> Gallery<M::Videos> {
    Gallery::from_features(model, parts(sizes.videos, each).map(|range| Ok(sizes.video_features(&gpu(), range))))
        .unwrap()
}

fn parts(count: usize, each: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(each).map(move |first| first..(first + each).min(count))
}

/// Sums in another order, of scores up to some tens.
fn near(a: f32, b: f32) -> bool {
    (a - b).abs() < 2e-4
}

/// The matrices are the same but for rounding.
fn expect_near(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        assert!(near(got, expected), "{what}, {at}: {got} is not {expected}");
    }
}

/// The numbers 0.. in the order of falling scores, of equals the first.
fn order(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

struct ListedPairsHaveTheirScores;

impl Check for ListedPairsHaveTheirScores {
    fn run<M: TwoStageModel>(&self, model: &M) {
        let (texts, videos) = (SIZES.text_features(&gpu(), 0..7), SIZES.video_features(&gpu(), 0..9));
        let (texts, videos) = (model.prepare_texts(&texts).unwrap(), model.prepare_videos(&videos).unwrap());
        let heads = model.compare(&texts, &videos).unwrap();
        // By video and by text, some of them twice, and some texts and videos not at all.
        for (count, runs) in [(0, 1), (1, 1), (5, 2), (40, 5), (40, 1)] {
            let pairs = (0..count).map(|i: u32| [i * 5 % 6, i / runs * 2 % 9]);
            let list = PairList::new(pairs);
            let listed = model.compare_pairs(&texts, &videos, &list).unwrap();
            assert_eq!(listed.len(), heads.len());
            for (head, all) in listed.iter().zip(&heads) {
                assert_eq!((head.name, head.scores.shape()), (all.name, &[count as usize, 1][..]));
                let (got, all) = (head.scores.value().to_vec().unwrap(), all.scores.value().to_vec().unwrap());
                for (got, pair) in got.into_iter().zip(list.pairs()) {
                    let expected = all[(pair[0] * 9 + pair[1]) as usize];
                    assert!(near(got, expected), "{}, {pair:?} of {count}: {got} is not {expected}", head.name);
                }
            }
        }
        for pair in [[7, 0], [0, 9]] {
            let missing = model.compare_pairs(&texts, &videos, &PairList::new([[0, 0], pair]));
            assert!(matches!(missing, Err(Error::IndexOutOfRange { .. })));
        }
    }
}

#[test]
fn listed_pairs_have_their_scores() {
    of_both(ListedPairsHaveTheirScores);
}

struct SearchingForAllIsScoringAll;

impl Check for SearchingForAllIsScoringAll {
    fn run<M: TwoStageModel>(&self, model: &M) {
        let gallery = gallery(model, &SIZES, 4);
        let scores = score_all(model, &tiles(&SIZES, 3), &gallery).unwrap();
        let coarse = gallery.coarse_scores(model, &tiles(&SIZES, 3)).unwrap();
        let scale = model.base().scale(&reelgrad::autograd::Tape::inference(&gpu())).unwrap().value().item().unwrap();
        let (found, times) = gallery.search_timed(model, &tiles(&SIZES, 3), 9).unwrap();
        assert_eq!(gallery.search(model, &tiles(&SIZES, 3), 9).unwrap(), found, "measuring changes nothing");
        let rows: Vec<Vec<usize>> = found.iter().map(|row| row.iter().map(|f| f.video as usize).collect()).collect();
        let expected: Vec<Vec<usize>> = (0..7).map(|text| order(scores.row(text))).collect();
        assert_eq!(rows, expected);
        for (text, row) in found.iter().enumerate() {
            for f in row {
                assert!(near(f.score, scores.row(text)[f.video as usize]), "{f:?}");
                assert!(near(scale * f.coarse, coarse.row(text)[f.video as usize]), "{f:?}");
            }
        }
        let [one, fine] = model.pair_cost(&gallery.segments()[0].videos);
        assert_eq!((times.coarse_multiply_adds, times.fine_multiply_adds), (63 * one, 63 * fine));
        // More than there are.
        let more = gallery.search(model, &tiles(&SIZES, 3), 50).unwrap();
        assert_eq!(more, found);
    }
}

#[test]
fn searching_for_all_is_scoring_all() {
    of_both(SearchingForAllIsScoringAll);
}

struct RerankedMatrices;

impl Check for RerankedMatrices {
    fn run<M: TwoStageModel>(&self, model: &M) {
        let (whole, k) = (gallery(model, &SIZES, 9), 3);
        let coarse = whole.coarse_scores(model, &tiles(&SIZES, 7)).unwrap();
        let fine = score_all(model, &tiles(&SIZES, 7), &whole).unwrap();
        let [mut official, mut symmetric] = [coarse.data().to_vec(), coarse.data().to_vec()];
        for text in 0..7 {
            for &video in &order(coarse.row(text))[..k] {
                official[text * 9 + video] = 100.0 + fine.row(text)[video];
            }
        }
        for video in 0..9 {
            let column: Vec<f32> = (0..7).map(|text| coarse.row(text)[video]).collect();
            for &text in &order(&column)[..k] {
                symmetric[text * 9 + video] = 100.0 + fine.row(text)[video];
            }
        }
        // However texts and videos are cut.
        for (tile, segment) in [(7, 9), (3, 4), (1, 1), (7, 2), (2, 9)] {
            let (gallery, texts) = (gallery(model, &SIZES, segment), tiles(&SIZES, tile));
            let reranked = gallery.rerank_all(model, &texts, k, VideoToText::Official).unwrap();
            let what = format!("tiles of {tile}, segments of {segment}");
            expect_near(&what, reranked.text_to_video.data(), &official);
            assert_eq!(reranked.video_to_text, reranked.text_to_video);
            let reranked = gallery.rerank_all(model, &texts, k, VideoToText::Symmetric).unwrap();
            expect_near(&what, reranked.text_to_video.data(), &official);
            expect_near(&what, reranked.video_to_text.data(), &symmetric);
            expect_near(&what, score_all(model, &texts, &gallery).unwrap().data(), fine.data());
        }
    }
}

#[test]
fn reranking_lifts_the_candidates_however_texts_and_videos_are_cut() {
    of_both(RerankedMatrices);
}

struct Nothing;

impl Check for Nothing {
    fn run<M: TwoStageModel>(&self, model: &M) {
        let empty = Gallery::from_features(model, std::iter::empty::<Result<_>>()).unwrap();
        assert!(empty.is_empty());
        let texts = tiles(&SIZES, 4);
        let (found, times) = empty.search_timed(model, &texts, 50).unwrap();
        assert_eq!((found, times.fine_multiply_adds), (vec![vec![]; 7], 0));
        assert_eq!(score_all(model, &texts, &empty).unwrap().shape(), [7, 0]);
        for direction in [VideoToText::Official, VideoToText::Symmetric] {
            let reranked = empty.rerank_all(model, &texts, 50, direction).unwrap();
            assert_eq!((reranked.text_to_video.shape(), reranked.video_to_text.shape()), (&[7, 0][..], &[7, 0][..]));
        }
        let gallery = gallery(model, &SIZES, 4);
        assert_eq!(gallery.search(model, &[], 50).unwrap(), Vec::<Vec<Candidate>>::new());
        assert_eq!(score_all(model, &[], &gallery).unwrap().shape(), [0, 9]);
        // A list of another number of texts.
        let short = gallery.fine(model, &SIZES.text_features(&gpu(), 0..7), &vec![vec![0]; 6]);
        assert!(matches!(short, Err(Error::ShapeMismatch { .. })), "{short:?}");
        let beyond = gallery.fine(model, &SIZES.text_features(&gpu(), 0..1), &[vec![2, 9, 0]]);
        assert!(matches!(beyond, Err(Error::IndexOutOfRange { index: 9, len: 9, .. })), "{beyond:?}");
    }
}

#[test]
fn empty_galleries_and_no_texts_are_no_errors() {
    of_both(Nothing);
}

#[test]
fn the_first_stage_by_tiles_of_videos_finds_what_it_finds_at_once() {
    // With 1,024 texts a tile has 4,096 videos; with 256 texts all fit into one.
    let sizes = Sizes { texts: 1024, videos: 5000, words: 1, frames: 1, patches: 0, width: 8 };
    let rerank = HeadWeights { video: 0.5, frame_weak: 0.8, patch_weak: 0.0, frame_strong: 0.2, patch_strong: 0.0 };
    let model = sizes.eercf(&gpu(), EercfConfig { rerank, ..EercfConfig::default() });
    let gallery = gallery(&model, &sizes, 2048);
    let search = |tile| gallery.search(&model, &tiles(&sizes, tile), 3).unwrap();
    let (by_tiles, at_once) = (search(1024), search(256));
    assert_eq!(by_tiles.len(), 1024);
    let late = |row: &Vec<Candidate>| row.iter().filter(|f| f.video >= 4096).count();
    assert!(by_tiles.iter().map(late).sum::<usize>() > 100, "both tiles have found some");
    for (a, b) in by_tiles.iter().zip(&at_once) {
        for (a, b) in a.iter().zip(b) {
            assert!(a.video == b.video && near(a.coarse, b.coarse) && near(a.score, b.score), "{a:?} {b:?}");
        }
    }
}

#[test]
fn scoring_all_pairs_takes_memory_for_one_tile() {
    // Beyond features and model, with tiles of 64 texts and segments of 64 videos.
    let taken = |count: usize| {
        let gpu = builder().build().unwrap();
        let sizes = Sizes { texts: count, videos: count, words: 8, frames: 4, patches: 0, width: 8 };
        let model = sizes.glccl(&gpu, GlcclConfig::default());
        let videos = parts(count, 64).map(|range| Ok(sizes.video_features(&gpu, range)));
        let gallery = Gallery::from_features(&model, videos).unwrap();
        let tile = |range| TextTile::Features(sizes.text_features(&gpu, range));
        let texts: Vec<TextTile> = parts(count, 64).map(tile).collect();
        gpu.reset_peak_memory();
        let before = gpu.memory_report().live;
        assert_eq!(score_all(&model, &texts, &gallery).unwrap().shape(), [count, count]);
        gpu.memory_report().peak - before
    };
    let one = taken(64);
    assert!(one > 64 * 64 * 8 * 4 * 4, "{one}");
    assert_eq!(taken(192), one);
}
