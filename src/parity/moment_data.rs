//! The `reloclnet-data` golden case: sampling, normalisation, labels and endpoint features.

use serde::Deserialize;
use serde_json::Value;

use super::Row;
use crate::data::moments::{clip_span, endpoint_features, l2_normalize_rows, resample};
use crate::tensor::Array;
use crate::{Error, Result};

/// A golden tensor in JSON.
#[derive(Deserialize)]
struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Tensor {
    fn numbers(&self) -> Vec<f64> {
        wide(&self.data)
    }
}

#[derive(Deserialize)]
struct Case {
    /// Tolerances are stored as text.
    rtol: String,
    atol: String,
    clip_length: f64,
    sampling: Vec<Sampling>,
    labels: Vec<Label>,
    tef: Vec<Endpoints>,
}

#[derive(Deserialize)]
struct Sampling {
    max_len: usize,
    input: Tensor,
    sampled: Tensor,
    l2_normalized: Tensor,
}

#[derive(Deserialize)]
struct Label {
    ts: [f64; 2],
    n_clips: usize,
    st_ed: [usize; 2],
}

#[derive(Deserialize)]
struct Endpoints {
    n_clips: usize,
    train: Tensor,
    eval: Tensor,
}

/// Recomputes every expected value of the case `reloclnet-data.json` and compares it.
///
/// # Errors
/// [`Error::Malformed`] when the case does not follow its form; [`Error::Shape`] for a tensor of the wrong size.
pub(super) fn check(case: &Value) -> Result<Vec<Row>> {
    let malformed = |e: &dyn std::fmt::Display| Error::malformed("reloclnet-data case", "JSON", e);
    let case = Case::deserialize(case).map_err(|e| malformed(&e))?;
    let tolerance = |text: &str| text.parse::<f64>().map_err(|e| malformed(&e));
    let (rtol, atol) = (tolerance(&case.rtol)?, tolerance(&case.atol)?);
    let mut rows = Vec::new();
    for (i, sampling) in case.sampling.into_iter().enumerate() {
        if sampling.input.shape.len() != 2 || sampling.input.shape.contains(&0) {
            return Err(malformed(&format_args!("sampling {i}: the input is not (rows, width), none of them 0")));
        }
        let mut got = resample(&Array::new(sampling.input.shape, sampling.input.data)?, sampling.max_len);
        let mut compare = |name: &str, got: &Array, want: &Tensor| {
            rows.push(Row::compare(format!("sampling.{i}.{name}"), &wide(got.data()), &want.numbers(), rtol, atol));
        };
        compare("sampled", &got, &sampling.sampled);
        l2_normalize_rows(&mut got);
        compare("l2_normalized", &got, &sampling.l2_normalized);
    }
    for (i, label) in case.labels.iter().enumerate() {
        let integers = |span: [usize; 2]| span.map(|clip| clip as f64);
        let got = clip_span(label.ts, case.clip_length, label.n_clips);
        rows.push(Row::compare(format!("labels.{i}"), &integers(got), &integers(label.st_ed), 0.0, 0.0));
    }
    for (i, tef) in case.tef.iter().enumerate() {
        // The file bounds what is computed.
        let clips = tef.n_clips.min(tef.train.data.len());
        let got: Vec<f32> = (0..clips).flat_map(|clip| endpoint_features(clip, tef.n_clips)).collect();
        for (name, want) in [("train", &tef.train), ("eval", &tef.eval)] {
            rows.push(Row::compare(format!("tef.{i}.{name}"), &wide(&got), &want.numbers(), rtol, atol));
        }
    }
    Ok(rows)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
