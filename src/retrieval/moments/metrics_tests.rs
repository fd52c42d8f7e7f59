use std::path::PathBuf;

use super::*;
use proptest::prelude::*;

/// A query about video "a", or "b" for odd ids.
fn query(id: u64, windows: &[[f64; 2]]) -> MomentQuery {
    let video = Some(if id.is_multiple_of(2) { "a" } else { "b" }.to_string());
    MomentQuery { id, text: "x".into(), video, windows: windows.to_vec(), kind: None, saliency: Vec::new() }
}

fn list(id: u64, rows: &[(u64, f32, f32)]) -> QueryPredictions {
    let row = |&(video, start, end): &(u64, f32, f32)| Prediction { video, start, end, score: 1.0 };
    QueryPredictions { id, text: String::new(), predictions: rows.iter().map(row).collect() }
}

/// The same lists for all tasks; video "a" is 7, "b" is 9.
fn submission(lists: Vec<QueryPredictions>) -> Submission {
    Submission {
        origin: PathBuf::from("file"),
        video2idx: [("a".to_string(), 7), ("b".to_string(), 9)].into(),
        vcmr: Some(lists.clone()),
        svmr: Some(lists.clone()),
        vr: Some(lists),
    }
}

fn strict(submission: &Submission, queries: &[MomentQuery]) -> Result<MomentMetrics> {
    evaluate(submission, queries, &mut Problems::strict())
}

#[test]
fn places_are_counted_by_task() {
    // Overlaps: with the other video; 0.6; 1.
    let rows = [(9, 0.0, 10.0), (7, 0.0, 6.0), (7, 0.0, 10.0)];
    let metrics = strict(&submission(vec![list(2, &rows)]), &[query(2, &[[0.0, 10.0]])]).unwrap();
    let (vcmr, svmr, vr) = (metrics.vcmr.unwrap(), metrics.svmr.unwrap(), metrics.vr.unwrap());
    assert_eq!([vcmr.half.r1, vcmr.half.r5, vcmr.tight.r1, vcmr.tight.r5], [0.0, 100.0, 0.0, 100.0]);
    assert_eq!([svmr.half.r1, svmr.tight.r1, svmr.tight.r5], [100.0, 0.0, 100.0]);
    assert_eq!([vr.r1, vr.r5], [0.0, 100.0]);
    assert_eq!(metrics.vcmr_by_kind, None);
}

#[test]
fn a_hundred_rows_count_before_rows_of_other_videos_are_left_out() {
    let mut rows = vec![(9, 0.0, 10.0); 100];
    rows.push((7, 0.0, 10.0));
    let queries = [query(2, &[[0.0, 10.0]])];
    let metrics = strict(&submission(vec![list(2, &rows)]), &queries).unwrap();
    assert_eq!(metrics.svmr.unwrap().half.r100, 0.0);
    let metrics = strict(&submission(vec![list(2, &rows[1..])]), &queries).unwrap();
    assert_eq!((metrics.svmr.unwrap().half.r1, metrics.vcmr.unwrap().half.r10), (100.0, 0.0));
}

#[test]
fn thresholds_are_reached_and_two_of_four_annotators_agree() {
    assert!(is_right([0.0, 7.0], &[[0.0, 10.0]], 0.7));
    assert!(!is_right([0.0, 6.99], &[[0.0, 10.0]], 0.7));
    assert!(!is_right([3.0, 3.0], &[[3.0, 3.0]], 0.5));
    let opinions = [[0.0, 5.0], [20.0, 25.0], [0.0, 10.0], [25.0, 30.0]];
    assert!(is_right([0.0, 5.0], &opinions, 0.5));
    assert!(!is_right([0.0, 5.0], &opinions, 0.7));
    assert!(is_right([0.0, 5.0], &opinions[..3], 0.7));
}

#[test]
fn kinds_are_counted_apart() {
    let mut queries: Vec<_> = (0..3).map(|id| query(id, &[[0.0, 10.0]])).collect();
    queries[0].kind = Some(QueryKind::Video);
    queries[1].kind = Some(QueryKind::Both);
    queries[2].kind = Some(QueryKind::Video);
    let lists = vec![list(1, &[(9, 0.0, 10.0)]), list(2, &[(7, 5.0, 6.0)]), list(0, &[(7, 0.0, 8.0)])];
    let ByKind(by_kind) = strict(&submission(lists), &queries).unwrap().vcmr_by_kind.unwrap();
    let found = by_kind.map(|(kind, recalls, share)| (kind, recalls.map(|r| r.tight.r1), share));
    let (video, both) = ((QueryKind::Video, Some(50.0), 66.67), (QueryKind::Both, Some(100.0), 33.33));
    assert_eq!(found, [video, (QueryKind::Text, None, 0.0), both]);
}

#[test]
fn bad_submissions_are_errors_that_name_the_query() {
    let queries = [query(2, &[[0.0, 10.0]]), query(3, &[[0.0, 10.0]])];
    let good = [list(2, &[(7, 0.0, 10.0)]), list(3, &[(9, 0.0, 10.0)])];
    assert_eq!(strict(&submission(good.to_vec()), &queries).unwrap().vcmr.unwrap().tight.r1, 100.0);

    let missing = strict(&submission(good[..1].to_vec()), &queries);
    assert!(matches!(missing, Err(Error::Missing { kind: "VCMR query", ref id, .. }) if id == "3"), "{missing:?}");
    let twice = strict(&submission([&good[..], &good[1..]].concat()), &queries);
    assert!(matches!(twice, Err(Error::Duplicate { ref id, ref place, .. }) if id == "3" && place == "entry 3"));
    let unknown = strict(&submission([&good[..], &[list(4, &[])]].concat()), &queries);
    assert!(matches!(unknown, Err(Error::Malformed { ref problem, .. }) if problem.contains('4')), "{unknown:?}");
    let reversed = strict(&submission(vec![good[0].clone(), list(3, &[(9, 0.0, 1.0), (9, 5.0, 4.0)])]), &queries);
    assert!(matches!(reversed, Err(Error::Malformed { ref place, .. }) if place == "VCMR query 3, row 2"));
    let nan = strict(&submission(vec![list(2, &[(7, f32::NAN, 4.0)]), good[1].clone()]), &queries);
    assert!(matches!(nan, Err(Error::NonFinite { ref place, count: 1, .. }) if place == "VCMR query 2, row 1"));
    let mut nameless = submission(good.to_vec());
    nameless.video2idx.remove("b");
    assert!(
        matches!(strict(&nameless, &queries), Err(Error::Missing { kind: "number of video", ref id, .. }) if id == "b")
    );

    let complete = submission(good.to_vec());
    assert!(matches!(strict(&complete, &[]), Err(Error::Argument { .. })));
    assert!(matches!(strict(&complete, &[queries[0].clone(), queries[0].clone()]), Err(Error::Argument { .. })));
    assert!(matches!(strict(&complete, &[query(2, &[])]), Err(Error::Argument { .. })));
}

#[test]
fn what_is_let_pass_counts_as_wrong_and_is_reported() {
    let queries = [query(2, &[[0.0, 10.0]]), query(3, &[[0.0, 10.0]]), query(4, &[[0.0, 10.0]])];
    let lists =
        vec![list(2, &[(7, f32::NAN, 10.0), (7, 0.0, 10.0)]), list(4, &[(7, 0.0, 10.0)]), list(4, &[]), list(8, &[])];
    let mut submission = submission(lists);
    (submission.svmr, submission.vr) = (None, None);
    let mut problems = Problems::lenient();
    let vcmr = evaluate(&submission, &queries, &mut problems).unwrap().vcmr.unwrap();
    assert_eq!((vcmr.tight.r1, vcmr.tight.r5), (33.33, 66.67));
    // The second list of 4, the list of 8, the lack of 3, the row of 2.
    assert_eq!(problems.skipped().len(), 4, "{:?}", problems.skipped());
}

proptest! {
    /// Truth itself gets 100; recalls grow with k and fall with the threshold; orders of queries and lists do not
    /// matter.
    #[test]
    fn recalls_are_ordered(
        spans in prop::collection::vec((0u8..20, 1u8..20), 1..9),
        guesses in prop::collection::vec((0u64..2, 0u8..20, 1u8..20), 1..20),
    ) {
        let windows: Vec<_> = spans.iter().map(|&(s, l)| [f64::from(s), f64::from(s) + f64::from(l)]).collect();
        let mut queries: Vec<_> = windows.iter().zip(0..).map(|(&w, id)| query(id, &[w])).collect();
        let own = |id: u64| if id.is_multiple_of(2) { 7 } else { 9 };
        let truth = |q: &MomentQuery| list(q.id, &[(own(q.id), q.windows[0][0] as f32, q.windows[0][1] as f32)]);
        let perfect = strict(&submission(queries.iter().map(truth).collect()), &queries).unwrap();
        let (vcmr, vr) = (perfect.vcmr.unwrap(), perfect.vr.unwrap());
        prop_assert!([vcmr.half, vcmr.tight, vr].iter().all(|r| r.values() == [100.0; 4]));

        let rows: Vec<_> = guesses.iter().map(|&(v, s, l)| (7 + 2 * v, f32::from(s), f32::from(s + l))).collect();
        let mut lists: Vec<_> = queries.iter().map(|q| list(q.id, &rows)).collect();
        let metrics = strict(&submission(lists.clone()), &queries).unwrap();
        for recalls in [metrics.vcmr.as_ref().unwrap(), metrics.svmr.as_ref().unwrap()] {
            prop_assert!(recalls.half.values().is_sorted() && recalls.tight.r100 <= recalls.half.r100);
        }
        lists.reverse();
        queries.rotate_left(1);
        prop_assert_eq!(strict(&submission(lists), &queries).unwrap(), metrics);
    }
}
