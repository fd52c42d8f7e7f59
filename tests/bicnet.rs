//! BiC-Net as a whole: gradients, agreement of the kernel families, and its options, at odd sizes.

use reelgrad::autograd::{GradientCheck, Tape, Var, check_gradient};
use reelgrad::gpu::KernelFamily;
use reelgrad::models::Model;
use reelgrad::models::bicnet::{Bicnet, BicnetConfig, TemporalMode};
use reelgrad::models::two_space::{Embeddings, TwoSpaceModel, similarity};
use reelgrad::random::Random;
use reelgrad::{Array, Error, Gpu, Result, Tensor};

mod common;

const BATCH: usize = 3;
const FRAMES: usize = 5;
const REGIONS: usize = 7;
const TOKENS: usize = 6;

fn config(mode: TemporalMode) -> BicnetConfig {
    BicnetConfig {
        // Neither the width nor a head's or a pooling head's share of it is a multiple of 4.
        embedding_dim: 30,
        num_heads: 5,
        global_dim: 11,
        region_dim: 9,
        text_dim: 13,
        region_num: REGIONS,
        layer_num: 2,
        temporal_mode: mode,
        temporal_positions: mode != TemporalMode::Official,
        init_std: 0.3,
        ..BicnetConfig::default()
    }
}

/// Features of text, regions and frames.
fn features() -> Vec<Array> {
    let mut random = Random::new(5, 0);
    let mut array = |shape: &[usize]| {
        let data = (0..shape.iter().product()).map(|_| random.normal()).collect();
        Array::new(shape, data).expect("shape and data agree")
    };
    vec![array(&[BATCH, TOKENS, 13]), array(&[BATCH, FRAMES, REGIONS, 9]), array(&[BATCH, FRAMES, 11])]
}

/// 1 up to each length.
fn mask(gpu: &Gpu, lengths: [usize; BATCH], width: usize) -> Result<Tensor> {
    let data: Vec<f32> = lengths.iter().flat_map(|&l| (0..width).map(move |i| if i < l { 1.0 } else { 0.0 })).collect();
    Tensor::from_slice(gpu, [BATCH, width], &data)
}

fn embed(gpu: &Gpu, model: &Bicnet, inputs: &[Var]) -> Result<Embeddings> {
    let frames = mask(gpu, [5, 3, 1], FRAMES)?;
    Ok(Embeddings {
        text: model.encode_tokens(&inputs[0], &mask(gpu, [6, 1, 4], TOKENS)?)?,
        region: model.encode_region(&inputs[1], Some(&frames))?,
        global: model.encode_global(&inputs[2], Some(&frames))?,
    })
}

#[test]
fn gradients_hold_in_every_temporal_mode() {
    let gpu = common::gpu();
    for mode in [TemporalMode::Official, TemporalMode::PerRegionOverTime, TemporalMode::Joint] {
        let model = Bicnet::new(&gpu, config(mode), 3).unwrap();
        // The embeddings, not the loss: a hinge has kinks that a step may cross.
        let report = check_gradient(&gpu, &features(), GradientCheck::default(), |_, inputs| {
            let e = embed(&gpu, &model, inputs)?;
            e.text.add(&e.region)?.add(&e.global)
        })
        .unwrap();
        assert!(report.passed, "{mode:?}: {:?}", report.inputs);
    }
}

#[test]
fn a_device_agrees_with_the_tiled_family_without_immediates() {
    let run = |gpu: Gpu| -> Result<Vec<Vec<f32>>> {
        let model = Bicnet::new(&gpu, config(TemporalMode::Official), 3)?;
        let tape = Tape::new(&gpu);
        let inputs: Vec<Var> =
            features().iter().map(|a| Ok(tape.leaf(Tensor::from_array(&gpu, a)?))).collect::<Result<_>>()?;
        let e = embed(&gpu, &model, &inputs)?;
        let scores = similarity(&e)?.value().to_vec()?;
        tape.backward(&model.loss(&e)?.total)?;
        let mut results = vec![scores];
        for parameter in model.store().parameters() {
            if let Some(gradient) = parameter.gradient() {
                results.push(gradient.to_vec()?);
            }
        }
        Ok(results)
    };
    let tiled = common::builder().family(KernelFamily::Tiled).immediates(false).build().unwrap();
    let (a, b) = (run(common::gpu()).unwrap(), run(tiled).unwrap());
    let largest = a[1..].iter().flatten().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        for (x, y) in a.iter().zip(b) {
            let bound = 2e-4 * x.abs() + if i == 0 { 1e-5 } else { 1e-5 * largest };
            assert!((x - y).abs() <= bound, "result {i}: {x} and {y}");
        }
    }
}

#[test]
fn the_official_region_branch_does_not_mix_frames_and_the_others_do() {
    let gpu = common::gpu();
    for mode in [TemporalMode::Official, TemporalMode::PerRegionOverTime, TemporalMode::Joint] {
        let model = Bicnet::new(&gpu, config(mode), 3).unwrap();
        let run = |regions: &Array| {
            let tape = Tape::inference(&gpu);
            let x = tape.constant(Tensor::from_array(&gpu, regions).unwrap());
            model.encode_region_frames(&x, None).unwrap().value().to_vec().unwrap()
        };
        let mut regions = features().swap_remove(1);
        let before = run(&regions);
        // The first frame of the first video.
        regions.data_mut()[..REGIONS * 9].iter_mut().for_each(|v| *v += 1.0);
        let after = run(&regions);
        let changed = |frame: usize| before[frame * 30..(frame + 1) * 30] != after[frame * 30..(frame + 1) * 30];
        assert!(changed(0), "{mode:?}");
        let others = (1..BATCH * FRAMES).filter(|&f| changed(f)).count();
        let expected = if mode == TemporalMode::Official { 0 } else { FRAMES - 1 };
        assert_eq!(others, expected, "{mode:?}");
    }
}

#[test]
fn unfit_inputs_are_errors() {
    let gpu = common::gpu();
    let model = Bicnet::new(&gpu, config(TemporalMode::Official), 0).unwrap();
    let tape = Tape::inference(&gpu);
    let zeros = |shape: &[usize]| tape.constant(Tensor::zeros(&gpu, "test", shape).unwrap());
    let regions = model.encode_region(&zeros(&[1, 2, REGIONS + 1, 9]), None);
    assert!(matches!(regions, Err(Error::Shape { argument: "region", .. })), "{regions:?}");
    let frames = model.encode_global(&zeros(&[1, 2, 12]), None);
    assert!(matches!(frames, Err(Error::ShapeMismatch { .. })), "{frames:?}");
    let long = model.encode_global(&zeros(&[1, 1001, 11]), None);
    assert!(matches!(long, Err(Error::IndexOutOfRange { len: 1000, .. })), "{long:?}");
    let heads = Bicnet::new(&gpu, BicnetConfig { num_heads: 7, ..config(TemporalMode::Official) }, 0);
    assert!(matches!(heads.err(), Some(Error::Argument { argument: "heads", .. })));
}
