//! Training runs of a tiny ReLoCLNet: equal bits, resumption, early stopping, constant memory.

use std::path::Path;
use std::sync::OnceLock;

use reelgrad::data::moments::{MomentSource, Problems, TvrDataset, TvrFiles, TvrOptions};
use reelgrad::data::synthetic::{MomentWorld, MomentWorldConfig};
use reelgrad::gpu::GpuBuilder;
use reelgrad::models::Model;
use reelgrad::models::reloclnet::{Reloclnet, ReloclnetConfig};
use reelgrad::retrieval::moments::{IndexOptions, MomentIndex, MomentSearch, MomentSearchOptions, evaluate};
use reelgrad::train::{FitCore, FitHooks, FitReport, MomentFitOptions, RunFolder, Silent, Slot, StopFlag, fit_moments};
use reelgrad::{Error, Result};

use crate::common::{Outcome, builder, outcome};

/// Fewer than some videos and some queries have.
const CLIPS: usize = 22;
const TOKENS: usize = 8;
const STEPS: u64 = 14;

/// A split of a world of ten videos, made once.
fn data(split: &str, max_tokens: usize) -> TvrDataset {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let config =
            MomentWorldConfig { seed: 3, train: 8, validation: 2, test: 0, clips: [19, 25], ..Default::default() };
        MomentWorld::new(config).unwrap().write(folder.path()).unwrap();
        folder
    });
    let options = TvrOptions { max_clips: CLIPS, max_tokens, ..TvrOptions::default() };
    TvrDataset::open(&TvrFiles::in_folder(folder, split), options, &mut Problems::strict()).unwrap()
}

fn tiny() -> ReloclnetConfig {
    ReloclnetConfig {
        hidden_size: 16,
        num_heads: 2,
        video_dim: MomentWorld::WIDTHS.video,
        sub_dim: MomentWorld::WIDTHS.sub,
        query_dim: MomentWorld::WIDTHS.query,
        max_clips: CLIPS,
        max_tokens: TOKENS,
        input_dropout: 0.1,
        dropout: 0.2,
        hard_pool: 3,
        ..ReloclnetConfig::default()
    }
}

fn options(seed: u64) -> MomentFitOptions {
    MomentFitOptions {
        core: FitCore { batch: 8, steps: STEPS, lr: 1e-3, seed, log_every: 4, evaluate_every: 6 },
        warmup: 0.1,
        patience: None,
        hard_negatives_from: 1,
        ..MomentFitOptions::default()
    }
}

fn epoch() -> u64 {
    options(7).steps_per_epoch(&data("train", TOKENS)).unwrap()
}

fn validate(model: &Reloclnet) -> Result<(f64, Vec<(String, f64)>)> {
    let (data, mut problems) = (data("val", TOKENS), Problems::strict());
    let index = MomentIndex::build(model, &data, IndexOptions::default(), &mut problems, &mut Silent)?;
    let search = MomentSearch::new(model, &index, MomentSearchOptions::default())?;
    let predicted = search.predict(&data, &mut problems, &mut Silent)?;
    let metrics = evaluate(&predicted.submission, data.queries(), &mut problems)?;
    let svmr = metrics.svmr.unwrap().half.r10;
    Ok((svmr, vec![("val/SVMR/0.5-r10".into(), svmr)]))
}

/// Trains in `folder`, from its checkpoint if `resume`; stops after the step that follows the log of step `stop_at`.
fn train(
    model: &Reloclnet,
    folder: &Path,
    options: &MomentFitOptions,
    resume: bool,
    stop_at: Option<u64>,
) -> Result<Outcome> {
    let (mut run, checkpoint) = if resume {
        let resumed = RunFolder::resume(folder, Slot::Last)?;
        (resumed.folder, resumed.checkpoint)
    } else {
        (RunFolder::create(folder, options)?, None)
    };
    let stop = StopFlag::new();
    let hooks = FitHooks {
        evaluate: &mut |_, _| validate(model),
        run: Some(&mut run),
        progress: &mut |done, _, _: &str| {
            if stop_at == Some(done) {
                stop.stop();
            }
        },
        stop: &stop,
    };
    fit_moments(model, &data("train", TOKENS), options, checkpoint.as_ref(), hooks)?;
    Ok(outcome(model.store(), folder))
}

/// A whole run on a device of its own.
fn whole(builder: GpuBuilder, seed: u64) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let gpu = builder.build().unwrap();
    let model = Reloclnet::new(&gpu, tiny(), seed).unwrap();
    train(&model, &folder.path().join("run"), &options(seed), false, None).unwrap()
}

fn reference() -> &'static Outcome {
    static REFERENCE: OnceLock<Outcome> = OnceLock::new();
    REFERENCE.get_or_init(|| whole(builder(), 7))
}

#[test]
fn a_seed_gives_the_same_bits() {
    assert_eq!(&whole(builder(), 7), reference());
    assert_eq!(reference().log.len(), 8, "steps 4, 6, 8, 12, 14, and evaluations after 6, 12 and 14");
    let other = whole(builder(), 8);
    assert_ne!(other.parameters, reference().parameters);
    assert_ne!(other.log, reference().log);
}

#[test]
fn batching_and_parameter_passing_change_no_bit() {
    assert_eq!(&whole(builder().max_dispatches_per_submit(1), 7), reference());
    assert_eq!(&whole(builder().immediates(false), 7), reference());
    assert_eq!(&whole(builder().checked(true), 7), reference());
}

#[test]
fn a_stopped_run_resumes_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let gpu = builder().build().unwrap();
    let model = Reloclnet::new(&gpu, tiny(), 7).unwrap();
    let stops = [5, 9];
    // In mid-epoch, the second time with hard negatives.
    assert!(stops.iter().all(|stop| stop % epoch() != 0) && stops[1] > epoch() && STEPS > 2 * epoch());
    match train(&model, &path, &options(7), false, Some(4)) {
        Err(Error::Interrupted { saved }) => assert_eq!(saved, Some(path.join("checkpoints/last"))),
        other => panic!("{other:?}"),
    }
    for (stop_at, saved_step) in [(Some(8), stops[0]), (None, stops[1])] {
        let resumed = RunFolder::resume(&path, Slot::Last).unwrap();
        assert_eq!(resumed.checkpoint.unwrap().state["step"], saved_step);
        drop(resumed.folder);
        // Other initial values, which the checkpoint replaces.
        let model = Reloclnet::new(&gpu, tiny(), 1000).unwrap();
        match (train(&model, &path, &options(7), true, stop_at), stop_at) {
            (Err(Error::Interrupted { .. }), Some(_)) => {}
            (Ok(outcome), None) => assert_eq!(&outcome, reference()),
            (other, _) => panic!("{other:?}"),
        }
    }
}

#[test]
fn hard_negatives_begin_with_their_epoch() {
    let never = MomentFitOptions { hard_negatives_from: u64::MAX, ..options(7) };
    let core = FitCore { steps: epoch(), evaluate_every: 0, ..options(7).core };
    let first_epoch = MomentFitOptions { core, ..options(7) };
    let outcome = |options: &MomentFitOptions| {
        let folder = tempfile::tempdir().unwrap();
        let gpu = builder().build().unwrap();
        let model = Reloclnet::new(&gpu, tiny(), 7).unwrap();
        train(&model, &folder.path().join("run"), options, false, None).unwrap()
    };
    assert_ne!(outcome(&never).parameters, reference().parameters);
    let unhard = MomentFitOptions { hard_negatives_from: u64::MAX, ..first_epoch.clone() };
    assert_eq!(outcome(&first_epoch), outcome(&unhard));
}

/// Trains without evaluations.
fn fit(config: ReloclnetConfig, options: &MomentFitOptions, run: Option<&mut RunFolder>) -> Result<FitReport> {
    let gpu = builder().build().unwrap();
    let model = Reloclnet::new(&gpu, config, 7).unwrap();
    let stop = StopFlag::new();
    let hooks = FitHooks { evaluate: &mut |_, _| Ok((0.0, vec![])), run, progress: &mut Silent, stop: &stop };
    fit_moments(&model, &data("train", TOKENS), options, None, hooks)
}

#[test]
fn the_loss_falls() {
    let config = ReloclnetConfig { input_dropout: 0.0, dropout: 0.0, ..tiny() };
    let core = FitCore { steps: 120, lr: 3e-3, log_every: 10, evaluate_every: 0, ..options(7).core };
    let options = MomentFitOptions { core, ..options(7) };
    let folder = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(folder.path().join("run"), &options).unwrap();
    fit(config, &options, Some(&mut run)).unwrap();
    let log = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let line = |line: Option<&str>| serde_json::from_str::<serde_json::Value>(line.unwrap()).unwrap();
    let (first, last) = (line(log.lines().next()), line(log.lines().rfind(|l| l.contains("loss"))));
    for (name, factor) in [("loss", 0.7), ("loss/span", 0.9), ("loss/negative_video", 0.7)] {
        let (first, last) = (first[name].as_f64().unwrap(), last[name].as_f64().unwrap());
        println!("{name}: {first} to {last}");
        assert!(last < factor * first, "{name}: {first} to {last}");
    }
}

#[test]
fn a_run_without_progress_ends_early_and_stays_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let gpu = builder().build().unwrap();
    let model = Reloclnet::new(&gpu, tiny(), 7).unwrap();
    let data = data("train", TOKENS);
    let core = FitCore { evaluate_every: 2, ..options(7).core };
    let options = MomentFitOptions { core, patience: Some(1), ..options(7) };
    let stop = StopFlag::new();
    // Better at step 4, then never.
    let figures = [1.0, 2.0, 2.0, 1.5, 9.0, 9.0, 9.0];
    let mut seen = 0;
    let mut run = RunFolder::create(&path, &options).unwrap();
    let hooks = FitHooks {
        evaluate: &mut |_, _| {
            seen += 1;
            Ok((figures[seen - 1], vec![]))
        },
        run: Some(&mut run),
        progress: &mut Silent,
        stop: &stop,
    };
    let report = fit_moments(&model, &data, &options, None, hooks).unwrap();
    assert_eq!((report.steps, report.best, seen), (8, Some((2.0, 4)), 4));
    drop(run);
    let ended = outcome(model.store(), &path);

    let mut resumed = RunFolder::resume(&path, Slot::Last).unwrap();
    let model = Reloclnet::new(&gpu, tiny(), 1000).unwrap();
    let hooks = FitHooks {
        evaluate: &mut |_, _| panic!("it has ended"),
        run: Some(&mut resumed.folder),
        progress: &mut Silent,
        stop: &stop,
    };
    let report = fit_moments(&model, &data, &options, resumed.checkpoint.as_ref(), hooks).unwrap();
    assert_eq!((report.steps, report.best), (8, Some((2.0, 4))));
    assert_eq!(outcome(model.store(), &path), ended);
    // The best checkpoint is the one of step 4.
    drop(resumed.folder);
    assert_eq!(RunFolder::resume(&path, Slot::Best).unwrap().checkpoint.unwrap().state["step"], 4);
}

#[test]
fn memory_is_constant_after_the_first_epoch() {
    let gpu = builder().build().unwrap();
    let model = Reloclnet::new(&gpu, tiny(), 7).unwrap();
    // Queries of one length, so that all batches but the last of an epoch have equal shapes.
    let data = data("train", 3);
    let steps = 8 * epoch();
    let core = FitCore { steps, log_every: 1, evaluate_every: 0, ..options(7).core };
    let options = MomentFitOptions { core, ..options(7) };
    let (stop, mut seen) = (StopFlag::new(), Vec::new());
    let hooks = FitHooks {
        evaluate: &mut |_, _| Ok((0.0, vec![])),
        run: None,
        progress: &mut |_, _, _: &str| {
            let memory = gpu.memory_report();
            seen.push((memory.live, memory.buffers_created, gpu.pipelines_compiled()));
        },
        stop: &stop,
    };
    fit_moments(&model, &data, &options, None, hooks).unwrap();
    assert_eq!(seen.len() as u64, steps);
    let settled = &seen[epoch() as usize..];
    assert!(settled.iter().all(|now| now == &settled[0]), "{seen:?}");
}

#[test]
fn what_cannot_be_trained_is_an_error() {
    let single = MomentFitOptions { core: FitCore { batch: 1, ..options(7).core }, ..options(7) };
    assert!(matches!(fit(tiny(), &single, None), Err(Error::Argument { .. })));
    let wide = ReloclnetConfig { video_dim: 65, ..tiny() };
    let got = fit(wide, &options(7), None).map(drop);
    let Err(Error::Shape { argument: "features", expected, .. }) = &got else { panic!("{got:?}") };
    assert_eq!(expected, "(batch, length, 67)");
}
