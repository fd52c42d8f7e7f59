//! The `retrieval-metrics` golden cases.

use serde_json::Value;

use super::Row;
use crate::retrieval::compat::CompatMetrics;
use crate::retrieval::{Compat, Counts, Scores, Ties};
use crate::tensor::Array;
use crate::{Error, Result};

/// Recomputes every expected value of a `retrieval-metrics-*.json` case and compares it.
///
/// # Errors
/// [`Error::Malformed`] when the case lacks a key or has something else there; errors of [`Scores`] for its matrix.
pub fn check_metrics_case(case: &Value) -> Result<Vec<Row>> {
    let rtol = tolerance(case, "rtol")?;
    let atol = tolerance(case, "atol")?;
    let matrix = array(key(case, "similarity")?)?;
    let config = key(case, "config")?;
    let scores = match config.get("captions_per_video") {
        Some(captions) => Scores::grouped(matrix, &integers(captions, "captions_per_video")?)?,
        None => Scores::square(matrix)?,
    };
    let Value::Object(expected) = key(case, "expected")? else {
        return Err(malformed("expected", "is not an object"));
    };
    let mut rows = Vec::new();
    for (name, expected) in expected.iter().filter(|(_, v)| !v.is_null()) {
        let mut compare = |part: String, got: &[f64], want: &[f64]| {
            rows.push(Row::compare(format!("{name}.{part}"), got, want, rtol, atol));
        };
        match name.as_str() {
            "official_t2v" => official(Compat::Clip4Clip.text_to_video(&scores)?, expected, &mut compare)?,
            "official_v2t" => official(Compat::Clip4Clip.video_to_text(&scores)?, expected, &mut compare)?,
            "official_v2t_matrix" => {
                // Stored with a row for every video, a column for every caption group.
                let want = array(expected)?;
                let (best, n) = (scores.best_captions(), scores.videos());
                let got: Vec<f64> = (0..n * n).map(|i| f64::from(best.row(i % n)[i / n])).collect();
                compare("data".into(), &got, &want.data().iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
            }
            "tie_aware_t2v" => tie_aware(scores.text_to_video(), expected, &mut compare)?,
            "tie_aware_v2t" => tie_aware(scores.video_to_text(), expected, &mut compare)?,
            "caption_level_v2t" => tie_aware(scores.video_to_caption(), expected, &mut compare)?,
            _ => return Err(malformed(&format!("expected.{name}"), "is not a known result")),
        }
    }
    Ok(rows)
}

fn official(got: CompatMetrics, expected: &Value, compare: &mut impl FnMut(String, &[f64], &[f64])) -> Result<()> {
    for (name, want) in members(expected)? {
        if name == "cols" {
            let ranks: Vec<f64> = got.ranks.iter().map(|&r| f64::from(r)).collect();
            compare(name.clone(), &ranks, &numbers(want, name)?);
        } else {
            let value = got.get(name).ok_or_else(|| malformed(name, "is not a value of this script"))?;
            compare(name.clone(), &[value], &[number(want, name)?]);
        }
    }
    Ok(())
}

fn tie_aware(counts: Counts, expected: &Value, compare: &mut impl FnMut(String, &[f64], &[f64])) -> Result<()> {
    for (rule, values) in members(expected)? {
        let ties: Ties = rule.parse()?;
        let metrics = counts.metrics(ties)?;
        for (name, want) in members(values)? {
            let got = match name.as_str() {
                "R1" => metrics.r1,
                "R5" => metrics.r5,
                "R10" => metrics.r10,
                "R50" => metrics.r50,
                "MdR" => metrics.mdr,
                "MnR" => metrics.mnr,
                "ranks" => {
                    compare(format!("{rule}.ranks"), &counts.ranks(ties), &numbers(want, name)?);
                    continue;
                }
                _ => return Err(malformed(name, "is not a known metric")),
            };
            compare(format!("{rule}.{name}"), &[got], &[number(want, name)?]);
        }
    }
    Ok(())
}

pub(super) fn malformed(place: &str, problem: &str) -> Error {
    Error::malformed("golden case", place, problem)
}

pub(super) fn key<'a>(value: &'a Value, name: &str) -> Result<&'a Value> {
    value.get(name).ok_or_else(|| malformed(name, "is missing"))
}

fn members(value: &Value) -> Result<&serde_json::Map<String, Value>> {
    value.as_object().ok_or_else(|| malformed("expected", "is not an object"))
}

pub(super) fn number(value: &Value, place: &str) -> Result<f64> {
    value.as_f64().ok_or_else(|| malformed(place, "is not a number"))
}

pub(super) fn numbers(value: &Value, place: &str) -> Result<Vec<f64>> {
    let list = value.as_array().ok_or_else(|| malformed(place, "is not a list"))?;
    list.iter().map(|v| number(v, place)).collect()
}

fn integers(value: &Value, place: &str) -> Result<Vec<usize>> {
    let list = value.as_array().ok_or_else(|| malformed(place, "is not a list"))?;
    let integer = |v: &Value| v.as_u64().and_then(|v| usize::try_from(v).ok());
    list.iter().map(|v| integer(v).ok_or_else(|| malformed(place, "is not a count"))).collect()
}

pub(super) fn array(value: &Value) -> Result<Array> {
    let shape = integers(key(value, "shape")?, "shape")?;
    let data = numbers(key(value, "data")?, "data")?;
    Array::new(shape, data.into_iter().map(|v| v as f32).collect())
}

/// Tolerances are stored as text.
pub(super) fn tolerance(case: &Value, name: &str) -> Result<f64> {
    let value = key(case, name)?;
    let parsed = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    parsed.ok_or_else(|| malformed(name, "is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::golden;

    #[test]
    fn the_golden_cases_pass() {
        for name in ["all-equal", "multi", "multi-ties", "square", "square-ties"] {
            let name = format!("retrieval-metrics-{name}");
            golden::assert_passed(&name, &check_metrics_case(&golden::json(&name)).unwrap(), 41);
        }
    }

    #[test]
    fn damaged_cases_are_errors_and_wrong_values_fail() {
        let whole = golden::json("retrieval-metrics-square");
        for name in ["rtol", "similarity", "config", "expected"] {
            let mut case = whole.clone();
            case.as_object_mut().unwrap().remove(name);
            assert!(matches!(check_metrics_case(&case), Err(Error::Malformed { .. })), "{name}");
        }
        let mut case = whole;
        case["expected"]["official_t2v"]["R1"] = 1.0.into();
        assert_eq!(check_metrics_case(&case).unwrap().iter().filter(|r| !r.passed).count(), 1);
    }
}
