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
use crate::data::tokenizer::Padding;
use crate::models::Model;
use crate::models::clip::{Clip, ClipActivation, ClipConfig, EndOfText, Family, TowerConfig, names};
#[cfg(feature = "text")]
use crate::models::text_image::TextImageModel;
use crate::tensor::Array;
use crate::{Gpu, Result};

/// The configuration that a `clip-*` case describes.
fn config(case: &Case) -> Result<ClipConfig> {
    let tower = |part: &str| -> Result<TowerConfig> {
        let size = |key: &str| case.size(&format!("{part}_{key}"));
        Ok(TowerConfig { width: size("width")?, heads: size("heads")?, layers: size("layers")?, mlp: size("mlp")? })
    };
    let end = case.size("eos_token_id")? as u32;
    Ok(ClipConfig {
        family: Family::Clip,
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
    let (config, origin) = (config(case)?, "the golden file");
    let shapes = Clip::shapes(config.clone())?;
    let weights = names::from_file(origin, &config, &shapes, case.parameters()?, &mut Vec::new())?;
    let clip = Clip::new(gpu, config, 0)?;
    clip.store().load(origin, &weights)?;

    let mut run = Run::new(gpu, case);
    let pixels = run.var("pixel_values")?;
    let (shape, ids) = case.ids("input.input_ids")?;
    let mask = case.flag("use_attention_mask").then(|| case.array("input.attention_mask")).transpose()?;
    let scores = forward(&mut run, &clip, &pixels, &ids, shape[1], mask.as_ref().map(Array::data))?;
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
    rows.extend(case.parameter_gradients(&names::to_hugging_face(Family::Clip, gradients_of(clip.store())?)?)?);
    Ok(rows)
}

/// The rows of a case that lies in a model's folder: texts to ids, pictures to pixels, and both to every output. What the
/// tokenizer and the preprocessing give is compared, and goes on into the towers.
///
/// # Errors
/// Those of [`TextImageModel::open`] for the folder.
#[cfg(feature = "text")]
pub(super) fn check_folder(gpu: &Gpu, case: &Case) -> Result<Vec<Row>> {
    let model = TextImageModel::open(gpu, case.path().parent().unwrap_or(Path::new("")))?;
    let length = case.array("input.input_ids")?.shape()[1];
    let texts: Vec<&str> = case.config["texts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut tokenizer = model.processor().tokenizer.clone();
    if case.model == "clip" {
        // Hugging Face's tokenizer pads with the end token.
        tokenizer = tokenizer.padded_with(Padding::End);
    }
    let tokens = tokenizer.encode(&texts, length)?;
    let mut rows = vec![case.row_of_integers("input.input_ids", &tokens.ids)?];
    if case.has("input.attention_mask") {
        rows.push(case.row("input.attention_mask", &tokens.mask)?);
    }
    let images: Vec<_> =
        case.names("input.image").iter().map(|n| case.image(&format!("input.image{n}"))).collect::<Result<_>>()?;
    let pixels = model.processor().pixels(gpu, &images)?;
    rows.push(case.row("input.pixel_values", &pixels.to_vec()?)?);

    let mut run = Run::new(gpu, case);
    let pixels = run.tape.constant(pixels);
    forward(&mut run, model.clip(), &pixels, &tokens.ids, length, None)?;
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
    mask: Option<&[f32]>,
) -> Result<Var> {
    let (towers, family) = (clip.towers(), clip.config().family);
    let images = towers.image.encode(pixels, true)?;
    let text_tokens = towers.text.tokens(pixels.tape(), ids, length, mask)?;
    let words = towers.text.project(&text_tokens)?;
    let sentence = towers.text.pool(&words, ids, length)?;
    let scores = clip.logits_per_text(&sentence, &images.image)?;
    run.add("output.logits_per_text", &scores);
    // CLIP's vectors are compared as the towers give them, those of the others as unit vectors.
    let vector = |x: &Var| if family == Family::Clip { Ok(x.clone()) } else { x.l2_normalize(1e-12) };
    run.add("output.image_embeds", &vector(&images.image)?);
    run.add("output.text_embeds", &vector(&sentence)?);
    let image_tokens = towers.image.tokens(pixels)?;
    let projected = towers.image.project(&image_tokens)?;
    // SigLIP's hidden states are given after the last normalisation, which is all that its patches go through.
    run.add("output.vision_last_hidden_state", if family == Family::Siglip { &projected } else { &image_tokens });
    run.add("output.text_last_hidden_state", &towers.text.normed(&text_tokens)?);
    run.add("output.image_tokens_projected", &projected);
    run.add("output.text_tokens_projected", &words);
    Ok(scores)
}

fn cross_entropy(scores: &Var) -> Result<Var> {
    let targets: Vec<u32> = (0..scores.shape()[0] as u32).collect();
    scores.cross_entropy(&targets)
}
