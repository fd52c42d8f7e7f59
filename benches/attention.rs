//! Attention, forward and with its gradients, at the sizes of a text-video model and an image model, in both families.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::kernels::attention::{Keys, Layout, Options, backward, forward};
use reelgrad::tensor::Tensor;

mod common;

/// Batch, heads, tokens, channels of a head.
const SIZES: [[usize; 4]; 2] = [[32, 8, 48, 64], [8, 8, 197, 64]];

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    group.sample_size(10);
    for gpu in common::gpus() {
        for [batch, heads, tokens, width] in SIZES {
            let shape = [batch, tokens, heads * width];
            let len = shape.iter().product::<usize>();
            let [q, k, v, dy] = [1, 2, 3, 4].map(|seed| {
                let data: Vec<f32> = (0..len).map(|i| ((i * seed) as f32 * 0.7).sin()).collect();
                Tensor::from_slice(&gpu, shape, &data).expect("the device has room")
            });
            let options = Options {
                layout: Layout::TokensFirst { heads },
                scale: 1.0 / (width as f32).sqrt(),
                causal: false,
                keys: Keys::All,
                bias: None,
                dropout: None,
            };
            // One product of queries and keys; forward makes 2, backward 7 with the scores made twice.
            let product = (2 * batch * heads * tokens * tokens * width) as u64;
            let name = format!("{} B{batch} H{heads} T{tokens} d{width}", gpu.family());
            group.throughput(Throughput::Elements(2 * product));
            group.bench_function(BenchmarkId::new("forward", &name), |b| {
                b.iter(|| {
                    forward(&q, &k, &v, &options).expect("forward runs");
                    gpu.synchronize().expect("the device answers");
                });
            });
            group.throughput(Throughput::Elements(9 * product));
            group.bench_function(BenchmarkId::new("forward and backward", &name), |b| {
                b.iter(|| {
                    let output = forward(&q, &k, &v, &options).expect("forward runs");
                    backward(&q, &k, &v, &output, &dy, false, &options).expect("backward runs");
                    gpu.synchronize().expect("the device answers");
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);
