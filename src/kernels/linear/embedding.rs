//! Rows of a table by number, and their gradient, a sum over the uses of each row in a fixed order.

use crate::kernels::launch;
use crate::kernels::shape::{count_elements, expect_below, in_fours};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor, expect_product};
use crate::{Error, Result};

const GATHER: &str = include_str!("../../../shaders/linear/embedding.wgsl");
const SUM: &str = include_str!("../../../shaders/linear/embedding_sum.wgsl");

/// The most rows that one invocation sums: more, such as those of a padding id, are summed in stages.
const PIECE: usize = 64;

params! {
    struct GatherParams { count: u32, width: u32, first: u32, rows: u32 }
}

params! {
    struct SumParams { count: u32, width: u32, targets: u32, first_sum: u32, first_row: u32 }
}

fn gather_variant(vec4: bool) -> Variant {
    Variant::own::<GatherParams>("embedding", GATHER).on("VEC4", vec4)
}

fn sum_variant(vec4: bool) -> Variant {
    Variant::own::<SumParams>("embedding_sum", SUM).on("VEC4", vec4)
}

pub(crate) fn variants() -> Vec<Variant> {
    [false, true].into_iter().flat_map(|vec4| [gather_variant(vec4), sum_variant(vec4)]).collect()
}

/// Rows `ids` of `table`, [V, D], in the order of `ids`: `shape` with D appended, where the product of `shape` is the
/// number of ids.
///
/// # Errors
/// [`Error::Shape`] unless the table has two axes and `shape` fits the ids; [`Error::IndexOutOfRange`] for an id beyond
/// the table; [`Error::DType`] unless the table is f32; [`Error::LimitExceeded`]; device errors.
pub fn forward(table: &Tensor, ids: &[u32], shape: &[usize]) -> Result<Tensor> {
    let op = "embedding";
    let [rows, width] = table.extents(op, "table", "[rows, channels]")?;
    expect_product(op, shape, ids.len())?;
    expect_below(op, ids, rows)?;
    count_elements(op, &[rows, width])?;
    count_elements(op, &[ids.len(), width])?;
    let gpu = table.gpu();
    let y = Tensor::uninit(gpu, op, [shape, &[width]].concat())?;
    if y.is_empty() {
        return Ok(y);
    }
    let ids = Tensor::from_u32(gpu, [ids.len()], ids)?;
    let (width, vec4) = in_fours(width);
    let count = ids.len() * width;
    // Of a table beyond a binding each part writes the rows that it has.
    for part in table.parts() {
        let (first, rows) = (part.start as u32, part.len() as u32);
        let params = GatherParams { count: count as u32, width: width as u32, first, rows };
        let tensors = [&table.rows_view(part)?, &ids, &y];
        launch(op, &gather_variant(vec4), &tensors, &params, gpu.grid(count.div_ceil(256)), 0)?;
    }
    Ok(y)
}

/// The gradient of a table of `rows` rows, [`rows`, D], from the gradient of the rows taken from it, [.., D]: row r is
/// the sum of those rows whose id is r, in a fixed order; zero where there is none.
///
/// # Errors
/// [`Error::Shape`] unless the gradient has as many rows as there are ids; otherwise as [`forward`].
pub fn backward(gradient: &Tensor, ids: &[u32], rows: usize) -> Result<Tensor> {
    let op = "embedding backward";
    gradient.expect_dtype(op, "gradient", DType::F32)?;
    let width = gradient.width();
    if gradient.shape().is_empty() || gradient.rows() != ids.len() {
        let expected = format!("[.., channels] of {} rows", ids.len());
        return Err(Error::shape(op, "gradient", expected, gradient.shape()));
    }
    expect_below(op, ids, rows)?;
    count_elements(op, &[rows, width])?;
    count_elements(op, &[ids.len(), width])?;
    let gpu = gradient.gpu();
    let table = Tensor::uninit(gpu, op, [rows, width])?;
    if table.is_empty() {
        return Ok(table);
    }
    let mut buckets = Buckets::new(ids, rows);
    if buckets.targets.len() < rows {
        table.fill_zero()?;
    }
    let mut source = gradient.clone();
    while buckets.longest() > PIECE {
        let (pieces, rest) = buckets.split();
        let partial = Tensor::uninit(gpu, op, [pieces.targets.len(), width])?;
        pieces.sum(&source, &partial)?;
        (source, buckets) = (partial, rest);
    }
    buckets.sum(&source, &table)?;
    Ok(table)
}

/// Which rows make up which sum: sum k is of rows `members[starts[k]..starts[k + 1]]` and becomes row `targets[k]`.
struct Buckets {
    starts: Vec<u32>,
    members: Vec<u32>,
    targets: Vec<u32>,
}

impl Buckets {
    /// The positions of each id that occurs, by a counting sort: ascending within a bucket.
    fn new(ids: &[u32], rows: usize) -> Self {
        let mut next = vec![0u32; rows];
        for &id in ids {
            next[id as usize] += 1;
        }
        let (mut starts, mut targets, mut end) = (vec![0], Vec::new(), 0);
        for (row, next) in next.iter_mut().enumerate().filter(|n| *n.1 > 0) {
            end += *next;
            *next = end - *next;
            starts.push(end);
            targets.push(row as u32);
        }
        let mut members = vec![0; ids.len()];
        for (position, &id) in ids.iter().enumerate() {
            let slot = &mut next[id as usize];
            members[*slot as usize] = position as u32;
            *slot += 1;
        }
        Self { starts, members, targets }
    }

    fn longest(&self) -> usize {
        self.starts.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
    }

    /// Cuts each bucket into pieces; what remains is to sum the pieces' sums.
    fn split(self) -> (Self, Self) {
        let (mut starts, mut rest_starts) = (vec![0], vec![0]);
        for bucket in self.starts.windows(2) {
            starts.extend((bucket[0]..bucket[1]).step_by(PIECE).skip(1));
            starts.push(bucket[1]);
            rest_starts.push(starts.len() as u32 - 1);
        }
        let count = starts.len() as u32 - 1;
        let pieces = Self { starts, members: self.members, targets: (0..count).collect() };
        (pieces, Self { starts: rest_starts, members: (0..count).collect(), targets: self.targets })
    }

    /// Writes the sums of rows of `from` to the target rows of `to`, which may be larger than a binding.
    fn sum(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        let gpu = from.gpu();
        // One upload: starts, as places in the plan; members; targets.
        let before = self.starts.len() as u32;
        let plan: Vec<u32> =
            self.starts.iter().map(|s| s + before).chain(self.members.iter().chain(&self.targets).copied()).collect();
        let targets = plan.len() - self.targets.len();
        let plan = Tensor::from_u32(gpu, [plan.len()], &plan)?;
        let (width, vec4) = in_fours(from.width());
        for part in to.parts() {
            // Targets ascend.
            let sums = [part.start, part.end].map(|row| self.targets.partition_point(|&t| (t as usize) < row));
            let params = SumParams {
                count: ((sums[1] - sums[0]) * width) as u32,
                width: width as u32,
                targets: targets as u32,
                first_sum: sums[0] as u32,
                first_row: part.start as u32,
            };
            let grid = gpu.grid((params.count as usize).div_ceil(64));
            let tensors = [from, &plan, &to.rows_view(part)?];
            launch("embedding backward", &sum_variant(vec4), &tensors, &params, grid, 0)?;
        }
        Ok(())
    }
}

/// The same in plain Rust.
pub mod cpu {
    /// As [`super::forward`], with rows of `width`.
    pub fn forward(table: &[f64], ids: &[u32], width: usize) -> Vec<f64> {
        ids.iter().flat_map(|&id| &table[id as usize * width..][..width]).copied().collect()
    }

    /// As [`super::backward`], with rows of `width`.
    pub fn backward(gradient: &[f64], ids: &[u32], width: usize, rows: usize) -> Vec<f64> {
        let mut table = vec![0.0; rows * width];
        for (i, g) in gradient.iter().enumerate() {
            table[ids[i / width] as usize * width + i % width] += g;
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{
        assert_close, assert_slices_close, differences, gpus, inner, noise, noise_tensor, to_f32, to_f64,
    };
    use crate::parity::golden;

    fn gather_rows(x: &Tensor, ids: &[u32]) -> Result<Tensor> {
        forward(x, ids, &[ids.len()])
    }

    /// Ids with repetitions, some rows never used; most ids are `common` where there is one.
    fn ids(count: usize, rows: usize, common: Option<u32>) -> Vec<u32> {
        (0..count)
            .map(|i| match common {
                Some(common) if i % 7 != 3 => common,
                _ => (i * 7919 % rows / 2 * 2) as u32,
            })
            .collect()
    }

    #[test]
    fn both_directions_equal_their_twins() {
        for gpu in gpus() {
            for width in [1, 3, 4, 64, 65, 300] {
                for (rows, count) in [(1, 1), (5, 1), (11, 18), (100, 64), (7, 65), (3, 1000)] {
                    for common in [None, Some(rows as u32 - 1)] {
                        let ids = ids(count, rows, common);
                        let (table, g) = (noise(rows * width, 1), noise(count * width, 2));
                        let y = gather_rows(&noise_tensor(&gpu, &[rows, width], 1), &ids).unwrap();
                        let expected = to_f32(&cpu::forward(&to_f64(&table), &ids, width));
                        assert_eq!(y.to_vec().unwrap(), expected);
                        let dtable = backward(&noise_tensor(&gpu, &[count, width], 2), &ids, rows).unwrap();
                        assert_eq!(dtable.shape(), [rows, width]);
                        let expected = to_f32(&cpu::backward(&to_f64(&g), &ids, width, rows));
                        assert_close(&dtable, &expected, 1e-5, 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn a_bucket_of_many_rows_takes_several_stages() {
        for gpu in gpus() {
            let count = PIECE * PIECE + 5;
            let mut ids = vec![2; count];
            ids[70] = 0;
            let g = noise_tensor(&gpu, &[count, 4], 3);
            let expected = to_f32(&cpu::backward(&to_f64(&noise(count * 4, 3)), &ids, 4, 4));
            let first = backward(&g, &ids, 4).unwrap();
            assert_close(&first, &expected, 1e-5, 1e-4);
            assert_eq!(first.to_vec().unwrap(), backward(&g, &ids, 4).unwrap().to_vec().unwrap());
        }
    }

    #[test]
    fn the_gradient_equals_finite_differences_of_the_twin() {
        let (rows, width, ids) = (5, 3, [4, 0, 4, 1, 4]);
        let (table, g) = (to_f64(&noise(rows * width, 1)), to_f64(&noise(ids.len() * width, 2)));
        let differences = differences(&table, |t| inner(&cpu::forward(t, &ids, width), &g));
        assert_slices_close(&to_f32(&cpu::backward(&g, &ids, width, rows)), &to_f32(&differences), 1e-6, 1e-7);
    }

    #[test]
    fn the_corners() {
        for gpu in gpus() {
            let table = noise_tensor(&gpu, &[5, 4], 1);
            assert_eq!(forward(&table, &[1, 2, 3, 4, 0, 0], &[2, 3]).unwrap().shape(), [2, 3, 4]);
            assert!(matches!(gather_rows(&table, &[0, 5, 9]), Err(Error::IndexOutOfRange { index: 5, len: 5, .. })));
            assert!(matches!(forward(&table, &[0, 1], &[3]), Err(Error::Shape { argument: "shape", .. })));
            assert!(matches!(forward(&noise_tensor(&gpu, &[5], 1), &[0], &[1]), Err(Error::Shape { .. })));
            let integers = Tensor::from_u32(&gpu, [1, 1], &[0]).unwrap();
            assert!(matches!(gather_rows(&integers, &[0]), Err(Error::DType { .. })));
            let g = noise_tensor(&gpu, &[2, 4], 1);
            assert!(matches!(backward(&g, &[0], 5), Err(Error::Shape { argument: "gradient", .. })));
            assert!(matches!(backward(&g, &[0, 5], 5), Err(Error::IndexOutOfRange { .. })));
            assert_eq!(gather_rows(&table, &[]).unwrap().shape(), [0, 4]);
            let none = Tensor::zeros(&gpu, "test", [0, 4]).unwrap();
            assert_eq!(backward(&none, &[], 3).unwrap().to_vec().unwrap(), [0.0; 12]);
            assert_eq!(gather_rows(&Tensor::zeros(&gpu, "test", [3, 0]).unwrap(), &[1, 2]).unwrap().shape(), [2, 0]);
            assert_eq!(backward(&none, &[], 0).unwrap().shape(), [0, 4]);
        }
    }

    #[test]
    fn golden() {
        let golden = golden::open("op-embedding-repeated");
        let (shape, ids) = (golden.shape("input.ids"), golden.u32("input.ids"));
        for gpu in gpus() {
            let table = golden.upload(&gpu, "input.table");
            let y = forward(&table, &ids, shape).unwrap();
            golden.check("output.y", &y.to_vec().unwrap());
            golden.check_loss(&y.to_vec().unwrap());
            let dtable = backward(&golden.upload(&gpu, "input.cotangent"), &ids, table.shape()[0]).unwrap();
            golden.check("grad_input.table", &dtable.to_vec().unwrap());
        }
    }
}
