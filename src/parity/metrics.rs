//! The `retrieval-metrics` golden cases.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Row;
use super::json::{Golden, malformed, parse, part, tolerance};
use crate::Result;
use crate::retrieval::compat::CompatMetrics;
use crate::retrieval::{Compat, Counts, Scores, Ties};

/// What is compared: its name, what was got, and what is expected.
type Part = (String, Vec<f64>, Vec<f64>);

/// Recomputes every expected value of a `retrieval-metrics-*.json` case and compares it.
///
/// # Errors
/// [`crate::Error::Malformed`] when the case lacks a key or has something else there; errors of [`Scores`] for its matrix.
pub fn check_metrics_case(case: &Value) -> Result<Vec<Row>> {
    let (rtol, atol) = (tolerance(case, "rtol")?, tolerance(case, "atol")?);
    let Golden(matrix) = part(case, "similarity")?;
    let config: Value = part(case, "config")?;
    let captions = "captions_per_video";
    let scores = match config.get(captions) {
        Some(counts) => Scores::grouped(matrix, &parse::<Vec<usize>>(counts, captions)?)?,
        None => Scores::square(matrix)?,
    };
    let mut rows = Vec::new();
    for (name, expected) in part::<Map<String, Value>>(case, "expected")?.iter().filter(|(_, v)| !v.is_null()) {
        let parts = match name.as_str() {
            "official_t2v" => official(Compat::Clip4Clip.text_to_video(&scores)?, expected)?,
            "official_v2t" => official(Compat::Clip4Clip.video_to_text(&scores)?, expected)?,
            "official_v2t_matrix" => {
                // Stored with a row for every video, a column for every caption group.
                let Golden(want) = parse(expected, name)?;
                let (best, n) = (scores.best_captions(), scores.videos());
                let got = (0..n * n).map(|i| best.row(i % n)[i / n].into()).collect();
                vec![("data".into(), got, want.data().iter().map(|&v| v.into()).collect())]
            }
            "tie_aware_t2v" => tie_aware(scores.text_to_video(), expected)?,
            "tie_aware_v2t" => tie_aware(scores.video_to_text(), expected)?,
            "caption_level_v2t" => tie_aware(scores.video_to_caption(), expected)?,
            _ => return Err(malformed(&format!("expected.{name}"), "is not a known result")),
        };
        let row = |(part, got, want): Part| Row::compare(format!("{name}.{part}"), &got, &want, rtol, atol);
        rows.extend(parts.into_iter().map(row));
    }
    Ok(rows)
}

fn official(got: CompatMetrics, expected: &Value) -> Result<Vec<Part>> {
    let part = |(name, want): (String, Value)| {
        let got = match name.as_str() {
            "cols" => got.ranks.iter().map(|&rank| rank.into()).collect(),
            _ => vec![got.get(&name).ok_or_else(|| malformed(&name, "is not a value of this script"))?],
        };
        let want = numbers(&want, &name)?;
        Ok((name, got, want))
    };
    parse::<Map<String, Value>>(expected, "expected")?.into_iter().map(part).collect()
}

fn tie_aware(counts: Counts, expected: &Value) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (rule, values) in parse::<BTreeMap<String, Map<String, Value>>>(expected, "expected")? {
        let ties: Ties = rule.parse()?;
        let metrics = counts.metrics(ties)?;
        for (name, want) in &values {
            let got = match name.as_str() {
                "R1" => vec![metrics.r1],
                "R5" => vec![metrics.r5],
                "R10" => vec![metrics.r10],
                "R50" => vec![metrics.r50],
                "MdR" => vec![metrics.mdr],
                "MnR" => vec![metrics.mnr],
                "ranks" => counts.ranks(ties),
                _ => return Err(malformed(name, "is not a known metric")),
            };
            parts.push((format!("{rule}.{name}"), got, numbers(want, name)?));
        }
    }
    Ok(parts)
}

/// A list, or one number.
fn numbers(value: &Value, name: &str) -> Result<Vec<f64>> {
    if value.is_number() { Ok(vec![parse(value, name)?]) } else { parse(value, name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
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
