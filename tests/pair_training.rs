//! Training of tiny models on tiny towers: the loss falls, equal bits, resumption, what stays as it was.

mod common;

use std::path::Path;

use common::{Outcome, builder, noise, outcome};
use reelgrad::data::media::frames::FrameSet;
use reelgrad::data::pairs::PairSource;
use reelgrad::models::Model;
use reelgrad::models::clip::{ClipConfig, MAX_LOGIT_SCALE, TowerConfig};
use reelgrad::models::clip4clip::{BaseConfig, Clip4Clip};
use reelgrad::models::eercf::{Eercf, EercfConfig};
use reelgrad::models::glccl::{Glccl, GlcclConfig};
use reelgrad::models::towers::TowerModel;
use reelgrad::retrieval::gallery::{Gallery, TextTile, score_all};
use reelgrad::train::{FitCore, FitHooks, PairFitOptions, RunFolder, Slot, StopFlag, fit_pairs, is_frozen};
use reelgrad::{Error, Gpu, Result};

const STEPS: u64 = 12;
const PIXELS: usize = 3 * 8 * 8;
const FRAMES: usize = 3;
const WORDS: usize = 6;
/// Of the vocabulary, the largest.
const END: u32 = 19;

/// Two captions of each of 6 videos, which share the caption's words with its pixels.
struct Clips;

impl PairSource for Clips {
    fn texts(&self) -> usize {
        12
    }

    fn videos(&self) -> usize {
        6
    }

    fn video_of(&self, text: usize) -> Result<usize> {
        Ok(text / 2)
    }

    fn tokens(&self, text: usize) -> Result<Vec<u32>> {
        let video = self.video_of(text)? as u32;
        let mut tokens = vec![18, video, 6 + video, END];
        if text % 2 == 1 {
            tokens.insert(1, 17);
        }
        tokens.resize(WORDS, 0);
        Ok(tokens)
    }

    fn frames(&self, video: usize) -> Result<FrameSet> {
        let valid = 1 + video % FRAMES;
        FrameSet::new(noise(&[valid, PIXELS], video as u64).into_data(), valid, FRAMES)
    }
}

fn base() -> BaseConfig {
    let tower = TowerConfig { width: 16, heads: 2, layers: 1, mlp: 32 };
    let clip = ClipConfig {
        image_size: 8,
        patch_size: 4,
        vision: tower,
        text: tower,
        vocabulary: 20,
        positions: 8,
        joint: 16,
        logit_scale: 4.7,
        ..ClipConfig::vit_b_32()
    };
    BaseConfig { frames: FRAMES, words: WORDS, temporal_layers: 1, ..BaseConfig::on(clip) }
}

fn eercf(gpu: &Gpu, seed: u64) -> Eercf {
    let config = EercfConfig { base: base(), ..EercfConfig::default() };
    Eercf::frozen(gpu, config, seed, |name| is_frozen(name, Some(0))).unwrap()
}

fn glccl(gpu: &Gpu, seed: u64) -> Glccl {
    let config = GlcclConfig { base: base(), ..GlcclConfig::default() };
    Glccl::frozen(gpu, config, seed, |name| is_frozen(name, Some(0))).unwrap()
}

fn options() -> PairFitOptions {
    PairFitOptions {
        core: FitCore { batch: 4, steps: STEPS, lr: 3e-3, seed: 7, log_every: 4, evaluate_every: 6 },
        tower_lr_scale: 1.0,
        weight_decay: 0.01,
        ..PairFitOptions::default()
    }
}

/// Trains in `folder`, from its checkpoint if `resume`; stops after the step that follows the log of step `stop_at`.
fn train(
    model: &impl TowerModel,
    folder: &Path,
    options: &PairFitOptions,
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
        evaluate: &mut |_, _| {
            let gallery = Gallery::encode(model, &Clips, &[0, 1, 2, 3, 4, 5], 4)?;
            let texts = TextTile::of_source(&Clips, &[0, 2, 4, 6, 8, 10], 4)?;
            let scores = score_all(model, &texts, &gallery)?;
            let first = (0..6).filter(|&i| scores.row(i).iter().all(|s| *s <= scores.row(i)[i])).count() as f64;
            Ok((first, vec![("val/first".into(), first)]))
        },
        run: Some(&mut run),
        progress: &mut |done, _, _: &str| {
            if stop_at == Some(done) {
                stop.stop();
            }
        },
        stop: &stop,
    };
    fit_pairs(model, &Clips, options, checkpoint.as_ref(), hooks)?;
    Ok(outcome(model.store(), folder))
}

/// A whole run of a new model on a device of its own.
fn whole<M: TowerModel>(model: impl Fn(&Gpu, u64) -> M, options: &PairFitOptions) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let gpu = builder().build().unwrap();
    train(&model(&gpu, 7), &folder.path().join("run"), options, false, None).unwrap()
}

/// The logged losses.
fn losses(outcome: &Outcome) -> Vec<f64> {
    let value = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64();
    outcome.log.iter().filter_map(value).collect()
}

/// The loss falls, a seed gives the same bits, and a run that is stopped twice ends as if it had not been.
fn trains<M: TowerModel>(model: impl Fn(&Gpu, u64) -> M) {
    let reference = whole(&model, &options());
    let gpu = builder().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    for (resume, stop_at) in [(false, Some(4)), (true, Some(8)), (true, None)] {
        // Other initial values, which the checkpoint replaces.
        let model = model(&gpu, if resume { 1000 } else { 7 });
        match (train(&model, &path, &options(), resume, stop_at), stop_at) {
            (Err(Error::Interrupted { .. }), Some(_)) => {}
            (Ok(outcome), None) => assert_eq!(outcome, reference),
            (other, _) => panic!("{other:?}"),
        }
    }
    let core = FitCore { steps: 40, log_every: 8, evaluate_every: 0, ..options().core };
    let long = losses(&whole(&model, &PairFitOptions { core, ..options() }));
    assert!(long[4] < 0.6 * long[0], "{long:?}");
}

#[test]
fn eercf_trains() {
    trains(eercf);
}

#[test]
fn glccl_trains() {
    trains(glccl);
}

#[test]
fn clip4clip_trains() {
    trains(|gpu: &Gpu, seed| Clip4Clip::frozen(gpu, base(), seed, |name| is_frozen(name, Some(0))).unwrap());
}

#[test]
fn frozen_parameters_stay_and_the_scale_is_clamped() {
    let before = {
        let gpu = builder().build().unwrap();
        outcome_of(&eercf(&gpu, 7))
    };
    let after = whole(eercf, &options()).parameters;
    for (name, bits) in &before {
        assert_eq!(after[name] == *bits, is_frozen(name, Some(0)), "{name}");
    }
    assert!(before.keys().filter(|name| is_frozen(name, Some(0))).count() >= 5);
    // It starts at 4.7.
    assert!(f32::from_bits(after["clip.logit_scale"][0]) <= MAX_LOGIT_SCALE);
}

fn outcome_of(model: &impl TowerModel) -> std::collections::BTreeMap<String, Vec<u32>> {
    let arrays = model.store().to_arrays().unwrap();
    arrays.into_iter().map(|(name, a)| (name, a.data().iter().map(|x| x.to_bits()).collect())).collect()
}

#[test]
fn half_towers_train() {
    let halves = PairFitOptions { half_towers: true, ..options() };
    let outcome = whole(eercf, &halves);
    assert!(losses(&outcome).iter().all(|loss| loss.is_finite()), "{:?}", outcome.log);
    assert_eq!(whole(eercf, &halves), outcome);
    let rounded = |bits: u32| f32::from_bits(bits) == half::f16::from_f32(f32::from_bits(bits)).to_f32();
    let of_matrices = ["clip.visual.proj", "clip.text_projection", "clip.transformer.resblocks.0.mlp.c_fc.weight"];
    for name in of_matrices {
        assert!(outcome.parameters[name].iter().all(|&bits| rounded(bits)), "{name}");
    }
    assert!(!outcome.parameters["clip.ln_final.weight"].iter().all(|&bits| rounded(bits)));
}

#[test]
fn a_batch_of_one_has_no_negatives() {
    let gpu = builder().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let alone = PairFitOptions { core: FitCore { batch: 1, ..options().core }, ..options() };
    let result = train(&eercf(&gpu, 7), &folder.path().join("run"), &alone, false, None);
    assert!(matches!(result, Err(Error::Argument { argument: "batch", .. })), "{result:?}");
}
