use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::data::Part;
use crate::data::bicnet::{BicnetDataset, DatasetKind, SampleSource};
use crate::data::formats::hdf5_write;
use crate::data::formats::safetensors;
use crate::data::moments::{
    MomentQuery, MomentSource, MomentSplit, MomentVideo, Problems, TvrDataset, TvrFiles, TvrOptions, l2_normalize_rows,
    write_tvr,
};
use crate::data::testing::{Folder, mutations};
use crate::kernels::testing::gpus;
use crate::tensor::Array;

/// Odd sizes; the initial deviation makes features differ well.
fn tiny(kind: BertKind) -> BertConfig {
    BertConfig {
        model_type: kind,
        vocab_size: 37,
        hidden_size: 18,
        num_hidden_layers: 3,
        num_attention_heads: 3,
        intermediate_size: 23,
        max_position_embeddings: 13,
        type_vocab_size: 2,
        pad_token_id: if kind == BertKind::Bert { 0 } else { 1 },
        initializer_range: 0.4,
        ..BertConfig::default()
    }
}

/// Made-up sentences between special ids 2 and 3, padded to `length`: ids and mask.
fn sentences(lengths: &[usize], length: usize, pad: u32) -> (Vec<u32>, Vec<f32>) {
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for (row, &tokens) in lengths.iter().enumerate() {
        for i in 0..length {
            ids.push(match i {
                0 => 2,
                _ if i + 1 == tokens => 3,
                _ if i < tokens => 4 + (7 * row as u32 + 5 * i as u32) % 33,
                _ => pad,
            });
            mask.push(f32::from(u8::from(i < tokens)));
        }
    }
    (ids, mask)
}

fn batch<'a>((ids, mask): &'a (Vec<u32>, Vec<f32>), length: usize) -> Sentences<'a> {
    Sentences { ids, mask, token_types: None, length }
}

fn close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 1e-5 + 1e-5 * expected.abs(), "{got} is not {expected}");
    }
}

fn malformed_at<T>(result: Result<T>, wanted: &str) {
    match result.map(|_| ()) {
        Err(Error::Malformed { place, .. }) => assert_eq!(place, wanted),
        other => panic!("{wanted}: {other:?}"),
    }
}

#[test]
fn a_sentence_alone_is_as_in_a_padded_batch() {
    for gpu in gpus() {
        for kind in [BertKind::Bert, BertKind::Roberta] {
            let model = Bert::new(&gpu, tiny(kind), 3).unwrap();
            let (lengths, pad) = ([3, 11, 2, 7], model.config().pad_token_id);
            let tape = Tape::inference(&gpu);
            let all = sentences(&lengths, 11, pad);
            let all = model.forward(&tape, &batch(&all, 11)).unwrap();
            let (last, mean) = (all.concat_last_two().unwrap().value().to_vec().unwrap(), all.mean_pooled().unwrap());
            let (mean, pooled) = (mean.value().to_vec().unwrap(), all.pooler_output.unwrap().value().to_vec().unwrap());
            for (row, &tokens) in lengths.iter().enumerate() {
                let ids = sentences(&lengths, 11, pad).0[11 * row..11 * row + tokens].to_vec();
                let alone = model.forward(&tape, &batch(&(ids, vec![1.0; tokens]), tokens)).unwrap();
                let values = alone.concat_last_two().unwrap().value().to_vec().unwrap();
                close(&last[row * 11 * 36..(row * 11 + tokens) * 36], &values);
                close(&mean[row * 18..][..18], &alone.mean_pooled().unwrap().value().to_vec().unwrap());
                close(&pooled[row * 18..][..18], &alone.pooler_output.unwrap().value().to_vec().unwrap());
            }
        }
    }
}

#[test]
fn roberta_counts_positions_without_padding() {
    let gpu = &gpus()[0];
    let model = Bert::new(gpu, tiny(BertKind::Roberta), 3).unwrap();
    let given = Sentences { ids: &[2, 9, 1, 9, 1, 2, 3, 1, 1, 1], mask: &[1.0; 10], token_types: None, length: 5 };
    assert_eq!(model.encoder.positions(&given), [2, 3, 1, 4, 1, 2, 3, 1, 1, 1]);
    let model = Bert::new(gpu, tiny(BertKind::Bert), 3).unwrap();
    assert_eq!(model.encoder.positions(&given), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
}

#[test]
fn token_types_count() {
    let gpu = &gpus()[0];
    let model = Bert::new(gpu, tiny(BertKind::Bert), 3).unwrap();
    let given = sentences(&[5], 5, 0);
    let encode = |types: Option<&[u32]>| {
        let outputs = model.forward(&Tape::inference(gpu), &Sentences { token_types: types, ..batch(&given, 5) });
        outputs.map(|o| o.last_hidden_state.value().to_vec().unwrap())
    };
    assert_eq!(encode(None).unwrap(), encode(Some(&[0; 5])).unwrap());
    assert_ne!(encode(None).unwrap(), encode(Some(&[0, 0, 0, 1, 1])).unwrap());
    assert!(matches!(
        encode(Some(&[0, 0, 2, 0, 0])),
        Err(Error::IndexOutOfRange { op: "token types", index: 2, len: 2 })
    ));
}

#[test]
fn sentences_beyond_the_tables_are_refused() {
    let gpu = &gpus()[0];
    for (kind, longest) in [(BertKind::Bert, 13), (BertKind::Roberta, 11)] {
        let model = Bert::new(gpu, tiny(kind), 3).unwrap();
        let encode = |ids: &[u32], mask: &[f32], length| {
            let given = Sentences { ids, mask, token_types: None, length };
            model.forward(&Tape::inference(gpu), &given).map(|_| ())
        };
        assert!(encode(&vec![5; longest], &vec![1.0; longest], longest).is_ok());
        let long = encode(&vec![5; longest + 1], &vec![1.0; longest + 1], longest + 1);
        assert!(matches!(long, Err(Error::IndexOutOfRange { op: "token positions", index: 13, len: 13 })), "{long:?}");
        let unknown = encode(&[2, 37, 3], &[1.0; 3], 3);
        assert!(matches!(unknown, Err(Error::IndexOutOfRange { op: "token ids", index: 37, len: 37 })));
        assert!(matches!(encode(&[2, 3, 4], &[1.0; 3], 2), Err(Error::Shape { argument: "ids", .. })));
        assert!(matches!(encode(&[2, 3, 4], &[1.0; 3], 0), Err(Error::Shape { argument: "ids", .. })));
        assert!(matches!(encode(&[2, 3, 4], &[1.0; 4], 3), Err(Error::Shape { argument: "mask", .. })));
    }
}

#[test]
fn configurations_are_read_and_checked() {
    let folder = Folder::new();
    let good = serde_json::to_value(tiny(BertKind::Roberta)).unwrap();
    let read = |file: &Value| BertConfig::read(folder.file("config.json", file.to_string()));
    assert_eq!(read(&good).unwrap(), tiny(BertKind::Roberta));
    let with = |key: &str, value: Value| {
        let mut file = good.clone();
        file[key] = value;
        read(&file)
    };
    // What the published files hold besides.
    with("architectures", json!(["RobertaForMaskedLM"])).unwrap();
    with("hidden_act", json!("gelu")).unwrap();
    for (key, value) in [
        ("model_type", json!("distilbert")),
        ("hidden_act", json!("relu")),
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(1e300)),
        ("vocab_size", json!("many")),
    ] {
        malformed_at(with(key, value), key);
    }
    for key in ["model_type", "pad_token_id", "num_hidden_layers"] {
        let mut file = good.clone();
        file.as_object_mut().unwrap().remove(key);
        malformed_at(read(&file), key);
    }
    for bytes in mutations(good.to_string().as_bytes(), 200) {
        if let Ok(config) = BertConfig::read(folder.file("config.json", bytes)) {
            let _ = config.check();
        }
    }
    let refused = |config: BertConfig, wanted: &str| match Bert::shapes(config).map(|_| ()) {
        Err(Error::Argument { argument, .. }) => assert_eq!(argument, wanted),
        other => panic!("{wanted}: {other:?}"),
    };
    let base = tiny(BertKind::Bert);
    refused(BertConfig { vocab_size: 0, ..base.clone() }, "vocab_size");
    refused(BertConfig { num_hidden_layers: usize::MAX, ..base.clone() }, "num_hidden_layers");
    refused(BertConfig { hidden_dropout_prob: 1.0, ..base.clone() }, "hidden_dropout_prob");
    refused(BertConfig { layer_norm_eps: f32::NAN, ..base.clone() }, "layer_norm_eps");
    refused(BertConfig { pad_token_id: 37, ..base.clone() }, "pad_token_id");
    refused(BertConfig { num_attention_heads: 4, ..base }, "heads");
}

#[test]
fn published_sizes_have_the_published_number_of_parameters() {
    let count = |config| Bert::shapes(config).unwrap().values().map(|s| s.iter().product::<usize>()).sum::<usize>();
    assert_eq!(count(BertConfig::default()), 109_482_240);
    assert_eq!(count(BertConfig::roberta()), 124_645_632);
}

#[test]
fn folders_come_back_under_old_and_prefixed_names() {
    let (gpu, folder) = (&gpus()[0], Folder::new());
    let model = Bert::new(gpu, tiny(BertKind::Bert), 3).unwrap();
    model.save_folder(folder.root()).unwrap();
    let arrays = model.store().to_arrays().unwrap();
    let opened = Bert::open(gpu, folder.root()).unwrap();
    assert_eq!((opened.config(), opened.store().to_arrays().unwrap()), (model.config(), arrays.clone()));

    let old = |name: &str| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        format!("bert.{name}")
    };
    let mut pretrained: BTreeMap<String, Array> = arrays.iter().map(|(n, a)| (old(n), a.clone())).collect();
    for name in ["cls.predictions.bias", "lm_head.dense.weight", "bert.embeddings.position_ids"] {
        pretrained.insert(name.into(), Array::zeros([2]));
    }
    safetensors::write(folder.path("model.safetensors"), &pretrained, &BTreeMap::new()).unwrap();
    assert_eq!(Bert::open(gpu, folder.root()).unwrap().store().to_arrays().unwrap(), arrays);

    std::fs::remove_file(folder.path("model.safetensors")).unwrap();
    let shard = |name: &str| if name.len().is_multiple_of(2) { "even.safetensors" } else { "odd.safetensors" };
    for file in ["even.safetensors", "odd.safetensors"] {
        let here = pretrained.iter().filter(|(name, _)| shard(name) == file).map(|(n, a)| (n.clone(), a.clone()));
        safetensors::write(folder.path(file), &here.collect(), &BTreeMap::new()).unwrap();
    }
    let map: BTreeMap<&str, &str> = pretrained.keys().map(|name| (name.as_str(), shard(name))).collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(folder.path("model.safetensors.index.json"), index).unwrap();
    assert_eq!(Bert::open(gpu, folder.root()).unwrap().store().to_arrays().unwrap(), arrays);

    pretrained.retain(|name, _| !name.contains("pooler"));
    let without = Bert::from_arrays(gpu, tiny(BertKind::Bert), "here", pretrained.clone()).unwrap();
    let outputs = without.forward(&Tape::inference(gpu), &batch(&sentences(&[4], 4, 0), 4)).unwrap();
    assert!(outputs.pooler_output.is_none() && !without.config().add_pooling_layer);
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let gpu = &gpus()[0];
    let arrays = Bert::new(gpu, tiny(BertKind::Bert), 3).unwrap().store().to_arrays().unwrap();
    let load = |config: BertConfig, change: &dyn Fn(&mut BTreeMap<String, Array>)| {
        let mut arrays = arrays.clone();
        change(&mut arrays);
        Bert::from_arrays(gpu, config, "here", arrays).map(|_| ())
    };
    let base = tiny(BertKind::Bert);
    let word = "embeddings.word_embeddings.weight";
    let without = load(base.clone(), &|a| drop(a.remove(word)));
    assert!(matches!(&without, Err(Error::MissingParameter { name, .. }) if name == word), "{without:?}");
    let half_a_pooler = load(base.clone(), &|a| drop(a.remove("pooler.dense.bias")));
    assert!(matches!(half_a_pooler, Err(Error::MissingParameter { .. })));
    let more = load(base.clone(), &|a| drop(a.insert("classifier.weight".into(), Array::zeros([1]))));
    assert!(matches!(&more, Err(Error::UnknownParameter { name, .. }) if name == "classifier.weight"));
    let twice = load(base.clone(), &|a| drop(a.insert(format!("bert.{word}"), a[word].clone())));
    assert!(matches!(twice, Err(Error::DuplicateParameter { .. })));
    let nan = load(base.clone(), &|a| a.get_mut(word).unwrap().data_mut()[5] = f32::NAN);
    assert!(matches!(nan, Err(Error::NonFinite { count: 1, .. })));
    // Sizes for which there would be no memory.
    let wide = load(BertConfig { vocab_size: 1 << 24, hidden_size: 3 << 20, ..base.clone() }, &|_| {});
    assert!(matches!(wide, Err(Error::ParameterShape { .. })));
    assert!(matches!(load(BertConfig { num_hidden_layers: 4, ..base }, &|_| {}), Err(Error::MissingParameter { .. })));
}

/// Each sentence's features, from a forward pass of its own.
fn expected(model: &Bert, given: &(Vec<u32>, Vec<f32>), length: usize, row: usize, recipe: TokenRecipe) -> Vec<f32> {
    let tokens = given.1[row * length..][..length].iter().filter(|&&m| m > 0.5).count();
    let ids = given.0[row * length..][..tokens].to_vec();
    let tape = Tape::inference(model.store().gpu());
    let outputs = model.forward(&tape, &batch(&(ids, vec![1.0; tokens]), tokens)).unwrap();
    match recipe {
        TokenRecipe::Bicnet => outputs.concat_last_two().unwrap().value().to_vec().unwrap(),
        TokenRecipe::Reloclnet => {
            outputs.second_to_last_hidden_state.value().to_vec().unwrap()[18..(tokens - 1) * 18].to_vec()
        }
    }
}

#[test]
fn bicnet_reads_what_is_written() {
    let (gpu, folder) = (&gpus()[0], Folder::new());
    let model = Bert::new(gpu, tiny(BertKind::Bert), 3).unwrap();
    let (lengths, counts) = ([5, 3, 9, 4, 12, 2], [("video2", 3), ("video0", 1), ("video1", 2)]);
    let videos = counts.map(|(id, count)| (id.to_string(), count));
    let given = sentences(&lengths, 12, 0);
    model.write_bicnet_text(folder.root(), &videos, &batch(&given, 12)).unwrap();

    for (file, name, shape) in
        [("msrvtt_region_feature.h5", "vfeats", vec![3, 2, 1, 2]), ("msr-vtt_features.h5", "feats", vec![3, 2, 2])]
    {
        let zeros = Array::zeros(shape);
        hdf5_write::write(&folder.path(file), |w| w.dataset(name, zeros.shape(), zeros.data())).unwrap();
    }
    folder.file("MSRVTT_own_test.csv", "video_id\nvideo2\nvideo0\nvideo1\n");
    let kind = DatasetKind::MsrVtt { split: "own".into() };
    let data = BicnetDataset::open(folder.root(), &kind, Part::Test).unwrap();
    assert_eq!(data.dims().text, TokenRecipe::Bicnet.width(model.config()));
    let mut row = 0;
    for (video, (_, count)) in counts.iter().enumerate() {
        assert_eq!(data.captions(video).unwrap(), *count);
        for caption in 0..*count {
            let text = data.sample(video, caption).unwrap().text;
            assert_eq!(text.shape(), [lengths[row], 36]);
            close(text.data(), &expected(&model, &given, 12, row, TokenRecipe::Bicnet));
            row += 1;
        }
    }

    let write = |videos: &[(&str, usize)], given: &(Vec<u32>, Vec<f32>)| {
        let videos: Vec<(String, usize)> = videos.iter().map(|(id, n)| (id.to_string(), *n)).collect();
        model.write_bicnet_text(folder.root(), &videos, &batch(given, 12))
    };
    assert!(matches!(write(&[("a", 5)], &given), Err(Error::Argument { argument: "sentences", .. })));
    assert!(matches!(write(&[("a", 6), ("b", 0)], &given), Err(Error::Argument { argument: "videos", .. })));
    assert!(matches!(write(&[("a", 3), ("a", 3)], &given), Err(Error::Duplicate { .. })));
    let blank = (vec![2; 12], vec![0.0; 12]);
    assert!(matches!(write(&[("a", 1)], &blank), Err(Error::Argument { argument: "sentences", .. })));
    // Failures leave the files of before.
    assert!(BicnetDataset::open(folder.root(), &kind, Part::Test).is_ok());
}

#[test]
fn reloclnet_reads_what_is_written() {
    let (gpu, folder) = (&gpus()[0], Folder::new());
    let model = Bert::new(gpu, tiny(BertKind::Roberta), 3).unwrap();
    let (lengths, numbers) = ([6, 3, 11], [70, 5, 123]);
    let query = |id: u64| MomentQuery {
        id,
        text: "a".into(),
        video: Some("v".into()),
        windows: vec![[0.0, 2.0]],
        kind: None,
        saliency: Vec::new(),
    };
    let videos = vec![MomentVideo { id: "v".into(), duration: 4.5, index: 0 }];
    let split = MomentSplit { queries: numbers.map(query).to_vec(), videos };
    write_tvr(folder.root(), &[("val", &split)]).unwrap();
    let mut files = TvrFiles::in_folder(folder.root(), "val");
    files.video_features = vec![folder.path("video.h5")];
    files.sub_features = None;
    files.query_features = folder.path("queries.h5");
    hdf5_write::write(&files.video_features[0], |w| w.dataset("v", &[3, 2], &[1.0; 6])).unwrap();

    let given = sentences(&lengths, 11, 1);
    model.write_reloclnet_queries(&files.query_features, &numbers, &batch(&given, 11)).unwrap();
    let data = TvrDataset::open(&files, TvrOptions::default(), &mut Problems::strict()).unwrap();
    assert_eq!(data.widths().query, TokenRecipe::Reloclnet.width(model.config()));
    for (row, tokens) in lengths.iter().enumerate() {
        let values = expected(&model, &given, 11, row, TokenRecipe::Reloclnet);
        let mut features = Array::new([tokens - 2, 18], values).unwrap();
        l2_normalize_rows(&mut features);
        let place = data.queries().iter().position(|q| q.id == numbers[row]).unwrap();
        let got = data.tokens(place).unwrap();
        assert_eq!(got.shape(), features.shape());
        close(got.data(), features.data());
    }

    let write = |numbers: &[u64], given: &(Vec<u32>, Vec<f32>)| {
        model.write_reloclnet_queries(&files.query_features, numbers, &batch(given, 11))
    };
    assert!(matches!(write(&[1, 2], &given), Err(Error::Argument { .. })));
    assert!(matches!(write(&[1, 2, 1], &given), Err(Error::Duplicate { .. })));
    // Nothing but the special tokens.
    assert!(matches!(write(&[1], &sentences(&[2], 11, 1)), Err(Error::Argument { argument: "sentences", .. })));
}

#[test]
fn many_sentences_are_encoded_in_batches() {
    let gpu = &gpus()[0];
    let model = Bert::new(gpu, BertConfig { num_hidden_layers: 1, ..tiny(BertKind::Bert) }, 3).unwrap();
    // Over two batches of 315 sentences, and a third of a single one.
    let lengths: Vec<usize> = (0..631).map(|i| 2 + i % 9).collect();
    let given = sentences(&lengths, 13, 0);
    let mut seen = Vec::new();
    let all = batch(&given, 13);
    let keep = |i, features| {
        seen.push((i, features));
        Ok(())
    };
    model.token_features(&all, TokenRecipe::Bicnet, keep).unwrap();
    assert_eq!(seen.len(), 631);
    for (i, (number, features)) in seen.iter().enumerate() {
        assert_eq!((*number, features.shape()), (i, &[lengths[i], 36][..]));
    }
    for row in [0, 314, 315, 630] {
        close(seen[row].1.data(), &expected(&model, &given, 13, row, TokenRecipe::Bicnet));
    }
    let none = model.token_features(&Sentences { ids: &[], mask: &[], ..all }, TokenRecipe::Bicnet, |_, _| panic!());
    none.unwrap();
    let stopped = model.token_features(&all, TokenRecipe::Bicnet, |_, _| Err(Error::Interrupted { saved: None }));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
}
