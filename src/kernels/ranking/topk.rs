//! The largest elements of each row.

use crate::Result;
use crate::gpu::KernelFamily;
use crate::kernels::ranking::select::{self, Each, Parts};
use crate::kernels::shape::count_elements;
use crate::kernels::{lanes, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};

const ROUNDS: &str = include_str!("../../../shaders/ranking/topk.wgsl");
const SELECT: &str = include_str!("../../../shaders/ranking/topk_select.wgsl");

/// The largest `k` that [`forward`] takes.
pub const MAX_K: usize = select::MAX_PICKED;

params! {
    struct RoundsParams { rows: u32, m: u32, k: u32 }
}

params! {
    struct SelectParams { rows: u32, m: u32, k: u32, room: u32, parts: u32, part_size: u32, longer_parts: u32 }
}

/// How a row is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// A round for each of the k; see `shaders/topk.wgsl`.
    Rounds,
    /// A radix select; see `shaders/topk_select.wgsl`. `merge`: among what was found in the parts of rows before.
    Select { merge: bool },
}

impl Search {
    /// The faster one. On software adapters it is rounds, until they take half of the 65,535 iterations that lavapipe
    /// allows an invocation; on GPUs, where a round waits for several barriers, rounds are for few of a short row.
    fn of(k: usize, m: usize, family: KernelFamily) -> Self {
        let rounds = match family {
            KernelFamily::Tiled => k <= 16 && m <= 1 << 14,
            KernelFamily::Subgroup { size } => {
                let lanes = size as usize;
                m.div_ceil(4 * lanes) + k * m.div_ceil(4 * lanes * lanes) <= 1 << 15
            }
        };
        if rounds { Self::Rounds } else { Self::Select { merge: false } }
    }
}

fn variant(search: Search, vec4: bool, family: KernelFamily) -> Variant {
    match search {
        Search::Rounds => Variant::own::<RoundsParams>("topk", ROUNDS).all(lanes::defines(family)).on("VEC4", vec4),
        Search::Select { merge } => {
            let variant = Variant::own::<SelectParams>("topk_select", SELECT).all(select::defines(family));
            variant.on("VEC4", vec4).on("MERGE", merge)
        }
    }
}

pub(crate) fn variants() -> Vec<Variant> {
    let searches = [Search::Rounds, Search::Select { merge: false }, Search::Select { merge: true }];
    let each = searches.into_iter().flat_map(|search| lanes::FAMILIES.map(|family| (search, family)));
    each.flat_map(|(search, family)| [false, true].map(|vec4| variant(search, vec4, family))).collect()
}

/// The `k` largest elements of each row of x (over the last dimension) and their indices (u32), both of x's shape with
/// `k` in place of the last extent. The order is total: value descending, then index ascending; NaN after all numbers.
///
/// # Errors
/// [`crate::Error::Argument`] if `k` exceeds [`MAX_K`] or the row, [`crate::Error::DType`] unless x is f32; device
/// errors.
pub fn forward(x: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    search(x, k, Search::of(k, x.width(), x.gpu().family()))
}

fn search(x: &Tensor, k: usize, search: Search) -> Result<(Tensor, Tensor)> {
    let op = "topk";
    x.expect_dtype(op, "x", DType::F32)?;
    let m = x.width();
    select::expect_k(op, "k", k, m)?;
    // The shaders step through a row by up to 4 * 64 * 64.
    count_elements(op, &[x.rows() + 1, m + (1 << 14)])?;
    let mut shape = x.shape().to_vec();
    match shape.last_mut() {
        Some(last) => *last = k,
        None => shape.push(k),
    }
    if x.rows() * k == 0 {
        return Ok((Tensor::uninit(x.gpu(), op, shape.clone())?, Tensor::uninit_of(x.gpu(), op, shape, DType::U32)?));
    }
    let (mut found, mut parts) = match search {
        Search::Rounds => (rounds(x, k)?, 1),
        Search::Select { .. } => select_parts(x, None, k)?,
    };
    while parts > 1 {
        (found, parts) = select_parts(&found.0, Some(&found.1), k)?;
    }
    let (values, indices) = found;
    Ok((values.reshape(shape.clone())?, indices.reshape(shape)?))
}

fn rounds(x: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    let op = "topk";
    let values = Tensor::uninit(x.gpu(), op, [x.rows(), k])?;
    let indices = Tensor::uninit_of(x.gpu(), op, [x.rows(), k], DType::U32)?;
    let params = RoundsParams { rows: x.rows() as u32, m: x.width() as u32, k: k as u32 };
    let variant = variant(Search::Rounds, x.width().is_multiple_of(4), x.gpu().family());
    launch(op, &variant, &[x, &values, &indices], &params, x.gpu().grid(x.rows()), 0)?;
    Ok((values, indices))
}

/// The `k` best of each part of each row, side by side, with their indices or what `sources` has there; and how many
/// parts there are.
fn select_parts(x: &Tensor, sources: Option<&Tensor>, k: usize) -> Result<((Tensor, Tensor), usize)> {
    let op = "topk";
    let (gpu, rows) = (x.gpu(), x.rows());
    let vec4 = x.width().is_multiple_of(4);
    let each = Each { entries: if vec4 { 4 } else { 1 }, steps: 1 };
    let parts = Parts::new(gpu.family(), rows, x.width() / each.entries, each, k);
    let values = Tensor::uninit(gpu, op, [rows, parts.count * k])?;
    let indices = Tensor::uninit_of(gpu, op, [rows, parts.count * k], DType::U32)?;
    let params = SelectParams {
        rows: rows as u32,
        m: x.width() as u32,
        k: k as u32,
        room: select::room(k),
        parts: parts.count as u32,
        part_size: parts.size,
        longer_parts: parts.longer,
    };
    let variant = variant(Search::Select { merge: sources.is_some() }, vec4, gpu.family());
    let tensors: Vec<&Tensor> = [x, &values, &indices].into_iter().chain(sources).collect();
    launch(op, &variant, &tensors, &params, gpu.grid(rows * parts.count), 0)?;
    Ok(((values, indices), parts.count))
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
    use crate::Error;
    use crate::kernels::testing::{gpus, noise, noise_tensor, poisoned};
    use crate::parity::golden;

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
                (2, 1023),
                (2, 1024),
                (2, 1025),
                (3, 4100),
                (1, 40_001),
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
                    let tensor = poisoned(&gpu, &[rows, m], &x);
                    for k in [1, 2, 10, m.min(64), 65, 129, m.min(1024)].into_iter().filter(|&k| k <= m) {
                        let expected: Vec<u32> = x.chunks(m).flat_map(|row| cpu::topk(row, k)).collect();
                        let picked: Vec<f32> =
                            expected.iter().enumerate().map(|(i, &at)| x[i / k * m + at as usize]).collect();
                        for how in [Search::of(k, m, gpu.family()), Search::Select { merge: false }] {
                            let (values, indices) = search(&tensor, k, how).unwrap();
                            assert_eq!(indices.to_u32().unwrap(), expected, "{rows} x {m}, k {k}, {how:?}");
                            assert_eq!(bits(&values.to_vec().unwrap()), bits(&picked));
                        }
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

    /// Software adapters end loops that are too long: what one invocation does must not grow with the row.
    #[test]
    fn long_rows_are_searched_to_their_end() {
        let gpu = &gpus()[0];
        let m = 1_200_001;
        let mut x = noise(m, 5);
        x[m - 1] = 2.0;
        let tensor = Tensor::from_slice(gpu, [1, m], &x).unwrap();
        for k in [2, 100, 1024] {
            assert_eq!(forward(&tensor, k).unwrap().1.to_u32().unwrap(), cpu::topk(&x, k), "k {k}");
        }
    }

    #[test]
    fn equals_the_reference() {
        for file in ["op-topk-k3", "op-topk-k7"] {
            let golden = golden::open(file);
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
            let x = noise_tensor(&gpu, &[2, 1025], 1);
            assert!(matches!(forward(&x, 1025), Err(Error::Argument { argument: "k", .. })));
            let empty = Tensor::from_slice(&gpu, [0, 3], &[]).unwrap();
            assert_eq!(forward(&empty, 2).unwrap().1.shape(), &[0, 2]);
            assert_eq!(forward(&x, 0).unwrap().0.shape(), &[2, 0]);
        }
    }
}
