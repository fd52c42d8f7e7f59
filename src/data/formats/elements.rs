//! Number types of files, by the names that safetensors has for them, and their conversion to `f32` and `i64`.

use half::{bf16, f16};
use safetensors::Dtype;

use crate::tensor::halves;

/// The type of a number of `bytes` bytes that NumPy calls by the letter `kind`: b, i, u or f.
#[cfg(feature = "datasets")]
pub(crate) fn number_type(kind: u8, bytes: usize) -> Option<Dtype> {
    Some(match (kind, bytes) {
        (b'b', 1) => Dtype::BOOL,
        (b'i', 1) => Dtype::I8,
        (b'i', 2) => Dtype::I16,
        (b'i', 4) => Dtype::I32,
        (b'i', 8) => Dtype::I64,
        (b'u', 1) => Dtype::U8,
        (b'u', 2) => Dtype::U16,
        (b'u', 4) => Dtype::U32,
        (b'u', 8) => Dtype::U64,
        (b'f', 2) => Dtype::F16,
        (b'f', 4) => Dtype::F32,
        (b'f', 8) => Dtype::F64,
        _ => return None,
    })
}

/// The numbers in `bytes`, rounded to the nearest `f32`; `None` for types that are no numbers here. A remainder shorter
/// than a number is ignored.
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8], big_endian: bool) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::U64 => decode(bytes, big_endian, |b| u64::from_le_bytes(b) as f32),
        Dtype::F16 => decode(bytes, big_endian, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => decode(bytes, big_endian, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F32 => decode(bytes, big_endian, f32::from_le_bytes),
        Dtype::F64 => decode(bytes, big_endian, |b| f64::from_le_bytes(b) as f32),
        _ => return integers(dtype, bytes, big_endian, |v| v as f32),
    })
}

/// As [`to_f32`], without rounding; `None` also for integers that no `f64` holds, over 2^53.
#[cfg(feature = "datasets")]
pub(crate) fn to_f64(dtype: Dtype, bytes: &[u8], big_endian: bool) -> Option<Vec<f64>> {
    match dtype {
        Dtype::F64 => Some(decode(bytes, big_endian, f64::from_le_bytes)),
        Dtype::I64 => exact(&decode(bytes, big_endian, i64::from_le_bytes)),
        Dtype::U64 => exact(&decode(bytes, big_endian, |b| i128::from(u64::from_le_bytes(b)))),
        Dtype::I32 | Dtype::U32 => integers(dtype, bytes, big_endian, |v| v as f64),
        // The others fit f32.
        _ => to_f32(dtype, bytes, big_endian).map(|values| values.into_iter().map(f64::from).collect()),
    }
}

/// Integers as `f64`, if all fit.
#[cfg(feature = "datasets")]
fn exact<T: Copy + Into<i128>>(values: &[T]) -> Option<Vec<f64>> {
    let each = |&v: &T| Some(v.into()).filter(|v| v.unsigned_abs() <= 1 << 53).map(|v: i128| v as f64);
    values.iter().map(each).collect()
}

/// The first number of `f64` that is finite and becomes infinite as `f32`.
#[cfg(feature = "datasets")]
pub(crate) fn first_overflow(values: &[f64]) -> Option<(usize, f64)> {
    values.iter().copied().enumerate().find(|(_, v)| v.is_finite() && (*v as f32).is_infinite())
}

/// The little-endian integers in `bytes`; `None` for floats and `u64`, which do not all fit.
pub(crate) fn to_i64(dtype: Dtype, bytes: &[u8]) -> Option<Vec<i64>> {
    integers(dtype, bytes, false, |v| v)
}

fn integers<T>(dtype: Dtype, bytes: &[u8], big_endian: bool, convert: impl Fn(i64) -> T) -> Option<Vec<T>> {
    Some(match dtype {
        Dtype::BOOL => decode(bytes, big_endian, |[b]| convert((b != 0).into())),
        Dtype::I8 => decode(bytes, big_endian, |b| convert(i8::from_le_bytes(b).into())),
        Dtype::I16 => decode(bytes, big_endian, |b| convert(i16::from_le_bytes(b).into())),
        Dtype::I32 => decode(bytes, big_endian, |b| convert(i32::from_le_bytes(b).into())),
        Dtype::I64 => decode(bytes, big_endian, |b| convert(i64::from_le_bytes(b))),
        Dtype::U8 => decode(bytes, big_endian, |b| convert(u8::from_le_bytes(b).into())),
        Dtype::U16 => decode(bytes, big_endian, |b| convert(u16::from_le_bytes(b).into())),
        Dtype::U32 => decode(bytes, big_endian, |b| convert(u32::from_le_bytes(b).into())),
        _ => return None,
    })
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
pub(crate) fn byte_count(shape: &[usize], dtype: Dtype) -> Option<usize> {
    let bytes = shape.iter().try_fold(dtype.bitsize() / 8, |n, &d| n.checked_mul(d.max(1)))?;
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
    fn every_number_type_converts_in_both_byte_orders() {
        let f32s = |dtype, bytes: &[u8], big_endian| to_f32(dtype, bytes, big_endian).unwrap();
        assert_eq!(f32s(Dtype::F16, &[0x00, 0x3e], false), [1.5]);
        assert_eq!(f32s(Dtype::F16, &[0x3e, 0x00], true), [1.5]);
        assert_eq!(f32s(Dtype::BF16, &[0xc0, 0x3f], false), [1.5]);
        assert_eq!(f32s(Dtype::F32, &1.5f32.to_be_bytes(), true), [1.5]);
        assert_eq!(f32s(Dtype::F64, &(-2.25f64).to_le_bytes(), false), [-2.25]);
        assert_eq!(f32s(Dtype::I16, &(-7i16).to_be_bytes(), true), [-7.0]);
        assert_eq!(f32s(Dtype::U64, &3u64.to_le_bytes(), false), [3.0]);
        assert_eq!(f32s(Dtype::BOOL, &[0, 1, 255], false), [0.0, 1.0, 1.0]);
        assert_eq!(to_i64(Dtype::I64, &i64::MIN.to_le_bytes()), Some(vec![i64::MIN]));
        assert_eq!(to_i64(Dtype::U8, &[200]), Some(vec![200]));
        assert_eq!(to_i64(Dtype::F32, &[0; 4]), None);
    }

    #[test]
    #[cfg(feature = "datasets")]
    fn wide_numbers_are_not_rounded() {
        assert_eq!(to_f64(Dtype::F64, &(1.0 + 1e-9f64).to_le_bytes(), false), Some(vec![1.0 + 1e-9]));
        assert_eq!(to_f64(Dtype::I64, &((1i64 << 24) + 1).to_be_bytes(), true), Some(vec![16_777_217.0]));
        assert_eq!(to_f64(Dtype::U32, &u32::MAX.to_le_bytes(), false), Some(vec![4_294_967_295.0]));
        assert_eq!(to_f64(Dtype::I64, &((1i64 << 53) + 1).to_le_bytes(), false), None);
        assert_eq!(to_f64(Dtype::U64, &u64::MAX.to_le_bytes(), false), None);
        assert_eq!(first_overflow(&[1e38, f64::INFINITY, -1e300]), Some((2, -1e300)));
    }

    #[test]
    fn byte_counts_do_not_overflow() {
        assert_eq!(byte_count(&[3, 4], Dtype::F64), Some(96));
        assert_eq!(byte_count(&[], Dtype::U8), Some(1));
        assert_eq!(byte_count(&[usize::MAX, 2], Dtype::U8), None);
        assert_eq!(byte_count(&[usize::MAX / 2], Dtype::F32), None);
        assert_eq!(byte_count(&[0, 9], Dtype::F32), Some(0));
        assert_eq!(byte_count(&[0, usize::MAX, 2], Dtype::F32), None);
    }
}
