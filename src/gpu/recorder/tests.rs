//! What the recorder promises beyond results: bounded batches, waits that end, memory that comes back.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::gpu::Gpu;
use crate::kernels::testing;
use crate::tensor::Tensor;

/// A kernel that takes its time: 1,024 invocations with long chains.
fn slow() -> Variant {
    let wgsl = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var x = y[id.x];
    for (var i = 0u; i < 60000u; i++) { x = 0.5 * sin(x) + 1.0; }
    y[id.x] = x;
}
";
    Variant::user("slow", wgsl, vec![])
}

fn work(y: &Tensor, dispatches: usize) -> Result<()> {
    let bindings = [y.binding()];
    let launch = Launch { op: "slow", variant: &slow(), bindings: &bindings, params: &[], grid: [16, 1, 1], flops: 0 };
    (0..dispatches).try_for_each(|_| y.gpu().launch(launch))
}

/// How many dispatches keep this device busy for at least `time`.
fn dispatches_for(gpu: &Gpu, time: Duration) -> usize {
    let y = Tensor::zeros(gpu, "test", [1024]).unwrap();
    let mut count = 1;
    loop {
        gpu.synchronize().unwrap();
        let start = Instant::now();
        work(&y, count).unwrap();
        gpu.synchronize().unwrap();
        if start.elapsed() >= time {
            return count;
        }
        count *= 2;
    }
}

fn pending(gpu: &Gpu) -> usize {
    gpu.0.recorder.lock().commands.len()
}

#[test]
fn copies_and_clears_end_a_batch_too() {
    let gpu = testing::builder().max_dispatches_per_submit(16).build().unwrap();
    let a = Tensor::from_slice(&gpu, [3], &[1.0, 2.0, 3.0]).unwrap();
    let b = Tensor::zeros(&gpu, "test", [3]).unwrap();
    for _ in 0..100 {
        b.fill_zero().unwrap();
        b.copy_from(&a).unwrap();
        assert!(pending(&gpu) <= 16, "{} commands wait", pending(&gpu));
    }
    assert_eq!(b.to_vec().unwrap(), [1.0, 2.0, 3.0]);
}

#[test]
fn a_thread_records_while_another_reads() {
    let gpu = testing::builder().build().unwrap();
    let long = Duration::from_millis(400);
    let dispatches = dispatches_for(&gpu, long);
    let y = Tensor::zeros(&gpu, "test", [1024]).unwrap();
    let other = Tensor::zeros(&gpu, "test", [4]).unwrap();
    let copy = Tensor::from_slice(&gpu, [4], &[1.0; 4]).unwrap();
    gpu.synchronize().unwrap();
    work(&y, dispatches).unwrap();
    std::thread::scope(|scope| {
        let (sender, reading) = mpsc::channel();
        let y = &y;
        scope.spawn(move || {
            sender.send(()).unwrap();
            y.to_vec().unwrap()
        });
        reading.recv().unwrap();
        std::thread::sleep(long / 8);
        let start = Instant::now();
        other.copy_from(&copy).unwrap();
        assert!(start.elapsed() < long / 4, "recording waited {:?} for another thread's readback", start.elapsed());
    });
    // Many at once, each with its own staging buffer.
    let values = |i: usize| vec![i as f32; 100 * i];
    let read = |i: usize| Tensor::from_slice(&gpu, [100 * i], &values(i)).unwrap().to_vec().unwrap();
    std::thread::scope(|scope| {
        for i in 1..9 {
            scope.spawn(move || (0..20).for_each(|_| assert_eq!(read(i), values(i))));
        }
    });
}

#[test]
fn memory_that_came_back_serves_other_sizes() {
    const MIB: u64 = 1 << 20;
    let limit = 64 * MIB;
    let gpu = testing::builder().memory_limit(limit).build().unwrap();
    let elements = |mib: u64| (mib * MIB / 4) as usize;
    let held = || gpu.0.device.generate_allocator_report().map_or(0, |report| report.total_allocated_bytes);
    let before = held();
    // Work that is still pending holds 40 MiB, although the tensors are gone.
    let tensors = [20, 20].map(|mib| Tensor::uninit(&gpu, "test", [elements(mib)]).unwrap());
    tensors.iter().for_each(|t| work(t, 1).unwrap());
    drop(tensors);
    let large = Tensor::uninit(&gpu, "test", [elements(48)]).unwrap();
    assert!(held() - before <= limit, "{} bytes with a limit of {limit}", held() - before);
    let live = gpu.memory_report().live;
    let refused = Tensor::uninit(&gpu, "test", [elements(32)]);
    assert!(
        matches!(refused, Err(Error::OutOfMemory { bytes, live_bytes, .. }) if bytes == 32 * MIB && live_bytes == live),
        "{refused:?}"
    );
    drop(large);
    Tensor::uninit(&gpu, "test", [elements(32)]).unwrap();
    // The device is as good as before.
    assert_eq!(Tensor::from_slice(&gpu, [2], &[1.0, 2.0]).unwrap().to_vec().unwrap(), [1.0, 2.0]);
}

#[test]
fn every_wait_ends_in_time() {
    let gpu = testing::builder().build().unwrap();
    let timely = gpu.report().features.contains(wgpu::Features::TIMESTAMP_QUERY);
    let dispatches = dispatches_for(&gpu, Duration::from_secs(1));
    let timeout = Duration::from_millis(50);
    for profile in [false, true] {
        let gpu = match testing::builder().timeout(timeout).profile(profile).build() {
            Err(Error::MissingFeature { feature: "TIMESTAMP_QUERY", .. }) if profile && !timely => continue,
            gpu => gpu.unwrap(),
        };
        let y = Tensor::zeros(&gpu, "test", [1024]).unwrap();
        let waited = work(&y, dispatches).and_then(|()| gpu.synchronize());
        assert!(matches!(waited, Err(Error::Timeout { .. })), "profile: {profile}: {waited:?}");
    }
}
