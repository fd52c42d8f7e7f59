//! Golden cases of single ops.

use super::golden::Case;
use super::run::Run;
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
    let mut run = Run::new(gpu, case);
    match case.text("op") {
        "bicnet_positional_table" => {
            let table = positional_table(case.size("positions")?, case.size("dim")?);
            Ok(Some(vec![case.row("output.table", &table)?]))
        }
        "topk" => top_k(&run).map(Some),
        "optimizer" => training::optimizer(gpu, case).map(Some),
        "lr_schedule" => training::schedule(case),
        "lr_plateau" => training::plateau(case).map(Some),
        _ => match composed::loss(&mut run)? {
            Some(loss) => {
                run.add("loss.total", &loss);
                run.finish(Some(&loss)).map(Some)
            }
            None => output(&mut run)?.map(|y| run.finish_weighted(&y)).transpose(),
        },
    }
}

/// The output that the file's cotangent is of; those beside it are added to `run`.
fn output(run: &mut Run<'_>) -> Result<Option<Var>> {
    let case = run.case;
    let eps = || case.number("eps").map(|eps| eps as f32);
    Ok(Some(match case.text("op") {
        "layer_norm" => {
            let norm = Norm::Biased { eps: eps()? };
            run.var("x")?.layer_norm(None, &run.var("weight")?, &run.var("bias")?, norm)?
        }
        "layer_norm_unbiased" => {
            let norm = Norm::Unbiased { eps: eps()? };
            run.var("x")?.layer_norm(None, &run.var("gain")?, &run.var("bias")?, norm)?
        }
        "softmax" => composed::masked(run)?.softmax()?,
        "log_softmax" => composed::masked(run)?.log_softmax()?,
        "logsumexp" => composed::masked(run)?.logsumexp()?,
        "gelu_erf" => run.var("x")?.activation(Activation::Gelu)?,
        "quick_gelu" => run.var("x")?.activation(Activation::QuickGelu)?,
        "relu" => run.var("x")?.activation(Activation::Relu)?,
        "sigmoid" => run.var("x")?.activation(Activation::Sigmoid)?,
        "tanh" => run.var("x")?.activation(Activation::Tanh)?,
        "softplus" => run.var("x")?.activation(Activation::Softplus)?,
        "l2_normalize" => {
            let (eps, added) = (eps()?, case.text("formula").contains("|| + eps"));
            run.var("x")?.normalize(if added { Divisor::Added { eps } } else { Divisor::Clamped { eps } })?
        }
        "linear" => {
            let bias = run.optional("bias")?;
            run.var("x")?.linear(&run.var("weight")?, bias.as_ref(), None, None)?
        }
        "matmul" => {
            let b = run.var(if case.has("input.w") { "w" } else { "b" })?;
            run.var("a")?.matmul_transposed(&b, case.flag("transpose_a"), case.flag("transpose_b"))?
        }
        "conv1d" => {
            let bias = run.optional("bias")?;
            run.var("x")?.conv1d(&run.var("weight")?, bias.as_ref(), case.size("stride")?, case.size("padding")?)?
        }
        "patch_embed" => {
            let y = run.var("x")?.patch_embed(&run.var("weight")?)?;
            run.optional("bias")?.map_or(Ok(y.clone()), |bias| y.add(&bias))?
        }
        "embedding" => {
            let (shape, ids) = case.ids("input.ids")?;
            run.var("table")?.embedding(&ids, &shape)?
        }
        "masked_mean" => run.var("x")?.masked_mean(Some(&run.tensor("mask")?))?,
        "masked_max" => run.var("x")?.masked_max(Some(&run.tensor("mask")?), Masked::Fill(-1e10))?,
        "cosine_matrix" => run.var("a")?.cosine_matrix(&run.var("b")?)?,
        "sdpa" => sdpa(run)?,
        "attention_pool" => attention_pool(run)?,
        "sum_mean_var" => composed::sum_mean_var(run)?,
        "aosm" => composed::aosm(run)?,
        "text_gated_pool" => composed::text_gated_pool(run)?,
        _ => return Ok(None),
    }))
}

fn sdpa(run: &mut Run<'_>) -> Result<Var> {
    let case = run.case;
    let (q, k, v) = (run.var("q")?, run.var("k")?, run.var("v")?);
    let scale = 1.0 / (q.value().width() as f32).sqrt();
    let mut options = AttentionOptions { scale, causal: case.flag("causal"), ..Default::default() };
    options.bias = run.optional("bias")?;
    if case.has("input.key_mask") {
        if case.text("mask") == "boolean" {
            options.key_mask = Some(run.tensor("key_mask")?);
        } else {
            let value = case.number("mask_value")? as f32;
            let mask = run.constant("key_mask", |m| (1.0 - m) * value)?;
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
    run.add("output.probs", &run.tape.constant(probabilities));
    Ok(y)
}

/// The pooled vectors and, for the per-channel form, the weights.
fn attention_pool(run: &mut Run<'_>) -> Result<Var> {
    let x = run.var("x")?;
    let &[batch, positions, width] = x.shape() else { return Err(run.case.misshaped("input.x")) };
    let mask = run.tensor("mask")?;
    if run.case.has("input.w1") {
        let (w1, b1, w2, b2) = (run.var("w1")?, run.var("b1")?, run.var("w2")?, run.var("b2")?);
        let (heads, hidden, out) = (w1.shape()[0], w1.shape()[2], w2.shape()[2]);
        let a = x.reshape([batch * positions, width])?.matmul(&w1)?.add(&b1.reshape([heads, 1, hidden])?)?;
        let a = a.activation(Activation::Gelu)?.matmul(&w2)?.add(&b2.reshape([heads, 1, out])?)?;
        let logits = a.permute(&[1, 0, 2])?.reshape([batch, positions, heads * out])?;
        let (y, weights) = x.attention_pool_weights(&logits, Some(&mask), Masked::Fill(-1e19), 0.0)?;
        run.add("output.weights", &weights);
        return Ok(y);
    }
    let w = run.var("w")?.reshape([width, 1])?;
    let logits = x.reshape([batch * positions, width])?.matmul(&w)?.reshape([batch, positions])?;
    let logits = run.arithmetic_mask(&logits, "mask", -1e10)?;
    x.attention_pool(&logits, None, 0.0)
}

fn top_k(run: &Run<'_>) -> Result<Vec<Row>> {
    let (values, indices): (Tensor, Tensor) = topk::forward(&run.tensor("x")?, run.case.size("k")?)?;
    Ok(vec![
        run.case.row("output.values", &values.to_vec()?)?,
        run.case.row_of_integers("output.indices", &indices.to_u32()?)?,
    ])
}
