//! The `clip-tokenizer` golden cases.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::Row;
use crate::data::tokenizer::{Cleaning, Tokenizer};
use crate::{Error, Result};

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    ids_len77: Vec<u32>,
    ids_len32: Vec<u32>,
    /// With the three below: of the official tokenizer, where it differs.
    ids_official: Option<Vec<u32>>,
    official_len77: Option<Vec<u32>>,
    official_len32: Option<Vec<u32>>,
}

/// Tokenises the texts of `case`, read from `path`, with and without the official clean-up. The vocabulary is that of the
/// folder `vocabulary`.
///
/// # Errors
/// [`Error::Malformed`] for a case that does not follow its form; those of [`Tokenizer`].
pub(super) fn check(path: &Path, vocabulary: &Path, case: &Value) -> Result<Vec<Row>> {
    let cases = Cases::deserialize(case).map_err(|e| Error::malformed(path, "JSON", e))?.cases;
    // The reference tokenizers trust their captions.
    let plain = Tokenizer::open(vocabulary)?.trusting();
    let official = plain.clone().with_cleaning(Cleaning::Official);
    let mut rows = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let mut compare = |name: &str, got: Vec<u32>, want: &[u32]| {
            rows.push(Row::compare(format!("cases.{i}.{name}"), &got, want, 0.0, 0.0));
        };
        compare("ids", plain.ids(&case.text)?, &case.ids);
        compare("ids_len77", framed(&plain, &case.text, 77)?, &case.ids_len77);
        compare("ids_len32", framed(&plain, &case.text, 32)?, &case.ids_len32);
        compare("ids_official", official.ids(&case.text)?, case.ids_official.as_ref().unwrap_or(&case.ids));
        let want = case.official_len77.as_ref().unwrap_or(&case.ids_len77);
        compare("official_len77", framed(&official, &case.text, 77)?, want);
        let want = case.official_len32.as_ref().unwrap_or(&case.ids_len32);
        compare("official_len32", framed(&official, &case.text, 32)?, want);
    }
    Ok(rows)
}

/// One text's row of ids, without its padding.
fn framed(tokenizer: &Tokenizer, text: &str, length: usize) -> Result<Vec<u32>> {
    let tokens = tokenizer.encode(&[text], length)?;
    Ok(tokens.ids.into_iter().zip(tokens.mask).filter(|(_, mask)| *mask > 0.0).map(|(id, _)| id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{fixture, outside};
    use crate::parity::golden;

    #[test]
    #[ignore = "reads files that are not part of this repository; CONTRIBUTING.md says how to run it"]
    fn the_golden_cases_pass() {
        let (path, vocabulary) = (fixture("clip-tokenizer-cases.json"), outside("clip-tokenizer"));
        let mut case = serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap();
        let rows = check(&path, &vocabulary, &case).unwrap();
        assert_eq!(rows.len(), 104 * 6);
        golden::assert_passed("clip-tokenizer-cases", &rows, 1);

        case["cases"][0]["ids"][1] = 9.into();
        let rows = check(&path, &vocabulary, &case).unwrap();
        // The official list is the same one here.
        assert_eq!(rows.iter().filter(|row| !row.passed).count(), 2);
        case["cases"][3]["text"] = Value::Null;
        assert!(matches!(check(&path, &vocabulary, &case), Err(Error::Malformed { .. })));
    }
}
