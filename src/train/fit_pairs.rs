//! Training of models on CLIP's towers: CLIP4Clip, EERCF and GLCCL.

use serde::{Deserialize, Serialize};

use super::session::{self, Job, Rate};
use crate::autograd::Tape;
use crate::data::pairs::{PairBatch, PairSource, collate};
use crate::models::clip::{MAX_LOGIT_SCALE, Towers};
use crate::models::towers::TowerModel;
use crate::nn::Parameter;
use crate::optim::{Algorithm, GroupOptions, Optimizer, Schedule};
use crate::tensor::Tensor;
use crate::train::{Checkpoint, FitCore, FitHooks, FitReport, Sampler};
use crate::{Error, Result};

/// Before the names of the towers' parameters.
const TOWERS: &str = "clip.";

/// How to train; the default is the official trainers' recipe, except that steps are counted instead of epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PairFitOptions {
    /// Batches, steps, learning rate and seed.
    #[serde(flatten)]
    pub core: FitCore,
    /// Factor of the learning rate for the towers (`coef_lr`).
    pub tower_lr_scale: f64,
    /// Share of the steps over which the rate rises.
    pub warmup: f64,
    /// How the rate goes on.
    pub schedule: Schedule,
    /// Weight decay; of everything but biases.
    pub weight_decay: f64,
    /// The update rule.
    pub algorithm: Algorithm,
    /// Blocks of both towers that stay as they are, with embeddings and patch projection (`freeze_layer_num`); `None`
    /// trains everything (-1 there). Given to [`is_frozen`] when the model is made.
    pub freeze_layers: Option<usize>,
    /// Keeps the towers' matrices, their gradients and their moments in half precision, as the official trainers do.
    pub half_towers: bool,
}

impl Default for PairFitOptions {
    fn default() -> Self {
        Self {
            core: FitCore::new(128, 7030, 1e-4, 42),
            tower_lr_scale: 1e-3,
            warmup: 0.1,
            schedule: Schedule::WarmupCosine,
            weight_decay: 0.2,
            algorithm: Algorithm::CLIP4CLIP_ADAM,
            freeze_layers: Some(0),
            half_towers: false,
        }
    }
}

/// Whether the parameter `name` of a model on CLIP's towers stays as it is: the rule of `freeze_layer_num`.
pub fn is_frozen(name: &str, freeze_layers: Option<usize>) -> bool {
    match (name.strip_prefix(TOWERS), freeze_layers) {
        (Some(name), Some(layers)) => Towers::is_frozen(name, layers),
        _ => false,
    }
}

/// Whether the official code holds a parameter of the towers in half precision: matrices and biases of every affine map,
/// but neither normalisations nor embeddings.
fn is_half(name: &str) -> bool {
    let kept = ["ln_", "class_embedding", "positional_embedding", "token_embedding", "logit_scale"];
    name.starts_with(TOWERS) && !kept.iter().any(|k| name.contains(k))
}

impl PairFitOptions {
    /// The group of a parameter.
    fn group(&self, parameter: &Parameter) -> GroupOptions {
        let name = parameter.name();
        GroupOptions {
            weight_decay: if name.contains("bias") { 0.0 } else { self.weight_decay },
            lr_scale: if name.contains(TOWERS) { self.tower_lr_scale } else { 1.0 },
            clip_tensor_norm: Some(1.0),
            half: self.half_towers && is_half(name),
            max: name.ends_with("logit_scale").then_some(f64::from(MAX_LOGIT_SCALE)),
        }
    }
}

/// Trains `model` on the texts of `data` and their videos. With `resume`, continues from that checkpoint, bit for bit as if
/// it had not stopped.
///
/// # Errors
/// [`Error::NonFinite`] if the loss is; [`Error::Interrupted`] after a stop; [`Error::Argument`] for options that do not
/// fit; what `data` and `evaluate` return.
pub fn fit_pairs(
    model: &impl TowerModel,
    data: &dyn PairSource,
    options: &PairFitOptions,
    resume: Option<&Checkpoint>,
    hooks: FitHooks<'_>,
) -> Result<FitReport> {
    let core = &options.core;
    if core.batch < 2 {
        let why = format!("of {} has no negatives", core.batch);
        return Err(Error::Argument { op: "fit_pairs", argument: "batch", why });
    }
    // The loss compares a text with the other videos of its batch: a last, smaller batch is left out, as officially.
    let sampler = Sampler::new(data.texts(), core.batch, core.seed, true)?;
    let (store, base) = (model.store(), model.base());
    let frames = base.config().frames;
    let batch = |step: u64| -> Result<(PairBatch, usize)> {
        let texts = sampler.batch(step);
        let batch = collate(data, &texts, frames)?;
        let pairs = batch.mask.len() / frames.max(1);
        if pairs < 2 {
            let why = format!("has {} videos of a batch that cannot be read", texts.len() - pairs);
            return Err(Error::Argument { op: "fit_pairs", argument: "data", why });
        }
        Ok((batch, pairs))
    };
    let loss = |tape: &Tape, batch: &PairBatch, _: u64| {
        let pairs = batch.mask.len() / frames;
        let needs = model.needs();
        let texts = base.encode_texts(tape, &batch.ids, needs.words)?;
        let mask = Tensor::from_slice(tape.gpu(), [pairs, frames], &batch.mask)?;
        let pixels = tape.constant(base.upload(tape.gpu(), &batch.pixels)?);
        let videos = base.encode_frames(&pixels, &mask, needs.patches)?;
        model.loss(&texts, &videos)
    };
    let optimizer = Optimizer::new(store, options.algorithm, |p| options.group(p))?.clip_global_norm(Some(1.0));
    let rate = Rate::Scheduled { peak: core.lr, schedule: options.schedule, warmup: options.warmup, total: core.steps };
    let job = Job { store, optimizer, rate, unit: "pairs", batch: &batch, loss: &loss };
    session::run(job, core.pace(None, 0.0), resume, hooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_and_half_parameters_follow_the_official_rules() {
        let frozen = |name: &str, layers: usize| is_frozen(name, Some(layers));
        for name in ["clip.token_embedding.weight", "clip.positional_embedding", "clip.visual.conv1.weight"] {
            assert!(frozen(name, 0) && !is_frozen(name, None), "{name}");
        }
        for name in ["clip.ln_final.bias", "clip.text_projection", "clip.logit_scale", "clip.visual.proj"] {
            assert!(!frozen(name, 12), "{name}");
        }
        assert!(frozen("clip.visual.ln_pre.weight", 0) && frozen("clip.visual.class_embedding", 0));
        assert!(!frozen("clip.visual.transformer.resblocks.3.ln_1.weight", 3));
        assert!(frozen("clip.transformer.resblocks.3.ln_1.weight", 4));
        assert!(!frozen("transformerClip.resblocks.0.ln_1.weight", 12) && !frozen("global_mat_weight", 12));
        assert!(is_half("clip.visual.conv1.weight") && is_half("clip.transformer.resblocks.0.attn.in_proj_bias"));
        assert!(is_half("clip.text_projection") && !is_half("clip.transformer.resblocks.0.ln_1.weight"));
        assert!(!is_half("clip.logit_scale") && !is_half("transformerClip.resblocks.0.mlp.c_fc.weight"));
    }
}
