//! What the kernels' tests share.

#[path = "../../tests/common/gpus.rs"]
mod devices;

pub(crate) use devices::{builder, gpus};

use crate::gpu::Gpu;
use crate::tensor::Tensor;

/// Asserts |got - expected| <= atol + rtol |expected| for every element.
#[track_caller]
pub(crate) fn assert_close(got: &Tensor, expected: &[f32], rtol: f32, atol: f32) {
    let values = got.to_vec().expect("the device answers");
    assert_slices_close(&values, expected, rtol, atol);
}

/// As [`assert_close`], on host values.
#[track_caller]
pub(crate) fn assert_slices_close(got: &[f32], expected: &[f32], rtol: f32, atol: f32) {
    assert_eq!(got.len(), expected.len(), "lengths differ");
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let bound = atol + rtol * e.abs();
        assert!((g - e).abs() <= bound, "element {i}: got {g}, expected {e}, off by {} > {bound}", (g - e).abs());
    }
}

/// Deterministic values in about [-1, 1).
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// An uploaded tensor of [`noise`].
pub(crate) fn noise_tensor(gpu: &Gpu, shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_slice(gpu, shape, &noise(shape.iter().product(), seed)).expect("the device has room")
}

/// A tensor with NaN right behind its end, as a pooled buffer may hold: what reads beyond the end shows.
pub(crate) fn poisoned(gpu: &Gpu, shape: &[usize], data: &[f32]) -> Tensor {
    let padded = [data, &[f32::NAN; 300]].concat();
    let whole = Tensor::from_slice(gpu, [padded.len()], &padded).expect("the device has room");
    whole.view(0, shape).expect("the shape fits the data")
}

/// As [`poisoned`], of halves.
pub(crate) fn poisoned_halves(gpu: &Gpu, shape: &[usize], data: &[f32]) -> Tensor {
    let padded = [data, &[f32::NAN; 300]].concat();
    let whole = Tensor::from_slice_f16(gpu, [padded.len()], &padded).expect("the device has room");
    whole.view(0, shape).expect("the shape fits the data")
}

/// Values that halves hold.
pub(crate) fn half_noise(n: usize, seed: u64) -> Vec<f32> {
    noise(n, seed).into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect()
}

/// The gradient of `f` at `x` by central differences.
pub(crate) fn differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut at = x.to_vec();
    (0..x.len())
        .map(|i| {
            let step = 1e-5 * x[i].abs().max(1.0);
            at[i] = x[i] + step;
            let above = f(&at);
            at[i] = x[i] - step;
            let below = f(&at);
            at[i] = x[i];
            (above - below) / (2.0 * step)
        })
        .collect()
}

/// Values as f64, for the twins.
pub(crate) fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

/// Values as f32, from the twins.
pub(crate) fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// `sum a b`: a loss with gradient b.
pub(crate) fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
