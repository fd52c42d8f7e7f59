//! EERCF's retrieval with frames and patches: all scores of all pairs against two stages, at the size of MSR-VTT's test
//! set; and GLCCL's four scores of all pairs.
//!
//! Scoring everything takes minutes on software adapters, so a tenth of the texts is scored and the time multiplied.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use reelgrad::autograd::Tape;
use reelgrad::models::Model;
use reelgrad::models::clip::TextFeatures;
use reelgrad::models::clip4clip::{BaseConfig, SimilarityHeader, VideoFeatures};
use reelgrad::models::eercf::{Eercf, EercfConfig, EercfVideos};
use reelgrad::models::glccl::{Glccl, GlcclConfig};
use reelgrad::models::towers::TwoStageModel;
use reelgrad::random::Random;
use reelgrad::retrieval::gallery::{Gallery, StageTimes, TextTile, score_all};
use reelgrad::{Gpu, Result, Tensor};

const TEXTS: usize = 1000;
const CANDIDATES: usize = 50;
const TILE: usize = 50;
/// Texts that come one by one.
const SINGLE: usize = 20;
/// Videos whose patches are just within the 128 MiB that every adapter can bind.
const SEGMENT: usize = 100;
const PATCHES: usize = 49;
/// Of the texts, the share whose scores with all videos are computed.
const SHARE: usize = 10;

fn base() -> BaseConfig {
    BaseConfig { clip: None, header: SimilarityHeader::MeanPool, ..BaseConfig::default() }
}

/// Random values.
fn noise(gpu: &Gpu, shape: &[usize], random: &mut Random) -> Result<Tensor> {
    let data: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal()).collect();
    Tensor::from_slice(gpu, shape, &data)
}

/// `count` videos with random frames; patches are those of the first segment in all.
fn gallery<M: TwoStageModel>(gpu: &Gpu, model: &M, count: usize) -> Result<Gallery<M::Videos>> {
    let BaseConfig { frames, joint, .. } = base();
    let (tape, mut random) = (Tape::inference(gpu), Random::new(0, 0));
    let patches = model.needs().patches.then(|| noise(gpu, &[SEGMENT, frames * PATCHES, joint], &mut random));
    let patches = patches.transpose()?.map(|p| tape.constant(p));
    let mask = Tensor::from_slice(gpu, [SEGMENT, frames], &vec![1.0; SEGMENT * frames])?;
    let segment = |_| {
        let frames = tape.constant(noise(gpu, &[SEGMENT, frames, joint], &mut random)?);
        Ok(VideoFeatures { frames, mask: mask.clone(), patches: patches.clone() })
    };
    Gallery::from_features(model, (0..count / SEGMENT).map(segment))
}

/// Random texts in tiles.
fn texts(gpu: &Gpu, count: usize, each: usize) -> Result<Vec<TextTile>> {
    let BaseConfig { words, joint, .. } = base();
    let (tape, mut random) = (Tape::inference(gpu), Random::new(1, 0));
    let tile = |_| {
        let sentence = tape.constant(noise(gpu, &[each, joint], &mut random)?);
        let words = tape.constant(noise(gpu, &[each, words, joint], &mut random)?);
        Ok(TextTile::Features(TextFeatures { sentence, words: Some(words) }))
    };
    (0..count / each).map(tile).collect()
}

fn eercf(gpu: &Gpu) -> Result<Eercf> {
    Eercf::new(gpu, EercfConfig { base: base(), ..EercfConfig::default() }, 0)
}

fn search(model: &Eercf, gallery: &Gallery<EercfVideos>, texts: &[TextTile]) -> Result<StageTimes> {
    Ok(gallery.search_timed(model, texts, CANDIDATES)?.1)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// All scores of all pairs against two stages: counted and measured.
fn two_stages_against_one(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let model = eercf(&gpu).expect("the model fits");
    let (videos, texts) = (gallery(&gpu, &model, 1000).expect("it fits"), texts(&gpu, TEXTS, TILE).expect("they fit"));
    let some = &texts[..TEXTS / TILE / SHARE];
    let whole = || score_all(&model, some, &videos).expect("it runs");
    whole();
    let clock = Instant::now();
    whole();
    let full = seconds(clock.elapsed()) * SHARE as f64;
    // The first time compiles kernels.
    search(&model, &videos, &texts).expect("it runs");
    let times = search(&model, &videos, &texts).expect("it runs");
    let two = seconds(times.coarse + times.fine);
    let [coarse, fine] = model.pair_cost(&videos.segments()[0].videos);
    let (all, counted) =
        ((coarse + fine) * (TEXTS * videos.len()) as u64, times.coarse_multiply_adds + times.fine_multiply_adds);
    println!("EERCF, {TEXTS} texts x {} videos, F 12, P 49, D 512, k 50:", videos.len());
    println!("  all pairs  {:7.2} G multiply-adds, {full:.2} s ({SHARE} x a measured tenth)", all as f64 / 1e9);
    println!("  two stages {:7.2} G multiply-adds, {two:.2} s", counted as f64 / 1e9);
    println!("  ratio      {:7.1} counted, {:.1} measured", all as f64 / counted as f64, full / two);
    let mut group = c.benchmark_group(format!("EERCF retrieval, 1,000 videos, {TILE} texts"));
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(TILE as u64));
    group.bench_function("two stages", |b| {
        b.iter(|| videos.search(&model, &texts[..1], CANDIDATES).expect("it runs"));
    });
    group.finish();
}

/// The second stage alone does not grow with the gallery: for texts that come one by one its candidates are all that is
/// read. Of many texts together, fewer have a candidate in common where there are more videos.
fn two_galleries(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let model = eercf(&gpu).expect("the model fits");
    let (all, single) = (texts(&gpu, TEXTS, TILE).expect("they fit"), texts(&gpu, SINGLE, 1).expect("they fit"));
    let mut group = c.benchmark_group("EERCF second stage, k 50");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for count in [1000, 2000] {
        let videos = gallery(&gpu, &model, count).expect("it fits");
        let fine = |texts: &[TextTile]| search(&model, &videos, texts).expect("it runs").fine;
        group.bench_function(format!("{SINGLE} texts one by one, {count} videos"), |b| {
            b.iter_custom(|times| (0..times).map(|_| single.chunks(1).map(fine).sum::<Duration>()).sum());
        });
        group.bench_function(format!("{TEXTS} texts together, {count} videos"), |b| {
            b.iter_custom(|times| (0..times).map(|_| fine(&all)).sum());
        });
    }
    group.finish();
}

/// GLCCL's four scores of all texts with 1,000 videos: the peak of GPU memory, model and features included; and of a tile
/// of texts: the time.
fn glccl(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let model = Glccl::new(&gpu, GlcclConfig { base: base(), ..GlcclConfig::default() }, 0).expect("the model fits");
    let (videos, texts) = (gallery(&gpu, &model, 1000).expect("it fits"), texts(&gpu, TEXTS, TILE).expect("they fit"));
    gpu.reset_peak_memory();
    let clock = Instant::now();
    score_all(&model, &texts, &videos).expect("it runs");
    let (time, peak) = (seconds(clock.elapsed()), gpu.memory_report().peak / 1_000_000);
    println!("GLCCL, {TEXTS} texts x {} videos: {time:.1} s, peak of GPU memory {peak} MB", videos.len());
    let mut group = c.benchmark_group(format!("GLCCL scores, 1,000 videos, {TILE} texts"));
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements((TILE * 1000) as u64));
    group.bench_function("all pairs", |b| b.iter(|| score_all(&model, &texts[..1], &videos).expect("it runs")));
    group.finish();
}

criterion_group!(benches, two_stages_against_one, two_galleries, glccl);
criterion_main!(benches);
