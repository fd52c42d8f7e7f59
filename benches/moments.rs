//! The similarity of queries to all clips of many videos, with the maximum over clips, in both kernel families.
//! Elements are floating-point operations.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use reelgrad::autograd::Tape;
use reelgrad::gpu::KernelFamily;
use reelgrad::kernels::max_similarity::forward;
use reelgrad::random::Random;
use reelgrad::{Gpu, Tensor};

const WIDTH: usize = 384;
const CLIPS: usize = 128;

fn gpus() -> Vec<Gpu> {
    let chosen = Gpu::new().expect("an adapter");
    let mut gpus = vec![chosen.clone()];
    if chosen.family() != KernelFamily::Tiled {
        gpus.push(Gpu::builder().family(KernelFamily::Tiled).build().expect("the tiled family runs everywhere"));
    }
    gpus
}

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
    for gpu in gpus() {
        let name = format!("{queries} queries x {} videos x {CLIPS} clips x {WIDTH}", videos * segments);
        let mut group = c.benchmark_group(format!("{name}, {}", gpu.family()));
        let flops = 2 * queries * videos * segments * CLIPS * WIDTH;
        group.sample_size(10).throughput(Throughput::Elements(flops as u64));
        let q = upload(&gpu, &[queries, WIDTH]);
        let data = normal(videos * CLIPS * WIDTH);
        let bits = |v: f32| u32::from(f16::from_f32(v).to_bits());
        let packed: Vec<u32> = data.chunks_exact(2).map(|c| bits(c[0]) | bits(c[1]) << 16).collect();
        let single: Vec<Tensor> = (0..segments)
            .map(|_| Tensor::from_slice(&gpu, [videos, CLIPS, WIDTH], &data).expect("the device has room"))
            .collect();
        let half: Vec<Tensor> = (0..segments)
            .map(|_| Tensor::from_u32(&gpu, [videos, CLIPS, WIDTH / 2], &packed).expect("the device has room"))
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
    for gpu in gpus() {
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

criterion_group!(benches, all_pairs, training);
criterion_main!(benches);
