//! Exchanging the last two dimensions.

use bytemuck::{Pod, Zeroable};

use super::launch;
use crate::shader::Variant;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    n: u32,
    rows: u32,
    columns: u32,
}

fn variant() -> Variant {
    Variant::own("transpose", include_str!("../../shaders/transpose.wgsl"), vec![])
}

pub(super) fn variants() -> Vec<Variant> {
    vec![variant()]
}

/// x `[.., rows, columns]` as `[.., columns, rows]`.
///
/// # Errors
/// [`Error::Shape`] for fewer than two dimensions; [`Error::DType`] unless x is f32; device errors.
pub fn forward(x: &Tensor) -> Result<Tensor> {
    x.expect_dtype("transpose", "x", DType::F32)?;
    let mut shape = x.shape().to_vec();
    let &[.., rows, columns] = shape.as_slice() else {
        let expected = "[.., rows, columns]".into();
        return Err(Error::Shape { op: "transpose", argument: "x", expected, got: shape });
    };
    let rank = shape.len();
    shape.swap(rank - 2, rank - 1);
    if rows == 1 || columns == 1 {
        return x.reshape(shape);
    }
    let y = Tensor::uninit(x.gpu(), "transpose", shape)?;
    let n = u32::try_from(x.len()).map_err(|_| Error::LimitExceeded {
        op: "transpose",
        what: "elements",
        needed: x.len() as u64,
        limit: u32::MAX.into(),
        remedy: "split the batch",
    })?;
    let params = Params { n, rows: rows as u32, columns: columns as u32 };
    launch("transpose", &variant(), &[x, &y], &params, x.gpu().grid(x.len().div_ceil(64)), 0)?;
    Ok(y)
}

/// The same in plain Rust.
pub mod cpu {
    /// The transpose of a `[rows, columns]` matrix.
    pub fn forward(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|at| x[at % rows * columns + at / rows]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{gpus, noise, noise_tensor};

    #[test]
    fn equals_its_twin() {
        for gpu in gpus() {
            for (z, rows, columns) in [(1, 1, 7), (1, 7, 1), (1, 5, 3), (3, 31, 17), (2, 64, 64), (0, 3, 4), (2, 0, 4)]
            {
                let x = noise(z * rows * columns, 1);
                let y = forward(&noise_tensor(&gpu, &[z, rows, columns], 1)).unwrap();
                assert_eq!(y.shape(), [z, columns, rows]);
                let size = (rows * columns).max(1);
                let twin: Vec<f32> = x.chunks(size).flat_map(|x| cpu::forward(x, rows, columns)).collect();
                assert_eq!(y.to_vec().unwrap(), twin);
            }
            assert!(matches!(forward(&noise_tensor(&gpu, &[3], 1)), Err(Error::Shape { .. })));
        }
    }
}
