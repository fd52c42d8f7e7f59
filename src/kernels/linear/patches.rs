//! Images cut into patches, for the convolution with stride and size of a patch: it is a matmul of the patches.

use crate::kernels::launch;
use crate::kernels::shape::count_elements;
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const WGSL: &str = include_str!("../../../shaders/linear/patches.wgsl");

params! {
    struct Params {
        count: u32, channels: u32, height: u32, width: u32, patch_rows: u32, patch_columns: u32, grid_rows: u32,
        grid_columns: u32,
    }
}

fn variant(vec4: bool, fold: bool) -> Variant {
    Variant::own::<Params>("patches", WGSL).on("VEC4", vec4).on("FOLD", fold)
}

pub(crate) fn variants() -> Vec<Variant> {
    [false, true].into_iter().flat_map(|fold| [false, true].map(|vec4| variant(vec4, fold))).collect()
}

/// `patch` x `patch` pieces of images, [N, C, H, W], as rows: [N grid, C patch patch], grid = (H / patch) (W / patch),
/// row-major; less than a patch at the lower and right edge is left out. A convolution of stride `patch` with weight
/// [Wout, C, patch, patch] is the product with that weight as [Wout, C patch patch], transposed.
///
/// # Errors
/// [`Error::Shape`] unless the images have four axes; [`Error::Argument`] for a patch of 0; [`Error::DType`] unless
/// they are f32; device errors.
pub fn unfold(images: &Tensor, patch: usize) -> Result<Tensor> {
    let op = "unfold patches";
    images.expect_dtype(op, "images", DType::F32)?;
    let (params, shape, vec4) = plan(op, images.shape(), patch)?;
    let rows = Tensor::uninit(images.gpu(), op, shape)?;
    let count = rows.len() / if vec4 { 4 } else { 1 };
    let params = Params { count: count as u32, ..params };
    launch(op, &variant(vec4, false), &[images, &rows], &params, images.gpu().grid(count.div_ceil(64)), 0)?;
    Ok(rows)
}

/// Puts rows of [`unfold`] back into images of `shape` [N, C, H, W]; zero where no patch lies. Its gradient.
///
/// # Errors
/// As [`unfold`]; [`Error::Shape`] unless the rows are those of such images.
pub fn fold(rows: &Tensor, shape: &[usize], patch: usize) -> Result<Tensor> {
    let op = "fold patches";
    rows.expect_dtype(op, "rows", DType::F32)?;
    let (params, expected, vec4) = plan(op, shape, patch)?;
    rows.expect_shape(op, "rows", &expected)?;
    let images = Tensor::uninit(rows.gpu(), op, shape)?;
    let count = images.len() / if vec4 { 4 } else { 1 };
    let params = Params { count: count as u32, ..params };
    launch(op, &variant(vec4, true), &[rows, &images], &params, rows.gpu().grid(count.div_ceil(64)), 0)?;
    Ok(images)
}

/// Parameters but for the count, the shape of the rows, and whether four pixels can be read at once.
fn plan(op: &'static str, shape: &[usize], patch: usize) -> Result<(Params, [usize; 2], bool)> {
    let &[n, channels, height, width] = shape else {
        return Err(Error::shape(op, "images", "[images, channels, height, width]", shape));
    };
    if patch == 0 {
        return Err(Error::Argument { op, argument: "patch", why: "is 0".into() });
    }
    for extents in [[n, channels, height, width], [1, channels, patch, patch], [n, 1, height / patch, width / patch]] {
        count_elements(op, &extents)?;
    }
    let vec4 = patch.is_multiple_of(4) && width.is_multiple_of(4);
    let lanes = if vec4 { 4 } else { 1 };
    let params = Params {
        count: 0,
        channels: channels as u32,
        height: height as u32,
        width: (width / lanes) as u32,
        patch_rows: patch as u32,
        patch_columns: (patch / lanes) as u32,
        grid_rows: (height / patch) as u32,
        grid_columns: (width / patch) as u32,
    };
    Ok((params, [n * (height / patch) * (width / patch), channels * patch * patch], vec4))
}

/// The same in plain Rust.
pub mod cpu {
    /// For each element of the rows that [`super::unfold`] makes, its index in images of `shape`.
    pub fn indices(shape: [usize; 4], patch: usize) -> Vec<usize> {
        let [n, channels, height, width] = shape;
        let mut indices = Vec::new();
        let mut copy = |image: usize, i: usize, j: usize| {
            for c in 0..channels {
                for y in i * patch..(i + 1) * patch {
                    let line = ((image * channels + c) * height + y) * width;
                    indices.extend(line + j * patch..line + (j + 1) * patch);
                }
            }
        };
        for image in 0..n {
            for i in 0..height / patch {
                (0..width / patch).for_each(|j| copy(image, i, j));
            }
        }
        indices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{gpus, noise};
    use crate::parity::golden;

    #[test]
    fn patches_equal_their_twin() {
        for gpu in gpus() {
            for (shape, patch) in [
                ([1, 1, 1, 1], 1),
                ([2, 3, 8, 8], 4),
                ([2, 3, 6, 9], 3),
                ([3, 2, 11, 8], 4),
                ([1, 3, 7, 10], 4),
                ([2, 1, 28, 42], 14),
                ([1, 2, 3, 3], 4),
                ([0, 3, 8, 8], 4),
            ] {
                let count = shape.iter().product();
                let images = noise(count, 1);
                let indices = cpu::indices(shape, patch);
                let rows = unfold(&Tensor::from_slice(&gpu, shape, &images).unwrap(), patch).unwrap();
                let grid = (shape[2] / patch) * (shape[3] / patch);
                assert_eq!(rows.shape(), [shape[0] * grid, shape[1] * patch * patch]);
                let expected: Vec<f32> = indices.iter().map(|&i| images[i]).collect();
                assert_eq!(rows.to_vec().unwrap(), expected);
                let g = noise(indices.len(), 2);
                let mut expected = vec![0.0; count];
                indices.iter().zip(&g).for_each(|(&i, &g)| expected[i] += g);
                let g = Tensor::from_slice(&gpu, rows.shape(), &g).unwrap();
                assert_eq!(fold(&g, &shape, patch).unwrap().to_vec().unwrap(), expected);
            }
        }
    }

    #[test]
    fn golden_patch_embedding() {
        for (case, patch) in [("op-patch_embed-p4", 4), ("op-patch_embed-p8", 8)] {
            let golden = golden::open(case);
            let shape = golden.shape("input.x");
            let width = golden.shape("input.weight")[0];
            let w = golden.f32("input.weight");
            let g = golden.f32("input.cotangent");
            for gpu in gpus() {
                let rows = unfold(&golden.upload(&gpu, "input.x"), patch).unwrap();
                let (count, k) = (rows.rows(), rows.width());
                let values = rows.to_vec().unwrap();
                let mut y = vec![0.0; count * width];
                let (mut dw, mut drows) = (vec![0.0; w.len()], vec![0.0; values.len()]);
                for (i, y) in y.iter_mut().enumerate() {
                    let (r, o) = (i / width, i % width);
                    for c in 0..k {
                        *y += values[r * k + c] * w[o * k + c];
                        dw[o * k + c] += g[i] * values[r * k + c];
                        drows[r * k + c] += g[i] * w[o * k + c];
                    }
                }
                golden.check("output.y", &y);
                golden.check_loss(&y);
                golden.check("grad_input.weight", &dw);
                let drows = Tensor::from_slice(&gpu, rows.shape(), &drows).unwrap();
                golden.check("grad_input.x", &fold(&drows, shape, patch).unwrap().to_vec().unwrap());
            }
        }
    }
}
