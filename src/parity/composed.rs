//! Golden ops that are composed of several of the crate's: retrieval losses and text-guided poolings.

use super::run::Run;
use crate::Result;
use crate::autograd::Var;

/// The scalar that a loss gives; `None` for other ops.
pub(super) fn loss(run: &mut Run<'_>) -> Result<Option<Var>> {
    let case = run.case;
    Ok(Some(match case.text("op") {
        "info_nce" => {
            let cosines = run.var("a")?.cosine_matrix(&run.var("b")?)?;
            let scores = cosines.mul(&run.var("logit_scale")?.exp()?)?;
            run.add("output.y", &scores);
            scores.info_nce()?
        }
        "triplet_hinge" => {
            let margin = case.number("margin")? as f32;
            run.var("sim")?.hinge(margin, case.flag("max_violation"))?
        }
        "cross_entropy" => masked(run)?.cross_entropy(&case.ids("input.target")?.1)?,
        "mil_nce" => run.var("u")?.mil_nce()?,
        "pearson" => {
            let (a, b) = (run.var("a")?, run.var("b")?);
            run.add("output.y", &a.correlations(&b)?);
            a.pearson(&b, case.number("alpha1")? as f32, 0.0)?
        }
        "csc" => {
            let scores = run.var("scores")?;
            let batch = scores.value().width() as f32;
            scores.score_consistency(batch * batch)?
        }
        "frame_cl_jsd" => run.var("r")?.jensen_shannon(&run.tensor("pos")?, &run.tensor("mask")?)?,
        _ => return Ok(None),
    }))
}

/// x, with the arithmetic of -1e10 where the case has a mask.
pub(super) fn masked(run: &mut Run<'_>) -> Result<Var> {
    let x = run.var("x")?;
    if run.case.has("input.mask") { run.arithmetic_mask(&x, "mask", -1e10) } else { Ok(x) }
}

/// Cosines of every text (T, D) with every frame (V, F, D): (T, V, F).
fn frame_cosines(run: &mut Run<'_>) -> Result<(Var, Var, Var)> {
    let (t, f) = (run.var("t")?.l2_normalize(1e-12)?, run.var("f")?.l2_normalize(1e-12)?);
    let &[videos, frames, width] = f.shape() else { return Err(run.case.misshaped("input.f")) };
    let cosines = t.matmul_nt(&f.reshape([videos * frames, width])?)?;
    let texts = t.shape()[0];
    let cosines = cosines.reshape([texts, videos, frames])?;
    Ok((t, f, cosines))
}

/// weight_f = Σ_g softmax_g(x / τ) W[g, f], y = Σ_f x_f weight_f.
pub(super) fn aosm(run: &mut Run<'_>) -> Result<Var> {
    let (_, _, x) = frame_cosines(run)?;
    let temperature = run.case.number("temperature")? as f32;
    x.scale(1.0 / temperature)?.softmax()?.matmul(&run.var("w")?)?.mul(&x)?.sum(2)
}

/// g = softmax_f(x / τ), u = normalise(Σ_f g_f f̂_f), y = t̂ · u.
pub(super) fn text_gated_pool(run: &mut Run<'_>) -> Result<Var> {
    let (t, f, x) = frame_cosines(run)?;
    let gates = x.scale(1.0 / run.case.number("temperature")? as f32)?.softmax()?;
    // (V, T, F) (V, F, D) -> (V, T, D)
    let pooled = gates.permute(&[1, 0, 2])?.matmul(&f)?.l2_normalize(1e-12)?;
    pooled.mul(&t)?.sum(2)?.transpose()
}

/// The mean over axis 1; beside it the sum and the unbiased variance over the last.
pub(super) fn sum_mean_var(run: &mut Run<'_>) -> Result<Var> {
    let x = run.var("x")?;
    let &[first, second, width] = x.shape() else { return Err(run.case.misshaped("input.x")) };
    let squares = x.sub(&x.mean(2)?.reshape([first, second, 1])?)?.square()?.sum(2)?;
    run.add("output.sum_last", &x.sum(2)?);
    run.add("output.var_unbiased_last", &squares.scale(1.0 / (width as f32 - 1.0))?);
    x.mean(1)
}
