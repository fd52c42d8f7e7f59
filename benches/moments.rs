//! The similarity of queries to all clips of many videos, with the maximum over clips, in both kernel families:
//! elements are floating-point operations. And whole searches for moments: elements are queries.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use reelgrad::autograd::Tape;
use reelgrad::kernels::similarity::max_similarity::forward;
use reelgrad::models::Model;
use reelgrad::models::reloclnet::{Reloclnet, ReloclnetConfig};
use reelgrad::random::Random;
use reelgrad::retrieval::moments::{IndexedVideo, MomentIndex, MomentSearch, MomentSearchOptions};
use reelgrad::tensor::{Array, DType};
use reelgrad::{Gpu, Tensor};

mod common;

const WIDTH: usize = 384;
const CLIPS: usize = 128;

fn normal(n: usize) -> Vec<f32> {
    let mut random = Random::new(0, 0);
    (0..n).map(|_| random.normal()).collect()
}

fn upload(gpu: &Gpu, shape: &[usize]) -> Tensor {
    Tensor::from_slice(gpu, shape, &normal(shape.iter().product())).expect("the device has room")
}

/// Scores of all pairs. The clips lie in segments that any device can bind; one segment's data serves all of them.
fn all_pairs(c: &mut Criterion) {
    let (queries, videos, segments) = (50, 250, 8);
    for gpu in common::gpus() {
        let name = format!("{queries} queries x {} videos x {CLIPS} clips x {WIDTH}", videos * segments);
        let mut group = c.benchmark_group(format!("{name}, {}", gpu.family()));
        let flops = 2 * queries * videos * segments * CLIPS * WIDTH;
        group.sample_size(10).throughput(Throughput::Elements(flops as u64));
        let q = upload(&gpu, &[queries, WIDTH]);
        let data = normal(videos * CLIPS * WIDTH);
        let single: Vec<Tensor> = (0..segments)
            .map(|_| Tensor::from_slice(&gpu, [videos, CLIPS, WIDTH], &data).expect("the device has room"))
            .collect();
        let half: Vec<Tensor> = (0..segments)
            .map(|_| Tensor::from_slice_f16(&gpu, [videos, CLIPS, WIDTH], &data).expect("the device has room"))
            .collect();
        for (name, clips) in [("f32", &single), ("f16", &half)] {
            group.bench_function(name, |bench| {
                bench.iter(|| {
                    for segment in clips {
                        forward(&q, segment, None, None).expect("it runs");
                    }
                    gpu.synchronize().expect("the device answers");
                });
            });
        }
        group.finish();
    }
}

/// A training step's share: the scores of a batch and both gradients.
fn training(c: &mut Criterion) {
    let n = 128;
    for gpu in common::gpus() {
        let mut group =
            c.benchmark_group(format!("{n} queries x {n} videos x {CLIPS} clips x {WIDTH}, {}", gpu.family()));
        group.sample_size(10).throughput(Throughput::Elements((2 * n * n * CLIPS * WIDTH) as u64));
        let (q, x, g) = (upload(&gpu, &[n, WIDTH]), upload(&gpu, &[n, CLIPS, WIDTH]), upload(&gpu, &[n, n]));
        group.bench_function("forward", |bench| {
            bench.iter(|| {
                forward(&q, &x, None, None).expect("it runs");
                gpu.synchronize().expect("the device answers");
            });
        });
        // The gradients take few operations; the rate counts those of the forward pass.
        group.bench_function("forward and backward", |bench| {
            bench.iter(|| {
                let tape = Tape::new(&gpu);
                let y = tape.leaf(q.clone()).max_similarity(&tape.leaf(x.clone()), None).expect("it runs");
                tape.backward_from(&y, g.clone()).expect("it runs");
                gpu.synchronize().expect("the device answers");
            });
        });
        group.finish();
    }
}

/// From sentences to moments in the official configuration, among videos whose encodings are cached. The time of each
/// stage is printed, of one search after a first, which compiles the kernels; and the peak of GPU memory.
fn search(c: &mut Criterion) {
    let (queries, videos) = (50, 2000);
    let gpu = Gpu::new().expect("an adapter");
    let model = Reloclnet::new(&gpu, ReloclnetConfig::default(), 0).expect("the model fits");
    let array = |shape: &[usize]| Array::new(shape, normal(shape.iter().product())).expect("as many as the shape says");
    let tokens: Vec<Array> = (0..queries).map(|_| array(&[30, model.config().query_dim])).collect();
    let tokens: Vec<&Array> = tokens.iter().collect();
    let mut group = c.benchmark_group(format!("{queries} queries in {videos} videos x {CLIPS} clips, two streams"));
    group.sample_size(10).throughput(Throughput::Elements(queries as u64));
    // One buffer of noise serves all videos, each from another place.
    let noise = normal((CLIPS + videos) * WIDTH);
    for precision in [DType::F32, DType::F16] {
        let encoded = (0..videos).map(|v| {
            let clips = |start: usize| Array::new([CLIPS, WIDTH], noise[start * WIDTH..][..CLIPS * WIDTH].to_vec());
            let duration = 1.5 * CLIPS as f64;
            let video =
                IndexedVideo { id: v.to_string(), index: v as u64, duration, clips: CLIPS, seconds_per_clip: 1.5 };
            Ok((video, vec![clips(v)?, clips(videos - v)?]))
        });
        let index = MomentIndex::from_encodings(&model, encoded, precision).expect("the encodings fit");
        let search =
            MomentSearch::new(&model, &index, MomentSearchOptions::default()).expect("index and model belong together");
        gpu.reset_peak_memory();
        search.search(&tokens).expect("it runs");
        let (_, stages) = search.search_timed(&tokens).expect("it runs");
        let stages: Vec<String> = stages.iter().map(|s| format!("{} {:.1?}", s.name, s.time)).collect();
        let peak = gpu.memory_report().peak >> 20;
        println!("{precision:?}: {}; peak of GPU memory {peak} MiB", stages.join(", "));
        group.bench_function(format!("{precision:?}"), |bench| {
            bench.iter(|| search.search(&tokens).expect("it runs"));
        });
    }
    group.finish();
}

criterion_group!(benches, all_pairs, training, search);
criterion_main!(benches);
