//! What every trainer is told.

use serde::{Deserialize, Serialize};

use super::session::Pace;

/// What every trainer is told; each has defaults of its own. In JSON these stand beside a trainer's other options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitCore {
    /// Samples in a batch: videos, queries with their videos, or pairs of a text and a video.
    pub batch: usize,
    /// Optimiser steps in all; a schedule of the learning rate ends with them.
    pub steps: u64,
    /// Learning rate: at the start, or at its peak.
    pub lr: f64,
    /// Seeds the order of the data, dropout, and whatever else is drawn.
    pub seed: u64,
    /// Steps between two lines of the log; losses are read back only then.
    pub log_every: u64,
    /// Steps between two evaluations and checkpoints; 0 for the end alone.
    pub evaluate_every: u64,
}

impl FitCore {
    /// With one evaluation, at the end.
    pub(super) fn new(batch: usize, steps: u64, lr: f64, seed: u64) -> Self {
        Self { batch, steps, lr, seed, log_every: 10, evaluate_every: 0 }
    }

    /// When things happen; `patience` and `min_gain` as for [`Pace`].
    pub(super) fn pace(&self, patience: Option<u64>, min_gain: f64) -> Pace {
        let Self { steps, seed, log_every, evaluate_every, .. } = *self;
        Pace { steps, seed, log_every, evaluate_every, patience, min_gain }
    }
}
