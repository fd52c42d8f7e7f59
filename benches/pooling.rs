//! Pooling over the length, at 64 clips of 32 frames and 1024 channels. `REELGRAD_ADAPTER` chooses the adapter.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::Tensor;
use reelgrad::kernels::pooling::{self, AttentionPool, Masked};

mod common;

const SHAPE: [usize; 3] = [64, 32, 1024];

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.618).fract() - 0.5).collect()
}

fn pooling(c: &mut Criterion) {
    let gpu = common::gpus().swap_remove(0);
    let [batch, length, channels] = SHAPE;
    let tensor = |shape: &[usize]| {
        Tensor::from_slice(&gpu, shape, &values(shape.iter().product())).expect("the device has room")
    };
    let (x, logits, scores) = (tensor(&SHAPE), tensor(&SHAPE), tensor(&SHAPE[..2]));
    let gradient = tensor(&[batch, channels]);
    let valid: Vec<f32> = (0..batch * length).map(|i| f32::from(u8::from(i % length <= i / length % length))).collect();
    let mask = Tensor::from_slice(&gpu, [batch, length], &valid).expect("the device has room");
    let mask = Some(&mask);
    let options = AttentionPool::default();
    let pooled = pooling::attention(&x, &logits, mask, options).expect("the shapes fit");
    let shared = pooling::attention(&x, &scores, mask, options).expect("the shapes fit");

    // Bytes that must move, of whole tensors.
    let mut bench = |name: &str, tensors: u64, work: &dyn Fn()| {
        let mut group = c.benchmark_group("pooling");
        group.throughput(Throughput::Bytes(tensors * x.bytes()));
        group.bench_function(name, |b| {
            b.iter(|| {
                work();
                gpu.synchronize().expect("the device works");
            });
        });
        group.finish();
    };
    bench("mean", 1, &|| drop(pooling::mean(&x, mask)));
    bench("mean backward", 1, &|| drop(pooling::mean_backward(&gradient, length, mask)));
    bench("max", 1, &|| drop(pooling::max(&x, mask, Masked::Hide)));
    bench("attention", 3, &|| drop(pooling::attention(&x, &logits, mask, options)));
    bench("attention backward", 4, &|| drop(pooling::attention_backward(&gradient, &x, &pooled, mask, options)));
    bench("attention, one score", 1, &|| drop(pooling::attention(&x, &scores, mask, options)));
    bench("attention backward, one score", 2, &|| {
        drop(pooling::attention_backward(&gradient, &x, &shared, mask, options));
    });
}

criterion_group!(benches, pooling);
criterion_main!(benches);
