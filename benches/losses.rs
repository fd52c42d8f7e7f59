//! Ranking, the max-margin loss and an optimizer step.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::kernels::loss::hinge::{self, Negatives};
use reelgrad::kernels::optimizer::{self, Group, Numbers, Update};
use reelgrad::kernels::ranking::rank::{Queries, Ranking};
use reelgrad::kernels::ranking::topk;
use reelgrad::{Gpu, Result, Tensor};

fn scores(gpu: &Gpu, n: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..n * n).map(|i| ((i as f32) * 0.618_034).fract() - 0.5).collect();
    Tensor::from_slice(gpu, [n, n], &values)
}

fn losses(c: &mut Criterion) -> Result<()> {
    let gpu = Gpu::new()?;
    println!("{}", gpu.report().line());
    // Each sample waits for the device: times include a round trip.
    let run = |work: &dyn Fn() -> Result<()>| work().and_then(|()| gpu.synchronize()).expect("the device works");
    let mut group = c.benchmark_group("losses");

    let (n, s) = (1000, scores(&gpu, 1000)?);
    let own: Vec<u32> = (0..n as u32).collect();
    group.throughput(Throughput::Bytes(4 * (n * n) as u64));
    for (name, queries) in [("rank rows 1000x1000", Queries::Rows), ("rank columns 1000x1000", Queries::Columns)] {
        let ranking = Ranking::new(&gpu, queries, &own, &own)?;
        ranking.find_targets(&s, (0, 0))?;
        group.bench_function(name, |b| b.iter(|| run(&|| ranking.count(&s, (0, 0)))));
    }
    group.bench_function("top 10 of 1000x1000", |b| b.iter(|| run(&|| topk::forward(&s, 10).map(drop))));

    let (n, s) = (512, scores(&gpu, 512)?);
    let one = Tensor::from_slice(&gpu, [], &[1.0])?;
    for (name, negatives) in [("hinge 512x512", Negatives::All), ("hardest hinge 512x512", Negatives::Hardest)] {
        // Twice forward (rows and columns), once backward, and the gradient.
        group.throughput(Throughput::Bytes(4 * 4 * (n * n) as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                run(&|| {
                    let (_, saved) = hinge::forward(&s, 0.2, negatives)?;
                    hinge::backward(&s, &saved, &one).map(drop)
                });
            });
        });
    }

    let n = 10_000_000;
    let values: Vec<f32> = (0..n).map(|i| ((i as f32) * 0.618_034).fract() - 0.5).collect();
    let [params, grads] = [0, 1].map(|_| Tensor::from_slice(&gpu, [n], &values));
    let (params, grads) = (params?, grads?);
    let (m, v) = (Tensor::zeros(&gpu, "m", [n])?, Tensor::zeros(&gpu, "v", [n])?);
    let all = Group::new(&gpu, &[(0, n)])?;
    let numbers = Numbers { rate: 1e-4, beta1: 0.9, beta2: 0.98, eps: 1e-6, decay: 0.2, step: 10, max: None };
    // Four buffers read, three written.
    group.throughput(Throughput::Bytes(4 * 7 * n as u64));
    group.bench_function("Adam step 10 M", |b| {
        b.iter(|| run(&|| optimizer::step(&params, &grads, &m, &v, &all, &Update::Adam(numbers), None)));
    });
    group.throughput(Throughput::Bytes(4 * n as u64));
    group.bench_function("global norm 10 M", |b| {
        b.iter(|| run(&|| optimizer::clip_global(&grads, &all, 1.0).map(drop)));
    });
    group.finish();
    Ok(())
}

fn all(c: &mut Criterion) {
    losses(c).expect("the benchmark needs a GPU adapter");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(3));
    targets = all
}
criterion_main!(benches);
