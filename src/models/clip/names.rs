//! The two families of names that CLIP's weights go by: OpenAI's, which this crate uses, and Hugging Face's.

use std::collections::BTreeMap;

use crate::tensor::Array;
use crate::{Error, Result};

/// OpenAI's name of a transformer, and Hugging Face's.
const TOWERS: [(&str, &str); 2] = [
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
];

/// Within a residual block, apart from the packed projections.
const IN_BLOCKS: [(&str, &str); 5] = [
    ("attn.out_proj.", "self_attn.out_proj."),
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// Outside the blocks; the last column says whether the matrix is transposed.
const OUTSIDE: [(&str, &str, bool); 14] = [
    ("logit_scale", "logit_scale", false),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight", false),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight", false),
    ("ln_final.weight", "text_model.final_layer_norm.weight", false),
    ("ln_final.bias", "text_model.final_layer_norm.bias", false),
    ("text_projection", "text_projection.weight", true),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding", false),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight", false),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight", false),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight", false),
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias", false),
    ("visual.ln_post.weight", "vision_model.post_layernorm.weight", false),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias", false),
    ("visual.proj", "visual_projection.weight", true),
];

/// The parts of the packed projection, in its order.
const PARTS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// Sizes that OpenAI's archives hold beside the weights, and Hugging Face's buffers: integers, unlike all weights.
pub(super) fn is_no_weight(name: &str) -> bool {
    matches!(name, "input_resolution" | "context_length" | "vocab_size") || name.ends_with(".position_ids")
}

/// Whether these are Hugging Face's names.
pub(super) fn is_hugging_face(arrays: &BTreeMap<String, Array>) -> bool {
    arrays.keys().any(|n| n.starts_with("vision_model.") || n.starts_with("text_model."))
}

/// Weights under OpenAI's names, from either family. `origin` says in errors where they are from.
///
/// # Errors
/// [`Error::UnknownParameter`] for a name of neither family; [`Error::MissingParameter`] where a part of a packed
/// projection is absent; [`Error::ParameterShape`] where the parts differ.
pub(crate) fn to_openai(origin: &str, mut arrays: BTreeMap<String, Array>) -> Result<BTreeMap<String, Array>> {
    if !is_hugging_face(&arrays) {
        return Ok(arrays);
    }
    let mut out = BTreeMap::new();
    while let Some((name, array)) = arrays.pop_first() {
        if let Some((openai, _, transposed)) = OUTSIDE.iter().find(|(_, theirs, _)| *theirs == name) {
            out.insert(openai.to_string(), if *transposed { transpose(&array)? } else { array });
            continue;
        }
        let unknown = || Error::UnknownParameter { origin: origin.into(), name: name.clone() };
        let (ours, rest) = TOWERS.iter().find_map(|(o, h)| Some((o, name.strip_prefix(h)?))).ok_or_else(unknown)?;
        let (layer, within) = rest.split_once('.').ok_or_else(unknown)?;
        if let Some((openai, theirs)) = IN_BLOCKS.iter().find(|(_, theirs)| within.starts_with(theirs)) {
            out.insert(format!("{ours}{layer}.{openai}{}", &within[theirs.len()..]), array);
            continue;
        }
        let (part, kind) = within
            .strip_prefix("self_attn.")
            .and_then(|w| w.split_once('.'))
            .filter(|(part, _)| PARTS.contains(part))
            .ok_or_else(unknown)?;
        // The first part that is met fetches the other two.
        let mut packed = Vec::with_capacity(3 * array.len());
        for each in PARTS {
            let sibling = name.replace(part, each);
            let found = if each == part { Some(array.clone()) } else { arrays.remove(&sibling) };
            let found =
                found.ok_or_else(|| Error::MissingParameter { origin: origin.into(), name: sibling.clone() })?;
            if found.shape() != array.shape() {
                let (expected, got) = (array.shape().to_vec(), found.shape().to_vec());
                return Err(Error::ParameterShape { origin: origin.into(), name: sibling, expected, got });
            }
            packed.extend_from_slice(found.data());
        }
        let mut shape = array.shape().to_vec();
        if let Some(rows) = shape.first_mut() {
            *rows *= PARTS.len();
        }
        out.insert(format!("{ours}{layer}.attn.in_proj_{kind}"), Array::new(shape, packed)?);
    }
    Ok(out)
}

/// Weights (or their gradients) under Hugging Face's names, from OpenAI's.
///
/// # Errors
/// [`Error::UnknownParameter`].
pub(crate) fn to_hugging_face(arrays: BTreeMap<String, Array>) -> Result<BTreeMap<String, Array>> {
    let mut out = BTreeMap::new();
    for (name, array) in arrays {
        if let Some((_, theirs, transposed)) = OUTSIDE.iter().find(|(ours, ..)| *ours == name) {
            out.insert(theirs.to_string(), if *transposed { transpose(&array)? } else { array });
            continue;
        }
        let unknown = || Error::UnknownParameter { origin: "CLIP".into(), name: name.clone() };
        let (theirs, rest) = TOWERS.iter().find_map(|(o, h)| Some((h, name.strip_prefix(o)?))).ok_or_else(unknown)?;
        let (layer, within) = rest.split_once('.').ok_or_else(unknown)?;
        if let Some((ours, within_theirs)) = IN_BLOCKS.iter().find(|(ours, _)| within.starts_with(ours)) {
            out.insert(format!("{theirs}{layer}.{within_theirs}{}", &within[ours.len()..]), array);
            continue;
        }
        let kind = within.strip_prefix("attn.in_proj_").ok_or_else(unknown)?;
        let mut shape = array.shape().to_vec();
        if let Some(rows) = shape.first_mut() {
            *rows /= PARTS.len();
        }
        for (part, values) in PARTS.iter().zip(array.data().chunks_exact((array.len() / PARTS.len()).max(1))) {
            let name = format!("{theirs}{layer}.self_attn.{part}.{kind}");
            out.insert(name, Array::new(shape.clone(), values.to_vec())?);
        }
    }
    Ok(out)
}

fn transpose(matrix: &Array) -> Result<Array> {
    let &[rows, columns] = matrix.shape() else {
        let (expected, got) = ("a matrix".to_string(), matrix.shape().to_vec());
        return Err(Error::Shape { op: "CLIP weights", argument: "projection", expected, got });
    };
    let data = (0..columns).flat_map(|c| (0..rows).map(move |r| matrix.data()[r * columns + c])).collect();
    Array::new([columns, rows], data)
}
