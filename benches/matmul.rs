//! Matrix products of a transformer's layers, in both kernel families. Elements are floating-point operations.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::gpu::Gpu;
use reelgrad::kernels::linear::matmul::{Options, forward};
use reelgrad::tensor::Tensor;

mod common;

/// m, k, n.
const SHAPES: [[usize; 3]; 7] = [
    [512, 512, 512],
    [1024, 1024, 1024],
    [1536, 512, 512],
    [1536, 512, 2048],
    [1536, 2048, 512],
    [2048, 128, 128],
    [128, 2048, 128],
];

fn matmul(c: &mut Criterion) {
    for gpu in common::gpus() {
        let mut group = c.benchmark_group(format!("matmul, {}", gpu.family()));
        group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        for [m, k, n] in SHAPES {
            group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
            for (layout, transpose_a, transpose_b) in [("NN", false, false), ("NT", false, true), ("TN", true, false)] {
                let a = filled(&gpu, if transpose_a { [k, m] } else { [m, k] });
                let b = filled(&gpu, if transpose_b { [n, k] } else { [k, n] });
                let options = Options { transpose_a, transpose_b, ..Options::default() };
                group.bench_function(BenchmarkId::new(layout, format!("{m}x{k}x{n}")), |bencher| {
                    bencher.iter(|| {
                        let y = forward(&a, &b, &options).expect("the product");
                        gpu.synchronize().expect("the device answers");
                        y
                    });
                });
            }
        }
        group.finish();
    }
}

fn filled(gpu: &Gpu, shape: [usize; 2]) -> Tensor {
    let data: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
    Tensor::from_slice(gpu, shape, &data).expect("room for an operand")
}

criterion_group!(benches, matmul);
criterion_main!(benches);
