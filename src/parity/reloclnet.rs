//! Golden cases of ReLoCLNet's network and losses.

use super::Row;
use super::golden::Case;
use super::run::Run;
use crate::autograd::Var;
use crate::models::Model;
use crate::models::reloclnet::{Losses, NegativeDraws, Reloclnet, ReloclnetConfig};
use crate::{Gpu, Result};

fn config(case: &Case) -> Result<ReloclnetConfig> {
    let same = ["hidden_size", "num_heads", "video_dim", "sub_dim", "query_dim", "ranking_loss", "margin"];
    let renamed = [
        ("max_ctx_l", "max_clips"),
        ("max_desc_l", "max_tokens"),
        ("conv_kernel_size", "conv_kernel"),
        ("lw_neg_q", "weight_negative_query"),
        ("lw_neg_ctx", "weight_negative_video"),
        ("lw_st_ed", "weight_span"),
        ("lw_fcl", "weight_frame"),
        ("lw_vcl", "weight_video"),
    ];
    // The files' features hold the endpoints already.
    Ok(ReloclnetConfig { endpoints: false, input_dropout: 0.0, dropout: 0.0, ..case.fields(&same, &renamed)? })
}

/// The rows of a `reloclnet-*` case: encodings, scores, losses, and the gradient of every parameter and input.
pub(super) fn check(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let model = Reloclnet::new(gpu, config(case)?, 0)?;
    case.load(model.store())?;
    let mut run = Run::new(gpu, case);
    let features = [run.var("video_feat")?, run.var("sub_feat")?];
    let masks = [run.tensor("video_mask")?, run.tensor("sub_mask")?];
    let query = run.var("query_feat")?;
    let spans: Vec<[u32; 2]> = case.ids("input.st_ed_indices")?.1.chunks_exact(2).map(|s| [s[0], s[1]]).collect();
    let draws = NegativeDraws { videos: case.ids("input.neg_draws_ctx")?.1, queries: case.ids("input.neg_draws_q")?.1 };

    let queries = model.encode_query(&query, &run.tensor("query_mask")?)?;
    let clips = model.encode_clips(&features, &masks)?;
    let scores = model.video_scores(&queries, &clips, &masks)?;
    let contrast = model.contrast_scores(&queries, &clips, &masks)?;
    let matched = model.span_logits(&queries, &clips, &masks[0])?;
    let cross = model.cross_span_logits(&queries, &clips, &masks[0])?;
    let losses = model.loss_of(&queries, &clips, &masks, &spans, &draws)?;

    for (stream, levels) in ["video", "sub"].into_iter().zip(&clips) {
        for (level, var) in [&levels.first, &levels.mid, &levels.last].into_iter().enumerate() {
            run.add(format!("output.{stream}_enc{}", level + 1), var);
        }
    }
    run.add("output.video_query", &queries[0]);
    run.add("output.sub_query", &queries[1]);
    run.add("output.q2ctx_scores", &scores);
    run.add("output.vcl_scores", &contrast);
    for suffix in ["", "_all"] {
        run.add(format!("output.st_logits{suffix}"), &matched.start);
        run.add(format!("output.ed_logits{suffix}"), &matched.end);
        run.add(format!("output.cross_st_logits{suffix}"), &cross.start);
        run.add(format!("output.cross_ed_logits{suffix}"), &cross.end);
    }
    add_losses(&mut run, &losses, &model.frame_losses(&queries, &clips, &masks, &spans)?, &contrast.mil_nce()?)?;
    run.finish_model(model.store(), Some(&losses.total))
}

/// The losses, weighted; those of `frames` (video, then subtitles) and of `video` also as they are.
fn add_losses(run: &mut Run<'_>, losses: &Losses, frames: &[Var], video: &Var) -> Result<()> {
    let weight = |key: &str| run.case.number(key).map(|w| w as f32);
    let weighted_frames = frames[0].add(&frames[1])?.scale(0.5 * weight("lw_fcl")?)?;
    let weighted_video = video.scale(weight("lw_vcl")?)?;
    for (name, loss) in [
        ("st_ed", &losses.span),
        ("fcl", losses.frame.as_ref().unwrap_or(&weighted_frames)),
        ("fcl_video_unweighted", &frames[0]),
        ("fcl_sub_unweighted", &frames[1]),
        ("vcl", losses.video.as_ref().unwrap_or(&weighted_video)),
        ("vcl_unweighted", video),
        ("neg_ctx", &losses.negative_video),
        ("neg_q", &losses.negative_query),
        ("total", &losses.total),
    ] {
        run.add(format!("loss.{name}"), loss);
    }
    Ok(())
}
