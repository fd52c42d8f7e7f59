//! The `reloclnet-data` golden case: sampling, normalisation, labels and endpoint features.

use serde::Deserialize;
use serde_json::Value;

use super::Row;
use super::json::{Golden, malformed, part, tolerance};
use crate::Result;
use crate::data::moments::{clip_span, endpoint_features, l2_normalize_rows, resample};

#[derive(Deserialize)]
struct Sampling {
    max_len: usize,
    input: Golden,
    sampled: Golden,
    l2_normalized: Golden,
}

#[derive(Deserialize)]
struct Label {
    ts: [f64; 2],
    n_clips: usize,
    st_ed: [u32; 2],
}

#[derive(Deserialize)]
struct Endpoints {
    n_clips: usize,
    train: Golden,
    eval: Golden,
}

/// Recomputes every expected value of the case `reloclnet-data.json` and compares it.
///
/// # Errors
/// [`crate::Error::Malformed`] when the case does not follow its form.
pub(super) fn check(case: &Value) -> Result<Vec<Row>> {
    let (rtol, atol) = (tolerance(case, "rtol")?, tolerance(case, "atol")?);
    let compare = |name: String, got: &[f32], want: &Golden| Row::compare(name, got, want.0.data(), rtol, atol);
    let mut rows = Vec::new();
    for (i, sampling) in part::<Vec<Sampling>>(case, "sampling")?.iter().enumerate() {
        let Golden(input) = &sampling.input;
        if input.shape().len() != 2 || input.is_empty() {
            return Err(malformed("sampling", format_args!("{i}: the input is not (rows, width), none of them 0")));
        }
        let mut got = resample(input, sampling.max_len)?;
        rows.push(compare(format!("sampling.{i}.sampled"), got.data(), &sampling.sampled));
        l2_normalize_rows(&mut got);
        rows.push(compare(format!("sampling.{i}.l2_normalized"), got.data(), &sampling.l2_normalized));
    }
    let clip_length = part(case, "clip_length")?;
    for (i, label) in part::<Vec<Label>>(case, "labels")?.iter().enumerate() {
        let got = clip_span(label.ts, clip_length, label.n_clips).map(|clip| clip as f64);
        rows.push(Row::compare(format!("labels.{i}"), &got, &label.st_ed, 0.0, 0.0));
    }
    for (i, tef) in part::<Vec<Endpoints>>(case, "tef")?.iter().enumerate() {
        // The file bounds what is computed.
        let clips = tef.n_clips.min(tef.train.0.len());
        let got: Vec<f32> = (0..clips).flat_map(|clip| endpoint_features(clip, tef.n_clips)).collect();
        rows.push(compare(format!("tef.{i}.train"), &got, &tef.train));
        rows.push(compare(format!("tef.{i}.eval"), &got, &tef.eval));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::parity::golden;

    fn case() -> Value {
        golden::json("reloclnet-data")
    }

    #[test]
    fn the_golden_case_passes() {
        let rows = check(&case()).unwrap();
        assert_eq!(rows.len(), 6 * 2 + 12 + 3 * 2);
        golden::assert_passed("reloclnet-data", &rows, 1);
    }

    #[test]
    fn damaged_cases_are_errors_and_wrong_values_fail() {
        for name in ["rtol", "clip_length", "sampling", "labels", "tef"] {
            let mut case = case();
            case.as_object_mut().unwrap().remove(name);
            assert!(matches!(check(&case), Err(Error::Malformed { .. })), "{name}");
        }
        let mut case = case();
        case["sampling"][1]["sampled"]["data"][0] = 9.0.into();
        case["labels"][0]["st_ed"][1] = 34.into();
        case["tef"][1]["eval"]["data"][3] = 0.5.into();
        assert_eq!(check(&case).unwrap().iter().filter(|r| !r.passed).count(), 3);
        case["sampling"][0]["input"]["shape"] = serde_json::json!([15]);
        assert!(matches!(check(&case), Err(Error::Malformed { .. })));
    }
}
