//! Training in a run folder, alike for all families.

use std::path::Path;

use super::settings::to_json;
use super::{Task, with};
use crate::Result;
use crate::gpu::{Gpu, Profile};
use crate::models::Model;
use crate::train::{Checkpoint, FitHooks, FitReport, Progress, RunFolder, Silent, Slot, StopFlag, checkpoint};

/// Steps that are profiled.
const PROFILED: u64 = 3;

/// A model at the end of its run.
pub struct Trained<S: Task> {
    /// The model, as the last step left it.
    pub model: S::Model,
    /// What the run came to.
    pub report: FitReport,
    /// The run's folder.
    pub folder: RunFolder,
    /// The evaluation of `model`, where there was one.
    pub evaluated: Option<S::Evaluated>,
}

impl<S: Task> Trained<S> {
    /// Gives the model the parameters of the best checkpoint.
    pub fn load_best(&mut self) -> Result<()> {
        if self.report.best.is_some_and(|(_, step)| step == self.report.steps) {
            return Ok(());
        }
        let best = checkpoint::load_model(self.folder.checkpoint_path(Slot::Best))?;
        self.model.store().load("the best checkpoint", &best)?;
        self.evaluated = None;
        Ok(())
    }
}

/// Trains a model in `folder`, from its initial values or a checkpoint on, evaluating as it goes.
///
/// # Errors
/// Those of the [`Task`]; [`crate::Error::Interrupted`] after a stop.
pub fn train<S: Task>(
    gpu: &Gpu,
    settings: &S,
    data: &S::Data,
    mut folder: RunFolder,
    checkpoint: Option<Checkpoint>,
    progress: &mut dyn Progress,
    stop: &StopFlag,
) -> Result<Trained<S>> {
    let model = settings.build(gpu)?;
    if checkpoint.is_none() {
        settings.load_initial(&model)?;
    }
    let store = model.store();
    let all: usize = store.parameters().iter().map(|p| p.len()).sum();
    progress.note(&format!("model    {all} parameters, {} trained", store.trained_elements()));
    if let Some(step) = checkpoint.as_ref().and_then(|c| c.state["step"].as_u64()) {
        progress.note(&format!("resumed  after step {step}"));
    }
    let mut last = None;
    let hooks = FitHooks {
        evaluate: &mut |step, progress| {
            let evaluated = settings.evaluate(&model, data)?;
            progress.note(&format!("step {step:<9} {}", S::line(&evaluated)));
            let figures = S::figures(&evaluated);
            last = Some(evaluated);
            Ok(figures)
        },
        run: Some(&mut folder),
        progress,
        stop,
    };
    let report = settings.fit(&model, data, checkpoint.as_ref(), hooks)?;
    Ok(Trained { model, report, folder, evaluated: last })
}

/// Trains every variant with so many seeds, from the variant's own on, each in a new folder `name-seed` of `folder`, and
/// loads the best checkpoint; `test` makes of each what is kept. Each run has a `progress` of its own.
pub fn train_all<S: Task, P: Progress, R>(
    gpu: &Gpu,
    (variants, seeds): (&[(&str, S)], u64),
    data: &S::Data,
    folder: &Path,
    (progress, stop): (&dyn Fn() -> P, &StopFlag),
    mut test: impl FnMut(&str, Trained<S>) -> Result<R>,
) -> Result<Vec<Vec<R>>> {
    let mut run = |name: &str, settings: &S, seed: u64| {
        let settings = with(settings, "fit.seed", seed)?;
        let folder = RunFolder::create(folder.join(format!("{name}-{seed}").replace(' ', "-")), &settings)?;
        let mut trained = train(gpu, &settings, data, folder, None, &mut progress(), stop)?;
        trained.load_best()?;
        test(&format!("{name}, seed {seed}"), trained)
    };
    let variant = |(name, settings): &(&str, S)| -> Result<Vec<R>> {
        let first = to_json(settings)?["fit"]["seed"].as_u64().unwrap_or(0);
        (first..first + seeds).map(|seed| run(name, settings, seed)).collect()
    };
    variants.iter().map(variant).collect()
}

/// The kernels of a few steps, after one that compiles the shaders; the device must have been built with `profile(true)`.
pub fn profile<S: Task>(gpu: &Gpu, settings: &S, data: &S::Data) -> Result<Profile> {
    let model = settings.build(gpu)?;
    let settings = with(&with(settings, "fit.log_every", 1)?, "fit.evaluate_every", 0)?;
    for steps in [1, PROFILED] {
        // What came before is thrown away: initial values, and the step that compiles.
        gpu.profile()?;
        let hooks = FitHooks {
            evaluate: &mut |_, _| Ok((0.0, Vec::new())),
            run: None,
            progress: &mut Silent,
            stop: &StopFlag::new(),
        };
        with(&settings, "fit.steps", steps)?.fit(&model, data, None, hooks)?;
    }
    gpu.profile()
}
