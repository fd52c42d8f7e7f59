//! Training of two-space models.

use serde::{Deserialize, Serialize};

use super::session::{self, Job, Pace, Rate};
use crate::autograd::Tape;
use crate::data::bicnet::{Sample, SampleSource};
use crate::models::two_space::TwoSpaceModel;
use crate::optim::schedule::PlateauConfig;
use crate::optim::{Algorithm, GroupOptions, Optimizer, ReduceLrOnPlateau};
use crate::random::Random;
use crate::retrieval::two_space::upload;
use crate::train::{Checkpoint, FitHooks, FitReport, Sampler};
use crate::{Error, Result};

/// The streams of caption choices, apart from those of other uses of the seed.
const CAPTION_STREAMS: u64 = 0xca97 << 48;

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FitOptions {
    /// Videos in a batch.
    pub batch: usize,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Learning rate at the start.
    pub lr: f64,
    /// Seeds data order, caption choice and dropout.
    pub seed: u64,
    /// Steps between two lines of the log; losses are read back only then.
    pub log_every: u64,
    /// Steps between two evaluations and checkpoints; 0 for the end alone.
    pub evaluate_every: u64,
    /// Lowers the rate when the evaluation's figure stops rising; `None` for a constant rate.
    pub plateau: Option<PlateauConfig>,
    /// Leaves a video's last caption out, as the official trainer does.
    pub skip_last_caption: bool,
    /// Hides padded frames; the official trainer shows them.
    pub mask_frames: bool,
}

impl Default for FitOptions {
    /// The official trainer's numbers, except that steps are counted instead of epochs; it evaluates once an epoch.
    fn default() -> Self {
        Self {
            batch: 64,
            steps: 1000,
            lr: 2e-4,
            seed: 42,
            log_every: 10,
            evaluate_every: 0,
            plateau: Some(PlateauConfig { factor: 0.5, patience: 5, cooldown: 5, ..PlateauConfig::default() }),
            skip_last_caption: true,
            mask_frames: false,
        }
    }
}

/// Trains `model` on `data`. `groups` lists videos that enter a batch together, such as a clip and its twin; all have
/// one size, which divides the batch. With `resume`, continues from that checkpoint, bit for bit as if it had not
/// stopped.
///
/// # Errors
/// [`Error::NonFinite`] if the loss is; [`Error::Interrupted`] after a stop; [`Error::Argument`] for options that do not
/// fit; what `data` and `evaluate` return.
pub fn fit(
    model: &impl TwoSpaceModel,
    data: &dyn SampleSource,
    groups: &[Vec<usize>],
    options: &FitOptions,
    resume: Option<&Checkpoint>,
    hooks: FitHooks<'_>,
) -> Result<FitReport> {
    let size = groups.first().map_or(0, Vec::len);
    if size == 0 || groups.iter().any(|g| g.len() != size) || !options.batch.is_multiple_of(size) {
        let why = format!("must be of one size that divides the batch of {}", options.batch);
        return Err(Error::Argument { op: "fit", argument: "groups", why });
    }
    let sampler = Sampler::new(groups.len(), options.batch / size, options.seed, false)?;
    let batch = |step: u64| {
        let samples = samples_of(step, &sampler, groups, data, options)?;
        let count = samples.len();
        Ok((samples, count))
    };
    let store = model.store();
    let loss = |tape: &Tape, samples: &Vec<Sample>, _: u64| {
        let inputs = upload(store.gpu(), samples, options.mask_frames)?;
        Ok((model.loss(&model.forward(tape, &inputs)?)?.total, vec![]))
    };
    let rate = match options.plateau {
        Some(config) => Rate::Plateau(ReduceLrOnPlateau::new(options.lr, config)?),
        None => Rate::Constant(options.lr),
    };
    let optimizer = Optimizer::new(store, Algorithm::ADAM, |_| GroupOptions::default())?;
    let job = Job { store, optimizer, rate, unit: "videos", batch: &batch, loss: &loss };
    let pace = Pace {
        steps: options.steps,
        seed: options.seed,
        log_every: options.log_every,
        evaluate_every: options.evaluate_every,
        patience: None,
        // The official rule: better by more than one part in ten thousand.
        min_gain: 1e-4,
    };
    session::run(job, pace, resume, hooks)
}

/// The samples of a step: a pure function of the seed and the step.
fn samples_of(
    step: u64,
    sampler: &Sampler,
    groups: &[Vec<usize>],
    data: &dyn SampleSource,
    options: &FitOptions,
) -> Result<Vec<Sample>> {
    let position = sampler.position(step);
    let batch = sampler.batches(position.epoch, position.batch).next().unwrap_or_default();
    let mut random = Random::new(options.seed, CAPTION_STREAMS ^ step);
    batch
        .iter()
        .flat_map(|&g| &groups[g])
        .map(|&video| {
            let captions = data.captions(video)?;
            let usable = if options.skip_last_caption && captions > 1 { captions - 1 } else { captions };
            data.sample(video, random.below(usable))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::FitOptions;

    #[test]
    fn the_default_is_the_official_trainer() {
        let options = FitOptions::default();
        let plateau = options.plateau.unwrap();
        assert_eq!((options.batch, options.lr, options.seed), (64, 2e-4, 42));
        assert_eq!((plateau.factor, plateau.patience, plateau.cooldown, plateau.threshold), (0.5, 5, 5, 1e-4));
        assert!(options.skip_last_caption && !options.mask_frames);
    }
}
