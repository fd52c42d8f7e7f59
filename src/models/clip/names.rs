//! The names that weights go by: this crate's, which are OpenAI's, and those of Hugging Face.

use std::collections::BTreeMap;

use super::config::{ClipConfig, Family};
use crate::tensor::Array;
use crate::{Error, Result};

/// Whose names a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// This crate's: OpenAI's and open_clip's, and those in their manner for what they have not.
    OpenAi,
    /// Hugging Face's.
    HuggingFace,
}

/// What wrappers of PyTorch put before every name.
const WRAPPERS: [&str; 4] = ["module.", "_orig_mod.", "clip.", "model."];

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

/// Outside the blocks: beginnings of names, or whole ones.
const OUTSIDE: [(&str, &str); 18] = [
    ("logit_scale", "logit_scale"),
    ("logit_bias", "logit_bias"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    // With a dot behind it it is SigLIP's, which has a bias.
    ("text_projection.", "text_model.head."),
    ("text_projection", "text_projection.weight"),
    ("bert.", "text_model."),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.proj", "visual_projection.weight"),
    ("visual.attn_pool.probe", "vision_model.head.probe"),
    ("visual.attn_pool.attn.", "vision_model.head.attention."),
    ("visual.attn_pool.ln.", "vision_model.head.layernorm."),
    ("visual.attn_pool.mlp.", "vision_model.head.mlp."),
];

/// Matrices that Hugging Face holds the other way round.
const TRANSPOSED: [&str; 2] = ["text_projection", "visual.proj"];

/// The parts of a packed projection, in its order.
const PARTS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// How a parameter lies in a file.
struct Stored {
    /// The tensors that it is made of, one after another; of equal shape.
    names: Vec<String>,
    /// The shape of each.
    shape: Vec<usize>,
    /// Whether they have rows for columns.
    transposed: bool,
}

impl Naming {
    /// Whose these names are.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let theirs = |n: &String| ["vision_model.", "text_model."].iter().any(|prefix| bare(n).starts_with(prefix));
        if names.into_iter().any(theirs) { Self::HuggingFace } else { Self::OpenAi }
    }

    fn stored(self, name: &str, shape: &[usize]) -> Stored {
        let mut shape = shape.to_vec();
        if self == Self::OpenAi {
            return Stored { names: vec![name.into()], shape, transposed: false };
        }
        if let Some((theirs, rest)) = TOWERS.iter().find_map(|(ours, theirs)| Some((theirs, name.strip_prefix(ours)?)))
            && let Some((layer, within)) = rest.split_once('.')
        {
            if let Some(kind) = within.strip_prefix("attn.in_proj_") {
                shape[0] /= PARTS.len();
                let part = |part| format!("{theirs}{layer}.self_attn.{part}.{kind}");
                return Stored { names: PARTS.map(part).to_vec(), shape, transposed: false };
            }
            let found = IN_BLOCKS.iter().find_map(|(ours, theirs)| Some((theirs, within.strip_prefix(ours)?)));
            let within = found.map_or_else(|| within.to_string(), |(theirs, rest)| format!("{theirs}{rest}"));
            return Stored { names: vec![format!("{theirs}{layer}.{within}")], shape, transposed: false };
        }
        let found = OUTSIDE.iter().find_map(|(ours, theirs)| {
            let rest = name.strip_prefix(ours)?;
            (rest.is_empty() || ours.ends_with('.')).then(|| format!("{theirs}{rest}"))
        });
        let transposed = TRANSPOSED.contains(&name);
        if transposed {
            shape.reverse();
        }
        Stored { names: vec![found.unwrap_or_else(|| name.into())], shape, transposed }
    }
}

/// Sizes that OpenAI's archives hold beside the weights, Hugging Face's buffers, and the pooler of a BERT that is not used:
/// no weights of the two towers.
pub(crate) fn is_no_weight(name: &str) -> bool {
    let name = bare(name);
    matches!(name, "input_resolution" | "context_length" | "vocab_size" | "attn_mask")
        || name.ends_with("position_ids")
        || name.ends_with("embeddings.token_type_ids")
        || name.starts_with("text_model.pooler.")
}

/// A name without what wrappers put before it.
fn bare(mut name: &str) -> &str {
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = rest;
    }
    name
}

/// The arrays under names without wrappers, and for each its name in the file. The names of texts that transformers 5.6
/// writes, without `text_model.`, get it back.
fn unwrap(origin: &str, arrays: BTreeMap<String, Array>) -> Result<BTreeMap<String, (String, Array)>> {
    let theirs = Naming::of(arrays.keys()) == Naming::HuggingFace;
    let flat = ["embeddings.", "encoder.", "final_layer_norm.", "pooler."];
    let mut out = BTreeMap::new();
    for (name, array) in arrays {
        let short = bare(&name);
        let doubled = ["text_model.", "vision_model."]
            .iter()
            .find_map(|tower| short.strip_prefix(tower).filter(|rest| rest.starts_with(tower)));
        let full = match doubled {
            Some(rest) => rest.to_string(),
            None if theirs && flat.iter().any(|start| short.starts_with(start)) => format!("text_model.{short}"),
            None => short.to_string(),
        };
        if let Some((other, _)) = out.insert(full, (name.clone(), array)) {
            return Err(Error::duplicate(origin, format_args!("{other:?} and {name:?}"), "parameter", bare(&name)));
        }
    }
    Ok(out)
}

/// A model's weights under this crate's names, from a file's. What does not fit `config` is an error in the file's own
/// names, shapes and places. Without a `logit_scale`, which vectors do not need, that of the configuration stands in;
/// `notes` say so.
///
/// # Errors
/// [`Error::UnknownParameter`], [`Error::MissingParameter`], [`Error::ParameterShape`], [`Error::NonFinite`];
/// [`Error::Duplicate`] for two tensors of one name but for the wrappers'.
pub(crate) fn from_file(
    origin: &str,
    config: &ClipConfig,
    shapes: &BTreeMap<String, Vec<usize>>,
    arrays: BTreeMap<String, Array>,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, Array>> {
    let mut file = unwrap(origin, arrays)?;
    file.retain(|_, (name, _)| !is_no_weight(name));
    let naming = Naming::of(file.keys());
    let mut out = BTreeMap::new();
    for (name, shape) in shapes {
        let stored = naming.stored(name, shape);
        if name == "logit_scale" && !file.contains_key(&stored.names[0]) {
            notes.push(format!("{origin} holds no logit_scale: similarities are scaled by the configuration's"));
            out.insert(name.clone(), Array::new([], vec![config.logit_scale])?);
            continue;
        }
        // It grows with what the file holds; the shape is only asked for so far.
        let mut data = Vec::new();
        for part in &stored.names {
            let missing = || Error::MissingParameter { origin: origin.into(), name: part.clone() };
            let (own, array) = file.remove(part).ok_or_else(missing)?;
            let values = values(origin, own, array, &stored)?;
            data = if data.is_empty() { values } else { [data, values].concat() };
        }
        out.insert(name.clone(), Array::new(shape.clone(), data)?);
    }
    match file.into_values().next() {
        Some((name, _)) => Err(Error::UnknownParameter { origin: origin.into(), name }),
        None => Ok(out),
    }
}

/// The elements of a tensor of the file, in this crate's order.
fn values(origin: &str, name: String, array: Array, stored: &Stored) -> Result<Vec<f32>> {
    let expected = &stored.shape;
    // Scalars are written as such or as vectors of one.
    let scalar = expected.iter().product::<usize>() == 1 && array.len() == 1;
    if array.shape() != expected.as_slice() && !scalar {
        let (expected, got) = (expected.clone(), array.shape().to_vec());
        return Err(Error::ParameterShape { origin: origin.into(), name, expected, got });
    }
    if let Some((count, first)) = array.non_finite() {
        let place = format!("{name} {:?}", place_of(first, array.shape()));
        return Err(Error::NonFinite { origin: origin.into(), place, count });
    }
    if !stored.transposed {
        return Ok(array.into_data());
    }
    Ok(transposed(array.data(), expected[0], expected[1]))
}

/// The index along each dimension of the element at `flat`.
fn place_of(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut place = vec![0; shape.len()];
    for (index, &extent) in place.iter_mut().zip(shape).rev() {
        *index = flat % extent.max(1);
        flat /= extent.max(1);
    }
    place
}

/// Where in a file of this `naming` an element of this crate's parameter `name` lies: the tensor, and the element of it.
pub(crate) fn element_in_file(naming: Naming, name: &str, shape: &[usize], element: usize) -> (String, usize) {
    let stored = naming.stored(name, shape);
    let each: usize = stored.shape.iter().product::<usize>().max(1);
    let (part, within) = (element / each, element % each);
    let within = match (stored.transposed, shape) {
        (true, &[rows, columns]) => within % columns * rows + within / columns,
        _ => within,
    };
    (stored.names.get(part).cloned().unwrap_or_else(|| name.into()), within)
}

/// Weights (or their gradients) under Hugging Face's names, from this crate's.
pub(crate) fn to_hugging_face(family: Family, arrays: BTreeMap<String, Array>) -> Result<BTreeMap<String, Array>> {
    let mut out = BTreeMap::new();
    for (name, array) in arrays {
        let mut stored = Naming::HuggingFace.stored(&name, array.shape());
        let data = match *array.shape() {
            [rows, columns] if stored.transposed => transposed(array.data(), rows, columns),
            _ => array.into_data(),
        };
        if family == Family::Siglip && stored.shape.is_empty() {
            // SigLIP's scalars are vectors of one there.
            stored.shape.push(1);
        }
        let each = data.len() / stored.names.len();
        for (part, values) in stored.names.into_iter().zip(data.chunks(each.max(1))) {
            out.insert(part, Array::new(stored.shape.clone(), values.to_vec())?);
        }
    }
    Ok(out)
}

fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| data[r * columns + c])).collect()
}
