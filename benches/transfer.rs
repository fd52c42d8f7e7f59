//! Upload and readback.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::{Gpu, Tensor};

fn transfer(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let mut group = c.benchmark_group("transfer");
    for bytes in [4usize, 64 << 10, 16 << 20] {
        let data = vec![1.0f32; bytes / 4];
        let tensor = Tensor::from_slice(&gpu, [data.len()], &data).expect("the device has room");
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::new("upload", bytes), &data, |b, data| {
            b.iter(|| {
                tensor.write(data).expect("the device has room");
                gpu.synchronize().expect("the device answers");
            });
        });
        group.bench_with_input(BenchmarkId::new("readback", bytes), &tensor, |b, tensor| {
            b.iter(|| tensor.to_vec().expect("the device answers"));
        });
    }
    group.finish();
}

criterion_group!(benches, transfer);
criterion_main!(benches);
