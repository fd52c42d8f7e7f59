//! ReLoCLNet as a user meets it: published sizes, single streams, what padding may and may not do.

mod common;

use std::collections::BTreeMap;

use common::{gpu, noise};
use reelgrad::autograd::{Tape, Var};
use reelgrad::data::formats::safetensors;
use reelgrad::models::Model;
use reelgrad::models::reloclnet::{
    NegativeDraws, Padding, Reloclnet, ReloclnetConfig, ReloclnetInputs, StreamInput, Streams,
};
use reelgrad::random::Random;
use reelgrad::{Array, Error, Tensor};

fn tiny(streams: Streams, padding: Padding) -> ReloclnetConfig {
    ReloclnetConfig {
        hidden_size: 8,
        num_heads: 2,
        video_dim: 5,
        sub_dim: 3,
        query_dim: 4,
        streams,
        endpoints: false,
        max_clips: 9,
        max_tokens: 5,
        input_dropout: 0.0,
        dropout: 0.0,
        padding,
        init_std: 0.3,
        ..ReloclnetConfig::default()
    }
}

fn normal(shape: &[usize], stream: u64) -> Vec<f32> {
    let mut random = Random::new(7, stream);
    (0..shape.iter().product()).map(|_| random.normal()).collect()
}

/// A batch of three videos of 9, 6 and 4 clips, padded to `clips` positions.
fn batch(config: &ReloclnetConfig, clips: usize) -> ReloclnetInputs {
    let gpu = gpu();
    let lengths = [9usize, 6, 4];
    let mask: Vec<f32> = lengths.iter().flat_map(|&n| (0..clips).map(move |l| f32::from(u8::from(l < n)))).collect();
    let mask = Tensor::from_slice(&gpu, [3, clips], &mask).unwrap();
    let stream = |width: usize, seed: u64| {
        let mut features = vec![0.0; 3 * clips * width];
        for (b, &n) in lengths.iter().enumerate() {
            let rows = normal(&[n, width], seed + b as u64);
            features[b * clips * width..][..n * width].copy_from_slice(&rows);
        }
        StreamInput { features: Tensor::from_slice(&gpu, [3, clips, width], &features).unwrap(), mask: mask.clone() }
    };
    let streams = match config.streams {
        Streams::Both => vec![stream(config.video_dim, 10), stream(config.sub_dim, 20)],
        Streams::Video => vec![stream(config.video_dim, 10)],
        Streams::Sub => vec![stream(config.sub_dim, 20)],
    };
    let query = Tensor::from_slice(&gpu, [3, 4, 4], &normal(&[3, 4, 4], 30)).unwrap();
    let query_mask = Tensor::from_slice(&gpu, [3, 4], &[1., 1., 1., 1., 1., 1., 0., 0., 1., 0., 0., 0.]).unwrap();
    ReloclnetInputs { query, query_mask, streams, spans: vec![[2, 5], [0, 0], [3, 3]] }
}

fn encode(model: &Reloclnet, inputs: &ReloclnetInputs) -> (Var, Var) {
    let tape = Tape::inference(&gpu());
    let queries = model.encode_query(&tape.constant(inputs.query.clone()), &inputs.query_mask).unwrap();
    let features: Vec<Var> = inputs.streams.iter().map(|s| tape.constant(s.features.clone())).collect();
    let masks: Vec<Tensor> = inputs.streams.iter().map(|s| s.mask.clone()).collect();
    let clips = model.encode_clips(&features, &masks).unwrap();
    let scores = model.video_scores(&queries, &clips, &masks).unwrap();
    (scores, model.cross_span_logits(&queries, &clips, &masks[0]).unwrap().start)
}

#[test]
fn parameters_are_as_many_as_published() {
    let count = |config| -> usize {
        Reloclnet::shapes(config).unwrap().values().map(|shape| shape.iter().product::<usize>()).sum()
    };
    assert_eq!(count(ReloclnetConfig::default()), 7_765_650);
    assert_eq!(count(ReloclnetConfig { endpoints: false, ..ReloclnetConfig::default() }), 7_764_106);
    assert_eq!(count(ReloclnetConfig { video_dim: 1024, ..ReloclnetConfig::default() }), 6_975_122);
}

/// The names and shapes in the official checkpoints, with two streams.
fn official(c: &ReloclnetConfig) -> BTreeMap<String, Vec<usize>> {
    let (d, tef) = (c.hidden_size, if c.endpoints { 2 } else { 0 });
    let mut all = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| assert!(all.insert(name, shape.to_vec()).is_none());
    let pair = |name: String, weight: &[usize]| {
        [(format!("{name}.weight"), weight.to_vec()), (format!("{name}.bias"), weight[..1].to_vec())]
    };
    let mut pairs = Vec::new();
    for (name, positions) in [("query", c.max_tokens), ("ctx", c.max_clips)] {
        add(format!("{name}_pos_embed.position_embeddings.weight"), &[positions, d]);
        pairs.push(pair(format!("{name}_pos_embed.LayerNorm"), &[d]));
    }
    for (name, inputs) in [("query", c.query_dim), ("video", c.video_dim + tef), ("sub", c.sub_dim + tef)] {
        pairs.push(pair(format!("{name}_input_proj.LayerNorm"), &[inputs]));
        pairs.push(pair(format!("{name}_input_proj.net.1"), &[d, inputs]));
    }
    let numbered = |name| [1, 2, 3].map(|i| format!("{name}_encoder{i}"));
    let query = ["query_encoder", "query_encoder1"].map(String::from);
    for block in query.into_iter().chain(numbered("video")).chain(numbered("sub")) {
        for part in ["self.query", "self.key", "self.value", "output.dense"] {
            pairs.push(pair(format!("{block}.{part}"), &[d, d]));
        }
        pairs.push(pair(format!("{block}.output.LayerNorm"), &[d]));
    }
    for stream in ["video", "sub"] {
        for part in ["query", "key", "value"] {
            pairs.push(pair(format!("{stream}_cross_att.{part}"), &[d, d]));
        }
        pairs.push(pair(format!("{stream}_cross_layernorm"), &[d]));
        pairs.push(pair(format!("{stream}_query_linear"), &[d, d]));
    }
    pairs.into_iter().flatten().for_each(|(name, shape)| add(name, &shape));
    add("modular_vector_mapping.weight".into(), &[2, d]);
    for end in ["st", "ed"] {
        add(format!("merged_{end}_predictor.weight"), &[1, 1, c.conv_kernel]);
    }
    all
}

#[test]
fn parameters_have_the_official_names_and_shapes() {
    for config in [ReloclnetConfig::default(), tiny(Streams::Both, Padding::Official)] {
        assert_eq!(Reloclnet::shapes(config.clone()).unwrap(), official(&config));
    }
    // One stream: its own, of one modular vector, and nothing of the other or across.
    for (streams, gone) in [(Streams::Video, "sub_"), (Streams::Sub, "video_")] {
        let config = ReloclnetConfig { streams, ..ReloclnetConfig::default() };
        let mut kept = official(&config);
        kept.retain(|name, _| !name.starts_with(gone) && !name.contains("_cross_"));
        kept.insert("modular_vector_mapping.weight".into(), vec![1, config.hidden_size]);
        assert_eq!(Reloclnet::shapes(config).unwrap(), kept, "{streams:?}");
    }
}

#[test]
fn official_checkpoints_load() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let config = tiny(Streams::Both, Padding::Official);
    let arrays: BTreeMap<String, Array> =
        official(&config).into_iter().zip(1..).map(|((name, shape), seed)| (name, noise(&shape, seed))).collect();
    // As written on one GPU and on several.
    for prefix in ["", "module."] {
        let named = arrays.iter().map(|(name, array)| (format!("{prefix}{name}"), array.clone())).collect();
        safetensors::write(&file, &named, &BTreeMap::new()).unwrap();
        let model = Reloclnet::load(&gpu(), config.clone(), &file).unwrap();
        assert!(model.store().to_arrays().unwrap() == arrays);
        model.save(&file).unwrap();
        assert!(safetensors::read(&file).unwrap() == arrays);
    }
    let load = |config| Reloclnet::load(&gpu(), config, &file).map(drop);
    let narrow = ReloclnetConfig { endpoints: true, ..config.clone() };
    assert!(matches!(load(narrow), Err(Error::ParameterShape { .. })));
    let got = load(ReloclnetConfig { streams: Streams::Video, ..config.clone() });
    assert!(matches!(&got, Err(Error::UnknownParameter { name, .. }) if name == "sub_cross_att.key.bias"), "{got:?}");
    let mut fewer = arrays.clone();
    fewer.remove("sub_cross_att.key.bias").unwrap();
    safetensors::write(&file, &fewer, &BTreeMap::new()).unwrap();
    assert!(matches!(load(config), Err(Error::MissingParameter { name, .. }) if name == "sub_cross_att.key.bias"));
}

#[test]
fn one_stream_trains_all_its_parameters() {
    for streams in [Streams::Video, Streams::Sub, Streams::Both] {
        let config = tiny(streams, Padding::Official);
        let model = Reloclnet::new(&gpu(), config.clone(), 3).unwrap();
        let (own, other) = if streams == Streams::Sub { ("sub_", "video_") } else { ("video_", "sub_") };
        let has = |prefix: &str| model.store().parameters().iter().any(|p| p.name().starts_with(prefix));
        assert!(has(own));
        assert_eq!(has(other), streams == Streams::Both, "{streams:?}");

        let inputs = batch(&config, config.max_clips);
        let tape = Tape::new(&gpu());
        let draws = NegativeDraws { videos: vec![1, 2, 1], queries: vec![2, 2, 1] };
        let losses = model.loss(&tape, &inputs, &draws).unwrap();
        assert!(losses.total.value().item().unwrap().is_finite());
        tape.backward(&losses.total).unwrap();
        for p in model.store().parameters() {
            let gradient = p.gradient().unwrap().to_vec().unwrap();
            // A shift of all scores of a softmax changes nothing, hence the keys' biases.
            let zero = gradient.iter().all(|g| g.abs() < 1e-6);
            assert!(!zero || p.name().ends_with("key.bias"), "{streams:?}: {} has no gradient", p.name());
            assert!(gradient.iter().all(|g| g.is_finite()));
        }
    }
}

/// Pads with other numbers of positions and with other values behind the end.
fn padded_otherwise(config: &ReloclnetConfig) -> [ReloclnetInputs; 2] {
    let full = batch(config, config.max_clips);
    let mut dirty = full.clone();
    for s in &mut dirty.streams {
        let (mut values, mask) = (s.features.to_vec().unwrap(), s.mask.to_vec().unwrap());
        let width = s.features.width();
        // Not constant: the first normalisation would make it zeros.
        let spike = |row: &mut [f32]| row[0] = 2.5;
        values.chunks_exact_mut(width).zip(&mask).filter(|(_, m)| **m == 0.0).for_each(|(row, _)| spike(row));
        s.features = Tensor::from_slice(&gpu(), s.features.shape(), &values).unwrap();
    }
    [full, dirty]
}

#[test]
fn masked_padding_has_no_influence_and_official_padding_has() {
    for (padding, leaks) in [(Padding::Masked, false), (Padding::Official, true)] {
        let config = tiny(Streams::Both, padding);
        let model = Reloclnet::new(&gpu(), config.clone(), 3).unwrap();
        let [clean, dirty] = padded_otherwise(&config);
        let ((scores, spans), (other_scores, other_spans)) = (encode(&model, &clean), encode(&model, &dirty));
        let differ = |a: &Var, b: &Var| {
            let (a, b) = (a.value().to_vec().unwrap(), b.value().to_vec().unwrap());
            a.iter().zip(&b).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()))
        };
        assert!(differ(&scores, &other_scores) < 1e-5, "scores see clips alone");
        assert_eq!(differ(&spans, &other_spans) > 1e-4, leaks, "{padding:?}");
    }
}

#[test]
fn draws_are_negatives_and_repeat() {
    for (hard, pool, highest) in [(false, 3, 7), (true, 3, 3), (true, 20, 7)] {
        let draw = || NegativeDraws::new(8, hard, pool, &mut Random::new(1, 2)).unwrap();
        let draws = draw();
        assert_eq!(draws, draw());
        assert!(draws.videos.iter().chain(&draws.queries).all(|&d| (1..=highest).contains(&d)));
    }
    assert!(matches!(NegativeDraws::new(1, false, 20, &mut Random::new(1, 2)), Err(Error::Argument { .. })));
}

#[test]
fn wrong_inputs_are_errors() {
    let config = tiny(Streams::Both, Padding::Official);
    let model = Reloclnet::new(&gpu(), config.clone(), 3).unwrap();
    let inputs = batch(&config, config.max_clips);
    let tape = Tape::inference(&gpu());
    let draws = NegativeDraws { videos: vec![1, 2, 1], queries: vec![2, 2, 1] };
    let one = ReloclnetInputs { streams: inputs.streams[..1].to_vec(), ..inputs.clone() };
    assert!(matches!(model.loss(&tape, &one, &draws), Err(Error::Argument { .. })));
    let beyond = ReloclnetInputs { spans: vec![[0, 1], [0, 1], [3, 9]], ..inputs.clone() };
    assert!(matches!(model.loss(&tape, &beyond, &draws), Err(Error::IndexOutOfRange { .. })));
    let long = batch(&config, config.max_clips + 1);
    assert!(matches!(model.loss(&tape, &long, &draws), Err(Error::IndexOutOfRange { .. })));
    let even = ReloclnetConfig { conv_kernel: 4, ..config.clone() };
    assert!(matches!(Reloclnet::shapes(even), Err(Error::Argument { argument: "conv_kernel", .. })));
    let heads = ReloclnetConfig { num_heads: 3, ..config };
    assert!(matches!(Reloclnet::shapes(heads), Err(Error::Argument { argument: "heads", .. })));
}

#[test]
fn features_larger_than_a_binding_are_projected_in_parts() {
    let small = common::builder().binding_limit(96 << 10).build().unwrap();
    let config = ReloclnetConfig { video_dim: 70, max_clips: 64, ..tiny(Streams::Video, Padding::Official) };
    let encode = |gpu: &reelgrad::Gpu| {
        let model = Reloclnet::new(gpu, config.clone(), 3).unwrap();
        let features = Tensor::from_slice(gpu, [7, 64, 70], &normal(&[7, 64, 70], 5)).unwrap();
        assert!(features.bytes() > 96 << 10);
        let mask = Tensor::from_slice(gpu, [7, 64], &[1.0; 7 * 64]).unwrap();
        let tape = Tape::new(gpu);
        let clips = model.encode_clips(&[tape.constant(features)], &[mask]).unwrap();
        tape.backward(&clips[0].last.square().unwrap().sum_all().unwrap()).unwrap();
        let weight = model.store().get("video_input_proj.net.1.weight").unwrap().gradient().unwrap().to_vec();
        (clips[0].last.value().to_vec().unwrap(), weight.unwrap())
    };
    let ((values, gradient), (in_parts, gradient_in_parts)) = (encode(&gpu()), encode(&small));
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + a.abs()));
    assert!(close(&values, &in_parts) && close(&gradient, &gradient_in_parts));
}
