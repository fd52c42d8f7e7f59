//! Golden cases of ReLoCLNet's network and losses.

use super::Row;
use super::case::Case;
use crate::autograd::{Tape, Var};
use crate::models::Model;
use crate::models::reloclnet::{NegativeDraws, RankingLoss, Reloclnet, ReloclnetConfig};
use crate::tensor::Tensor;
use crate::{Gpu, Result};

/// The rows of a `reloclnet-*` case: encodings, scores, losses, and the gradient of every parameter and input.
pub(super) fn check(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let weight = |key: &str| case.number(key).map(|w| w as f32);
    let config = ReloclnetConfig {
        hidden_size: case.size("hidden_size")?,
        num_heads: case.size("num_heads")?,
        // The files' features hold the endpoints already.
        video_dim: case.size("video_dim")?,
        sub_dim: case.size("sub_dim")?,
        endpoints: false,
        query_dim: case.size("query_dim")?,
        max_clips: case.size("max_ctx_l")?,
        max_tokens: case.size("max_desc_l")?,
        conv_kernel: case.size("conv_kernel_size")?,
        ranking_loss: if case.text("ranking_loss") == "lse" { RankingLoss::Lse } else { RankingLoss::Hinge },
        margin: weight("margin")?,
        weight_negative_query: weight("lw_neg_q")?,
        weight_negative_video: weight("lw_neg_ctx")?,
        weight_span: weight("lw_st_ed")?,
        weight_frame: weight("lw_fcl")?,
        weight_video: weight("lw_vcl")?,
        input_dropout: 0.0,
        dropout: 0.0,
        ..ReloclnetConfig::default()
    };
    let model = Reloclnet::new(gpu, config, 0)?;
    let parameters = case.names("param.").into_iter().map(|n| Ok((n.clone(), case.array(&format!("param.{n}"))?)));
    model.store().load("the golden file", &parameters.collect::<Result<_>>()?)?;

    let tape = Tape::new(gpu);
    let input = |name: &str| -> Result<Tensor> { Tensor::from_array(gpu, &case.array(&format!("input.{name}"))?) };
    let leaf = |name: &str| Ok::<_, crate::Error>(tape.leaf(input(name)?));
    let features = [leaf("video_feat")?, leaf("sub_feat")?];
    let masks = [input("video_mask")?, input("sub_mask")?];
    let query = leaf("query_feat")?;
    let spans: Vec<[u32; 2]> = case.ids("input.st_ed_indices")?.1.chunks_exact(2).map(|s| [s[0], s[1]]).collect();
    let draws = NegativeDraws { videos: case.ids("input.neg_draws_ctx")?.1, queries: case.ids("input.neg_draws_q")?.1 };

    let queries = model.encode_query(&query, &input("query_mask")?)?;
    let clips = model.encode_clips(&features, &masks)?;
    let scores = model.video_scores(&queries, &clips, &masks)?;
    let contrast = model.contrast_scores(&queries, &clips, &masks)?;
    let matched = model.span_logits(&queries, &clips, &masks[0])?;
    let cross = model.cross_span_logits(&queries, &clips, &masks[0])?;
    let frames = model.frame_losses(&queries, &clips, &masks, &spans)?;
    let losses = model.loss_of(&queries, &clips, &masks, &spans, &draws)?;

    let mut results: Vec<(String, Var)> = Vec::new();
    let mut add = |name: &str, var: &Var| results.push((name.to_string(), var.clone()));
    for (stream, levels) in ["video", "sub"].into_iter().zip(&clips) {
        for (level, var) in [&levels.first, &levels.mid, &levels.last].into_iter().enumerate() {
            add(&format!("output.{stream}_enc{}", level + 1), var);
        }
    }
    add("output.video_query", &queries[0]);
    add("output.sub_query", &queries[1]);
    add("output.q2ctx_scores", &scores);
    add("output.vcl_scores", &contrast);
    for suffix in ["", "_all"] {
        add(&format!("output.st_logits{suffix}"), &matched.start);
        add(&format!("output.ed_logits{suffix}"), &matched.end);
        add(&format!("output.cross_st_logits{suffix}"), &cross.start);
        add(&format!("output.cross_ed_logits{suffix}"), &cross.end);
    }
    add("loss.st_ed", &losses.span);
    let frame = frames[0].add(&frames[1])?.scale(0.5 * weight("lw_fcl")?)?;
    add("loss.fcl", losses.frame.as_ref().unwrap_or(&frame));
    add("loss.fcl_video_unweighted", &frames[0]);
    add("loss.fcl_sub_unweighted", &frames[1]);
    let unweighted = contrast.mil_nce()?;
    let video = unweighted.scale(weight("lw_vcl")?)?;
    add("loss.vcl", losses.video.as_ref().unwrap_or(&video));
    add("loss.vcl_unweighted", &unweighted);
    add("loss.neg_ctx", &losses.negative_video);
    add("loss.neg_q", &losses.negative_query);
    add("loss.total", &losses.total);
    let mut rows = Vec::new();
    for (name, var) in results.iter().filter(|(name, _)| case.has(name)) {
        rows.push(case.row(name, &var.value().to_vec()?)?);
    }
    // A result that the file holds and that was not computed is a failure.
    for prefix in ["output.", "loss."] {
        for name in case.names(prefix).iter().map(|n| format!("{prefix}{n}")) {
            if !results.iter().any(|(known, _)| *known == name) {
                rows.push(case.row(&name, &[])?);
            }
        }
    }

    let gradients = tape.backward(&losses.total)?;
    for (name, leaf) in [("query_feat", &query), ("video_feat", &features[0]), ("sub_feat", &features[1])] {
        let full = format!("grad_input.{name}");
        if case.has(&full) {
            let values = gradients.get(leaf).map(Tensor::to_vec).transpose()?.unwrap_or_default();
            rows.push(case.row(&full, &values)?);
        }
    }
    rows.extend(case.parameter_gradients(model.store())?);
    Ok(rows)
}
