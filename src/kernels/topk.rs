//! The largest elements of each row.

use bytemuck::{Pod, Zeroable};

use super::{lanes, launch};
use crate::gpu::KernelFamily;
use crate::shader::Variant;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../shaders/topk.wgsl");

/// The largest `k` that [`forward`] takes.
pub const MAX_K: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    m: u32,
    k: u32,
}

fn variant(vec4: bool, family: KernelFamily) -> Variant {
    let mut defines = lanes::defines(family);
    if vec4 {
        defines.push(("VEC4", 1));
    }
    Variant::own("topk", WGSL, defines)
}

pub(super) fn variants() -> Vec<Variant> {
    lanes::FAMILIES.into_iter().flat_map(|family| [variant(false, family), variant(true, family)]).collect()
}

/// The `k` largest elements of each row of x (over the last dimension) and their indices (u32), both of x's shape with
/// `k` in place of the last extent. The order is total: value descending, then index ascending; NaN after all numbers.
///
/// # Errors
/// [`Error::Argument`] if `k` exceeds [`MAX_K`] or the row, [`Error::DType`] unless x is f32; device errors.
pub fn forward(x: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    let op = "topk";
    x.expect_dtype(op, "x", DType::F32)?;
    let m = x.width();
    if k > MAX_K || k > m {
        let why =
            format!("of {k} exceeds the {}", if k > m { format!("row's {m}") } else { format!("limit, {MAX_K}") });
        return Err(Error::Argument { op, argument: "k", why });
    }
    // The shader steps through a row by up to 4 * 64 * 64.
    lanes::expect_u32(op, &[x.rows() + 1, m + (1 << 14)])?;
    let rows = x.rows();
    let mut shape = x.shape().to_vec();
    match shape.last_mut() {
        Some(last) => *last = k,
        None => shape.push(k),
    }
    let values = Tensor::uninit(x.gpu(), op, shape.clone())?;
    let indices = Tensor::uninit_of(x.gpu(), op, shape, DType::U32)?;
    if !values.is_empty() {
        let params = Params { rows: rows as u32, m: m as u32, k: k as u32 };
        let variant = variant(m.is_multiple_of(4), x.gpu().family());
        launch(op, &variant, &[x, &values, &indices], &params, x.gpu().grid(rows), 0)?;
    }
    Ok((values, indices))
}

/// The same in plain Rust.
pub mod cpu {
    use std::cmp::Ordering;

    /// The indices of the `k` largest elements of a row, in order.
    pub fn topk(row: &[f32], k: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|&a, &b| {
            let (x, y) = (row[a as usize], row[b as usize]);
            let by_value = y.partial_cmp(&x).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()));
            if by_value == Ordering::Equal { a.cmp(&b) } else { by_value }
        });
        order.truncate(k);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::golden::Golden;
    use crate::kernels::testing::{gpus, noise, noise_tensor};

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn equals_sorting() {
        for gpu in gpus() {
            for (rows, m) in [
                (1usize, 1usize),
                (3, 3),
                (2, 31),
                (5, 32),
                (4, 33),
                (2, 255),
                (3, 256),
                (2, 257),
                (1, 3001),
                (70, 100),
            ] {
                for grain in [2.0f32, 1e6] {
                    let mut x: Vec<f32> = noise(rows * m, m as u64).iter().map(|v| (v * grain).round()).collect();
                    for (i, v) in x.iter_mut().enumerate() {
                        match i % 29 {
                            3 => *v = f32::NAN,
                            5 => *v = f32::NEG_INFINITY,
                            11 => *v = f32::INFINITY,
                            _ => {}
                        }
                    }
                    let tensor = lanes::poisoned(&gpu, &[rows, m], &x);
                    for k in [1, 2, 10, m.min(64)].into_iter().filter(|&k| k <= m) {
                        let (values, indices) = forward(&tensor, k).unwrap();
                        let expected: Vec<u32> = x.chunks(m).flat_map(|row| cpu::topk(row, k)).collect();
                        assert_eq!(indices.to_u32().unwrap(), expected, "{rows} x {m}, k {k}");
                        let picked: Vec<f32> =
                            expected.iter().enumerate().map(|(i, &at)| x[i / k * m + at as usize]).collect();
                        assert_eq!(bits(&values.to_vec().unwrap()), bits(&picked));
                    }
                }
            }
        }
    }

    #[test]
    fn more_rows_than_workgroups_in_one_dimension() {
        for gpu in gpus() {
            let (rows, m) = (66_001, 3);
            let x = noise(rows * m, 8);
            let (_, indices) = forward(&Tensor::from_slice(&gpu, [rows, m], &x).unwrap(), 1).unwrap();
            let expected: Vec<u32> = x.chunks(m).flat_map(|row| cpu::topk(row, 1)).collect();
            assert_eq!(indices.to_u32().unwrap(), expected);
        }
    }

    #[test]
    fn equals_the_reference() {
        for file in ["op-topk-k3", "op-topk-k7"] {
            let Some(golden) = Golden::open(file) else { return };
            let k = golden.config["k"].as_u64().unwrap() as usize;
            for gpu in gpus() {
                let x = Tensor::from_slice(&gpu, golden.shape("input.x"), &golden.f32("input.x")).unwrap();
                let (values, indices) = forward(&x, k).unwrap();
                assert_eq!(indices.to_u32().unwrap(), golden.u32("output.indices"));
                golden.check("output.values", &values.to_vec().unwrap());
            }
        }
    }

    #[test]
    fn wrong_arguments_are_errors() {
        for gpu in gpus() {
            let x = noise_tensor(&gpu, &[2, 3], 1);
            assert!(matches!(forward(&x, 4), Err(Error::Argument { argument: "k", .. })));
            let x = noise_tensor(&gpu, &[2, 65], 1);
            assert!(matches!(forward(&x, 65), Err(Error::Argument { argument: "k", .. })));
            let empty = Tensor::from_slice(&gpu, [0, 3], &[]).unwrap();
            assert_eq!(forward(&empty, 2).unwrap().1.shape(), &[0, 2]);
            assert_eq!(forward(&x, 0).unwrap().0.shape(), &[2, 0]);
        }
    }
}
