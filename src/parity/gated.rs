//! Golden cases of EERCF and GLCCL: scores, losses and gradients from features on.

use super::Row;
use super::golden::Case;
use super::run::Run;
use crate::kernels::ranking::topk;
use crate::models::Model;
use crate::models::clip::TextFeatures;
use crate::models::clip4clip::{BaseConfig, VideoFeatures};
use crate::models::eercf::{Eercf, EercfConfig, HeadWeights};
use crate::models::glccl::{Glccl, GlcclConfig};
use crate::models::heads::{Head, weighted_sum};
use crate::models::towers::TowerModel;
use crate::{Gpu, Result};

/// What the official code adds to a candidate's score, so that it comes before all others.
const CANDIDATE: f32 = 100.0;

fn base(case: &Case, words: usize) -> Result<BaseConfig> {
    let renamed = [("dim", "joint"), ("num_heads", "temporal_heads")];
    let config = case.fields(&["frames", "temporal_layers", "frame_positions"], &renamed)?;
    Ok(BaseConfig { clip: None, words, ..config })
}

fn add_heads(run: &mut Run<'_>, heads: &[Head]) {
    heads.iter().for_each(|h| run.add(format!("output.{}", h.name), &h.scores));
}

fn eercf_config(case: &Case) -> Result<EercfConfig> {
    let number = |key: &str| case.number(key).map(|n| n as f32);
    let renamed = [
        ("weak_loss_weight", "weak_loss"),
        ("strong_loss_weight", "strong_loss"),
        ("cdcl_loss_weight", "pearson_loss"),
        ("pearson_alpha1", "pearson_diagonal"),
        ("pearson_alpha2", "pearson_others"),
    ];
    let temperatures = ["temperature_weak", "temperature_frame_gate", "temperature_patch_gate"];
    Ok(EercfConfig {
        base: base(case, 1)?,
        weights: HeadWeights {
            video: number("video_weight")?,
            frame_weak: number("weakframe_weight")?,
            patch_weak: number("weakpatch_weight")?,
            frame_strong: number("strongframe_weight")?,
            patch_strong: number("strongpatch_weight")?,
        },
        pearson_weights: [number("cdcl_video_weight")?, number("cdcl_frame_weight")?, number("cdcl_patch_weight")?],
        // The files hold the patches' strong scores whatever they weigh.
        gate_patches: true,
        ..case.fields(&temperatures, &renamed)?
    })
}

/// The rows of an `eercf-*` case.
pub(super) fn check_eercf(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let model = Eercf::new(gpu, eercf_config(case)?, 0)?;
    case.load(model.store())?;
    let mut run = Run::new(gpu, case);
    let (text, frames, patches) = (run.var("text")?, run.var("frames")?, run.var("patches")?);
    let mask = run.tensor("mask")?;
    let &[videos, count, each, width] = patches.shape() else {
        return Err(case.misshaped("input.patches"));
    };
    run.add("output.temporal_frames", &model.base().temporal(&frames, &mask)?);
    let rows = patches.reshape([videos, count * each, width])?;
    let videos = model.prepare_videos(&VideoFeatures { frames, mask, patches: Some(rows) })?;
    if case.text("mode") == "eval" {
        let texts = model.prepare_texts(&TextFeatures { sentence: text, words: None })?;
        return check_rerank(case, &model, run, model.compare(&texts, &videos)?);
    }
    let matched = model.matched(&text, &videos)?;
    let losses = model.losses(&text, &matched)?;
    let c = model.config();
    add_heads(&mut run, &matched.heads);
    let weights = c.weights.by_head();
    run.add("output.weak", &weighted_sum(&matched.heads, &weights[..3])?);
    run.add("output.strong", &weighted_sum(&matched.heads, &weights[3..])?);
    let unit = text.l2_normalize(0.0)?;
    let mut terms = Vec::new();
    for ((name, vectors), weight) in matched.vectors.iter().zip(c.pearson_weights) {
        let loss = unit.pearson(vectors, c.pearson_diagonal, c.pearson_others)?;
        run.add(format!("loss.pearson_{name}"), &loss);
        terms.push(loss.scale(weight));
    }
    if let Some(intra) = terms.into_iter().reduce(|sum, term| sum?.add(&term?)) {
        run.add("loss.intra", &intra?);
    }
    run.add("loss.weak", &losses.weak);
    run.add("loss.strong", &losses.strong);
    run.add("loss.inter", &losses.weak.scale(c.weak_loss)?.add(&losses.strong.scale(c.strong_loss)?)?);
    run.add("loss.total", &losses.total);
    run.finish_model(model.store(), Some(&losses.total))
}

/// Candidates of the first stage, and the matrix that the official second stage leaves.
fn check_rerank(case: &Case, model: &Eercf, mut run: Run<'_>, heads: Vec<Head>) -> Result<Vec<Row>> {
    let coarse = heads[0].scores.value().to_vec()?;
    let videos = heads[0].scores.value().width();
    let fine = weighted_sum(&heads, &model.config().rerank.by_head())?.value().to_vec()?;
    let mut rows = Vec::new();
    for k in case.config["rerank_topk"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64) {
        let mut candidates = topk::forward(heads[0].scores.value(), k as usize)?.1.to_u32()?;
        candidates.chunks_exact_mut(k as usize).for_each(<[u32]>::sort_unstable);
        rows.push(case.row_of_integers(&format!("output.candidates_top{k}"), &candidates)?);
        let mut scores = coarse.clone();
        for (text, ids) in candidates.chunks_exact(k as usize).enumerate() {
            for at in ids.iter().map(|&id| text * videos + id as usize) {
                scores[at] = CANDIDATE + fine[at];
            }
        }
        rows.push(case.row(&format!("output.rerank_top{k}"), &scores)?);
    }
    add_heads(&mut run, &heads);
    let done: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    // How far apart two scores are is no result.
    let is_new = |row: &Row| !done.contains(&row.name) && !row.name.starts_with("output.gap");
    rows.extend(run.finish(None)?.into_iter().filter(is_new));
    Ok(rows)
}

/// The rows of a `glccl-*` case.
pub(super) fn check_glccl(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let renamed = [
        ("aggregation_weights_type", "guide"),
        ("aggregation_temperature", "temperature"),
        ("csc_weight", "consistency_loss"),
    ];
    let base = base(case, case.size("words")?)?;
    let model = Glccl::new(gpu, GlcclConfig { base, ..case.fields(&["guide_temperature"], &renamed)? }, 0)?;
    case.load(model.store())?;
    let mut run = Run::new(gpu, case);
    let (frames, mask) = (run.var("frames")?, run.tensor("mask")?);
    let videos = model.prepare_videos(&VideoFeatures { frames, mask, patches: None })?;
    let texts = TextFeatures { sentence: run.var("sentence")?, words: Some(run.var("words")?) };
    let heads = model.compare(&model.prepare_texts(&texts)?, &videos)?;
    run.add("output.temporal_frames", &videos.frames);
    add_heads(&mut run, &heads);
    run.add("output.similarity", &model.similarity(&heads)?);
    if case.text("mode") == "eval" {
        return run.finish(None);
    }
    let losses = model.losses(&heads)?;
    run.add("loss.nce", &losses.contrast);
    if let Some(consistency) = &losses.consistency {
        run.add("loss.csc", consistency);
    }
    run.add("loss.total", &losses.total);
    run.finish_model(model.store(), Some(&losses.total))
}
