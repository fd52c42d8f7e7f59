//! The heads of EERCF and GLCCL beyond towers and temporal transformer: forward, and a training step without the
//! optimiser. Elements are pairs; the peak of GPU memory is printed, model and features included.

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use reelgrad::autograd::{Tape, Var};
use reelgrad::models::Model;
use reelgrad::models::clip::TextFeatures;
use reelgrad::models::clip4clip::{BaseConfig, SimilarityHeader, VideoFeatures};
use reelgrad::models::eercf::{Eercf, EercfConfig};
use reelgrad::models::glccl::{Glccl, GlcclConfig};
use reelgrad::models::towers::TowerModel;
use reelgrad::random::Random;
use reelgrad::{Gpu, Result, Tensor};

const PATCHES: usize = 49;
/// Of EERCF: 128 videos' patches would not fit into the 128 MiB that every adapter can bind.
const EERCF_BATCH: usize = 96;
/// Of GLCCL, official.
const GLCCL_BATCH: usize = 128;

fn base() -> BaseConfig {
    BaseConfig { clip: None, header: SimilarityHeader::MeanPool, ..BaseConfig::default() }
}

/// Random features of a batch, as the towers would give them.
struct Features {
    sentences: Tensor,
    words: Tensor,
    frames: Tensor,
    patches: Option<Tensor>,
    mask: Tensor,
}

impl Features {
    fn new(gpu: &Gpu, batch: usize, patches: bool) -> Result<Self> {
        let BaseConfig { frames, words, joint, .. } = base();
        let mut random = Random::new(0, 0);
        let mut noise = |shape: &[usize]| {
            let data: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal()).collect();
            Tensor::from_slice(gpu, shape, &data)
        };
        Ok(Self {
            sentences: noise(&[batch, joint])?,
            words: noise(&[batch, words, joint])?,
            frames: noise(&[batch, frames, joint])?,
            patches: patches.then(|| noise(&[batch, frames * PATCHES, joint])).transpose()?,
            mask: Tensor::from_slice(gpu, [batch, frames], &vec![1.0; batch * frames])?,
        })
    }

    /// On a tape: leaves where it records.
    fn on(&self, tape: &Tape) -> (TextFeatures, VideoFeatures) {
        let on =
            |x: &Tensor| -> Var { if tape.is_recording() { tape.leaf(x.clone()) } else { tape.constant(x.clone()) } };
        let texts = TextFeatures { sentence: on(&self.sentences), words: Some(on(&self.words)) };
        let patches = self.patches.as_ref().map(on);
        (texts, VideoFeatures { frames: on(&self.frames), mask: self.mask.clone(), patches })
    }
}

fn heads(c: &mut Criterion, name: &str, model: &impl TowerModel, batch: usize) {
    let gpu = model.store().gpu();
    let features = Features::new(gpu, batch, model.needs().patches).expect("the features fit");
    let mut group = c.benchmark_group(format!("{name}, {batch} x {batch}"));
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements((batch * batch) as u64));
    let forward = || {
        let (texts, videos) = features.on(&Tape::inference(gpu));
        model.compare(&model.prepare_texts(&texts)?, &model.prepare_videos(&videos)?)?;
        gpu.synchronize()
    };
    let both = || {
        let tape = Tape::new(gpu);
        let (texts, videos) = features.on(&tape);
        let (loss, _) = model.loss(&texts, &videos)?;
        model.store().zero_gradients()?;
        tape.backward(&loss)?;
        gpu.synchronize()
    };
    let runs: [(&str, &dyn Fn() -> Result<()>); 2] = [("forward", &forward), ("loss and gradients", &both)];
    for (part, run) in runs {
        gpu.reset_peak_memory();
        run().expect("it runs");
        println!("{name}, {part}: peak of GPU memory {} MB", gpu.memory_report().peak / 1_000_000);
        group.bench_function(part, |b| b.iter(|| run().expect("it runs")));
    }
    group.finish();
}

fn eercf(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let config = EercfConfig { base: base(), ..EercfConfig::default() };
    heads(c, "EERCF", &Eercf::new(&gpu, config, 0).expect("the model fits"), EERCF_BATCH);
}

fn glccl(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let config = GlcclConfig { base: base(), ..GlcclConfig::default() };
    heads(c, "GLCCL", &Glccl::new(&gpu, config, 0).expect("the model fits"), GLCCL_BATCH);
}

criterion_group!(benches, eercf, glccl);
criterion_main!(benches);
