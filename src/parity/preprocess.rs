//! The `preprocess` golden cases: resize, crop and normalisation of pictures.

use super::Row;
use super::golden::Case;
use crate::Result;
use crate::data::media::preprocess::{CropOffset, Preprocess};

/// Recomputes every picture of a case; bytes must be equal.
///
/// # Errors
/// [`crate::Error::Malformed`] for a picture that is not (height, width, 3); what [`Preprocess::pixels`] returns.
pub(super) fn check(case: &Case) -> Result<Vec<Row>> {
    let clip = Preprocess::clip(case.size("crop")?);
    let mut rows = Vec::new();
    for number in case.names("input.image") {
        let image = case.image(&format!("input.image{number}"))?;
        for (rounding, suffix) in [(CropOffset::Floor, ""), (CropOffset::HalfEven, "_torchvision")] {
            let exact = format!("output.pixels{number}{suffix}");
            // A file without the second has the same bytes for both.
            let name = if case.has(&exact) { exact.clone() } else { format!("output.pixels{number}") };
            let expected = case.bytes(&name)?.1;
            let preprocess = Preprocess { rounding, ..clip.clone() };
            let pixels = preprocess.pixels(&image)?;
            rows.push(Row::compare(exact, &pixels, &expected, 0.0, 0.0));
        }
        let described = case.config["images"].as_array().into_iter().flatten();
        let described = described.filter(|image| image["index"].as_u64() == number.parse().ok());
        for want in described.filter_map(|image| image["normalized_mean"].as_array()) {
            let want: Vec<f64> = want.iter().filter_map(serde_json::Value::as_f64).collect();
            let values = Preprocess { rounding: CropOffset::Floor, ..clip.clone() }.apply(&image)?;
            let plane = clip.crop * clip.crop;
            let mean = |plane: &[f32]| plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64;
            let got: Vec<f64> = values.chunks(plane).map(mean).collect();
            rows.push(Row::compare(format!("normalized_mean{number}"), &got, &want, 0.0, 1e-6));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::golden;

    #[test]
    fn the_golden_pictures_are_equal_bit_for_bit() {
        let rows = check(&golden::open("preprocess-bicubic224")).unwrap();
        assert_eq!(rows.len(), 3 * 3);
        golden::assert_passed("preprocess-bicubic224", &rows, 1);
    }
}
