//! The training loop of two-space models.

use std::sync::mpsc::sync_channel;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::autograd::Tape;
use crate::data::bicnet::{Sample, SampleSource};
use crate::models::two_space::TwoSpaceModel;
use crate::optim::schedule::PlateauConfig;
use crate::optim::{Algorithm, GroupOptions, Optimizer, ReduceLrOnPlateau};
use crate::random::Random;
use crate::retrieval::two_space::upload;
use crate::tensor::Tensor;
use crate::train::{Checkpoint, Progress, RunFolder, Sampler, Slot, StopFlag};
use crate::{Error, Result};

/// Losses that are held before they are read back, at most.
const MAX_HELD: u64 = 100;
/// Elements between two of them: views start at multiples of 256 bytes.
const HELD_STRIDE: usize = 64;
/// Batches that are read ahead while the GPU works.
const READ_AHEAD: usize = 2;
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

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FitReport {
    /// The last logged loss.
    pub loss: f64,
    /// Videos a second, without evaluations.
    pub samples_per_second: f64,
    /// The best figure that an evaluation gave, and its step.
    pub best: Option<(f64, u64)>,
}

/// What an evaluation gives: the figure to maximise, and what to log.
pub type Figures = (f64, Vec<(String, f64)>);

/// What happens around the steps.
pub struct FitHooks<'a> {
    /// Runs every `evaluate_every` steps and at the end.
    pub evaluate: &'a mut dyn FnMut() -> Result<Figures>,
    /// Logs and checkpoints go here.
    pub run: Option<&'a mut RunFolder>,
    /// Told of every logged step.
    pub progress: &'a mut dyn Progress,
    /// Asks to save and stop.
    pub stop: &'a StopFlag,
}

/// Trains `model` on `data`. `groups` lists videos that enter a batch together, such as a clip and its twin; all have
/// one size, which divides the batch. With `resume`, continues from that checkpoint, bit for bit as if it had not
/// stopped.
///
/// # Errors
/// [`Error::NonFinite`] if the loss is; [`Error::Interrupted`] after a stop; [`Error::Argument`] for options that do not
/// fit; what `data` and `evaluate` return.
pub fn fit(
    model: &dyn TwoSpaceModel,
    data: &dyn SampleSource,
    groups: &[Vec<usize>],
    options: &FitOptions,
    resume: Option<&Checkpoint>,
    mut hooks: FitHooks<'_>,
) -> Result<FitReport> {
    let size = groups.first().map_or(0, Vec::len);
    if size == 0 || groups.iter().any(|g| g.len() != size) || !options.batch.is_multiple_of(size) {
        let why = format!("must be of one size that divides the batch of {}", options.batch);
        return Err(Error::Argument { op: "fit", argument: "groups", why });
    }
    let sampler = Sampler::new(groups.len(), options.batch / size, options.seed, false)?;
    let mut session = Session::new(model, options, resume)?;
    let first = session.step;
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Result<Vec<Sample>>>(READ_AHEAD);
        scope.spawn(move || {
            for step in first..options.steps {
                let samples = samples_of(step, &sampler, groups, data, options);
                let failed = samples.is_err();
                if sender.send(samples).is_err() || failed {
                    break;
                }
            }
        });
        while session.step < options.steps {
            let samples = receiver.recv().map_err(|_| reader_died())??;
            session.train(&samples)?;
            session.after_step(&mut hooks)?;
        }
        session.finish(&mut hooks)
    })
}

fn reader_died() -> Error {
    Error::Argument { op: "fit", argument: "data", why: "stopped being read: its thread panicked".into() }
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

/// The state of a run.
struct Session<'a> {
    model: &'a dyn TwoSpaceModel,
    options: &'a FitOptions,
    optimizer: Optimizer,
    plateau: Option<ReduceLrOnPlateau>,
    step: u64,
    /// Losses not read back yet, in memory of their own, so that no step needs more than another.
    losses: Vec<Tensor>,
    /// How many of them hold one.
    held: usize,
    /// Losses before those, since the last log.
    unlogged: Vec<f64>,
    videos: usize,
    seconds: f64,
    clock: Instant,
    report: FitReport,
}

impl<'a> Session<'a> {
    fn new(model: &'a dyn TwoSpaceModel, options: &'a FitOptions, resume: Option<&Checkpoint>) -> Result<Self> {
        let mut optimizer = Optimizer::new(model.store(), Algorithm::ADAM, |_| GroupOptions::default())?;
        let mut plateau = options.plateau.map(|c| ReduceLrOnPlateau::new(options.lr, c)).transpose()?;
        let (mut step, mut report, mut unlogged) = (0, FitReport::default(), Vec::new());
        if let Some(checkpoint) = resume {
            let origin = "the checkpoint";
            let bad = |key: &str| Error::Malformed {
                path: "state.json".into(),
                place: key.into(),
                problem: "is missing or of the wrong type".into(),
            };
            step = checkpoint.state["step"].as_u64().ok_or_else(|| bad("step"))?;
            optimizer.load(origin, &checkpoint.optimizer, step)?;
            if plateau.is_some() {
                plateau = serde_json::from_value(checkpoint.state["plateau"].clone()).map_err(|_| bad("plateau"))?;
            }
            report.best = serde_json::from_value(checkpoint.state["best"].clone()).map_err(|_| bad("best"))?;
            let losses: Option<Vec<f64>> =
                serde_json::from_value(checkpoint.state["losses"].clone()).map_err(|_| bad("losses"))?;
            unlogged = losses.unwrap_or_default();
            // Last: a checkpoint that does not fit leaves the model as it was.
            model.store().load(origin, &checkpoint.model)?;
        }
        let capacity = options.log_every.clamp(1, MAX_HELD) as usize;
        let losses = Tensor::uninit(model.store().gpu(), "losses", [capacity * HELD_STRIDE])?;
        let losses = (0..capacity).map(|i| losses.view(i * HELD_STRIDE, [])).collect::<Result<_>>()?;
        let clock = Instant::now();
        Ok(Self {
            model,
            options,
            optimizer,
            plateau,
            step,
            losses,
            held: 0,
            unlogged,
            videos: 0,
            seconds: 0.0,
            clock,
            report,
        })
    }

    fn lr(&self) -> f64 {
        self.plateau.as_ref().map_or(self.options.lr, ReduceLrOnPlateau::lr)
    }

    /// One optimiser step.
    fn train(&mut self, samples: &[Sample]) -> Result<()> {
        let store = self.model.store();
        let inputs = upload(store.gpu(), samples, self.options.mask_frames)?;
        let tape = Tape::training(store.gpu(), self.options.seed, self.step);
        let loss = self.model.loss(&self.model.forward(&tape, &inputs)?)?;
        store.zero_gradients()?;
        tape.backward(&loss.total)?;
        let lr = self.lr();
        self.optimizer.step(store, lr)?;
        self.losses[self.held].copy_from(loss.total.value())?;
        self.held += 1;
        self.videos += samples.len();
        self.step += 1;
        Ok(())
    }

    /// Logs, evaluates, saves and stops where it is time to.
    fn after_step(&mut self, hooks: &mut FitHooks<'_>) -> Result<()> {
        let last = self.step == self.options.steps;
        if self.held == self.losses.len() {
            self.collect()?;
        }
        let evaluates =
            last || (self.options.evaluate_every > 0 && self.step.is_multiple_of(self.options.evaluate_every));
        let stops = hooks.stop.is_set();
        if self.step.is_multiple_of(self.options.log_every.max(1)) || evaluates {
            self.log(hooks)?;
        }
        if evaluates {
            self.evaluate(hooks)?;
        }
        if stops && !last {
            let Some(run) = hooks.run.as_deref_mut() else {
                return Err(Error::Interrupted { saved: None });
            };
            if !evaluates {
                self.collect()?;
                run.save(Slot::Last, &self.checkpoint()?)?;
            }
            return Err(Error::Interrupted { saved: Some(run.checkpoint_path(Slot::Last)) });
        }
        Ok(())
    }

    /// Reads the losses back.
    fn collect(&mut self) -> Result<()> {
        let losses = Tensor::read_all(&self.losses[..self.held].iter().collect::<Vec<_>>())?;
        let losses: Vec<f64> = losses.iter().map(|l| f64::from(l[0])).collect();
        if let Some(i) = losses.iter().position(|l| !l.is_finite()) {
            let step = self.step - (losses.len() - i) as u64 + 1;
            let count = losses.iter().filter(|l| !l.is_finite()).count() as u64;
            return Err(Error::NonFinite { origin: "training loss".into(), place: format!("step {step}"), count });
        }
        self.held = 0;
        self.unlogged.extend(losses);
        Ok(())
    }

    fn log(&mut self, hooks: &mut FitHooks<'_>) -> Result<()> {
        self.collect()?;
        self.seconds += self.clock.elapsed().as_secs_f64();
        self.report.samples_per_second = self.videos as f64 / self.seconds.max(1e-9);
        if !self.unlogged.is_empty() {
            self.report.loss = self.unlogged.iter().sum::<f64>() / self.unlogged.len() as f64;
            self.unlogged.clear();
            if let Some(run) = hooks.run.as_deref_mut() {
                let rate = self.report.samples_per_second;
                run.log(self.step, &[("loss", self.report.loss), ("lr", self.lr()), ("samples_per_second", rate)])?;
            }
        }
        let message = format!("loss {:.3}, {:.0} videos/s", self.report.loss, self.report.samples_per_second);
        hooks.progress.step(self.step, self.options.steps, &message);
        self.clock = Instant::now();
        Ok(())
    }

    fn evaluate(&mut self, hooks: &mut FitHooks<'_>) -> Result<()> {
        let (figure, values) = (hooks.evaluate)()?;
        if let Some(plateau) = &mut self.plateau {
            plateau.step(figure);
        }
        // The official rule: better by more than one part in ten thousand.
        let better = self.report.best.is_none_or(|(best, _)| figure > best * (1.0 + 1e-4));
        if better {
            self.report.best = Some((figure, self.step));
        }
        if let Some(run) = hooks.run.as_deref_mut() {
            let values: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            run.log(self.step, &values)?;
            let checkpoint = self.checkpoint()?;
            run.save(Slot::Last, &checkpoint)?;
            if better {
                run.save(Slot::Best, &checkpoint)?;
            }
        }
        self.clock = Instant::now();
        Ok(())
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint {
            model: self.model.store().to_arrays()?,
            optimizer: self.optimizer.to_arrays()?,
            state: json!({
                "step": self.step,
                "plateau": self.plateau,
                "best": self.report.best,
                "losses": self.unlogged,
            }),
        })
    }

    fn finish(self, hooks: &mut FitHooks<'_>) -> Result<FitReport> {
        #[cfg(feature = "plot")]
        if let Some(run) = hooks.run.as_deref_mut() {
            run.plot()?;
        }
        #[cfg(not(feature = "plot"))]
        let _ = hooks;
        Ok(self.report)
    }
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
