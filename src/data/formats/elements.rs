//! Number types of files, and their conversion to `f32` and `i64`.

use half::{bf16, f16};

use crate::tensor::halves;

/// How a file stores one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "datasets"), allow(dead_code))]
pub(crate) enum Element {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    /// Bytes of one number.
    pub(crate) fn size(self) -> usize {
        match self {
            Element::Bool | Element::I8 | Element::U8 => 1,
            Element::I16 | Element::U16 | Element::F16 | Element::Bf16 => 2,
            Element::I32 | Element::U32 | Element::F32 => 4,
            Element::I64 | Element::U64 | Element::F64 => 8,
        }
    }

    /// The numbers in `bytes`, rounded to the nearest `f32`. A remainder shorter than a number is ignored.
    pub(crate) fn to_f32(self, bytes: &[u8], big_endian: bool) -> Vec<f32> {
        match self {
            Element::Bool => decode(bytes, big_endian, |[b]| f32::from(u8::from(b != 0))),
            Element::I8 => decode(bytes, big_endian, |b| f32::from(i8::from_le_bytes(b))),
            Element::I16 => decode(bytes, big_endian, |b| f32::from(i16::from_le_bytes(b))),
            Element::I32 => decode(bytes, big_endian, |b| i32::from_le_bytes(b) as f32),
            Element::I64 => decode(bytes, big_endian, |b| i64::from_le_bytes(b) as f32),
            Element::U8 => decode(bytes, big_endian, |b| f32::from(u8::from_le_bytes(b))),
            Element::U16 => decode(bytes, big_endian, |b| f32::from(u16::from_le_bytes(b))),
            Element::U32 => decode(bytes, big_endian, |b| u32::from_le_bytes(b) as f32),
            Element::U64 => decode(bytes, big_endian, |b| u64::from_le_bytes(b) as f32),
            Element::F16 => decode(bytes, big_endian, |b| f16::from_le_bytes(b).to_f32()),
            Element::Bf16 => decode(bytes, big_endian, |b| bf16::from_le_bytes(b).to_f32()),
            Element::F32 => decode(bytes, big_endian, f32::from_le_bytes),
            Element::F64 => decode(bytes, big_endian, |b| f64::from_le_bytes(b) as f32),
        }
    }

    /// The little-endian integers in `bytes`; `None` for floats and `u64`, which do not all fit.
    pub(crate) fn to_i64(self, bytes: &[u8]) -> Option<Vec<i64>> {
        Some(match self {
            Element::Bool => decode(bytes, false, |[b]| i64::from(b != 0)),
            Element::I8 => decode(bytes, false, |b| i8::from_le_bytes(b).into()),
            Element::I16 => decode(bytes, false, |b| i16::from_le_bytes(b).into()),
            Element::I32 => decode(bytes, false, |b| i32::from_le_bytes(b).into()),
            Element::I64 => decode(bytes, false, i64::from_le_bytes),
            Element::U8 => decode(bytes, false, |b| u8::from_le_bytes(b).into()),
            Element::U16 => decode(bytes, false, |b| u16::from_le_bytes(b).into()),
            Element::U32 => decode(bytes, false, |b| u32::from_le_bytes(b).into()),
            Element::U64 | Element::F16 | Element::Bf16 | Element::F32 | Element::F64 => return None,
        })
    }
}

fn decode<const N: usize, T>(bytes: &[u8], big_endian: bool, convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    let number = |chunk: &[u8]| {
        let mut raw = [0; N];
        raw.copy_from_slice(chunk);
        if big_endian {
            raw.reverse();
        }
        convert(raw)
    };
    bytes.chunks_exact(N).map(number).collect()
}

/// The bytes of an array of `shape`, or `None` where the extents are absurd: their product does not fit a `usize`, even
/// if one of them is 0 (so that the size of a row can be computed without a check).
pub(crate) fn byte_count(shape: &[usize], element: Element) -> Option<usize> {
    let bytes = shape.iter().try_fold(element.size(), |n, &d| n.checked_mul(d.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { bytes })
}

/// Writes `values` as little-endian `f32`.
pub(crate) fn write_f32(writer: &mut impl std::io::Write, values: &[f32]) -> std::io::Result<()> {
    if cfg!(target_endian = "little") {
        return writer.write_all(bytemuck::cast_slice(values));
    }
    values.iter().try_for_each(|v| writer.write_all(&v.to_le_bytes()))
}

/// Writes `values` as little-endian halves, rounded to the nearest.
pub(crate) fn write_f16(writer: &mut impl std::io::Write, values: &[f32]) -> std::io::Result<()> {
    halves::round(values).iter().try_for_each(|half| writer.write_all(&half.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_converts_in_both_byte_orders() {
        assert_eq!(Element::F16.to_f32(&[0x00, 0x3e], false), [1.5]);
        assert_eq!(Element::F16.to_f32(&[0x3e, 0x00], true), [1.5]);
        assert_eq!(Element::Bf16.to_f32(&[0xc0, 0x3f], false), [1.5]);
        assert_eq!(Element::F32.to_f32(&1.5f32.to_be_bytes(), true), [1.5]);
        assert_eq!(Element::F64.to_f32(&(-2.25f64).to_le_bytes(), false), [-2.25]);
        assert_eq!(Element::I16.to_f32(&(-7i16).to_be_bytes(), true), [-7.0]);
        assert_eq!(Element::U64.to_f32(&3u64.to_le_bytes(), false), [3.0]);
        assert_eq!(Element::Bool.to_f32(&[0, 1, 255], false), [0.0, 1.0, 1.0]);
        assert_eq!(Element::I64.to_i64(&i64::MIN.to_le_bytes()), Some(vec![i64::MIN]));
        assert_eq!(Element::U8.to_i64(&[200]), Some(vec![200]));
        assert_eq!(Element::F32.to_i64(&[0; 4]), None);
    }

    #[test]
    fn byte_counts_do_not_overflow() {
        assert_eq!(byte_count(&[3, 4], Element::F64), Some(96));
        assert_eq!(byte_count(&[], Element::U8), Some(1));
        assert_eq!(byte_count(&[usize::MAX, 2], Element::U8), None);
        assert_eq!(byte_count(&[usize::MAX / 2], Element::F32), None);
        assert_eq!(byte_count(&[0, 9], Element::F32), Some(0));
        assert_eq!(byte_count(&[0, usize::MAX, 2], Element::F32), None);
    }
}
