//! The same as products of matrices, with the dot products of all pairs in memory.

use super::{BACKWARD, Output};
use crate::Result;
use crate::kernels::elementwise::binary::{self, Binary};
use crate::kernels::elementwise::permute::permute;
use crate::kernels::elementwise::unary::{self, Unary};
use crate::kernels::linear::matmul::product;
use crate::kernels::rows::{reduce, softmax};
use crate::tensor::Tensor;

/// Texts, rows, videos, frames with videos before rows, and back.
const BY_PAIR: [usize; 4] = [0, 2, 1, 3];

fn scale(x: &Tensor, scale: f32) -> Result<Tensor> {
    unary::forward(Unary::Affine { scale, shift: 0.0 }, x)
}

/// The scores; kept are x and y by pair, the matrix, m, p, and p times the matrix.
pub(super) fn forward(x: &Tensor, y: &Tensor, matrix: &Tensor, inverse: f32) -> Result<Output> {
    let (x, y) = (permute(x, &BY_PAIR)?, permute(y, &BY_PAIR)?);
    let m = product(&x, &y, false, true)?;
    let p = softmax::softmax(&scale(&m, inverse)?, 1.0, None)?;
    let q = product(&p, matrix, false, false)?;
    let scores = reduce::sum(&binary::forward(Binary::Mul, &q, &m)?, 3)?;
    Ok(Output { scores, kept: vec![x, y, matrix.clone(), m, p, q] })
}

/// The gradients of x, y and the matrix.
pub(super) fn backward(
    upstream: &Tensor,
    [x, y, matrix, m, p, q]: [&Tensor; 6],
    inverse: f32,
    [for_x, for_y, for_matrix]: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    upstream.expect_shape(BACKWARD, "upstream", &m.shape()[..3])?;
    let g = reduce::expand(upstream, 3, m.width(), 1.0)?;
    let dq = binary::forward(Binary::Mul, &g, m)?;
    let of_matrix = || reduce::sum_to(&product(p, &dq, true, false)?, matrix.shape(), 1.0);
    let dmatrix = for_matrix.then(of_matrix).transpose()?;
    if !(for_x || for_y) {
        return Ok([None, None, dmatrix]);
    }
    let dp = product(&dq, matrix, false, true)?;
    let through_softmax = scale(&softmax::softmax_backward(p, &dp, 1.0)?, inverse)?;
    let dm = binary::forward(Binary::Add, &binary::forward(Binary::Mul, &g, q)?, &through_softmax)?;
    let dx = for_x.then(|| permute(&product(&dm, y, false, false)?, &BY_PAIR)).transpose()?;
    let dy = for_y.then(|| permute(&product(&dm, x, true, false)?, &BY_PAIR)).transpose()?;
    Ok([dx, dy, dmatrix])
}
