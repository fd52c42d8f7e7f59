//! Golden cases of EERCF and GLCCL: scores, losses and gradients from features on.

use super::Row;
use super::golden::Case;
use super::run::Run;
use crate::autograd::Var;
use crate::kernels::ranking::topk;
use crate::models::Model;
use crate::models::clip::TextFeatures;
use crate::models::clip4clip::{BaseConfig, VideoFeatures};
use crate::models::eercf::{Eercf, EercfConfig, HeadWeights};
use crate::models::glccl::{Glccl, GlcclConfig, Guide};
use crate::models::heads::{Head, weighted_sum};
use crate::models::towers::TowerModel;
use crate::{Error, Gpu, Result};

/// What the official code adds to a candidate's score, so that it comes before all others.
const CANDIDATE: f32 = 100.0;

fn base(case: &Case, words: usize) -> Result<BaseConfig> {
    Ok(BaseConfig {
        clip: None,
        joint: case.size("dim")?,
        frames: case.size("frames")?,
        words,
        temporal_layers: case.size("temporal_layers")?,
        temporal_heads: case.size("num_heads")?,
        frame_positions: case.size("frame_positions")?,
        ..BaseConfig::default()
    })
}

fn add_heads(run: &mut Run<'_>, heads: &[Head]) {
    heads.iter().for_each(|h| run.add(format!("output.{}", h.name), &h.scores));
}

fn eercf_config(case: &Case) -> Result<EercfConfig> {
    let number = |key: &str| case.number(key).map(|n| n as f32);
    Ok(EercfConfig {
        base: base(case, 1)?,
        temperature_weak: number("temperature_weak")?,
        temperature_frame_gate: number("temperature_frame_gate")?,
        temperature_patch_gate: number("temperature_patch_gate")?,
        weights: HeadWeights {
            video: number("video_weight")?,
            frame_weak: number("weakframe_weight")?,
            patch_weak: number("weakpatch_weight")?,
            frame_strong: number("strongframe_weight")?,
            patch_strong: number("strongpatch_weight")?,
        },
        weak_loss: number("weak_loss_weight")?,
        strong_loss: number("strong_loss_weight")?,
        pearson_loss: number("cdcl_loss_weight")?,
        pearson_weights: [number("cdcl_video_weight")?, number("cdcl_frame_weight")?, number("cdcl_patch_weight")?],
        pearson_diagonal: number("pearson_alpha1")?,
        pearson_others: number("pearson_alpha2")?,
        // The files hold the patches' strong scores whatever they weigh.
        gate_patches: true,
        ..EercfConfig::default()
    })
}

/// The rows of an `eercf-*` case.
pub(super) fn check_eercf(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let config = eercf_config(case)?;
    let model = Eercf::new(gpu, config, 0)?;
    let mut run = Run::new(gpu, case, model.store(), &["text", "frames", "patches"])?;
    let (text, frames, patches) = (run.input("text")?, run.input("frames")?, run.input("patches")?);
    let mask = run.tensor("mask")?;
    let &[videos, count, each, width] = patches.shape() else {
        let expected = "(videos, frames, patches, width)".to_string();
        return Err(Error::Shape { op: "parity", argument: "patches", expected, got: patches.shape().to_vec() });
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
    let mut intra: Option<Var> = None;
    for ((name, vectors), weight) in matched.vectors.iter().zip(c.pearson_weights) {
        let loss = unit.pearson(vectors, c.pearson_diagonal, c.pearson_others)?;
        run.add(format!("loss.pearson_{name}"), &loss);
        let term = loss.scale(weight)?;
        intra = Some(match intra {
            None => term,
            Some(sum) => sum.add(&term)?,
        });
    }
    if let Some(intra) = intra {
        run.add("loss.intra", &intra);
    }
    run.add("loss.weak", &losses.weak);
    run.add("loss.strong", &losses.strong);
    run.add("loss.inter", &losses.weak.scale(c.weak_loss)?.add(&losses.strong.scale(c.strong_loss)?)?);
    run.add("loss.total", &losses.total);
    run.finish(model.store(), Some(&losses.total))
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
    rows.extend(run.finish(model.store(), None)?.into_iter().filter(is_new));
    Ok(rows)
}

/// The rows of a `glccl-*` case.
pub(super) fn check_glccl(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let config = GlcclConfig {
        base: base(case, case.size("words")?)?,
        guide: match case.text("aggregation_weights_type") {
            "softmax_linear_softmax" => Guide::SoftmaxLinearSoftmax,
            _ => Guide::Softmax,
        },
        guide_temperature: case.number("guide_temperature")? as f32,
        temperature: case.number("aggregation_temperature")? as f32,
        consistency_loss: case.number("csc_weight")? as f32,
        ..GlcclConfig::default()
    };
    let model = Glccl::new(gpu, config, 0)?;
    let mut run = Run::new(gpu, case, model.store(), &["sentence", "words", "frames"])?;
    let frames = run.input("frames")?;
    let mask = run.tensor("mask")?;
    let videos = model.prepare_videos(&VideoFeatures { frames, mask, patches: None })?;
    let texts = TextFeatures { sentence: run.input("sentence")?, words: Some(run.input("words")?) };
    let heads = model.compare(&model.prepare_texts(&texts)?, &videos)?;
    run.add("output.temporal_frames", &videos.frames);
    add_heads(&mut run, &heads);
    run.add("output.similarity", &model.similarity(&heads)?);
    if case.text("mode") == "eval" {
        return run.finish(model.store(), None);
    }
    let losses = model.losses(&heads)?;
    run.add("loss.nce", &losses.contrast);
    if let Some(consistency) = &losses.consistency {
        run.add("loss.csc", consistency);
    }
    run.add("loss.total", &losses.total);
    run.finish(model.store(), Some(&losses.total))
}
