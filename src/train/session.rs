//! The loop that every trainer runs: batches are read ahead, losses stay on the GPU until they are logged, and a run
//! that was stopped goes on bit for bit as if it had not been.

use std::sync::mpsc::sync_channel;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::autograd::{Tape, Var};
use crate::models::towers::LossParts;
use crate::nn::ParameterStore;
use crate::optim::{Optimizer, ReduceLrOnPlateau, Schedule};
use crate::tensor::Tensor;
use crate::train::{Checkpoint, Progress, RunFolder, Slot, StopFlag};
use crate::{Error, Result};

/// Steps whose losses are held before they are read back, at most.
const MAX_HELD: u64 = 100;
/// Elements between two of them: views start at multiples of 256 bytes.
const HELD_STRIDE: usize = 64;
/// Batches that are read ahead while the GPU works.
const READ_AHEAD: usize = 2;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FitReport {
    /// The mean loss since the log before the last.
    pub loss: f64,
    /// Samples a second, without evaluations.
    pub samples_per_second: f64,
    /// The best figure that an evaluation gave, and its step.
    pub best: Option<(f64, u64)>,
    /// Steps made in all.
    pub steps: u64,
}

/// What an evaluation gives: the figure to maximise, and what to log.
pub type Figures = (f64, Vec<(String, f64)>);

/// Evaluates after a step; the progress takes what there is to say.
pub type Evaluate<'a> = dyn FnMut(u64, &mut dyn Progress) -> Result<Figures> + 'a;

/// What happens around the steps.
pub struct FitHooks<'a> {
    /// Runs every `evaluate_every` steps and at the end.
    pub evaluate: &'a mut Evaluate<'a>,
    /// Logs and checkpoints go here.
    pub run: Option<&'a mut RunFolder>,
    /// Told of every logged step.
    pub progress: &'a mut dyn Progress,
    /// Asks to save and stop.
    pub stop: &'a StopFlag,
}

/// The learning rate of a step.
pub(super) enum Rate {
    Constant(f64),
    /// Lowered when evaluations stop improving.
    Plateau(ReduceLrOnPlateau),
    /// `peak` times the schedule's multiplier, over `total` steps.
    Scheduled {
        peak: f64,
        schedule: Schedule,
        warmup: f64,
        total: u64,
    },
}

impl Rate {
    fn at(&self, step: u64) -> f64 {
        match self {
            Rate::Constant(rate) => *rate,
            Rate::Plateau(plateau) => plateau.lr(),
            Rate::Scheduled { peak, schedule, warmup, total } => peak * schedule.multiplier(step, *total, *warmup),
        }
    }
}

/// When things happen.
pub(super) struct Pace {
    pub steps: u64,
    /// Seeds dropout.
    pub seed: u64,
    pub log_every: u64,
    /// 0 for the end alone.
    pub evaluate_every: u64,
    /// Ends the run after more evaluations than this without a better figure.
    pub patience: Option<u64>,
    /// By which share a figure must exceed the best one to be better.
    pub min_gain: f64,
}

/// What is trained on what.
pub(super) struct Job<'a, B> {
    pub store: &'a ParameterStore,
    pub optimizer: Optimizer,
    pub rate: Rate,
    /// What is counted, for progress: "videos".
    pub unit: &'static str,
    /// The batch of a step, and its number of samples: a pure function, called on a thread of its own.
    pub batch: &'a (dyn Fn(u64) -> Result<(B, usize)> + Sync),
    /// Of a batch at a step; the parts are logged.
    pub loss: &'a dyn Fn(&Tape, &B, u64) -> Result<LossParts>,
}

/// Trains. With `resume`, continues from that checkpoint.
pub(super) fn run<B: Send>(
    job: Job<'_, B>,
    pace: Pace,
    resume: Option<&Checkpoint>,
    mut hooks: FitHooks<'_>,
) -> Result<FitReport> {
    let mut session = Session::new(job, pace, resume)?;
    let (batch, first, steps) = (session.job.batch, session.step, session.pace.steps);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(READ_AHEAD);
        let reader = scope.spawn(move || {
            for step in first..steps {
                let samples = batch(step);
                let failed = samples.is_err();
                if sender.send(samples).is_err() || failed {
                    break;
                }
            }
        });
        let mut work = || {
            while session.step < session.pace.steps && !session.is_exhausted() {
                let (batch, samples) = receiver.recv().map_err(|_| reader_died())??;
                session.train(&batch, samples)?;
                session.after_step(&mut hooks)?;
            }
            Ok(())
        };
        let worked: Result<()> = work();
        // The reader may be waiting for room; without a receiver it ends.
        drop(receiver);
        // Its panic is the error that was met here.
        let _ = reader.join();
        worked?;
        session.finish(&mut hooks)
    })
}

fn reader_died() -> Error {
    Error::Argument { op: "fit", argument: "data", why: "stopped being read: its thread panicked".into() }
}

/// The state of a run.
struct Session<'a, B> {
    job: Job<'a, B>,
    pace: Pace,
    step: u64,
    /// Evaluations since the best one.
    stale: u64,
    /// Losses not read back yet, a row a step, in memory of their own, so that no step needs more than another.
    losses: Option<Held>,
    /// Losses before those, since the last log.
    unlogged: Unlogged,
    samples: usize,
    seconds: f64,
    clock: Instant,
    report: FitReport,
}

/// Losses on the host: a row a step, a column a name.
#[derive(Default, Serialize, Deserialize)]
struct Unlogged {
    names: Vec<String>,
    rows: Vec<Vec<f64>>,
}

/// Losses on the GPU: the total and its parts, by name.
struct Held {
    names: Vec<&'static str>,
    slots: Vec<Tensor>,
    steps: usize,
}

impl<'a, B> Session<'a, B> {
    fn new(mut job: Job<'a, B>, pace: Pace, resume: Option<&Checkpoint>) -> Result<Self> {
        let (mut step, mut stale, mut report, mut unlogged) = (0, 0, FitReport::default(), Unlogged::default());
        if let Some(checkpoint) = resume {
            let origin = "the checkpoint";
            step = state(checkpoint, "step")?;
            job.optimizer.load(origin, &checkpoint.optimizer, step)?;
            if let Rate::Plateau(plateau) = &mut job.rate {
                *plateau = state(checkpoint, "plateau")?;
            }
            report.best = state(checkpoint, "best")?;
            stale = state(checkpoint, "stale")?;
            unlogged = state(checkpoint, "losses")?;
            // Last: a checkpoint that does not fit leaves the model as it was.
            job.store.load(origin, &checkpoint.model)?;
        }
        let clock = Instant::now();
        let (losses, samples, seconds) = (None, 0, 0.0);
        Ok(Self { job, pace, step, stale, losses, unlogged, samples, seconds, clock, report })
    }

    fn is_exhausted(&self) -> bool {
        self.pace.patience.is_some_and(|patience| self.stale > patience)
    }

    /// One optimiser step.
    fn train(&mut self, batch: &B, samples: usize) -> Result<()> {
        let store = self.job.store;
        let tape = Tape::training(store.gpu(), self.pace.seed, self.step);
        let (loss, parts) = (self.job.loss)(&tape, batch, self.step)?;
        store.zero_gradients()?;
        tape.backward(&loss)?;
        self.job.optimizer.step(store, self.job.rate.at(self.step))?;
        self.hold(&loss, &parts)?;
        self.samples += samples;
        self.step += 1;
        Ok(())
    }

    fn hold(&mut self, loss: &Var, parts: &[(&'static str, Var)]) -> Result<()> {
        let held = match &mut self.losses {
            Some(held) => held,
            empty => {
                let names: Vec<&'static str> =
                    std::iter::once("loss").chain(parts.iter().map(|(name, _)| *name)).collect();
                if !self.unlogged.rows.is_empty() && self.unlogged.names != names {
                    let problem = format!("are {:?}, this run has {names:?}", self.unlogged.names);
                    return Err(Error::malformed("state.json", "losses", problem));
                }
                self.unlogged.names = names.iter().map(|n| n.to_string()).collect();
                let steps = self.pace.log_every.clamp(1, MAX_HELD) as usize;
                let count = steps * (1 + parts.len());
                let memory = Tensor::uninit(self.job.store.gpu(), "losses", [count * HELD_STRIDE])?;
                let slots = (0..count).map(|i| memory.view(i * HELD_STRIDE, [])).collect::<Result<_>>()?;
                empty.insert(Held { names, slots, steps: 0 })
            }
        };
        let slots = held.slots.chunks_exact(held.names.len()).nth(held.steps).unwrap_or_default();
        for (slot, value) in slots.iter().zip(std::iter::once(loss).chain(parts.iter().map(|(_, var)| var))) {
            slot.copy_from(value.value())?;
        }
        held.steps += 1;
        Ok(())
    }

    /// Logs, evaluates, saves and stops where it is time to.
    fn after_step(&mut self, hooks: &mut FitHooks<'_>) -> Result<()> {
        let last = self.step == self.pace.steps;
        if self.losses.as_ref().is_some_and(|held| held.steps * held.names.len() == held.slots.len()) {
            self.collect()?;
        }
        let evaluates = last || (self.pace.evaluate_every > 0 && self.step.is_multiple_of(self.pace.evaluate_every));
        let stops = hooks.stop.is_set();
        if self.step.is_multiple_of(self.pace.log_every.max(1)) || evaluates {
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
        let Some(held) = &mut self.losses else { return Ok(()) };
        let width = held.names.len();
        let slots: Vec<&Tensor> = held.slots[..held.steps * width].iter().collect();
        let values: Vec<f64> = Tensor::read_all(&slots)?.iter().map(|l| f64::from(l[0])).collect();
        let steps = std::mem::take(&mut held.steps);
        let bad = |row: &[f64]| row.iter().position(|v| !v.is_finite());
        let rows = || values.chunks_exact(width);
        if let Some((i, part)) = rows().enumerate().find_map(|(i, row)| Some((i, bad(row)?))) {
            let step = self.step - (steps - i) as u64 + 1;
            let count = rows().filter(|row| bad(row).is_some()).count() as u64;
            let origin = format!("training loss ({})", held.names[part]);
            return Err(Error::NonFinite { origin, place: format!("step {step}"), count });
        }
        self.unlogged.rows.extend(rows().map(<[f64]>::to_vec));
        Ok(())
    }

    fn log(&mut self, hooks: &mut FitHooks<'_>) -> Result<()> {
        self.collect()?;
        self.seconds += self.clock.elapsed().as_secs_f64();
        let rate = self.samples as f64 / self.seconds.max(1e-9);
        self.report.samples_per_second = rate;
        let rows = std::mem::take(&mut self.unlogged.rows);
        if !rows.is_empty() {
            let mean = |i: usize| rows.iter().filter_map(|row| row.get(i)).sum::<f64>() / rows.len() as f64;
            self.report.loss = mean(0);
            let parts = self.unlogged.names.iter().enumerate().skip(1);
            let parts: Vec<(String, f64)> = parts.map(|(i, name)| (format!("loss/{name}"), mean(i))).collect();
            if let Some(run) = hooks.run.as_deref_mut() {
                let mut values = vec![("loss", self.report.loss)];
                values.extend(parts.iter().map(|(name, value)| (name.as_str(), *value)));
                values.extend([("lr", self.job.rate.at(self.step - 1)), ("samples_per_second", rate)]);
                run.log(self.step, &values)?;
            }
        }
        let message = format!("loss {:.3}, {rate:.0} {}/s", self.report.loss, self.job.unit);
        hooks.progress.step(self.step, self.pace.steps, &message);
        self.clock = Instant::now();
        Ok(())
    }

    fn evaluate(&mut self, hooks: &mut FitHooks<'_>) -> Result<()> {
        let (figure, values) = (hooks.evaluate)(self.step, hooks.progress)?;
        // It chooses the best checkpoint and may lower the rate: as with a loss, going on without one hides what is wrong.
        if !figure.is_finite() {
            let origin = format!("evaluation's figure, {figure},");
            return Err(Error::NonFinite { origin, place: format!("step {}", self.step), count: 1 });
        }
        if let Rate::Plateau(plateau) = &mut self.job.rate {
            plateau.step(figure);
        }
        let better = self.report.best.is_none_or(|(best, _)| figure > best * (1.0 + self.pace.min_gain));
        self.stale = if better { 0 } else { self.stale + 1 };
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
        let plateau = if let Rate::Plateau(plateau) = &self.job.rate { Some(plateau) } else { None };
        Ok(Checkpoint {
            model: self.job.store.to_arrays()?,
            optimizer: self.job.optimizer.to_arrays()?,
            state: json!({
                "step": self.step,
                "stale": self.stale,
                "plateau": plateau,
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
        Ok(FitReport { steps: self.step, ..self.report })
    }
}

/// A value of the checkpoint's state.
fn state<T: DeserializeOwned>(checkpoint: &Checkpoint, key: &str) -> Result<T> {
    serde_json::from_value(checkpoint.state[key].clone()).map_err(|e| Error::malformed("state.json", key, e))
}
