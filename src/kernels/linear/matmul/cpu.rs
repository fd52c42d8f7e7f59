//! The same in plain Rust.

use crate::kernels::elementwise::unary::{Activation, Unary, cpu::value_and_derivative};

/// What to compute: extents, layouts and what follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// Batch, rows, columns and inner extent.
    pub extents: [usize; 4],
    /// Whether a is stored as `[k, m]`.
    pub transpose_a: bool,
    /// Whether b is stored as `[n, k]`.
    pub transpose_b: bool,
    /// Whether the batch shares one a.
    pub shared_a: bool,
    /// Whether the batch shares one b.
    pub shared_b: bool,
    /// The factor of the product.
    pub alpha: f32,
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// Of y's shape.
    pub residual: Option<&'a [f32]>,
}

/// y and what went into the activation, summed in f64.
pub fn forward(call: &Call, a: &[f32], b: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let [batch, m, n, k] = call.extents;
    let (mut y, mut pre_activation) = (Vec::new(), Vec::new());
    for z in 0..batch {
        let a = &a[if call.shared_a { 0 } else { z * m * k }..];
        let b = &b[if call.shared_b { 0 } else { z * k * n }..];
        let factors = |i: usize, j: usize, l: usize| {
            let a = if call.transpose_a { a[l * m + i] } else { a[i * k + l] };
            let b = if call.transpose_b { b[j * k + l] } else { b[l * n + j] };
            f64::from(a) * f64::from(b)
        };
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|l| factors(i, j, l)).sum();
                let pre = f64::from(call.alpha) * sum + call.bias.map_or(0.0, |v| v[j].into());
                let value = call.activation.map_or(pre, |f| value_and_derivative(Unary::Activation(f), pre).0);
                let residual = call.residual.map_or(0.0, |v| v[y.len()].into());
                y.push((value + residual) as f32);
                pre_activation.push(pre as f32);
            }
        }
    }
    (y, pre_activation)
}
