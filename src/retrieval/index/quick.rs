//! Vectors in a byte a number, for a first stage that reads less.

use std::path::Path;

use super::arrays::{self, ArrayInfo, Number, float_bytes};
use crate::Result;
use crate::kernels::ranking::nearest::BLOCK;
use crate::tensor::{DType, halves};

/// How many bytes a vector of `width` numbers takes, scales apart: it is filled with zeros up to a whole block.
fn padded(width: usize) -> usize {
    width.next_multiple_of(BLOCK)
}

/// Bytes of a vector of `width` numbers with its scales.
pub(super) fn stored_bytes(width: usize) -> usize {
    padded(width) + 4 * padded(width) / BLOCK
}

/// Signed bytes, and the factor of every [`BLOCK`] of them: its largest number is 127 or -127.
pub(super) struct Bytes {
    rows: usize,
    width: usize,
    values: Vec<u8>,
    scales: Vec<f32>,
    /// The greatest length of what a row's bytes leave out, rounded up: no product with a vector of unit length is off by
    /// more.
    pub residual: f32,
}

impl Bytes {
    /// Of rows as they are kept in `precision`.
    pub fn of(rows: &[f32], width: usize, precision: DType) -> Self {
        let padded = padded(width);
        let count = rows.len() / width;
        let (mut values, mut scales) = (Vec::with_capacity(count * padded), Vec::new());
        let mut worst: f64 = 0.0;
        for row in rows.chunks_exact(width) {
            let kept = if precision == DType::F16 { halves::to_f32(&halves::round(row)) } else { row.to_vec() };
            let mut left_out = 0.0;
            for block in kept.chunks(BLOCK) {
                let scale = block.iter().fold(0.0, |most: f32, v| most.max(v.abs())) / 127.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                for &value in block {
                    let byte = (value * inverse).round().clamp(-127.0, 127.0);
                    left_out += (f64::from(value) - f64::from(byte) * f64::from(scale)).powi(2);
                    values.push(byte as i8 as u8);
                }
                scales.push(scale);
            }
            values.resize(values.len().next_multiple_of(padded), 0);
            worst = worst.max(left_out);
        }
        Self {
            rows: count,
            width: padded,
            values,
            scales,
            residual: (worst.sqrt() * (1.0 + 1e-6)) as f32 + f32::MIN_POSITIVE,
        }
    }

    /// Some rows, as the GPU reads them.
    #[cfg(test)]
    pub fn scanned(&self, first: usize, count: usize) -> crate::retrieval::exact::ScannedValues {
        let blocks = self.width / BLOCK;
        let values = self.values[first * self.width..][..count * self.width].to_vec();
        let scales = self.scales[first * blocks..][..count * blocks].to_vec();
        crate::retrieval::exact::ScannedValues::Bytes(values, scales)
    }

    pub fn write_values(&self, folder: &Path) -> Result<ArrayInfo> {
        arrays::write(&folder.join("bytes"), Number::I8, [self.rows, self.width], &self.values)
    }

    pub fn write_scales(&self, folder: &Path) -> Result<ArrayInfo> {
        let blocks = self.width / BLOCK;
        arrays::write(&folder.join("scales"), Number::F32, [self.rows, blocks], &float_bytes(Number::F32, &self.scales))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::noise;

    #[test]
    fn bytes_leave_out_no_more_than_they_say() {
        for width in [1, 16, 63, 64, 65, 200] {
            let rows = noise(width * 7, 3);
            for precision in [DType::F32, DType::F16] {
                let bytes = Bytes::of(&rows, width, precision);
                let (padded, blocks) = (padded(width), padded(width) / BLOCK);
                assert_eq!((bytes.values.len(), bytes.scales.len()), (7 * padded, 7 * blocks));
                for (number, row) in rows.chunks_exact(width).enumerate() {
                    let kept = if precision == DType::F16 { halves::to_f32(&halves::round(row)) } else { row.to_vec() };
                    let meant = |i: usize| {
                        f64::from(bytes.values[number * padded + i] as i8)
                            * f64::from(bytes.scales[number * blocks + i / BLOCK])
                    };
                    let left: f64 = (0..width).map(|i| (f64::from(kept[i]) - meant(i)).powi(2)).sum();
                    assert!(left.sqrt() <= f64::from(bytes.residual));
                    assert!((width..padded).all(|i| bytes.values[number * padded + i] == 0));
                    assert!(bytes.residual < 0.02 * (width as f32).sqrt());
                }
            }
        }
        let zeros = Bytes::of(&[0.0; 32], 16, DType::F32);
        assert!(zeros.values.iter().all(|&byte| byte == 0) && zeros.scales == [0.0, 0.0]);
    }
}
