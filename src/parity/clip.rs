//! Golden cases of CLIP, alone and from a Hugging Face folder.

#[cfg(feature = "text")]
use std::path::Path;

#[cfg(feature = "text")]
use serde_json::Value;

use super::Row;
use super::golden::Case;
use super::run::{Run, gradients_of};
use crate::autograd::Var;
#[cfg(feature = "text")]
use crate::data::media::pixels::Preprocess;
#[cfg(feature = "text")]
use crate::data::tokenizer::{Padding, Tokenizer};
use crate::models::Model;
use crate::models::clip::{Clip, ClipActivation, ClipConfig, EndOfText, TowerConfig, names};
use crate::tensor::Tensor;
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
    clip.store().load("the golden file", &names::to_openai("the golden file", case.parameters()?)?)?;

    let mut run = Run::new(gpu, case);
    let pixels = run.var("pixel_values")?;
    let (shape, ids) = case.ids("input.input_ids")?;
    let mask = case.flag("use_attention_mask").then(|| run.tensor("attention_mask")).transpose()?;
    let scores = forward(&mut run, &clip, &pixels, &ids, shape[1], mask.as_ref())?;
    if !case.has("loss.total") {
        return run.finish(None);
    }
    let (text, image) = (cross_entropy(&scores)?, cross_entropy(&scores.transpose()?)?);
    let total = text.add(&image)?.scale(0.5)?;
    run.add("loss.text", &text);
    run.add("loss.image", &image);
    run.add("loss.total", &total);
    let mut rows = run.finish(Some(&total))?;
    // The files have Hugging Face's names.
    rows.extend(case.parameter_gradients(&names::to_hugging_face(gradients_of(clip.store())?)?)?);
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
    let mut run = Run::new(gpu, case);
    let pixels = run.tape.constant(pixels);
    forward(&mut run, &clip, &pixels, &tokens.ids, length, None)?;
    rows.extend(run.finish(None)?);
    Ok(rows)
}

/// Adds every output that the files hold; returns the scores.
fn forward(
    run: &mut Run<'_>,
    clip: &Clip,
    pixels: &Var,
    ids: &[u32],
    length: usize,
    mask: Option<&Tensor>,
) -> Result<Var> {
    let towers = clip.towers();
    let image_tokens = towers.image.tokens(pixels)?;
    let projected = towers.image.project(&image_tokens)?;
    let (images, joint) = (projected.shape()[0], projected.value().width());
    let image = projected.slice(1, 0..1)?.reshape([images, joint])?;
    let text = towers.text.encode(pixels.tape(), ids, length, mask, true)?;
    let scores = clip.logits_per_text(&text.sentence, &image)?;
    run.add("output.logits_per_text", &scores);
    run.add("output.image_embeds", &image);
    run.add("output.text_embeds", &text.sentence);
    run.add("output.vision_last_hidden_state", &image_tokens);
    run.add("output.image_tokens_projected", &projected);
    text.words.iter().for_each(|words| run.add("output.text_tokens_projected", words));
    Ok(scores)
}

fn cross_entropy(scores: &Var) -> Result<Var> {
    let targets: Vec<u32> = (0..scores.shape()[0] as u32).collect();
    scores.cross_entropy(&targets)
}
