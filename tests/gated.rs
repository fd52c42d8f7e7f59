//! EERCF and GLCCL against their formulas, written out pair by pair with pooled vectors, and against numbers that the
//! official code gave.

mod common;

use common::pairs::{SCALE, Sizes, given, leaves};
use common::{gpu, gpus, noise};
use reelgrad::autograd::{GradientCheck, Tape, Var, check_gradient};
use reelgrad::models::Model;
use reelgrad::models::clip4clip::VideoFeatures;
use reelgrad::models::eercf::{Eercf, EercfConfig, EercfVideos, TrainingGates};
use reelgrad::models::glccl::{Glccl, GlcclConfig, Guide};
use reelgrad::models::heads::Head;
use reelgrad::models::towers::TowerModel;
use reelgrad::nn::ParameterStore;
use reelgrad::{Array, Tensor};

type Rows = Vec<Vec<f64>>;

/// The rows of the last dimension.
fn rows(array: &Array) -> Rows {
    let row = |row: &[f32]| row.iter().map(|&x| f64::from(x)).collect();
    array.data().chunks_exact(array.shape()[array.shape().len() - 1]).map(row).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn dots(a: &[f64], rows: &[Vec<f64>]) -> Vec<f64> {
    rows.iter().map(|row| dot(a, row)).collect()
}

/// Zeros stay zeros.
fn unit(a: &[f64]) -> Vec<f64> {
    let length = dot(a, a).sqrt();
    a.iter().map(|x| if length == 0.0 { 0.0 } else { x / length }).collect()
}

fn units(rows: &[Vec<f64>]) -> Rows {
    rows.iter().map(|row| unit(row)).collect()
}

/// softmax(x / t) over what is `seen`.
fn softmax(x: &[f64], t: f64, seen: &[bool]) -> Vec<f64> {
    let top = x.iter().zip(seen).filter(|(_, s)| **s).map(|(x, _)| *x).fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = x.iter().zip(seen).map(|(x, &s)| if s { ((x - top) / t).exp() } else { 0.0 }).collect();
    e.iter().map(|e0| e0 / e.iter().sum::<f64>()).collect()
}

fn softmax_all(x: &[f64], t: f64) -> Vec<f64> {
    softmax(x, t, &vec![true; x.len()])
}

/// weights · rows: a row vector times a matrix, and a weighted sum of vectors.
fn pool(weights: &[f64], rows: &[Vec<f64>]) -> Vec<f64> {
    (0..rows[0].len()).map(|d| weights.iter().zip(rows).map(|(w, row)| w * row[d]).sum()).collect()
}

/// EERCF's heads for one pair, as evaluation has them. Softmaxes are over frames and patches that take part; the mean
/// is over frames whose `mask` is 1.
struct EercfPair<'a> {
    sentence: &'a [f64],
    raw: &'a [Vec<f64>],
    temporal: &'a [Vec<f64>],
    patches: &'a [Vec<f64>],
    mask: &'a [f32],
    mask_padding: bool,
    matrices: [&'a Rows; 2],
}

impl EercfPair<'_> {
    fn heads(&self) -> [f64; 5] {
        let [global, frame] = self.matrices;
        let (t, z, patches) = (unit(self.sentence), units(self.temporal), units(self.patches));
        let seen: Vec<bool> = self.mask.iter().map(|&m| m == 1.0 || !self.mask_padding).collect();
        let each = patches.len() / seen.len();
        let patch_seen: Vec<bool> = (0..patches.len()).map(|r| seen[r / each]).collect();

        let mean = unit(&pool(&self.mask.iter().map(|&m| f64::from(m)).collect::<Vec<_>>(), &z));
        let a = dots(&t, &units(self.raw));
        let weights = pool(&softmax(&a, 0.01, &seen), frame);
        let weak = (0..a.len()).filter(|&f| seen[f]).map(|f| weights[f] * a[f]).sum();
        let q = softmax(&dots(&t, &patches), 0.01, &patch_seen);
        let strong = unit(&pool(&softmax(&a, 0.1, &seen), &z));
        let pooled = pool(&q, &patches);
        let coarse = dot(&pool(&t, global), &mean);
        [coarse, weak, dot(&t, &pooled), dot(&t, &strong), dot(&t, &unit(&pooled))].map(|x| SCALE * x)
    }
}

/// The parameter `name`, a matrix.
fn matrix(store: &ParameterStore, name: &str) -> Rows {
    rows(&store.get(name).unwrap().value().to_array().unwrap())
}

/// The difference is at most some 30 roundings of values of size `scale`.
fn expect_close(what: &str, got: &Var, expected: &[f64], scale: f64) {
    let got = got.value().to_vec().unwrap();
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(got) - expected).abs() < 1e-5 * scale, "{what}, {i}: {got} is not {expected}");
    }
}

fn expect_heads(what: &str, heads: &[Head], expected: &[Vec<f64>]) {
    assert_eq!(heads.len(), expected.len(), "{what}");
    for (head, expected) in heads.iter().zip(expected) {
        let scale = expected.iter().fold(SCALE, |most, x| most.max(x.abs()));
        expect_close(&format!("{what}, {}", head.name), &head.scores, expected, scale);
    }
}

/// What a temporal transformer made of `temporal`, with frames and patches as the tower gave them.
fn eercf_videos(model: &Eercf, features: &VideoFeatures, temporal: &Var) -> EercfVideos {
    let after = VideoFeatures { frames: temporal.clone(), ..features.clone() };
    EercfVideos { frames: model.prepare_videos(features).unwrap().frames, ..model.prepare_videos(&after).unwrap() }
}

#[test]
fn eercf_is_its_formulas() {
    let cases = [[5, 7, 3, 5, 9], [1, 2, 1, 1, 3], [17, 9, 13, 4, 33], [9, 9, 4, 3, 6]];
    for [texts, videos, frames, patches, width] in cases {
        let sizes = Sizes { texts, videos, words: 1, frames, patches, width };
        let [t, raw, p] = [sizes.sentences(), sizes.frames(), sizes.patches()].map(|a| rows(&a));
        let after = noise(&[videos, frames, width], 9);
        let (z, mask) = (rows(&after), sizes.mask());
        for gpu in gpus() {
            for mask_padding in [false, true] {
                let model =
                    sizes.eercf(&gpu, EercfConfig { mask_padding, gate_patches: true, ..EercfConfig::default() });
                let matrices = ["global_mat_weight", "frame_logit_weight"].map(|name| matrix(model.store(), name));
                let pair = |i: usize, j: usize| EercfPair {
                    sentence: &t[i],
                    raw: &raw[j * frames..][..frames],
                    temporal: &z[j * frames..][..frames],
                    patches: &p[j * frames * patches..][..frames * patches],
                    mask: &mask[j * frames..][..frames],
                    mask_padding,
                    matrices: [&matrices[0], &matrices[1]],
                };
                let pairs: Vec<[f64; 5]> = (0..texts * videos).map(|n| pair(n / videos, n % videos).heads()).collect();
                let expected: Vec<Vec<f64>> = (0..5).map(|h| pairs.iter().map(|p| p[h]).collect()).collect();

                let features = sizes.video_features(&gpu, 0..videos);
                let temporal = features.frames.tape().constant(Tensor::from_array(&gpu, &after).unwrap());
                let videos_of_model = eercf_videos(&model, &features, &temporal);
                let sentences = sizes.text_features(&gpu, 0..texts).sentence;
                let what = format!("{sizes:?}, mask {mask_padding}, {}", gpu.family());
                expect_heads(
                    &what,
                    &model.compare(&model.prepare_texts(&given(&sentences, None)).unwrap(), &videos_of_model).unwrap(),
                    &expected,
                );
                if texts == videos {
                    // A caption's own video has the caption's own gates in training, too.
                    let matched = model.matched(&sentences, &videos_of_model).unwrap();
                    for (head, expected) in matched.heads.iter().zip(&expected) {
                        let own: Vec<f64> = expected.iter().step_by(videos + 1).copied().collect();
                        expect_close(&what, &head.scores.diagonal().unwrap(), &own, SCALE);
                    }
                }
            }
        }
    }
}

#[test]
fn pairwise_gates_train_as_they_evaluate() {
    let sizes = Sizes { texts: 5, videos: 5, words: 1, frames: 3, patches: 0, width: 9 };
    let gpu = gpu();
    let config = EercfConfig { training_gates: TrainingGates::Pairwise, ..EercfConfig::default() };
    let model = sizes.eercf(&gpu, config);
    let strong = |t: &Var, raw: &Var, temporal: &Var| {
        let features = VideoFeatures { frames: raw.clone(), ..sizes.video_features(&gpu, 0..5) };
        let matched = model.matched(t, &eercf_videos(&model, &features, temporal))?;
        Ok(matched.heads.into_iter().find(|h| h.name == "sentence_frame_strong").unwrap().scores)
    };
    let inputs = [sizes.sentences(), sizes.frames(), noise(&[5, 3, 9], 9)];
    let tape = Tape::inference(&gpu);
    let [t, raw, z] = inputs.each_ref().map(|a| tape.constant(Tensor::from_array(&gpu, a).unwrap()));
    let features = VideoFeatures { frames: raw.clone(), ..sizes.video_features(&gpu, 0..5) };
    let heads =
        model.compare(&model.prepare_texts(&given(&t, None)).unwrap(), &eercf_videos(&model, &features, &z)).unwrap();
    let evaluated = heads.iter().find(|h| h.name == "sentence_frame_strong").unwrap().scores.value().to_vec().unwrap();
    assert_eq!(strong(&t, &raw, &z).unwrap().value().to_vec().unwrap(), evaluated);
    let options = GradientCheck { step: 3e-3, ..GradientCheck::default() };
    let report = check_gradient(&gpu, &inputs, options, |_, x| strong(&x[0], &x[1], &x[2])).unwrap();
    assert!(report.passed, "{report:?}");
}

/// GLCCL's matrices, in the order in which its published numbers draw them; V, of an ablation, last.
const GLCCL_MATRICES: [&str; 9] = [
    "global_mat_weight",
    "local_mat_weight",
    "word_logit_weight",
    "word_frame_logit_weight",
    "word_mat_weight",
    "word_frame_mat_weight",
    "word_mat_weight2",
    "word_frame_mat_weight2",
    "visual_logit_weight",
];

/// GLCCL's heads for one pair: A1 to A6 are the matrices of the scores in the order of their use.
fn glccl_pair(sentence: &[f64], words: &[Vec<f64>], frames: &[Vec<f64>], guide: Guide, m: &[Rows; 9]) -> [f64; 4] {
    let [global, local, a1, a2, a3, a4, a5, a6, visual] = m;
    let pooled = |query: &[f64]| {
        let weights = softmax_all(&dots(query, frames), 5.0);
        let weights = match guide {
            Guide::Softmax => weights,
            Guide::SoftmaxLinearSoftmax => softmax_all(&pool(&weights, visual), 5.0),
            Guide::Mean => vec![1.0; frames.len()],
        };
        unit(&pool(&weights, frames))
    };
    let aggregate = |x: &[f64], matrix: &Rows| dot(&pool(&softmax_all(x, 0.01), matrix), x);
    let (t, w) = (unit(sentence), units(words));
    let v = pooled(sentence);
    let f: Rows = words.iter().map(|word| pooled(word)).collect();
    // Words down, frames as words see them across.
    let m: Rows = w.iter().map(|word| dots(&pool(word, local), &f)).collect();
    let over_words: Vec<f64> =
        (0..f.len()).map(|l| aggregate(&m.iter().map(|row| row[l]).collect::<Vec<_>>(), a3)).collect();
    let over_frames: Vec<f64> = m.iter().map(|row| aggregate(row, a4)).collect();
    let frame_word = (aggregate(&over_words, a6) + aggregate(&over_frames, a5)) / 2.0;
    let others = [dot(&pool(&t, global), &v), aggregate(&dots(&v, &w), a1), aggregate(&dots(&t, &f), a2)];
    [others[0], others[1], others[2], frame_word].map(|x| SCALE * x)
}

#[test]
fn glccl_is_its_formulas() {
    for [texts, videos, words, frames, width] in [[5, 3, 7, 4, 9], [1, 2, 1, 1, 3], [3, 6, 33, 13, 20]] {
        let sizes = Sizes { texts, videos, words, frames, patches: 0, width };
        let [t, w, z] = [sizes.sentences(), sizes.words(), sizes.frames()].map(|a| rows(&a));
        for gpu in gpus() {
            for guide in [Guide::Softmax, Guide::SoftmaxLinearSoftmax, Guide::Mean] {
                let config = GlcclConfig { guide, heads: [true, false, true, true], ..GlcclConfig::default() };
                let model = sizes.glccl(&gpu, config);
                let matrices = GLCCL_MATRICES.map(|name| matrix(model.store(), name));
                let pair = |i: usize, j: usize| {
                    glccl_pair(&t[i], &w[i * words..][..words], &z[j * frames..][..frames], guide, &matrices)
                };
                let pairs: Vec<[f64; 4]> = (0..texts * videos).map(|n| pair(n / videos, n % videos)).collect();
                let expected: Vec<Vec<f64>> = (0..4).map(|h| pairs.iter().map(|p| p[h]).collect()).collect();
                let text = sizes.text_features(&gpu, 0..texts);
                let heads = model
                    .compare(
                        &model.prepare_texts(&text).unwrap(),
                        &model.prepare_videos(&sizes.video_features(&gpu, 0..videos)).unwrap(),
                    )
                    .unwrap();
                expect_heads(&format!("{sizes:?}, {guide:?}, {}", gpu.family()), &heads, &expected);
                // Without the second.
                let mean: Vec<f64> = pairs.iter().map(|[a, _, c, d]| (a + c + d) / 3.0).collect();
                expect_close("similarity", &model.similarity(&heads).unwrap(), &mean, 2.0 * SCALE);
            }
        }
    }
}

#[test]
fn a_word_of_zeros_has_no_direction() {
    let sizes = Sizes { texts: 2, videos: 3, words: 4, frames: 5, patches: 0, width: 8 };
    let mut words = sizes.words();
    words.data_mut()[8..16].fill(0.0);
    let [t, w, z] = [sizes.sentences(), words.clone(), sizes.frames()].map(|a| rows(&a));
    for gpu in gpus() {
        let model = sizes.glccl(&gpu, GlcclConfig::default());
        let matrices = GLCCL_MATRICES.map(|name| matrix(model.store(), name));
        let pair =
            |i: usize, j: usize| glccl_pair(&t[i], &w[4 * i..][..4], &z[5 * j..][..5], Guide::Softmax, &matrices);
        let pairs: Vec<[f64; 4]> = (0..6).map(|n| pair(n / 3, n % 3)).collect();
        let expected: Vec<Vec<f64>> = (0..4).map(|h| pairs.iter().map(|p| p[h]).collect()).collect();
        // Texts are mapped once where nothing is recorded, and by groups where something is.
        for tape in [Tape::inference(&gpu), Tape::new(&gpu)] {
            let [t, w] = leaves(&tape, [&sizes.sentences(), &words]);
            let features = sizes.video_features(&gpu, 0..3);
            let frames = tape.constant(features.frames.value().clone());
            let videos = model.prepare_videos(&VideoFeatures { frames, ..features }).unwrap();
            let heads = model.compare(&model.prepare_texts(&given(&t, Some(&w))).unwrap(), &videos).unwrap();
            expect_heads(&format!("{}, recording {}", gpu.family(), tape.is_recording()), &heads, &expected);
            if tape.is_recording() {
                let gradients = tape.backward(&model.similarity(&heads).unwrap().sum_all().unwrap()).unwrap();
                // A divisor of almost 0 would give some 1e30.
                let of_words = gradients.get(&w).unwrap().to_vec().unwrap();
                assert!(of_words.iter().all(|g| g.abs() < 1e6), "{}: {of_words:?}", gpu.family());
            }
        }
    }
}

#[test]
fn score_consistency_is_of_the_chosen_heads() {
    let sizes = Sizes { texts: 5, videos: 5, words: 3, frames: 4, patches: 0, width: 7 };
    for (heads, mean) in [([true; 4], false), ([true; 4], true), ([false, true, false, true], true)] {
        let config = GlcclConfig { heads, consistency_mean: mean, consistency_loss: 0.3, ..GlcclConfig::default() };
        let model = sizes.glccl(&gpu(), config);
        let videos = model.prepare_videos(&sizes.video_features(&gpu(), 0..5)).unwrap();
        let all = model.compare(&model.prepare_texts(&sizes.text_features(&gpu(), 0..5)).unwrap(), &videos).unwrap();
        let scores: Rows =
            all.iter().map(|h| h.scores.value().to_vec().unwrap().into_iter().map(f64::from).collect()).collect();
        let chosen: Vec<&Vec<f64>> = scores.iter().zip(heads).filter(|(_, chosen)| *chosen).map(|(s, _)| s).collect();
        let count = chosen.len() as f64;
        let (mut positive, mut negative) = (0.0, 0.0);
        for at in 0..25 {
            let mean = chosen.iter().map(|s| s[at]).sum::<f64>() / count;
            let variance = chosen.iter().map(|s| (s[at] - mean).powi(2)).sum::<f64>() / (count - 1.0);
            *(if at % 6 == 0 { &mut positive } else { &mut negative }) += variance;
        }
        let expected = (positive / 5.0) / (negative / if mean { 20.0 } else { 25.0 });
        let losses = model.losses(&all).unwrap();
        expect_close("consistency", &losses.consistency.unwrap(), &[expected], expected);
        let total = f64::from(losses.contrast.value().item().unwrap()) + 0.3 * expected;
        expect_close("total", &losses.total, &[total], total);
    }
}

/// The generator of the published numbers.
struct Draws(u64);

impl Draws {
    fn array(&mut self, shape: &[usize], scale: f32) -> Array {
        let mut next = |_| {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let share = (self.0 >> 40) as f64 / (1u64 << 24) as f64;
            ((2.0 * share - 1.0) * f64::from(scale)) as f32
        };
        Array::new(shape, (0..shape.iter().product()).map(&mut next).collect()).unwrap()
    }

    /// 0.1 · draws on top of the identities `names` of a store, and [`SCALE`].
    fn load(&mut self, store: &ParameterStore, names: &[&str]) {
        let mut arrays = store.to_arrays().unwrap();
        for &name in names {
            let matrix = arrays.get_mut(name).unwrap();
            let draws = self.array(matrix.shape(), 0.1);
            matrix.data_mut().iter_mut().zip(draws.data()).for_each(|(x, d)| *x += d);
        }
        arrays.get_mut("clip.logit_scale").unwrap().data_mut()[0] = SCALE.ln() as f32;
        store.load("the draws", &arrays).unwrap();
    }
}

/// As published: six digits behind the point, of sums in another order.
fn expect_published(what: &str, got: &[f32], published: &[f64]) {
    assert_eq!(got.len(), published.len(), "{what}");
    for (got, published) in got.iter().zip(published) {
        let tolerance = 1e-4 * published.abs().max(1.0);
        assert!((f64::from(*got) - published).abs() < tolerance, "{what}: {got}, published {published}");
    }
}

/// Sum and length.
fn summary(gradient: &Tensor) -> [f32; 2] {
    let values: Vec<f64> = gradient.to_vec().unwrap().into_iter().map(f64::from).collect();
    [values.iter().sum::<f64>() as f32, dot(&values, &values).sqrt() as f32]
}

fn parameter_summary(store: &ParameterStore, name: &str) -> [f32; 2] {
    summary(store.get(name).unwrap().gradient().unwrap())
}

#[test]
fn eercf_gives_the_published_numbers() {
    let sizes = Sizes { texts: 3, videos: 3, words: 1, frames: 4, patches: 4, width: 8 };
    let mut draws = Draws(7);
    let [t, v, z] = [&[3, 8][..], &[3, 4, 8], &[3, 4, 8]].map(|shape| draws.array(shape, 3.0));
    let p = draws.array(&[3, 16, 8], 3.0);
    let gpu = gpu();
    let config = EercfConfig { base: sizes.base(), gate_patches: true, ..EercfConfig::default() };
    let model = Eercf::new(&gpu, config, 0).unwrap();
    draws.load(model.store(), &["global_mat_weight", "frame_logit_weight"]);

    let tape = Tape::new(&gpu);
    let [t, v, z, p] = leaves(&tape, [&t, &v, &z, &p]);
    let mut mask = vec![1.0; 12];
    mask[4 + 3] = 0.0;
    let mask = Tensor::from_slice(&gpu, [3, 4], &mask).unwrap();
    let features = VideoFeatures { frames: v.clone(), mask, patches: Some(p.clone()) };
    let videos = eercf_videos(&model, &features, &z);
    let weak: [&[f64]; 3] = [
        &[7.57881, 8.35189, 4.27704, -1.43621, 7.79028, -4.16126, -5.25530, -3.23043, -9.66897],
        &[17.16302, 5.40297, -3.64632, 14.49225, 5.56870, 4.61147, 7.05635, 5.82092, 5.05795],
        &[9.64658, 16.23289, 7.40042, 7.19664, 9.23837, 7.46947, 11.72006, 9.45832, 12.66984],
    ];
    let trained: [&[f64]; 2] = [
        &[1.00335, 11.50760, 3.55668, 0.75117, -2.22965, -3.66091, 0.75883, -13.29877, -7.42597],
        &[9.64661, -6.12654, -6.06528, 7.19666, 9.23837, 5.75020, 2.89965, 8.11404, 13.72427],
    ];
    let evaluated: [&[f64]; 2] = [
        &[1.00335, 8.98256, -4.98243, 5.99164, -2.22965, -5.84972, -5.15004, 5.32720, -7.42597],
        &[9.64661, 16.23289, 7.40089, 7.19671, 9.23837, 7.47132, 11.75374, 9.47243, 13.72427],
    ];
    let values = |heads: &[Head]| heads.iter().map(|h| h.scores.value().to_vec().unwrap()).collect::<Vec<_>>();
    let heads = model.compare(&model.prepare_texts(&given(&t, None)).unwrap(), &videos).unwrap();
    for (got, published) in values(&heads).iter().zip(weak.iter().chain(&evaluated)) {
        expect_published("evaluation", got, published);
    }
    // The lifted candidates of the two-stage search: the best two of the coarse head.
    let lifted: [(usize, f64); 6] =
        [(0, 119.64980), (1, 113.54141), (3, 113.51335), (4, 109.75185), (6, 104.33144), (7, 105.99863)];
    let similarity = model.similarity(&heads).unwrap().value().to_vec().unwrap();
    for (at, published) in lifted {
        expect_published("rerank", &[100.0 + similarity[at]], &[published]);
    }

    let matched = model.matched(&t, &videos).unwrap();
    for (got, published) in values(&matched.heads).iter().zip(weak.iter().chain(&trained)) {
        expect_published("training", got, published);
    }
    let unit = t.l2_normalize(0.0).unwrap();
    for ((_, vectors), published) in matched.vectors.iter().zip([1.136313, 1.697160, 1.107629]) {
        expect_published("pearson", &unit.pearson(vectors, 0.14, 0.0).unwrap().value().to_vec().unwrap(), &[published]);
    }
    let losses = model.losses(&t, &matched).unwrap();
    for (loss, published) in [(&losses.weak, 1.444330), (&losses.strong, 7.898706), (&losses.total, 2.738039)] {
        expect_published("loss", &loss.value().to_vec().unwrap(), &[published]);
    }
    let gradients = tape.backward(&losses.total).unwrap();
    let of = |var: &Var| summary(gradients.get(var).unwrap());
    expect_published("t", &of(&t), &[0.656479, 1.261096]);
    expect_published("v", &of(&v), &[-0.413717, 0.797513]);
    expect_published("z", &of(&z), &[0.383284, 1.395966]);
    expect_published("patches", &of(&p), &[-0.024769, 0.057010]);
    let of = |name: &str| parameter_summary(model.store(), name);
    expect_published("G", &of("global_mat_weight"), &[1.079387, 3.451478]);
    expect_published("W", &of("frame_logit_weight"), &[-1.364379, 1.791752]);
    expect_published("scale", &of("clip.logit_scale")[..1], &[2.286878]);
}

#[test]
fn glccl_gives_the_published_numbers() {
    let sizes = Sizes { texts: 3, videos: 3, words: 5, frames: 4, patches: 0, width: 8 };
    let mut draws = Draws(2024);
    let [t, w, z] = [&[3, 8][..], &[3, 5, 8], &[3, 4, 8]].map(|shape| draws.array(shape, 3.0));
    let gpu = gpu();
    let model = Glccl::new(&gpu, GlcclConfig { base: sizes.base(), ..GlcclConfig::default() }, 0).unwrap();
    draws.load(model.store(), &GLCCL_MATRICES[..8]);

    let tape = Tape::new(&gpu);
    let [t, w, z] = leaves(&tape, [&t, &w, &z]);
    let mask = Tensor::from_slice(&gpu, [3, 4], &[1.0; 12]).unwrap();
    let videos = model.prepare_videos(&VideoFeatures { frames: z.clone(), mask, patches: None }).unwrap();
    let heads = model.compare(&model.prepare_texts(&given(&t, Some(&w))).unwrap(), &videos).unwrap();
    let published: [&[f64]; 4] = [
        &[9.764750, 9.731177, 12.448859, 10.925051, 12.393008, 18.654537, 13.464653, 9.833055, 10.635559],
        &[8.372791, 7.757708, 7.203852, 6.736602, 6.100409, 5.206947, 12.168173, 15.959626, 5.047221],
        &[12.770986, 7.774300, 8.763235, 8.463813, 3.149601, 11.830411, 15.969707, 11.759951, 7.940255],
        &[11.204437, 11.036767, 14.543847, 11.463640, 12.726973, 13.397563, 13.934855, 14.111736, 9.895458],
    ];
    for (head, published) in heads.iter().zip(published) {
        expect_published(head.name, &head.scores.value().to_vec().unwrap(), published);
    }
    let similarity = [10.528241, 9.074987, 10.739948, 9.397276, 8.592498, 12.272364, 13.884347, 12.916092, 8.379624];
    expect_published("similarity", &model.similarity(&heads).unwrap().value().to_vec().unwrap(), &similarity);
    let losses = model.losses(&heads).unwrap();
    let consistency = losses.consistency.unwrap();
    for (loss, published) in [(&losses.contrast, 3.725973), (&consistency, 1.638551), (&losses.total, 4.545248)] {
        expect_published("loss", &loss.value().to_vec().unwrap(), &[published]);
    }
    let gradients = tape.backward(&losses.total).unwrap();
    let of = |var: &Var| summary(gradients.get(var).unwrap());
    expect_published("sentences", &of(&t), &[-0.904391, 3.292889]);
    expect_published("words", &of(&w), &[1.148706, 2.087701]);
    expect_published("frames", &of(&z), &[0.927370, 3.347462]);
    expect_published("scale", &parameter_summary(model.store(), "clip.logit_scale")[..1], &[3.263431]);
    let published = [
        [-0.159869, 2.808490],
        [-0.219959, 2.582688],
        [4.557963, 3.959259],
        [9.286983, 5.029821],
        [-0.582131, 1.085121],
        [0.926175, 1.144967],
        [0.784075, 1.279482],
        [1.936705, 1.227525],
    ];
    for (name, published) in GLCCL_MATRICES.iter().zip(published) {
        expect_published(name, &parameter_summary(model.store(), name), &published);
    }
}
