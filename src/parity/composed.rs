//! Golden ops that are composed of several of the crate's: retrieval losses and text-guided poolings.

use super::Row;
use super::inputs::Inputs;
use crate::Result;
use crate::autograd::Var;

/// A scalar loss, and the intermediate result that the file also holds.
pub(super) fn loss(i: &mut Inputs<'_>) -> Result<(Var, Option<Var>)> {
    let case = i.case;
    Ok(match case.text("op") {
        "info_nce" => {
            let cosines = i.var("a")?.cosine_matrix(&i.var("b")?)?;
            let scores = cosines.mul(&i.var("logit_scale")?.exp()?)?;
            (scores.info_nce()?, Some(scores))
        }
        "triplet_hinge" => {
            let margin = case.number("margin")? as f32;
            (i.var("sim")?.hinge(margin, case.flag("max_violation"))?, None)
        }
        "cross_entropy" => {
            let x = i.var("x")?;
            let z = if case.has("input.mask") { i.arithmetic_mask(&x, "mask", -1e10)? } else { x };
            (z.cross_entropy(&case.ids("input.target")?.1)?, None)
        }
        "mil_nce" => (i.var("u")?.mil_nce()?, None),
        "pearson" => {
            let (a, b) = (i.var("a")?, i.var("b")?);
            (a.pearson(&b, case.number("alpha1")? as f32, 0.0)?, Some(a.correlations(&b)?))
        }
        "csc" => {
            let scores = i.var("scores")?;
            let batch = scores.value().width() as f32;
            (scores.score_consistency(batch * batch)?, None)
        }
        _ => (i.var("r")?.jensen_shannon(&i.tensor("pos")?, &i.tensor("mask")?)?, None),
    })
}

/// Cosines of every text (T, D) with every frame (V, F, D): (T, V, F).
fn frame_cosines(i: &mut Inputs<'_>) -> Result<(Var, Var, Var)> {
    let (t, f) = (i.var("t")?.l2_normalize(1e-12)?, i.var("f")?.l2_normalize(1e-12)?);
    let &[videos, frames, width] = f.shape() else { return Err(i.case.misshaped("input.f")) };
    let cosines = t.matmul_nt(&f.reshape([videos * frames, width])?)?;
    let texts = t.shape()[0];
    let cosines = cosines.reshape([texts, videos, frames])?;
    Ok((t, f, cosines))
}

/// weight_f = Σ_g softmax_g(x / τ) W[g, f], y = Σ_f x_f weight_f.
pub(super) fn aosm(i: &mut Inputs<'_>) -> Result<Var> {
    let (_, _, x) = frame_cosines(i)?;
    let temperature = i.case.number("temperature")? as f32;
    x.scale(1.0 / temperature)?.softmax()?.matmul(&i.var("w")?)?.mul(&x)?.sum(2)
}

/// g = softmax_f(x / τ), u = normalise(Σ_f g_f f̂_f), y = t̂ · u.
pub(super) fn text_gated_pool(i: &mut Inputs<'_>) -> Result<Var> {
    let (t, f, x) = frame_cosines(i)?;
    let gates = x.scale(1.0 / i.case.number("temperature")? as f32)?.softmax()?;
    // (V, T, F) (V, F, D) -> (V, T, D)
    let pooled = gates.permute(&[1, 0, 2])?.matmul(&f)?.l2_normalize(1e-12)?;
    pooled.mul(&t)?.sum(2)?.transpose()
}

/// The mean over the second axis; sum and unbiased variance over the last.
pub(super) fn sum_mean_var(mut inputs: Inputs<'_>) -> Result<Vec<Row>> {
    let x = inputs.var("x")?;
    let &[rows, columns, n] = x.shape() else { return Err(inputs.case.misshaped("input.x")) };
    let centred = x.sub(&x.mean(2)?.reshape([rows, columns, 1])?)?;
    let variance = centred.square()?.sum(2)?.scale(1.0 / (n as f32 - 1.0))?;
    inputs.finish(&[("y", x.mean(1)?), ("sum_last", x.sum(2)?), ("var_unbiased_last", variance)], None)
}
