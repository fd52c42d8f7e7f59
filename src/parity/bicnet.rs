//! Golden cases of BiC-Net.

use super::Row;
use super::case::Case;
use crate::autograd::Tape;
use crate::models::Model;
use crate::models::bicnet::{Bicnet, BicnetConfig, positional_table};
use crate::models::two_space::{Embeddings, TwoSpaceModel, similarity};
use crate::tensor::{Array, Tensor};
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
    let parameters = case.names("param.").into_iter().map(|n| Ok((n.clone(), case.array(&format!("param.{n}"))?)));
    model.store().load("the golden file", &parameters.collect::<Result<_>>()?)?;

    let tape = Tape::new(gpu);
    let input = |name: &str| -> Result<Tensor> { Tensor::from_array(gpu, &case.array(&format!("input.{name}"))?) };
    let leaf = |name: &str| Ok::<_, crate::Error>(tape.leaf(input(name)?));
    let (text, region, global) = (leaf("text_feats")?, leaf("region_feats")?, leaf("global_feats")?);
    let (text_mask, frame_mask) = (input("text_mask")?, input("global_mask")?);

    let mut rows = Vec::new();
    if case.has("output.pe") {
        let expected: Array = case.array("output.pe")?;
        let (positions, dim) = (expected.shape()[0], expected.shape()[1]);
        rows.push(case.row("output.pe", &positional_table(positions, dim))?);
    }
    let frames = [
        ("output.region_frames", model.encode_region_frames(&region, Some(&frame_mask))?),
        ("output.global_frames", model.encode_frames(&global, Some(&frame_mask))?),
    ];
    let embeddings = Embeddings {
        text: model.encode_tokens(&text, &text_mask)?,
        region: model.encode_region(&region, Some(&frame_mask))?,
        global: model.encode_global(&global, Some(&frame_mask))?,
    };
    let similarity = similarity(&embeddings)?;
    let loss = model.loss(&embeddings)?;
    let outputs = frames.iter().map(|(name, var)| (*name, var)).chain([
        ("output.text_emb", &embeddings.text),
        ("output.region_emb", &embeddings.region),
        ("output.global_emb", &embeddings.global),
        ("output.similarity", &similarity),
        ("loss.global", &loss.global),
        ("loss.region", &loss.region),
        ("loss.total", &loss.total),
    ]);
    for (name, var) in outputs.filter(|(name, _)| case.has(name)) {
        rows.push(case.row(name, &var.value().to_vec()?)?);
    }

    let gradients = tape.backward(&loss.total)?;
    for (name, leaf) in [("text_feats", &text), ("region_feats", &region), ("global_feats", &global)] {
        let full = format!("grad_input.{name}");
        if case.has(&full) {
            let values = gradients.get(leaf).map(Tensor::to_vec).transpose()?.unwrap_or_default();
            rows.push(case.row(&full, &values)?);
        }
    }
    rows.extend(case.parameter_gradients(model.store())?);
    Ok(rows)
}
