use super::*;
use crate::data::moments::{MomentVideo, Saliency};
use proptest::prelude::*;

/// Queries about one video of 20 s, ten clips.
fn split(queries: Vec<MomentQuery>) -> MomentSplit {
    MomentSplit { queries, videos: vec![MomentVideo { id: "v".into(), duration: 20.0, index: 0 }] }
}

fn query(id: u64, windows: &[[f64; 2]], saliency: &[(u32, [u8; 3])]) -> MomentQuery {
    let saliency = saliency.iter().map(|&(clip, scores)| Saliency { clip, scores: scores.to_vec() }).collect();
    MomentQuery { id, text: "x".into(), video: Some("v".into()), windows: windows.to_vec(), kind: None, saliency }
}

fn prediction(id: u64, windows: &[[f64; 3]]) -> HighlightPrediction {
    HighlightPrediction { id, windows: Some(windows.to_vec()), ..Default::default() }
}

fn salient(id: u64, scores: &[f64]) -> HighlightPrediction {
    HighlightPrediction { id, saliency: Some(scores.to_vec()), ..Default::default() }
}

fn strict(predictions: &[HighlightPrediction], split: &MomentSplit) -> Result<HighlightMetrics> {
    evaluate(predictions, split, Path::new("file"), &mut Problems::strict())
}

#[test]
fn average_precision_by_hand() {
    let truth = [[0.0, 10.0], [20.0, 30.0]];
    let precision = |windows: &[[f64; 3]], threshold| Matches::new(windows, &truth, threshold).precision;
    // Right, wrong, right: precisions 1 and 2/3, each for half of the labels.
    let windows = [[0.0, 10.0, 0.9], [50.0, 60.0, 0.8], [20.0, 30.0, 0.7]];
    approx::assert_abs_diff_eq!(precision(&windows, 0.5), 0.5 + 1.0 / 3.0, epsilon = 1e-12);
    // Wrong, right, right: 1/2 is raised to the later 2/3.
    let windows = [[0.0, 10.0, 0.7], [50.0, 60.0, 0.8], [20.0, 30.0, 0.7]];
    approx::assert_abs_diff_eq!(precision(&windows, 0.5), 2.0 / 3.0, epsilon = 1e-12);
    // A label is found once: the second window finds none.
    let windows = [[0.0, 10.0, 0.9], [0.0, 9.0, 0.8]];
    approx::assert_abs_diff_eq!(precision(&windows, 0.5), 0.5, epsilon = 1e-12);
    // 0.9 is not 0.95, and the better fit comes second.
    approx::assert_abs_diff_eq!(precision(&[windows[1], windows[0]], 0.95), 0.5, epsilon = 1e-12);
    approx::assert_abs_diff_eq!(precision(&[[0.0, 9.0, 0.9], [0.0, 10.0, 0.8]], 0.95), 0.25, epsilon = 1e-12);
    assert_eq!(precision(&[], 0.5), 0.0);
}

#[test]
fn the_first_ten_windows_of_the_file_count() {
    let wrong = [50.0, 60.0, 0.1];
    let mut windows = vec![wrong; 10];
    windows.push([0.0, 10.0, 0.9]);
    let late = Matches::new(&windows, &[[0.0, 10.0]], 0.5);
    assert_eq!((late.first, late.precision), (false, 0.0));
    windows.remove(0);
    let last = Matches::new(&windows, &[[0.0, 10.0]], 0.5);
    // Its score is the best: order decides what is looked at, scores decide ranks.
    assert_eq!((last.first, last.precision), (false, 1.0));
}

#[test]
fn lengths_are_evaluated_apart() {
    let queries = vec![query(1, &[[0.0, 10.0], [20.0, 40.0]], &[]), query(2, &[[0.0, 20.0]], &[])];
    let predictions = [prediction(1, &[[0.0, 10.0, 1.0]]), prediction(2, &[[0.0, 13.0, 1.0]])];
    let metrics = strict(&predictions, &split(queries)).unwrap();
    assert_eq!(metrics.moments.keys().collect::<Vec<_>>(), ["full", "middle", "short"]);
    let (full, short, middle) = (&metrics.moments["full"], &metrics.moments["short"], &metrics.moments["middle"]);
    assert_eq!((full.r1["0.65"], full.r1["0.7"]), (100.0, 50.0));
    assert_eq!((full.map["0.5"], full.map["0.75"]), (75.0, 25.0));
    // Four thresholds at 75, six at 25.
    assert_eq!(full.map["average"], 45.0);
    // Window [0, 10] is wrong for [20, 40].
    assert_eq!((short.r1["0.95"], middle.r1["0.5"], middle.map["average"]), (100.0, 50.0, 20.0));
    assert_eq!((metrics.brief["MR-full-R1@0.7"], metrics.brief["MR-middle-mAP"]), (50.0, 20.0));
    assert!(metrics.highlights.is_empty());
    let json = serde_json::to_value(&metrics).unwrap();
    assert_eq!(json["full"]["MR-mAP"]["0.75"], 25.0);
}

#[test]
fn highlights_by_hand() {
    let labels = [(1, [4, 2, 0]), (2, [2, 2, 2])];
    let queries = vec![query(1, &[], &labels)];
    let metrics = strict(&[salient(1, &[0.1, 0.9, 0.2])], &split(queries.clone())).unwrap();
    // Clip 1 leads, then clip 2: the third annotator's only clip comes second.
    let fair = metrics.highlights["HL-min-Fair"];
    assert_eq!((fair.map, fair.hit1), (83.33, 100.0));
    let best = metrics.highlights["HL-min-VeryGood"];
    assert_eq!((best.map, best.hit1), (33.33, 100.0));
    // All ten clips of equal score come at once: 2, 2 and 1 of 10.
    let flat = strict(&[salient(1, &[0.0; 10])], &split(queries.clone())).unwrap().highlights["HL-min-Fair"];
    assert_eq!((flat.map, flat.hit1), (16.67, 0.0));
    // The best clip lies beyond the video.
    let beyond = strict(&[salient(1, &[0., 2., 1., 0., 0., 0., 0., 0., 0., 0., 9.])], &split(queries)).unwrap();
    assert_eq!((beyond.brief["HL-min-Fair-mAP"], beyond.brief["HL-min-Fair-Hit1"]), (83.33, 0.0));
}

#[test]
fn bad_predictions_are_errors() {
    let labelled = split(vec![query(1, &[[0.0, 10.0]], &[(0, [4, 4, 4])])]);
    let refused = |prediction| strict(&[prediction], &labelled);
    assert!(matches!(refused(prediction(2, &[])), Err(Error::Malformed { .. })));
    assert!(matches!(refused(prediction(1, &[[5.0, 4.0, 0.0]])), Err(Error::Malformed { .. })));
    assert!(matches!(refused(prediction(1, &[[5.0, f64::NAN, 0.0]])), Err(Error::NonFinite { .. })));
    assert!(matches!(refused(salient(1, &[f64::INFINITY])), Err(Error::NonFinite { .. })));
    assert!(matches!(refused(HighlightPrediction { id: 1, ..Default::default() }), Err(Error::Argument { .. })));
    assert!(matches!(strict(&[], &labelled), Err(Error::Missing { .. })));
    let mut nameless = labelled.clone();
    nameless.videos.clear();
    assert!(matches!(strict(&[salient(1, &[1.0])], &nameless), Err(Error::Missing { .. })));
    for (clip, scores) in [(10, vec![1; 3]), (0, vec![1; 4])] {
        let mut damaged = labelled.clone();
        damaged.queries[0].saliency = vec![Saliency { clip, scores }];
        assert!(matches!(strict(&[salient(1, &[1.0])], &damaged), Err(Error::Malformed { .. })));
    }
}

#[test]
fn queries_without_windows_are_counted() {
    let split = split(vec![query(1, &[[0.0, 10.0]], &[]), query(2, &[], &[(0, [4, 4, 4])])]);
    let predictions = [prediction(1, &[[0.0, 10.0, 1.0]]), prediction(2, &[[0.0, 1.0, 1.0]])];
    match strict(&predictions, &split) {
        Err(Error::Missing { kind: "windows of query", id, .. }) => assert_eq!(id, "2"),
        other => panic!("{other:?}"),
    }
    let mut lenient = Problems::lenient();
    let metrics = evaluate(&predictions, &split, Path::new("file"), &mut lenient).unwrap();
    assert_eq!((metrics.brief["MR-full-R1@0.5"], lenient.skipped().len()), (100.0, 1));
}

#[test]
fn what_is_let_pass_counts_as_a_miss() {
    let labels = [(0, [4, 4, 4])];
    let queries = split((1..5).map(|id| query(id, &[[0.0, 10.0]], &labels)).collect());
    let predictions = [
        HighlightPrediction { saliency: Some(vec![1.0]), ..prediction(1, &[[0.0, 10.0, 0.5]]) },
        HighlightPrediction { saliency: Some(vec![f64::NAN]), ..prediction(2, &[[9.0, 1.0, 0.9], [0.0, 10.0, 0.5]]) },
        HighlightPrediction { id: 3, ..Default::default() },
    ];
    let mut problems = Problems::lenient();
    let metrics = evaluate(&predictions, &queries, Path::new("file"), &mut problems).unwrap();
    assert_eq!((metrics.brief["MR-full-R1@0.5"], metrics.brief["MR-full-mAP"]), (25.0, 37.5 + 12.5));
    assert_eq!((metrics.brief["HL-min-Fair-mAP"], metrics.brief["HL-min-Fair-Hit1"]), (25.0, 25.0));
    // No list for 4; a reversed window and a NaN of 2; neither windows nor saliency of 3.
    assert_eq!(problems.skipped().len(), 5, "{:?}", problems.skipped());
}

proptest! {
    /// Labels as predictions get 100; worse overlap never helps; the order of queries and predictions does not matter.
    #[test]
    fn truth_gets_100_and_order_is_irrelevant(
        spans in prop::collection::vec(prop::collection::vec((0u8..40, 1u8..60), 1..6), 1..6),
        guesses in prop::collection::vec((0u8..40, 1u8..60, 0u8..4), 1..14),
        clips in prop::collection::vec(0u8..5, 10),
    ) {
        let labels: Vec<(u32, [u8; 3])> = clips.iter().zip(0..).map(|(&s, clip)| (clip, [s, s / 2, 4])).collect();
        let windows = |spans: &[(u8, u8)]| -> Vec<[f64; 2]> {
            // Apart from each other, so that each label is found by itself.
            spans.iter().zip(0..).map(|(&(s, l), i)| [s, s + l].map(|t| f64::from(t) + 200.0 * f64::from(i))).collect()
        };
        let queries: Vec<_> = spans.iter().zip(0..).map(|(s, id)| query(id, &windows(s), &labels)).collect();
        let rows = |q: &MomentQuery| -> Vec<[f64; 3]> { q.windows.iter().map(|w| [w[0], w[1], 1.0]).collect() };
        let truth = |q: &MomentQuery| prediction(q.id, &rows(q));
        let perfect: Vec<_> = queries.iter().map(truth).collect();
        let full = strict(&perfect, &split(queries.clone())).unwrap().moments.remove("full").unwrap();
        prop_assert!(full.map.values().chain(full.r1.values()).all(|&v| v == 100.0));

        let rows: Vec<_> = guesses.iter().map(|&(s, l, v)| [f64::from(s), f64::from(s + l), f64::from(v)]).collect();
        let scores: Vec<f64> = guesses.iter().map(|&(s, ..)| f64::from(s)).collect();
        let guess = |q: &MomentQuery| HighlightPrediction { saliency: Some(scores.clone()), ..prediction(q.id, &rows) };
        let mut predictions: Vec<_> = queries.iter().map(guess).collect();
        let metrics = strict(&predictions, &split(queries.clone())).unwrap();
        let full = &metrics.moments["full"];
        prop_assert!(full.r1["0.5"] >= full.r1["0.7"] && full.map["0.5"] >= full.map["0.75"]);
        prop_assert!(metrics.brief.values().all(|v| (0.0..=100.0).contains(v)));
        predictions.reverse();
        let reordered = strict(&predictions, &split(queries.into_iter().rev().collect())).unwrap();
        prop_assert_eq!(reordered.brief.keys().collect::<Vec<_>>(), metrics.brief.keys().collect::<Vec<_>>());
        for (name, value) in &metrics.brief {
            // Sums in another order may round to the other side.
            prop_assert!((reordered.brief[name] - value).abs() < 0.011, "{}", name);
        }
    }
}
