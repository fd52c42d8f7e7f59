//! The kernels: one `.rs` beside each family of shaders.
//!
//! Each module holds a kernel's variants, its parameters, the functions that launch it on [`Tensor`]s (they check shapes
//! and return typed errors), and in `cpu` its twin: the same in plain Rust, readable as the specification. Gradients
//! are functions here too; [`crate::autograd`] wires them to a tape.
//!
//! Adding a kernel: see CONTRIBUTING.md.

pub mod attention;
pub mod elementwise;
mod lanes;
pub mod linear;
pub mod loss;
#[cfg(test)]
mod nan_tests;
pub mod optimizer;
pub mod pooling;
pub mod ranking;
pub mod rows;
pub mod self_test;
mod shape;
pub mod similarity;
#[cfg(test)]
pub(crate) mod testing;
mod tile;

use std::collections::HashSet;
use std::sync::OnceLock;

use crate::gpu::{Gpu, Launch, status_variant};
use crate::kernels::shape::expect_at_most;
use crate::shader::{ShaderParams, Variant};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Every variant that the crate may compile; a test walks all of them offline.
pub fn variants() -> Vec<Variant> {
    [
        attention::variants(),
        elementwise::binary::variants(),
        elementwise::dropout::variants(),
        elementwise::permute::variants(),
        elementwise::unary::variants(),
        linear::conv1d::variants(),
        linear::embedding::variants(),
        linear::matmul::variants(),
        linear::patches::variants(),
        loss::cross_entropy::variants(),
        loss::hinge::variants(),
        loss::total::variants(),
        optimizer::variants(),
        pooling::variants(),
        ranking::nearest::variants(),
        ranking::pick::variants(),
        ranking::rank::variants(),
        ranking::topk::variants(),
        rows::l2_normalize::variants(),
        rows::layer_norm::variants(),
        rows::reduce::variants(),
        rows::softmax::variants(),
        similarity::aosm::variants(),
        similarity::gates::variants(),
        similarity::gathered::variants(),
        similarity::max_similarity::variants(),
        similarity::soft_similarity::variants(),
        similarity::spans::variants(),
        // With which a readback proves that the work before it was done.
        vec![status_variant()],
    ]
    .concat()
}

/// Whether `variant` is in [`variants`].
fn is_listed(variant: &Variant) -> bool {
    static LISTED: OnceLock<HashSet<Variant>> = OnceLock::new();
    LISTED.get_or_init(|| variants().into_iter().collect()).contains(variant)
}

/// How many iterations all loops of one invocation may take together: lavapipe ends every loop from there on, without a
/// word.
const MOST_ITERATIONS: usize = 65_535;

/// Lets an invocation of `op` loop for so many iterations.
///
/// # Errors
/// [`Error::LimitExceeded`] on a software adapter that would end its loops before.
fn expect_iterations(gpu: &Gpu, op: &'static str, iterations: usize) -> Result<()> {
    if !gpu.report().is_software() {
        return Ok(());
    }
    let what = "iterations of one invocation, as software adapters allow them";
    expect_at_most(op, what, iterations, MOST_ITERATIONS, "shorten the longest axis, or use a GPU")
}

/// 1 / `temperature`, as softmaxes want it.
///
/// # Errors
/// [`Error::Argument`] unless both are finite and above 0.
fn inverse_temperature(op: &'static str, temperature: f32) -> Result<f32> {
    let inverse = 1.0 / temperature;
    if temperature > 0.0 && temperature.is_finite() && inverse.is_normal() {
        return Ok(inverse);
    }
    let why = format!("of {temperature} is not above 0 and finite, or its inverse is no normal number");
    Err(Error::Argument { op, argument: "temperature", why })
}

/// Launches `variant` on whole tensors; all of them live on the GPU of the first.
pub(crate) fn launch<P: ShaderParams>(
    op: &'static str,
    variant: &Variant,
    tensors: &[&Tensor],
    params: &P,
    grid: [u32; 3],
    flops: u64,
) -> Result<()> {
    debug_assert!(
        !variant.trusted || is_listed(variant),
        "{} is not in the list that the offline test walks",
        variant.label()
    );
    debug_assert!(!variant.trusted || variant.params == P::LAYOUT, "{} has other parameters", variant.label());
    let Some(first) = tensors.first() else { return Ok(()) };
    let bindings: Vec<_> = tensors.iter().map(|t| t.binding()).collect();
    first.gpu().launch(Launch { op, variant, bindings: &bindings, params: bytemuck::bytes_of(params), grid, flops })
}
