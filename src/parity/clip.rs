//! Golden cases of CLIP, alone and from a Hugging Face folder.

use std::collections::BTreeMap;
#[cfg(feature = "text")]
use std::path::Path;

#[cfg(feature = "text")]
use serde_json::Value;

use super::Row;
use super::golden::Case;
use crate::autograd::{Tape, Var};
#[cfg(feature = "text")]
use crate::data::media::pixels::Preprocess;
#[cfg(feature = "text")]
use crate::data::tokenizer::{Padding, Tokenizer};
use crate::models::Model;
use crate::models::clip::{Clip, ClipActivation, ClipConfig, EndOfText, TowerConfig, names};
use crate::nn::ParameterStore;
use crate::tensor::{Array, Tensor};
use crate::{Gpu, Result};

/// The configuration that a `clip-*` case describes.
fn config(case: &Case) -> Result<ClipConfig> {
    let tower = |part: &str| -> Result<TowerConfig> {
        let size = |key: &str| case.size(&format!("{part}_{key}"));
        Ok(TowerConfig { width: size("width")?, heads: size("heads")?, layers: size("layers")?, mlp: size("mlp")? })
    };
    let end = case.size("eos_token_id")? as u32;
    Ok(ClipConfig {
        image_size: case.size("image_size")?,
        patch_size: case.size("patch_size")?,
        vision: tower("vision")?,
        text: tower("text")?,
        vocabulary: case.size("vocab_size")?,
        positions: case.size("max_positions")?,
        joint: case.size("projection_dim")?,
        activation: if case.text("activation") == "gelu" { ClipActivation::Gelu } else { ClipActivation::QuickGelu },
        end_of_text: if end == 2 { EndOfText::LargestId } else { EndOfText::FirstId(end) },
        logit_scale: case.number("logit_scale")? as f32,
        recompute: false,
    })
}

/// The rows of a `clip-*` case: features, scores, losses, and the gradient of every parameter and of the pixels.
pub(super) fn check(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let clip = Clip::new(gpu, config(case)?, 0)?;
    let parameters = names::to_openai("the golden file", case.parameters()?)?;
    clip.store().load("the golden file", &parameters)?;

    let tape = Tape::new(gpu);
    let pixels = tape.leaf(case.tensor(gpu, "input.pixel_values")?);
    let (shape, ids) = case.ids("input.input_ids")?;
    let masked = case.flag("use_attention_mask");
    let mask = masked.then(|| case.tensor(gpu, "input.attention_mask")).transpose()?;
    let outputs = forward(&clip, &pixels, &ids, shape[1], mask.as_ref())?;
    let mut rows = case.results("output.", &outputs)?;
    let scores = &outputs[0].1;
    if case.has("loss.total") {
        let (text, image) = (cross_entropy(scores)?, cross_entropy(&scores.transpose()?)?);
        let total = text.add(&image)?.scale(0.5)?;
        for (name, loss) in [("text", &text), ("image", &image), ("total", &total)] {
            rows.push(case.row(&format!("loss.{name}"), &loss.value().to_vec()?)?);
        }
        let gradients = tape.backward(&total)?;
        let values = gradients.get(&pixels).map(Tensor::to_vec).transpose()?.unwrap_or_default();
        rows.push(case.row("grad_input.pixel_values", &values)?);
        rows.extend(parameter_gradients(case, clip.store())?);
    }
    Ok(rows)
}

/// The rows of a case that lies in a Hugging Face folder: texts to ids, pictures to pixels, and both to every output. What
/// the tokenizer and the preprocessing give is compared, and goes on into the towers.
///
/// # Errors
/// Those of [`Tokenizer::open`], [`Preprocess::from_json`] and [`Clip::open`] for the folder.
#[cfg(feature = "text")]
pub(super) fn check_folder(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let folder = case.path().parent().unwrap_or(Path::new(""));
    let length = case.array("input.input_ids")?.shape()[1];
    let texts: Vec<&str> = case.config["texts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // As Hugging Face's tokenizer: rows are as long as the longest text.
    let tokens = Tokenizer::open(folder)?.encode(&texts, length, Padding::End)?;
    let mut rows =
        vec![case.row_of_integers("input.input_ids", &tokens.ids)?, case.row("input.attention_mask", &tokens.mask)?];
    let preprocess = Preprocess::from_json(folder.join("preprocessor_config.json"))?;
    let mut pixels = Vec::new();
    for number in case.names("input.image") {
        pixels.extend(preprocess.apply(&case.image(&format!("input.image{number}"))?)?);
    }
    rows.push(case.row("input.pixel_values", &pixels)?);

    let clip = Clip::open(gpu, folder, |_| true)?;
    let size = preprocess.crop;
    let pixels = Tensor::from_slice(gpu, [pixels.len() / (3 * size * size), 3, size, size], &pixels)?;
    let pixels = Tape::inference(gpu).constant(pixels);
    rows.extend(case.results("output.", &forward(&clip, &pixels, &tokens.ids, length, None)?)?);
    Ok(rows)
}

/// Every output that the files hold, the scores first.
fn forward(clip: &Clip, pixels: &Var, ids: &[u32], length: usize, mask: Option<&Tensor>) -> Result<Vec<(String, Var)>> {
    let towers = clip.towers();
    let image_tokens = towers.image.tokens(pixels)?;
    let projected = towers.image.project(&image_tokens)?;
    let (images, joint) = (projected.shape()[0], projected.value().width());
    let image = projected.slice(1, 0..1)?.reshape([images, joint])?;
    let text = towers.text.encode(pixels.tape(), ids, length, mask, true)?;
    let scores = clip.logits_per_text(&text.sentence, &image)?;
    let mut outputs = vec![
        ("logits_per_text", scores),
        ("image_embeds", image),
        ("text_embeds", text.sentence),
        ("vision_last_hidden_state", image_tokens),
        ("image_tokens_projected", projected),
    ];
    outputs.extend(text.words.map(|words| ("text_tokens_projected", words)));
    Ok(outputs.into_iter().map(|(name, var)| (format!("output.{name}"), var)).collect())
}

fn cross_entropy(scores: &Var) -> Result<Var> {
    let targets: Vec<u32> = (0..scores.shape()[0] as u32).collect();
    scores.cross_entropy(&targets)
}

/// Gradients under Hugging Face's names, as the files have them.
fn parameter_gradients(case: &Case, store: &ParameterStore) -> Result<Vec<Row>> {
    let mut gradients: BTreeMap<String, Array> = BTreeMap::new();
    for parameter in store.parameters() {
        if let Some(gradient) = parameter.gradient() {
            gradients.insert(parameter.name().into(), gradient.to_array()?);
        }
    }
    let gradients = names::to_hugging_face(gradients)?;
    let row = |name: &String| {
        let got = gradients.get(name).map(|g| g.data().to_vec()).unwrap_or_default();
        case.row(&format!("grad.{name}"), &got)
    };
    let mut rows: Vec<Row> = case.names("grad.").iter().map(row).collect::<Result<_>>()?;
    let unused = case.no_grad.iter().filter_map(|name| Some((name, gradients.get(name)?)));
    rows.extend(unused.map(|(name, g)| Case::row_without_gradient(name, Some(g.data()))));
    Ok(rows)
}
