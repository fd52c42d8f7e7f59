//! The sum of a vector as a scalar: the last stage of a loss.

use crate::Result;
use crate::gpu::KernelFamily;
use crate::kernels::rows::reduce;
use crate::kernels::shape::count_elements;
use crate::kernels::{lanes, launch};
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};

const WGSL: &str = include_str!("../../../shaders/loss/total.wgsl");

params! {
    struct Params { n: u32, scale: f32 }
}

fn variant(family: KernelFamily) -> Variant {
    Variant::own::<Params>("total", WGSL).all(lanes::defines(family))
}

pub(crate) fn variants() -> Vec<Variant> {
    lanes::FAMILIES.map(variant).to_vec()
}

/// The most elements that one workgroup sums.
const SHORT: usize = 1 << 14;

/// `scale` times the sum of x's elements, as a scalar of shape `[]`; 0 of an empty x. The order of the sum is fixed.
/// One workgroup sums the short vectors that the first stage of a loss leaves.
///
/// # Errors
/// [`crate::Error::DType`] unless x is f32; device errors.
pub fn forward(op: &'static str, x: &Tensor, scale: f32) -> Result<Tensor> {
    x.expect_dtype(op, "x", DType::F32)?;
    count_elements(op, x.shape())?;
    if x.is_empty() {
        return Tensor::zeros(x.gpu(), op, []);
    }
    if x.len() > SHORT {
        return reduce::sum_to(x, &[], scale);
    }
    let y = Tensor::uninit(x.gpu(), op, [])?;
    let params = Params { n: x.len() as u32, scale };
    launch(op, &variant(x.gpu().family()), &[x, &y], &params, [1, 1, 1], 0)?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gpus, noise, poisoned};

    #[test]
    fn sums_equal_the_hosts() {
        for gpu in gpus() {
            for n in [0usize, 1, 7, 8, 9, 63, 64, 65, 1009, SHORT, SHORT + 1] {
                let x = noise(n, 1);
                let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
                let y = forward("total", &poisoned(&gpu, &[n], &x), 0.5).unwrap();
                // One lane after another adds up to a quarter of them.
                assert_close(&y, &[0.5 * sum as f32], 1e-5, 1e-5 + 1e-6 * (n as f32).sqrt());
            }
        }
    }

    /// Software adapters end loops that are too long.
    #[test]
    fn long_vectors_are_summed_to_their_end() {
        for gpu in gpus() {
            let x = Tensor::from_slice(&gpu, [10_000_001], &vec![1.0; 10_000_001]).unwrap();
            assert_close(&forward("total", &x, 2.0).unwrap(), &[20_000_002.0], 0.0, 0.0);
        }
    }
}
