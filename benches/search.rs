//! Exact search: a query, and sixteen together, for the ten nearest of many vectors of 512 numbers.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use reelgrad::random::Random;
use reelgrad::retrieval::exact::{ExactSearch, InMemory, Scanned, ScannedValues, Vectors};
use reelgrad::{Gpu, Result};

const WIDTH: usize = 512;
const BUDGET: u64 = 1 << 30;

fn unit(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, 0);
    let mut values: Vec<f32> = (0..count * WIDTH).map(|_| random.normal()).collect();
    for row in values.chunks_exact_mut(WIDTH) {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= length);
    }
    values
}

/// Vectors that are bytes, with one scale for all.
struct Bytes(Vec<u8>);

const SCALE: f32 = 0.001;

impl Vectors for Bytes {
    fn count(&self) -> usize {
        self.0.len() / WIDTH
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn exact(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        Ok(self.0[first * WIDTH..][..count * WIDTH].iter().map(|&byte| f32::from(byte as i8) * SCALE).collect())
    }

    fn scanned_bytes(&self) -> usize {
        WIDTH + 4 * WIDTH / 16
    }

    fn scanned(&self, first: usize, count: usize) -> Result<Scanned> {
        let bytes = self.0[first * WIDTH..][..count * WIDTH].to_vec();
        let values = ScannedValues::Bytes(bytes, vec![SCALE; count * WIDTH / 16]);
        Ok(Scanned { values, longest: 3.0, residual: 0.0 })
    }
}

fn time<V: Vectors>(c: &mut Criterion, name: &str, vectors: V) {
    let gpu = Gpu::new().expect("an adapter");
    let search = ExactSearch::new(&gpu, vectors, BUDGET).expect("the vectors fit");
    let queries = unit(16, 3);
    let mut group = c.benchmark_group(format!("exact search, {name} x {WIDTH}, k 10"));
    group.sample_size(10);
    for count in [1, 16] {
        group.bench_function(BenchmarkId::new("queries", count), |bencher| {
            bencher.iter(|| search.search(&queries[..count * WIDTH], 10).expect("an answer"));
        });
    }
}

fn search(c: &mut Criterion) {
    let vectors = InMemory::new(WIDTH, unit(10_000, 1)).expect("finite vectors");
    time(c, "10,000 of f32", vectors);
    let mut random = Random::new(2, 0);
    let bytes = (0..1_000_000 * WIDTH).map(|_| (random.normal() * 40.0) as i8 as u8).collect();
    time(c, "1,000,000 of bytes", Bytes(bytes));
}

criterion_group!(benches, search);
criterion_main!(benches);
