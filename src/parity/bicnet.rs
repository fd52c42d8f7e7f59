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
    let sizes = ["embedding_dim", "global_dim", "region_dim", "text_dim", "num_heads", "region_num", "pool_heads"];
    let same = [&sizes[..], &["mlp_ratio", "margin", "max_violation"]].concat();
    let renamed = [("layers", "layer_num"), ("positional_max_len", "max_positions")];
    let config = BicnetConfig { dropout: 0.0, attn_drop: 0.0, ..case.fields(&same, &renamed)? };
    let model = Bicnet::new(gpu, config, 0)?;
    case.load(model.store())?;
    let mut run = Run::new(gpu, case);
    let (text, region, global) = (run.var("text_feats")?, run.var("region_feats")?, run.var("global_feats")?);
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
    run.finish_model(model.store(), Some(&loss.total))
}
