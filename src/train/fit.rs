//! Training of two-space models.

use serde::{Deserialize, Serialize};

use super::session::{self, Job, Rate};
use crate::autograd::Tape;
use crate::data::bicnet::{Sample, SampleSource};
use crate::models::two_space::TwoSpaceModel;
use crate::optim::schedule::PlateauConfig;
use crate::optim::{Algorithm, GroupOptions, Optimizer, ReduceLrOnPlateau};
use crate::random::Random;
use crate::retrieval::two_space::upload;
use crate::train::{Checkpoint, FitCore, FitHooks, FitReport, Sampler};
use crate::{Error, Result};

/// The streams of caption choices, apart from those of other uses of the seed.
const CAPTION_STREAMS: u64 = 0xca97 << 48;

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FitOptions {
    /// Batches, steps, learning rate and seed.
    #[serde(flatten)]
    pub core: FitCore,
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
            core: FitCore::new(64, 1000, 2e-4, 42),
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
    let core = &options.core;
    let size = groups.first().map_or(0, Vec::len);
    if size == 0 || groups.iter().any(|g| g.len() != size) || !core.batch.is_multiple_of(size) {
        let why = format!("must be of one size that divides the batch of {}", core.batch);
        return Err(Error::Argument { op: "fit", argument: "groups", why });
    }
    let sampler = Sampler::new(groups.len(), core.batch / size, core.seed, false)?;
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
        Some(config) => Rate::Plateau(ReduceLrOnPlateau::new(core.lr, config)?),
        None => Rate::Constant(core.lr),
    };
    let optimizer = Optimizer::new(store, Algorithm::ADAM, |_| GroupOptions::default())?;
    let job = Job { store, optimizer, rate, unit: "videos", batch: &batch, loss: &loss };
    // The official rule: better by more than one part in ten thousand.
    session::run(job, core.pace(None, 1e-4), resume, hooks)
}

/// The samples of a step: a pure function of the seed and the step.
fn samples_of(
    step: u64,
    sampler: &Sampler,
    groups: &[Vec<usize>],
    data: &dyn SampleSource,
    options: &FitOptions,
) -> Result<Vec<Sample>> {
    let mut random = Random::new(options.core.seed, CAPTION_STREAMS ^ step);
    sampler
        .batch(step)
        .into_iter()
        .flat_map(|group| &groups[group])
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
        assert_eq!((options.core.batch, options.core.lr, options.core.seed), (64, 2e-4, 42));
        assert_eq!((plateau.factor, plateau.patience, plateau.cooldown, plateau.threshold), (0.5, 5, 5, 1e-4));
        assert!(options.skip_last_caption && !options.mask_frames);
    }
}
