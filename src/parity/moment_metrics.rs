//! The `tvr-metrics` and `reloclnet-nms` golden cases, and the lists that `reloclnet-inference` cases expect,
//! evaluated.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Row;
use super::json::{malformed, parse, part};
use crate::Result;
use crate::data::moments::{MomentQuery, Problems, QueryKind};
use crate::retrieval::moments::metrics::{MAX_ROWS, evaluate};
use crate::retrieval::moments::nms::suppress;
use crate::retrieval::moments::{Prediction, QueryPredictions, Submission};

/// Recomputes every metric of a `tvr-metrics-*.json` case and compares it.
///
/// # Errors
/// [`crate::Error::Malformed`] when the case lacks a key or has something else there; errors of [`evaluate`] for its lists.
pub fn check_tvr_metrics(case: &Value) -> Result<Vec<Row>> {
    let submission: Submission = part(case, "submission")?;
    compare(&submission, &queries(case, "ground_truth")?, part(case, "metrics")?, "")
}

/// Suppresses every list of a `reloclnet-nms.json` case and compares it.
///
/// # Errors
/// [`crate::Error::Malformed`] when the case lacks a key or has something else there.
pub fn check_nms(case: &Value) -> Result<Vec<Row>> {
    #[derive(Deserialize)]
    struct Case {
        predictions: Vec<[f32; 3]>,
        threshold: f64,
        max_after: usize,
        expected: Vec<[f32; 3]>,
    }

    let list = |rows: &[[f32; 3]]| -> Vec<Prediction> {
        rows.iter().map(|&[start, end, score]| Prediction { video: 0, start, end, score }).collect()
    };
    let check = |(i, case): (usize, Case)| {
        let got = suppress(&list(&case.predictions), case.threshold, case.max_after);
        same_rows(format!("cases.{i}"), &got, &list(&case.expected))
    };
    Ok(part::<Vec<Case>>(case, "cases")?.into_iter().enumerate().map(check).collect())
}

/// Evaluates the lists that a `reloclnet-inference-*.json` case expects, as they are and suppressed, and compares the
/// metrics and the suppressed lists. Empty lists count as misses.
///
/// # Errors
/// As [`check_tvr_metrics`].
pub(super) fn check_inference_metrics(case: &Value) -> Result<Vec<Row>> {
    let inputs: Value = part(case, "inputs")?;
    let expected: Value = part(case, "expected")?;
    let list = |name: &str| expected.get(name).map(|lists| parse(lists, name)).transpose();
    let mut submission = Submission {
        video2idx: part::<BTreeMap<String, u64>>(&inputs, "video2idx")?,
        vcmr: list("VCMR")?,
        svmr: list("SVMR")?,
        vr: list("VR")?,
        ..Submission::default()
    };
    let queries = queries(&inputs, "queries")?;
    let mut rows = compare(&submission, &queries, part(&expected, "metrics")?, "")?;
    submission.vr = None;
    for (name, block) in expected.as_object().into_iter().flatten() {
        let Some(threshold) = name.strip_prefix("nms_") else { continue };
        let threshold = threshold.parse().map_err(|_| malformed(name, "names no threshold"))?;
        let mut thinned = submission.clone();
        thinned.suppress(threshold, MAX_ROWS);
        for (task, got) in [("VCMR", &thinned.vcmr), ("SVMR", &thinned.svmr)] {
            let want: Vec<QueryPredictions> = part(block, task)?;
            let lists = got.iter().flatten().zip(&want).enumerate();
            rows.extend(
                lists.map(|(i, (got, want))| {
                    same_rows(format!("{name}.{task}.{i}"), &got.predictions, &want.predictions)
                }),
            );
        }
        rows.append(&mut compare(&thinned, &queries, part(block, "metrics")?, &format!("{name}."))?);
    }
    Ok(rows)
}

/// Every expected metric of every task; percentages are equal but for the last bits.
fn compare(
    submission: &Submission,
    queries: &[MomentQuery],
    expected: BTreeMap<String, Map<String, Value>>,
    prefix: &str,
) -> Result<Vec<Row>> {
    let metrics = evaluate(submission, queries, &mut Problems::strict())?;
    let metrics = serde_json::to_value(&metrics).map_err(|e| malformed("metrics", e))?;
    let mut rows = Vec::new();
    for (task, values) in &expected {
        for (name, want) in values {
            let got = &metrics[task][name];
            let row = format!("{prefix}{task}.{name}");
            rows.push(match want.as_f64() {
                Some(want) => Row::compare(row, &[got.as_f64().unwrap_or(f64::NAN)], &[want], 0.0, 1e-9),
                // The shares of the kinds, as one text.
                None => Row::compare(row, &[f64::from(u8::from(got == want))], &[1.0], 0.0, 0.0),
            });
        }
    }
    Ok(rows)
}

/// Lists of predictions that must be equal, number by number.
fn same_rows(name: String, got: &[Prediction], want: &[Prediction]) -> Row {
    let numbers = |rows: &[Prediction]| -> Vec<f64> {
        rows.iter().flat_map(|p| [p.video as f64, p.start.into(), p.end.into(), p.score.into()]).collect()
    };
    Row::compare(name, &numbers(got), &numbers(want), 0.0, 0.0)
}

/// TVR's rows: `ts` is one window, or a list of them.
fn queries(value: &Value, name: &str) -> Result<Vec<MomentQuery>> {
    #[derive(Deserialize)]
    struct Truth {
        desc_id: u64,
        desc: String,
        vid_name: String,
        ts: Windows,
        r#type: Option<QueryKind>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Windows {
        One([f64; 2]),
        Several(Vec<[f64; 2]>),
    }

    let query = |truth: Truth| MomentQuery {
        id: truth.desc_id,
        text: truth.desc,
        video: Some(truth.vid_name),
        windows: match truth.ts {
            Windows::One(window) => vec![window],
            Windows::Several(windows) => windows,
        },
        kind: truth.r#type,
        saliency: Vec::new(),
    };
    Ok(part::<Vec<Truth>>(value, name)?.into_iter().map(query).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::parity::golden;

    const TVR: [&str; 2] = ["tvr-metrics-basic", "tvr-metrics-didemo"];

    #[test]
    fn the_golden_cases_pass() {
        let check = |name: &str, least: usize, check: fn(&Value) -> Result<Vec<Row>>| {
            golden::assert_passed(name, &check(&golden::json(name)).unwrap(), least);
        };
        TVR.iter().for_each(|name| check(name, 20, check_tvr_metrics));
        check("reloclnet-nms", 12, check_nms);
        for name in ["reloclnet-inference-tiny", "reloclnet-inference-short-video"] {
            check(name, 100, check_inference_metrics);
        }
    }

    #[test]
    fn damaged_cases_are_errors_and_wrong_values_fail() {
        for whole in TVR.map(golden::json) {
            for name in ["submission", "ground_truth", "metrics"] {
                let mut case = whole.clone();
                case.as_object_mut().unwrap().remove(name);
                assert!(matches!(check_tvr_metrics(&case), Err(Error::Malformed { .. })), "{name}");
            }
            let mut case = whole;
            case["metrics"]["VR"]["r5"] = 1.0.into();
            assert_eq!(check_tvr_metrics(&case).unwrap().iter().filter(|r| !r.passed).count(), 1);
        }
        let mut case = golden::json("reloclnet-nms");
        case["cases"][4]["threshold"] = 0.01.into();
        assert_eq!(check_nms(&case).unwrap().iter().filter(|r| !r.passed).count(), 1);
    }
}
