//! Checks of this crate's numbers against golden files of the reference implementations.

mod bert;
mod bicnet;
mod clip;
mod composed;
mod gated;
pub(crate) mod golden;
mod inference;
mod json;
mod metrics;
mod moment_data;
mod moment_metrics;
mod ops;
mod preprocess;
mod reloclnet;
mod run;
#[cfg(feature = "text")]
mod tokenizer;
mod training;

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::data::formats::text::read_json;
use crate::{Gpu, Result};

pub use metrics::check_metrics_case;
pub use moment_metrics::{check_nms, check_tvr_metrics};

/// What became of one golden file.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was compared, a row a tensor.
    Checked(Vec<Row>),
    /// Its family or op is not known; it was not compared.
    NotSupported(String),
}

/// Computes a golden file's case (`.safetensors` or `.json`) and compares every result that the file holds. One whose model
/// lies beside it, `expected.safetensors` of a Hugging Face folder, needs the feature `text`; so does `clip-tokenizer-cases`,
/// whose vocabulary lies in `../data/clip-tokenizer` beside the folder of golden files.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::Malformed`] for a file that does not follow the schema; what the ops return.
pub fn check_file(gpu: &Gpu, path: impl AsRef<Path>) -> Result<Outcome> {
    let path = path.as_ref();
    let name = path.file_name().map(|n| n.to_string_lossy().to_string()).unwrap_or_default();
    #[cfg(feature = "text")]
    if name.starts_with("clip-tokenizer") && name.ends_with(".json") {
        let vocabulary = path.parent().unwrap_or(Path::new("")).join("../data/clip-tokenizer");
        return tokenizer::check(path, &vocabulary, &read_json(path)?).map(Outcome::Checked);
    }
    if name.ends_with(".json") {
        type Check = fn(&Gpu, &Value) -> Result<Vec<Row>>;
        let families: [(&str, Check); 5] = [
            ("reloclnet-data", |_, case| moment_data::check(case)),
            ("reloclnet-inference-", inference::check),
            ("reloclnet-nms", |_, case| check_nms(case)),
            ("retrieval-metrics-", |_, case| check_metrics_case(case)),
            ("tvr-metrics-", |_, case| check_tvr_metrics(case)),
        ];
        let Some((_, check)) = families.iter().find(|(family, _)| name.starts_with(family)) else {
            return Ok(Outcome::NotSupported(name));
        };
        return check(gpu, &read_json(path)?).map(Outcome::Checked);
    }
    let case = golden::Case::open(path)?;
    let rows = match case.model.as_str() {
        "op" => ops::check(gpu, &case)?,
        "bert" | "roberta" => Some(bert::check(gpu, &case)?),
        "bicnet" => Some(bicnet::check(gpu, &case)?),
        "clip" if case.config["texts"].is_null() => Some(clip::check(gpu, &case)?),
        #[cfg(feature = "text")]
        "clip" | "siglip" | "chinese-clip" | "open-clip" => Some(clip::check_folder(gpu, &case)?),
        "eercf" => Some(gated::check_eercf(gpu, &case)?),
        "glccl" => Some(gated::check_glccl(gpu, &case)?),
        "preprocess" => Some(preprocess::check(&case)?),
        "reloclnet" => Some(reloclnet::check(gpu, &case)?),
        _ => None,
    };
    Ok(rows.map_or_else(|| Outcome::NotSupported(name), Outcome::Checked))
}

/// One compared value or tensor.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was compared, by its name in the file.
    pub name: String,
    /// Largest `|got - expected|`; infinite when the two differ in shape.
    pub worst_abs: f64,
    /// Largest `|got - expected| / |expected|`; infinite where something other than 0 was got for an expected 0.
    pub worst_rel: f64,
    /// The tolerance, to be read by people.
    pub tolerance: String,
    /// Whether everything compared lies within the tolerance.
    pub passed: bool,
}

impl Row {
    /// Compares element by element: `|got - expected| <= atol + rtol * |expected|`. A NaN on either side fails.
    pub fn compare<G, E>(name: impl Into<String>, got: &[G], expected: &[E], rtol: f64, atol: f64) -> Self
    where
        G: Copy + Into<f64>,
        E: Copy + Into<f64>,
    {
        let tolerance =
            if rtol == 0.0 && atol == 0.0 { "exact".into() } else { format!("{rtol:.1e} rel + {atol:.1e}") };
        let mut row = Row { name: name.into(), worst_abs: 0.0, worst_rel: 0.0, tolerance, passed: true };
        if got.len() != expected.len() {
            return Row { worst_abs: f64::INFINITY, worst_rel: f64::INFINITY, passed: false, ..row };
        }
        for (&got, &expected) in got.iter().zip(expected) {
            let (got, expected): (f64, f64) = (got.into(), expected.into());
            let error = (got - expected).abs();
            let relative = if error == 0.0 { 0.0 } else { error / expected.abs() };
            // Written so that NaN counts as the worst.
            if error.is_nan() || error > row.worst_abs {
                row.worst_abs = if error.is_nan() { f64::INFINITY } else { error };
            }
            if relative.is_nan() || relative > row.worst_rel {
                row.worst_rel = if relative.is_nan() { f64::INFINITY } else { relative };
            }
            row.passed &= error <= atol + rtol * expected.abs();
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::Row;

    #[test]
    fn comparison_fails_on_nan_and_length() {
        assert!(Row::compare("a", &[1.0, 2.0], &[1.0, 2.0], 0.0, 0.0).passed);
        assert!(Row::compare("a", &[1.0001], &[1.0], 1e-3, 0.0).passed);
        assert!(!Row::compare("a", &[1.01], &[1.0], 1e-3, 0.0).passed);
        assert!(!Row::compare("a", &[1.0], &[1.0, 2.0], 1.0, 1.0).passed);
        let row = Row::compare("a", &[f64::NAN, 1.0], &[1.0, 1.0], 1.0, 1.0);
        assert!(!row.passed && row.worst_abs.is_infinite());
    }
}
