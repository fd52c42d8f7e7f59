//! Golden cases of single ops.

use super::golden::Case;
use super::inputs::Inputs;
use super::{Row, composed, training};
use crate::autograd::{AttentionOptions, Var};
use crate::kernels::attention::{self, Keys, Layout, Options};
use crate::kernels::elementwise::unary::Activation;
use crate::kernels::pooling::Masked;
use crate::kernels::ranking::topk;
use crate::kernels::rows::l2_normalize::Divisor;
use crate::kernels::rows::layer_norm::Norm;
use crate::models::bicnet::positional_table;
use crate::tensor::Tensor;
use crate::{Gpu, Result};

/// The rows of an `op-*` case; `None` for an op or an option that is not known.
pub(super) fn check(gpu: &Gpu, case: &Case) -> Result<Option<Vec<Row>>> {
    let mut inputs = Inputs::new(case, gpu);
    let i = &mut inputs;
    match case.text("op") {
        "sdpa" => sdpa(inputs).map(Some),
        "attention_pool" => attention_pool(inputs).map(Some),
        "sum_mean_var" => composed::sum_mean_var(inputs).map(Some),
        "bicnet_positional_table" => {
            let table = positional_table(case.size("positions")?, case.size("dim")?);
            Ok(Some(vec![case.row("output.table", &table)?]))
        }
        "topk" => top_k(&inputs).map(Some),
        "optimizer" => training::optimizer(gpu, case).map(Some),
        "lr_schedule" => training::schedule(case),
        "lr_plateau" => training::plateau(case).map(Some),
        "info_nce" | "triplet_hinge" | "cross_entropy" | "mil_nce" | "pearson" | "csc" | "frame_cl_jsd" => {
            let (loss, y) = composed::loss(i)?;
            let outputs: Vec<(&str, Var)> = y.map(|y| ("y", y)).into_iter().collect();
            inputs.finish(&outputs, Some(loss)).map(Some)
        }
        _ => output(i)?.map(|y| inputs.finish(&[("y", y)], None)).transpose(),
    }
}

/// The only result of the other ops.
fn output(i: &mut Inputs<'_>) -> Result<Option<Var>> {
    let case = i.case;
    let eps = || case.number("eps").map(|eps| eps as f32);
    Ok(Some(match case.text("op") {
        "layer_norm" => {
            let norm = Norm::Biased { eps: eps()? };
            i.var("x")?.layer_norm(None, &i.var("weight")?, &i.var("bias")?, norm)?
        }
        "layer_norm_unbiased" => {
            let norm = Norm::Unbiased { eps: eps()? };
            i.var("x")?.layer_norm(None, &i.var("gain")?, &i.var("bias")?, norm)?
        }
        "softmax" => masked(i)?.softmax()?,
        "log_softmax" => masked(i)?.log_softmax()?,
        "logsumexp" => masked(i)?.logsumexp()?,
        "gelu_erf" => i.var("x")?.activation(Activation::Gelu)?,
        "quick_gelu" => i.var("x")?.activation(Activation::QuickGelu)?,
        "relu" => i.var("x")?.activation(Activation::Relu)?,
        "sigmoid" => i.var("x")?.activation(Activation::Sigmoid)?,
        "tanh" => i.var("x")?.activation(Activation::Tanh)?,
        "softplus" => i.var("x")?.activation(Activation::Softplus)?,
        "l2_normalize" => {
            let (eps, added) = (eps()?, case.text("formula").contains("|| + eps"));
            i.var("x")?.normalize(if added { Divisor::Added { eps } } else { Divisor::Clamped { eps } })?
        }
        "linear" => {
            let bias = i.optional("bias")?;
            i.var("x")?.linear(&i.var("weight")?, bias.as_ref(), None, None)?
        }
        "matmul" => {
            let b = i.var(if case.has("input.w") { "w" } else { "b" })?;
            i.var("a")?.matmul_transposed(&b, case.flag("transpose_a"), case.flag("transpose_b"))?
        }
        "conv1d" => {
            let bias = i.optional("bias")?;
            i.var("x")?.conv1d(&i.var("weight")?, bias.as_ref(), case.size("stride")?, case.size("padding")?)?
        }
        "patch_embed" => {
            let y = i.var("x")?.patch_embed(&i.var("weight")?)?;
            i.optional("bias")?.map_or(Ok(y.clone()), |bias| y.add(&bias))?
        }
        "embedding" => {
            let (shape, ids) = case.ids("input.ids")?;
            i.var("table")?.embedding(&ids, &shape)?
        }
        "masked_mean" => i.var("x")?.masked_mean(Some(&i.tensor("mask")?))?,
        "masked_max" => i.var("x")?.masked_max(Some(&i.tensor("mask")?), Masked::Fill(-1e10))?,
        "cosine_matrix" => i.var("a")?.cosine_matrix(&i.var("b")?)?,
        "aosm" => composed::aosm(i)?,
        "text_gated_pool" => composed::text_gated_pool(i)?,
        _ => return Ok(None),
    }))
}

/// x, with the arithmetic of -1e10 where the case has a mask.
fn masked(i: &mut Inputs<'_>) -> Result<Var> {
    let x = i.var("x")?;
    if i.case.has("input.mask") { i.arithmetic_mask(&x, "mask", -1e10) } else { Ok(x) }
}

fn sdpa(mut inputs: Inputs<'_>) -> Result<Vec<Row>> {
    let i = &mut inputs;
    let case = i.case;
    let (q, k, v) = (i.var("q")?, i.var("k")?, i.var("v")?);
    let scale = 1.0 / (q.value().width() as f32).sqrt();
    let mut options = AttentionOptions { scale, causal: case.flag("causal"), ..Default::default() };
    options.bias = i.optional("bias")?;
    if case.has("input.key_mask") {
        if case.text("mask") == "boolean" {
            options.key_mask = Some(i.tensor("key_mask")?);
        } else {
            let value = case.number("mask_value")? as f32;
            let mask = i.constant("key_mask", |m| (1.0 - m) * value)?;
            let mask = mask.reshape([k.shape()[0], 1, 1, k.shape()[2]])?;
            options.bias = Some(match &options.bias {
                Some(bias) => bias.add(&mask)?,
                None => mask,
            });
        }
    }
    let y = q.attention(&k, &v, &options)?;
    let keys = options.key_mask.as_ref().map_or(Keys::All, Keys::Mask);
    let bias = options.bias.as_ref().map(Var::value);
    let plain = Options { layout: Layout::HeadsFirst, scale, causal: options.causal, keys, bias, dropout: None };
    let output = attention::forward(q.value(), k.value(), v.value(), &plain)?;
    let probabilities = attention::probabilities(q.value(), k.value(), &output.lse, &plain)?;
    let probabilities = i.tape.constant(probabilities);
    inputs.finish(&[("y", y), ("probs", probabilities)], None)
}

/// The pooled vectors and, for the per-channel form, the weights.
fn attention_pool(mut inputs: Inputs<'_>) -> Result<Vec<Row>> {
    let i = &mut inputs;
    let x = i.var("x")?;
    let &[batch, positions, width] = x.shape() else { return Err(i.case.misshaped("input.x")) };
    let mask = i.tensor("mask")?;
    if i.case.has("input.w1") {
        let (w1, b1, w2, b2) = (i.var("w1")?, i.var("b1")?, i.var("w2")?, i.var("b2")?);
        let (heads, hidden, out) = (w1.shape()[0], w1.shape()[2], w2.shape()[2]);
        let a = x.reshape([batch * positions, width])?.matmul(&w1)?.add(&b1.reshape([heads, 1, hidden])?)?;
        let a = a.activation(Activation::Gelu)?.matmul(&w2)?.add(&b2.reshape([heads, 1, out])?)?;
        let logits = a.permute(&[1, 0, 2])?.reshape([batch, positions, heads * out])?;
        let (y, weights) = x.attention_pool_weights(&logits, Some(&mask), Masked::Fill(-1e19), 0.0)?;
        return inputs.finish(&[("y", y), ("weights", weights)], None);
    }
    let w = i.var("w")?.reshape([width, 1])?;
    let logits = x.reshape([batch * positions, width])?.matmul(&w)?.reshape([batch, positions])?;
    let logits = i.arithmetic_mask(&logits, "mask", -1e10)?;
    let y = x.attention_pool(&logits, None, 0.0)?;
    inputs.finish(&[("y", y)], None)
}

fn top_k(i: &Inputs<'_>) -> Result<Vec<Row>> {
    let (values, indices): (Tensor, Tensor) = topk::forward(&i.tensor("x")?, i.case.size("k")?)?;
    Ok(vec![
        i.case.row("output.values", &values.to_vec()?)?,
        i.case.row_of_integers("output.indices", &indices.to_u32()?)?,
    ])
}
