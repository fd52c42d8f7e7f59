//! A BiC-Net training step at the quickstart's size, and at a wider one; videos a second.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::autograd::Tape;
use reelgrad::models::Model;
use reelgrad::models::bicnet::{Bicnet, BicnetConfig};
use reelgrad::models::two_space::{TwoSpaceInputs, TwoSpaceModel};
use reelgrad::optim::{Algorithm, GroupOptions, Optimizer};
use reelgrad::random::Random;
use reelgrad::{Gpu, Result, Tensor};

const BATCH: usize = 32;
const FRAMES: usize = 8;
const TOKENS: usize = 11;

struct Step {
    gpu: Gpu,
    model: Bicnet,
    optimizer: Optimizer,
    inputs: TwoSpaceInputs,
    number: u64,
}

impl Step {
    fn new(gpu: &Gpu, dim: usize, dropout: f32) -> Result<Self> {
        let config = BicnetConfig {
            embedding_dim: dim,
            global_dim: 128,
            region_dim: 64,
            text_dim: 80,
            num_heads: 4,
            region_num: 4,
            layer_num: 1,
            dropout,
            attn_drop: dropout,
            ..BicnetConfig::default()
        };
        let mut random = Random::new(0, 0);
        let mut features = |shape: &[usize]| {
            let data: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal()).collect();
            Tensor::from_slice(gpu, shape, &data)
        };
        let inputs = TwoSpaceInputs {
            text: features(&[BATCH, TOKENS, 80])?,
            text_mask: Tensor::from_slice(gpu, [BATCH, TOKENS], &[1.0; BATCH * TOKENS])?,
            region: features(&[BATCH, FRAMES, 4, 64])?,
            global: features(&[BATCH, FRAMES, 128])?,
            frame_mask: None,
        };
        let model = Bicnet::new(gpu, config, 0)?;
        let optimizer = Optimizer::new(model.store(), Algorithm::ADAM, |_| GroupOptions::default())?;
        Ok(Self { gpu: gpu.clone(), model, optimizer, inputs, number: 0 })
    }

    fn run(&mut self) -> Result<()> {
        let tape = Tape::training(&self.gpu, 0, self.number);
        let loss = self.model.loss(&self.model.forward(&tape, &self.inputs)?)?;
        self.model.store().zero_gradients()?;
        tape.backward(&loss.total)?;
        self.optimizer.step(self.model.store(), 1e-4)?;
        self.number += 1;
        self.gpu.synchronize()
    }
}

fn training_step(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let mut group = c.benchmark_group(format!("BiC-Net training step, batch {BATCH}"));
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(10);
    for (dim, dropout) in [(64, 0.0), (64, 0.1), (256, 0.0)] {
        let mut step = Step::new(&gpu, dim, dropout).expect("the model fits");
        group.bench_function(format!("width {dim}, dropout {dropout}"), |b| {
            b.iter(|| step.run().expect("a step runs"));
        });
    }
    group.finish();
}

criterion_group!(benches, training_step);
criterion_main!(benches);
