//! CLIP's towers of ViT-B/32, forward: the frames of a video and a tile of texts, with weights in single and in half
//! precision. Elements are frames or texts; the bytes of the weights are printed.

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use reelgrad::autograd::Tape;
use reelgrad::models::clip::{ClipConfig, Towers};
use reelgrad::nn::{ParameterStore, StoreBuilder};
use reelgrad::random::Random;
use reelgrad::{Gpu, Result, Tensor};

const FRAMES: usize = 12;
const TEXTS: usize = 8;
const TOKENS: usize = 32;

/// Towers with random weights and no gradients.
fn frozen(gpu: &Gpu, config: &ClipConfig, half: bool) -> Result<(ParameterStore, Towers)> {
    let builder = StoreBuilder::new(gpu, 0).freeze(|_| true);
    let builder = if half { builder.halve() } else { builder };
    builder.build(|s| Towers::new(s, config))
}

fn towers(c: &mut Criterion) {
    let config = ClipConfig::vit_b_32();
    for (name, half) in [("f32", false), ("f16", true)] {
        let gpu = Gpu::new().expect("an adapter");
        let (_store, towers) = frozen(&gpu, &config, half).expect("the model fits");
        println!("CLIP ViT-B/32, {name}: weights of {} MB", gpu.memory_report().live / 1_000_000);
        let mut random = Random::new(0, 0);
        let size = config.image_size;
        let pixels: Vec<f32> = (0..FRAMES * 3 * size * size).map(|_| random.normal()).collect();
        let pixels = Tensor::from_slice(&gpu, [FRAMES, 3, size, size], &pixels).expect("the frames fit");
        let ids: Vec<u32> = (0..TEXTS * TOKENS).map(|_| random.below(config.vocabulary) as u32).collect();

        let mut group = c.benchmark_group(format!("CLIP ViT-B/32, {name}"));
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(FRAMES as u64));
        group.bench_function(format!("image tower, {FRAMES} frames"), |b| {
            b.iter(|| {
                let pixels = Tape::inference(&gpu).constant(pixels.clone());
                towers.image.encode(&pixels, false).expect("it runs");
                gpu.synchronize().expect("the device answers");
            });
        });
        group.throughput(Throughput::Elements(TEXTS as u64));
        group.bench_function(format!("text tower, {TEXTS} texts of {TOKENS} tokens"), |b| {
            b.iter(|| {
                towers.text.encode(&Tape::inference(&gpu), &ids, TOKENS, None, true).expect("it runs");
                gpu.synchronize().expect("the device answers");
            });
        });
        group.finish();
    }
}

criterion_group!(benches, towers);
criterion_main!(benches);
