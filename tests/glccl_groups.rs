//! GLCCL in groups of texts: the same scores and gradients, and the memory of a training step.

mod common;

use std::time::Instant;

use common::pairs::{Sizes, given, leaves};
use common::{builder, gpu, noise};
use reelgrad::autograd::{Gradients, Tape, Var, concat};
use reelgrad::models::Model;
use reelgrad::models::clip4clip::VideoFeatures;
use reelgrad::models::glccl::{Glccl, GlcclConfig};
use reelgrad::models::heads::stack;
use reelgrad::models::towers::TowerModel;
use reelgrad::{Gpu, Tensor};

/// Heads of sentences, words and frames, as leaves, in calls for `each` texts; gradients of their products with noise.
fn in_calls(gpu: &Gpu, model: &Glccl, sizes: &Sizes, each: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let tape = Tape::new(gpu);
    let [t, w, z] = leaves(&tape, [&sizes.sentences(), &sizes.words(), &sizes.frames()]);
    let features = VideoFeatures { frames: z.clone(), ..sizes.video_features(gpu, 0..sizes.videos) };
    let videos = model.prepare_videos(&features).unwrap();
    let calls = (0..sizes.texts).step_by(each).map(|first| {
        let range = first..(first + each).min(sizes.texts);
        let (t, w) = (t.slice(0, range.clone()).unwrap(), w.slice(0, range).unwrap());
        let heads = model.compare(&model.prepare_texts(&given(&t, Some(&w))).unwrap(), &videos).unwrap();
        stack(&heads).unwrap()
    });
    let calls: Vec<Var> = calls.collect();
    let scores = concat(&calls, 1).unwrap();
    let values = scores.value().to_vec().unwrap();
    model.store().zero_gradients().unwrap();
    let upstream = Tensor::from_array(gpu, &noise(scores.shape(), 5)).unwrap();
    let gradients: Gradients = tape.backward_from(&scores, upstream).unwrap();
    let inputs = [&t, &w, &z].map(|v| gradients.get(v).unwrap().to_vec().unwrap());
    let parameters = model.store().parameters().iter();
    let parameters = parameters.map(|p| p.gradient().unwrap().to_vec().unwrap());
    (vec![values], inputs.into_iter().chain(parameters).collect())
}

#[test]
fn groups_of_texts_give_what_one_group_gives() {
    // 85 texts make a group of 8 MiB.
    let sizes = Sizes { texts: 128, videos: 64, words: 32, frames: 12, patches: 0, width: 8 };
    let gpu = gpu();
    let model = sizes.glccl(&gpu, GlcclConfig::default());
    let (values, gradients) = in_calls(&gpu, &model, &sizes, 128);
    let (alone, gradients_alone) = in_calls(&gpu, &model, &sizes, 64);
    for (grouped, alone) in values.iter().zip(&alone).chain(gradients.iter().zip(&gradients_alone)) {
        let length = alone.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let apart = grouped.iter().zip(alone).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        assert!(grouped.len() == alone.len() && apart <= 2e-6 * length, "{apart} of {length}");
    }
}

#[test]
fn a_training_step_beyond_the_towers_takes_less_than_200_megabytes() {
    let sizes = Sizes { texts: 128, videos: 128, words: 32, frames: 12, patches: 0, width: 512 };
    let gpu = builder().build().unwrap();
    let model = sizes.glccl(&gpu, GlcclConfig::default());
    let [t, w, z] = [sizes.sentences(), sizes.words(), sizes.frames()];
    let mask = Tensor::from_slice(&gpu, [128, 12], &sizes.mask()).unwrap();
    gpu.reset_peak_memory();
    let clock = Instant::now();
    let tape = Tape::new(&gpu);
    let [t, w, z] = leaves(&tape, [&t, &w, &z]);
    let videos = model.prepare_videos(&VideoFeatures { frames: z.clone(), mask, patches: None }).unwrap();
    let losses =
        model.losses(&model.compare(&model.prepare_texts(&given(&t, Some(&w))).unwrap(), &videos).unwrap()).unwrap();
    let gradients = tape.backward(&losses.total).unwrap();
    gpu.synchronize().unwrap();
    let memory = gpu.memory_report();
    println!("GLCCL, batch 128: {:.1} MB at most, in {:.1} s", memory.peak as f64 / 1e6, clock.elapsed().as_secs_f64());
    for (label, gradient) in [("sentences", &t), ("words", &w), ("frames", &z)] {
        let gradient = gradients.get(gradient).unwrap().to_vec().unwrap();
        assert!(gradient.iter().all(|g| g.is_finite()) && gradient.iter().any(|g| *g != 0.0), "{label}");
    }
    let labels: Vec<String> = memory.labels.iter().map(|l| format!("{} {} MB", l.label, l.peak / 1_000_000)).collect();
    assert!(memory.peak < 200_000_000, "{labels:?}");
}
