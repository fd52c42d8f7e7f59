//! ReLoCLNet in its official configuration: videos and queries made into vectors, and a training step. Elements are
//! videos or queries; the peak of GPU memory is printed, the model included.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use reelgrad::autograd::{Tape, Var};
use reelgrad::models::Model;
use reelgrad::models::reloclnet::{NegativeDraws, Reloclnet, ReloclnetConfig, ReloclnetInputs, StreamInput};
use reelgrad::optim::{Algorithm, GroupOptions, Optimizer};
use reelgrad::random::Random;
use reelgrad::train::is_decayed;
use reelgrad::{Gpu, Result, Tensor};

/// Random inputs of `n` pairs of query and video, none of them padded; the moment is the clips 10 to 20.
fn inputs(gpu: &Gpu, config: &ReloclnetConfig, n: usize) -> Result<ReloclnetInputs> {
    let mut random = Random::new(0, n as u64);
    let mut features = |length: usize, width: usize| {
        let data: Vec<f32> = (0..n * length * width).map(|_| random.normal()).collect();
        Tensor::from_slice(gpu, [n, length, width], &data)
    };
    let ones = |length: usize| Tensor::from_slice(gpu, [n, length], &vec![1.0; n * length]);
    let mask = ones(config.max_clips)?;
    let mut stream = |width: usize| {
        let features = features(config.max_clips, width + if config.endpoints { 2 } else { 0 })?;
        Ok(StreamInput { features, mask: mask.clone() })
    };
    let streams = [config.video_dim, config.sub_dim].into_iter().map(&mut stream).collect::<Result<_>>()?;
    let query = features(config.max_tokens, config.query_dim)?;
    Ok(ReloclnetInputs { query, query_mask: ones(config.max_tokens)?, streams, spans: vec![[10, 20]; n] })
}

/// Measures `run` on `n` videos or queries. A run before, which compiles the kernels, gives the peak of memory.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    gpu: &Gpu,
    name: &str,
    n: usize,
    mut run: impl FnMut() -> Result<()>,
) {
    let mut first = true;
    group.throughput(Throughput::Elements(n as u64)).bench_function(name, |b| {
        if std::mem::take(&mut first) {
            gpu.reset_peak_memory();
            run().expect("it runs");
            println!("{name}: peak of GPU memory {} MiB", gpu.memory_report().peak >> 20);
        }
        b.iter(|| run().expect("it runs"));
    });
}

fn encoding(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let model = Reloclnet::new(&gpu, ReloclnetConfig::default(), 0).expect("the model fits");
    let mut group = c.benchmark_group("ReLoCLNet encoding");
    group.sample_size(10);
    let videos = inputs(&gpu, model.config(), 32).expect("the inputs fit");
    measure(&mut group, &gpu, "32 videos x 128 clips, both streams", 32, || {
        let tape = Tape::inference(&gpu);
        let features: Vec<Var> = videos.streams.iter().map(|s| tape.constant(s.features.clone())).collect();
        let masks: Vec<Tensor> = videos.streams.iter().map(|s| s.mask.clone()).collect();
        model.encode_clips(&features, &masks)?;
        gpu.synchronize()
    });
    drop(videos);
    let mut queries = inputs(&gpu, model.config(), 50).expect("the inputs fit");
    queries.streams.clear();
    measure(&mut group, &gpu, "50 queries x 30 tokens", 50, || {
        let tape = Tape::inference(&gpu);
        model.span_queries(&model.encode_query(&tape.constant(queries.query.clone()), &queries.query_mask)?)?;
        gpu.synchronize()
    });
    group.finish();
}

/// Loss, gradients and optimiser, in the official batch. A step takes half a minute on software adapters: ten samples are
/// ten steps.
fn training_step(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let model = Reloclnet::new(&gpu, ReloclnetConfig::default(), 0).expect("the model fits");
    let mut optimizer = Optimizer::new(model.store(), Algorithm::BERT_ADAM, |p| GroupOptions {
        weight_decay: if is_decayed(p.name()) { 0.01 } else { 0.0 },
        clip_tensor_norm: Some(1.0),
        ..GroupOptions::default()
    })
    .expect("the optimiser fits");
    let config = model.config();
    let batch = 128;
    let inputs = inputs(&gpu, config, batch).expect("the inputs fit");
    let mut number = 0;
    let mut step = || {
        let draws = NegativeDraws::new(batch, true, config.hard_pool, &mut Random::new(0, number))?;
        let tape = Tape::training(&gpu, 0, number);
        let losses = model.loss(&tape, &inputs, &draws)?;
        model.store().zero_gradients()?;
        tape.backward(&losses.total)?;
        optimizer.step(model.store(), 1e-4)?;
        number += 1;
        gpu.synchronize()
    };
    let mut group = c.benchmark_group("ReLoCLNet training step");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    measure(&mut group, &gpu, &format!("batch {batch} x 128 clips"), batch, &mut step);
    group.finish();
}

criterion_group!(benches, encoding, training_step);
criterion_main!(benches);
