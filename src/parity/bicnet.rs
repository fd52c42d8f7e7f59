//! Golden cases of BiC-Net.

use super::Row;
use super::golden::Case;
use super::run::Run;
use crate::models::Model;
use crate::models::bicnet::{Bicnet, BicnetConfig, positional_table};
use crate::models::two_space::{Embeddings, TwoSpaceModel, similarity};
use crate::tensor::Tensor;
use crate::{Gpu, Result};

/// The rows of a `bicnet-*` case: embeddings, similarity, losses, and the gradient of every parameter and input.
pub(super) fn check(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let config = BicnetConfig {
        embedding_dim: case.size("embedding_dim")?,
        global_dim: case.size("global_dim")?,
        region_dim: case.size("region_dim")?,
        text_dim: case.size("text_dim")?,
        num_heads: case.size("num_heads")?,
        region_num: case.size("region_num")?,
        layer_num: case.size("layers")?,
        mlp_ratio: case.number("mlp_ratio")?,
        pool_heads: case.size("pool_heads")?,
        max_positions: case.size("positional_max_len")?,
        margin: case.number("margin")? as f32,
        max_violation: case.flag("max_violation"),
        dropout: 0.0,
        attn_drop: 0.0,
        ..BicnetConfig::default()
    };
    let model = Bicnet::new(gpu, config, 0)?;
    let mut run = Run::new(gpu, case, model.store(), &["text_feats", "region_feats", "global_feats"])?;
    let (text, region, global) = (run.input("text_feats")?, run.input("region_feats")?, run.input("global_feats")?);
    let (text_mask, frame_mask) = (run.tensor("text_mask")?, run.tensor("global_mask")?);
    if case.has("output.pe") {
        let &[positions, dim] = case.array("output.pe")?.shape() else { return Err(case.misshaped("output.pe")) };
        let table = Tensor::from_slice(gpu, [positions, dim], &positional_table(positions, dim))?;
        run.add("output.pe", &run.tape.constant(table));
    }
    run.add("output.region_frames", &model.encode_region_frames(&region, Some(&frame_mask))?);
    run.add("output.global_frames", &model.encode_frames(&global, Some(&frame_mask))?);
    let embeddings = Embeddings {
        text: model.encode_tokens(&text, &text_mask)?,
        region: model.encode_region(&region, Some(&frame_mask))?,
        global: model.encode_global(&global, Some(&frame_mask))?,
    };
    run.add("output.text_emb", &embeddings.text);
    run.add("output.region_emb", &embeddings.region);
    run.add("output.global_emb", &embeddings.global);
    run.add("output.similarity", &similarity(&embeddings)?);
    let loss = model.loss(&embeddings)?;
    run.add("loss.global", &loss.global);
    run.add("loss.region", &loss.region);
    run.add("loss.total", &loss.total);
    run.finish(model.store(), Some(&loss.total))
}
