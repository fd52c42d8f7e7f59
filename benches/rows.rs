//! Layer norm and softmax, forward and backward, on 4096 rows of 512: bytes that must move, each family.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::kernels::rows::layer_norm::{self, Norm};
use reelgrad::kernels::rows::{reduce, softmax};
use reelgrad::{Gpu, Tensor};

mod common;

const ROWS: usize = 4096;
const WIDTH: usize = 512;

fn tensor(gpu: &Gpu, shape: &[usize], seed: usize) -> Tensor {
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i * 7919 + seed * 104_729) % 10_007) as f32 / 5003.5 - 1.0).collect();
    Tensor::from_slice(gpu, shape, &data).expect("the device has room")
}

/// Runs `f` and waits; `tensors`: how many of the matrix's size are read or written at the least.
fn measure<T>(c: &mut Criterion, gpu: &Gpu, name: &str, tensors: u64, f: impl Fn() -> reelgrad::Result<T>) {
    let mut group = c.benchmark_group(format!("rows {ROWS}x{WIDTH}, {}", gpu.family()));
    group.throughput(Throughput::Bytes(4 * tensors * (ROWS * WIDTH) as u64));
    group.sample_size(20);
    group.bench_function(name, |b| {
        b.iter(|| {
            let result = f().expect("the kernel runs");
            gpu.synchronize().expect("the device answers");
            result
        });
    });
    group.finish();
}

fn rows(c: &mut Criterion) {
    for gpu in &common::gpus() {
        let [x, g] = [1, 2].map(|seed| tensor(gpu, &[ROWS, WIDTH], seed));
        let [gain, bias] = [3, 4].map(|seed| tensor(gpu, &[WIDTH], seed));
        let norm = Norm::Biased { eps: 1e-5 };
        let out = layer_norm::forward(&x, None, &gain, &bias, norm).expect("the kernel runs");
        measure(c, gpu, "layer norm", 2, || layer_norm::forward(&x, None, &gain, &bias, norm));
        measure(c, gpu, "layer norm backward", 3, || layer_norm::backward(&g, &x, &gain, &out.stats, norm));
        let y = softmax::softmax(&x, 1.0, None).expect("the kernel runs");
        measure(c, gpu, "softmax", 2, || softmax::softmax(&x, 1.0, None));
        measure(c, gpu, "softmax backward", 3, || softmax::softmax_backward(&y, &g, 1.0));
        measure(c, gpu, "column sums", 1, || reduce::sum(&x, 0));
        measure(c, gpu, "row sums", 1, || reduce::sum(&x, 1));
    }
}

criterion_group!(benches, rows);
criterion_main!(benches);
