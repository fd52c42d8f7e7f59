//! The gradients of attention.

use super::{
    Cut, MASK_DEFINES, Masks, Options, Output, Params, Sizes, check_dropout, dropout, expect_scores, specialise,
};
use crate::Result;
use crate::kernels::launch;
use crate::kernels::rows::reduce;
use crate::shader::{Variant, params};
use crate::tensor::{DType, Tensor};

const OP: &str = "attention backward";
const SUBGROUP: &str = include_str!("../../../shaders/attention/attention_backward_subgroup.wgsl");
const TILED: &str = include_str!("../../../shaders/attention/attention_backward_tiled.wgsl");
const DELTA: &str = include_str!("../../../shaders/attention/attention_delta.wgsl");

/// The gradients of attention's inputs, each of its input's shape.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Of the queries.
    pub q: Tensor,
    /// Of the keys.
    pub k: Tensor,
    /// Of the values.
    pub v: Tensor,
    /// Of the bias, where there is one and it was asked for; 0 where the key is forbidden.
    pub bias: Option<Tensor>,
}

/// Which gradients a kernel makes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Queries,
    QueriesAndScores,
    KeysAndValues,
}

fn variant(of: Of, cut: Cut, vec4: bool, mask: Option<&'static str>, dropout: bool) -> Variant {
    let (name, source) = match cut {
        Cut::Subgroup { .. } => ("attention_backward_subgroup", SUBGROUP),
        Cut::Tiled { .. } => ("attention_backward_tiled", TILED),
    };
    specialise(name, source, cut, vec4, mask, dropout)
        .on("SCORES", of == Of::QueriesAndScores)
        .on("KV", of == Of::KeysAndValues)
}

fn delta_variant(vec4: bool) -> Variant {
    Variant::own::<DeltaParams>("attention_delta", DELTA).on("VEC4", vec4)
}

pub(crate) fn variants() -> Vec<Variant> {
    let mut variants = vec![delta_variant(false), delta_variant(true)];
    let kinds = MASK_DEFINES
        .into_iter()
        .flat_map(|mask| [(Of::Queries, mask), (Of::KeysAndValues, mask)])
        .chain([(Of::QueriesAndScores, Some("BIAS"))]);
    for (of, mask) in kinds {
        for cut in Cut::all() {
            for vec4 in [false, true] {
                variants.extend([false, true].map(|dropout| variant(of, cut, vec4, mask, dropout)));
            }
        }
    }
    variants
}

params! {
    struct DeltaParams { n: u32, heads: u32, rows: u32, width: u32, row: [u32; 2] as [row_head, row_stride] }
}

/// The gradients from `dy`, the gradient of [`super::forward`]'s `output.y`; that of the bias only with `needs_bias`,
/// which takes memory for `[B, H, Tq, Tk]`. Equal bits in every run.
///
/// # Errors
/// As [`super::forward`].
pub fn backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    output: &Output,
    dy: &Tensor,
    needs_bias: bool,
    options: &Options<'_>,
) -> Result<Gradients> {
    let sizes = Sizes::check(OP, q, k, Some(v), options.layout)?;
    check_dropout(OP, &sizes, options)?;
    for (argument, tensor, shape) in [
        ("y", &output.y, q.shape()),
        ("lse", &output.lse, &[sizes.batch, sizes.heads, sizes.queries]),
        ("gradient", dy, q.shape()),
    ] {
        tensor.expect(OP, argument, DType::F32, shape)?;
    }
    let masks = Masks::new(OP, &sizes, options)?;
    let gpu = q.gpu();
    let bias = options.bias.filter(|_| needs_bias);
    if sizes.scores().contains(&0) {
        let zeros = |like: &Tensor| Tensor::zeros(gpu, OP, like.shape());
        return Ok(Gradients { q: zeros(q)?, k: zeros(k)?, v: zeros(v)?, bias: bias.map(zeros).transpose()? });
    }
    let stats = stats(&sizes, output, dy)?;
    let vec4 = sizes.width.is_multiple_of(4);
    let run = |of: Of, inputs: [&Tensor; 4], outputs: &[&Tensor], scores: Option<&Tensor>| {
        let kv = of == Of::KeysAndValues;
        let cut = Cut::new(gpu, &sizes, kv);
        cut.expect_iterations(OP, gpu, &sizes, kv)?;
        let variant = variant(of, cut, vec4, masks.define(), dropout(options).is_some());
        let params = Params::new(&sizes, options, &masks, kv, cut.tile());
        let tensors: Vec<&Tensor> = inputs
            .into_iter()
            .chain([&stats])
            .chain(outputs.iter().copied())
            .chain(masks.tensor())
            .chain(scores)
            .collect();
        let grid = gpu.grid(params.groups as usize);
        launch(OP, &variant, &tensors, &params, grid, sizes.flops(if kv { 4 } else { 3 }))
    };
    let gradient_like = |x: &Tensor| Tensor::uninit(gpu, OP, x.shape());
    let gradients = Gradients { q: gradient_like(q)?, k: gradient_like(k)?, v: gradient_like(v)?, bias: None };
    run(Of::KeysAndValues, [k, v, q, dy], &[&gradients.k, &gradients.v], None)?;
    let Some(bias) = bias else {
        run(Of::Queries, [q, dy, k, v], &[&gradients.q], None)?;
        return Ok(gradients);
    };
    expect_scores(OP, &sizes.scores())?;
    // Zeros, because the kernel passes over what causality forbids.
    let scores = Tensor::zeros(gpu, OP, sizes.scores())?;
    run(Of::QueriesAndScores, [q, dy, k, v], &[&gradients.q], Some(&scores))?;
    Ok(Gradients { bias: Some(reduce::sum_to(&scores, bias.shape(), 1.0)?), ..gradients })
}

/// `[B, H, Tq, 2]`: lse, and the sum of dy y.
fn stats(sizes: &Sizes, output: &Output, dy: &Tensor) -> Result<Tensor> {
    let gpu = dy.gpu();
    let stats = Tensor::uninit(gpu, OP, [sizes.batch, sizes.heads, sizes.queries, 2])?;
    let rows = sizes.pairs() * sizes.queries;
    let params = DeltaParams {
        n: rows as u32,
        heads: sizes.heads as u32,
        rows: sizes.queries as u32,
        width: sizes.units() as u32,
        row: sizes.strides(sizes.queries, sizes.units()),
    };
    let tensors = [&output.y, dy, &output.lse, &stats];
    launch(OP, &delta_variant(sizes.width.is_multiple_of(4)), &tensors, &params, gpu.grid(rows.div_ceil(64)), 0)?;
    Ok(stats)
}
