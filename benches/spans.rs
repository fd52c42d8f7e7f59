//! Moment search in many videos: probabilities, decoding, and the top k of long rows.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::kernels::ranking::topk;
use reelgrad::kernels::similarity::spans::{self, Predictor, Search, Stream};
use reelgrad::random::Random;
use reelgrad::{Gpu, Result, Tensor};

mod common;

fn normal(gpu: &Gpu, shape: &[usize]) -> Result<Tensor> {
    let mut random = Random::new(0, 0);
    let data: Vec<f32> = (0..shape.iter().product()).map(|_| 0.1 * random.normal()).collect();
    Tensor::from_slice(gpu, shape, &data)
}

fn moments(c: &mut Criterion, gpu: &Gpu) -> Result<()> {
    let run = |work: &dyn Fn() -> Result<()>| work().and_then(|()| gpu.synchronize()).expect("the device works");
    let (queries, videos, length, width) = (50, 100, 128, 384);
    let q = normal(gpu, &[queries, width])?;
    let x = normal(gpu, &[videos, length, width])?;
    let mask = Tensor::from_slice(gpu, [videos, length], &vec![1.0; videos * length])?;
    let all: Vec<u32> = (0..queries * videos).map(|i| (i % videos) as u32).collect();
    let candidates = Tensor::from_u32(gpu, [queries, videos], &all)?;
    let packed = Tensor::from_u32(gpu, [videos, length, width / 2], &vec![0x2e66_2e66; x.len() / 2])?;
    let taps = normal(gpu, &[5])?;
    let predictor = Predictor { start: &taps, end: &taps, mask_similarity: false };

    let mut group = c.benchmark_group(format!("moments 50x100x128x384, {}", gpu.family()));
    group.sample_size(10).throughput(Throughput::Elements(4 * (queries * x.len()) as u64));
    for (name, clips) in [("probabilities f32", &x), ("probabilities f16", &packed)] {
        let stream = Stream { queries: &q, clips };
        let search = Search { first: stream, second: Some(stream), mask: &mask, candidates: &candidates };
        group.bench_function(name, |b| b.iter(|| run(&|| spans::probabilities(&search, &predictor).map(drop))));
    }
    let stream = Stream { queries: &q, clips: &x };
    let search = Search { first: stream, second: None, mask: &mask, candidates: &candidates };
    let (starts, ends) = spans::probabilities(&search, &predictor)?;
    let weights = Tensor::from_slice(gpu, [queries, videos], &vec![1.0; queries * videos])?;
    group.throughput(Throughput::Elements((14 * starts.len()) as u64));
    group.bench_function("decode top 200", |b| {
        b.iter(|| run(&|| spans::decode(&starts, &ends, &weights, 2..16, 200).map(drop)));
    });
    group.finish();
    Ok(())
}

fn top_k(c: &mut Criterion, gpu: &Gpu) -> Result<()> {
    let run = |work: &dyn Fn() -> Result<()>| work().and_then(|()| gpu.synchronize()).expect("the device works");
    let mut group = c.benchmark_group(format!("top k, {}", gpu.family()));
    group.sample_size(10);
    for (rows, m) in [(50, 2_000), (50, 200_000), (1, 200_000)] {
        let x = normal(gpu, &[rows, m])?;
        group.throughput(Throughput::Elements((rows * m) as u64));
        for k in [10, 100, 1000] {
            group.bench_function(format!("{k} of {rows}x{m}"), |b| b.iter(|| run(&|| topk::forward(&x, k).map(drop))));
        }
    }
    group.finish();
    Ok(())
}

fn all(c: &mut Criterion) {
    for gpu in common::gpus() {
        moments(c, &gpu).expect("it runs");
        top_k(c, &gpu).expect("it runs");
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
