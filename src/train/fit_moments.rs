//! Training of ReLoCLNet.

use serde::{Deserialize, Serialize};

use super::session::{self, Job, Rate};
use crate::autograd::Tape;
use crate::data::moments::{MomentBatch, MomentSource, collate};
use crate::models::Model;
use crate::models::reloclnet::{NegativeDraws, Reloclnet, ReloclnetInputs};
use crate::optim::{Algorithm, GroupOptions, Optimizer, Schedule};
use crate::random::Random;
use crate::train::{Checkpoint, FitCore, FitHooks, FitReport, Sampler};
use crate::{Error, Result};

/// The streams of choices among a query's windows, apart from those of other uses of the seed.
const WINDOW_STREAMS: u64 = 0x317d << 48;
/// The streams of negatives.
const NEGATIVE_STREAMS: u64 = 0x4e65 << 48;

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MomentFitOptions {
    /// Batches, steps, learning rate and seed.
    #[serde(flatten)]
    pub core: FitCore,
    /// Share of the steps in which the rate rises to its peak.
    pub warmup: f64,
    /// Weight decay, of all but biases and most normalisations.
    pub weight_decay: f64,
    /// Ends the run after more evaluations than this without a better figure; `None` never does.
    pub patience: Option<u64>,
    /// The epoch, counted from 0, from which negatives are drawn among the highest of a row alone.
    pub hard_negatives_from: u64,
}

impl Default for MomentFitOptions {
    /// The official trainer's numbers, except that steps are counted instead of its 100 epochs; it evaluates once an
    /// epoch.
    fn default() -> Self {
        Self {
            core: FitCore::new(128, 68_200, 1e-4, 2018),
            warmup: 0.01,
            weight_decay: 0.01,
            patience: Some(10),
            hard_negatives_from: 20,
        }
    }
}

/// The queries of `data` that can be trained on: those with labels.
fn labelled(data: &dyn MomentSource) -> Result<Vec<usize>> {
    (0..data.queries().len())
        .filter(|&q| !data.queries()[q].windows.is_empty())
        .filter_map(|q| data.video_of(q).map(|video| video.map(|_| q)).transpose())
        .collect()
}

impl MomentFitOptions {
    /// Steps of a pass over `data`.
    ///
    /// # Errors
    /// [`Error::Argument`] for fewer than two labelled queries, or batches of fewer than two.
    pub fn steps_per_epoch(&self, data: &dyn MomentSource) -> Result<u64> {
        Ok(self.sampler(labelled(data)?.len())?.batches_per_epoch() as u64)
    }

    fn sampler(&self, queries: usize) -> Result<Sampler> {
        if queries < 2 || self.core.batch < 2 {
            let why = format!("of {queries} labelled queries in batches of {} has no negatives", self.core.batch);
            return Err(Error::Argument { op: "fit_moments", argument: "data", why });
        }
        // A last batch of one has no negatives.
        Sampler::new(queries, self.core.batch, self.core.seed, queries % self.core.batch == 1)
    }
}

/// Whether the official optimiser decays a parameter: not if its name holds `bias` or `LayerNorm.weight`. The two
/// `cross_layernorm.weight`, written small, are decayed.
pub fn is_decayed(name: &str) -> bool {
    !name.contains("bias") && !name.contains("LayerNorm.weight")
}

/// Trains `model` on the queries of `data` that have labels. With `resume`, continues from that checkpoint, bit for bit
/// as if it had not stopped.
///
/// # Errors
/// [`Error::NonFinite`] if the loss is; [`Error::Interrupted`] after a stop; [`Error::Argument`] for options that do not
/// fit, or fewer than two labelled queries; what `data` and `evaluate` return.
pub fn fit_moments(
    model: &Reloclnet,
    data: &dyn MomentSource,
    options: &MomentFitOptions,
    resume: Option<&Checkpoint>,
    hooks: FitHooks<'_>,
) -> Result<FitReport> {
    let core = &options.core;
    let labelled = labelled(data)?;
    let sampler = options.sampler(labelled.len())?;
    let (store, config) = (model.store(), model.config());
    let batch = |step: u64| -> Result<(MomentBatch, usize)> {
        let mut random = Random::new(core.seed, WINDOW_STREAMS ^ step);
        let sample = |i: usize| {
            let query = labelled[i];
            data.sample(query, random.below(data.queries()[query].windows.len()))
        };
        let samples = sampler.batch(step).into_iter().map(sample).collect::<Result<Vec<_>>>()?;
        Ok((collate(&samples, config.batch_options())?, samples.len()))
    };
    let loss = |tape: &Tape, batch: &MomentBatch, step: u64| {
        let inputs = ReloclnetInputs::upload(store.gpu(), config, batch)?;
        let hard = sampler.epoch_of(step) >= options.hard_negatives_from;
        let mut random = Random::new(core.seed, NEGATIVE_STREAMS ^ step);
        let draws = NegativeDraws::new(batch.spans.len(), hard, config.hard_pool, &mut random)?;
        let losses = model.loss(tape, &inputs, &draws)?;
        let parts = losses.parts();
        Ok((losses.total, parts))
    };
    let optimizer = Optimizer::new(store, Algorithm::BERT_ADAM, |p| GroupOptions {
        weight_decay: if is_decayed(p.name()) { options.weight_decay } else { 0.0 },
        clip_tensor_norm: Some(1.0),
        ..GroupOptions::default()
    })?;
    let rate =
        Rate::Scheduled { peak: core.lr, schedule: Schedule::WarmupLinear, warmup: options.warmup, total: core.steps };
    let job = Job { store, optimizer, rate, unit: "queries", batch: &batch, loss: &loss };
    session::run(job, core.pace(options.patience, 0.0), resume, hooks)
}

#[cfg(test)]
mod tests {
    use super::is_decayed;

    #[test]
    fn decay_follows_the_official_names() {
        let decayed =
            ["video_cross_layernorm.weight", "query_pos_embed.position_embeddings.weight", "x.self.key.weight"];
        let kept = ["sub_cross_layernorm.bias", "query_input_proj.LayerNorm.weight", "x.self.key.bias"];
        assert!(decayed.into_iter().all(is_decayed));
        assert!(!kept.into_iter().any(is_decayed));
    }
}
