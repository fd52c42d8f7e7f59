//! CLIP as a user meets it: published sizes, files in every layout, damaged files, inference in halves.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{gpu, noise};
use reelgrad::autograd::Tape;
use reelgrad::data::formats::safetensors;
use reelgrad::gpu::Gpu;
use reelgrad::models::Model;
use reelgrad::models::clip::{Clip, ClipActivation, ClipConfig, EndOfText, TowerConfig};
use reelgrad::models::eercf::{Eercf, EercfConfig};
use reelgrad::models::glccl::{Glccl, GlcclConfig};
use reelgrad::nn::ParameterStore;
use reelgrad::{Array, Error, Result, Tensor};
use serde_json::{Value, json};

/// A small model with heads as wide as OpenAI's, which its weights alone tell.
fn small() -> ClipConfig {
    ClipConfig {
        image_size: 24,
        patch_size: 8,
        vision: TowerConfig { width: 64, heads: 1, layers: 2, mlp: 40 },
        text: TowerConfig { width: 128, heads: 2, layers: 1, mlp: 72 },
        vocabulary: 50,
        positions: 7,
        joint: 20,
        ..ClipConfig::vit_b_32()
    }
}

/// A folder with the small model in Hugging Face's layout, and its weights.
fn folder() -> (tempfile::TempDir, Clip) {
    let folder = tempfile::tempdir().unwrap();
    let clip = Clip::new(&gpu(), small(), 5).unwrap();
    clip.save_folder(folder.path()).unwrap();
    (folder, clip)
}

fn weights(folder: &Path) -> PathBuf {
    folder.join("model.safetensors")
}

fn open(path: &Path) -> Result<Clip> {
    Clip::open(&gpu(), path, |_| true)
}

fn bits(store: &ParameterStore) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let bits = |a: &Array| (a.shape().to_vec(), a.data().iter().map(|v| v.to_bits()).collect());
    store.to_arrays().unwrap().iter().map(|(name, a)| (name.clone(), bits(a))).collect()
}

#[test]
fn parameters_are_as_many_as_published() {
    fn count<M: Model>(config: M::Config) -> usize {
        M::shapes(config).unwrap().values().map(|shape| shape.iter().product::<usize>()).sum()
    }
    assert_eq!(count::<Clip>(ClipConfig::vit_b_32()), 151_277_313);
    assert_eq!(count::<Clip>(ClipConfig { patch_size: 16, ..ClipConfig::vit_b_32() }), 149_620_737);
    assert_eq!(count::<Eercf>(EercfConfig::default()), 164_188_561);
    assert_eq!(count::<Glccl>(GlcclConfig::default()), 164_456_849);
}

#[test]
fn models_survive_both_layouts_bit_for_bit() {
    let files = tempfile::tempdir().unwrap();
    let odd = ClipConfig {
        vision: TowerConfig { width: 30, heads: 3, layers: 1, mlp: 7 },
        activation: ClipActivation::Gelu,
        end_of_text: EndOfText::FirstId(49),
        logit_scale: 1.25,
        ..small()
    };
    for (name, config) in [("folder", small()), ("odd", odd), ("file.safetensors", small())] {
        let path = files.path().join(name);
        let clip = Clip::new(&gpu(), config, 5).unwrap();
        if name == "file.safetensors" {
            clip.save(&path).unwrap()
        } else {
            clip.save_folder(&path).unwrap()
        }
        let opened = open(&path).unwrap();
        assert_eq!(opened.config(), clip.config(), "{name}");
        assert_eq!(bits(opened.store()), bits(clip.store()), "{name}");
    }
}

/// Splits a folder's weights into two files, with the index that `edit` leaves.
fn shard(folder: &Path, edit: impl FnOnce(&mut Vec<(String, String)>)) {
    let all = safetensors::read(weights(folder)).unwrap();
    let (names, nothing) = (["model-1.safetensors", "model-2.safetensors"], BTreeMap::new());
    let mut map = Vec::new();
    for (part, file) in names.iter().enumerate() {
        let some = all.iter().enumerate().filter(|(i, _)| i % 2 == part).map(|(_, (n, a))| (n.clone(), a.clone()));
        let some: BTreeMap<String, Array> = some.collect();
        safetensors::write(folder.join(file), &some, &nothing).unwrap();
        map.extend(some.into_keys().map(|tensor| (tensor, file.to_string())));
    }
    fs::remove_file(weights(folder)).unwrap();
    edit(&mut map);
    let map: BTreeMap<String, String> = map.into_iter().collect();
    let index = folder.join("model.safetensors.index.json");
    fs::write(index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
}

#[test]
fn several_files_are_one_model_unless_the_index_is_wrong() {
    type Edit<'a> = &'a dyn Fn(&mut Vec<(String, String)>);
    let sharded = |edit: Edit<'_>| {
        let (folder, clip) = folder();
        shard(folder.path(), edit);
        (folder, clip)
    };
    let (whole, clip) = sharded(&|_| {});
    assert_eq!(bits(open(whole.path()).unwrap().store()), bits(clip.store()));

    for outside in ["../model-1.safetensors", "/tmp/model-1.safetensors", "a/b.safetensors", "..", ""] {
        let (wrong, _) = sharded(&|map| map[0].1 = outside.into());
        assert!(matches!(open(wrong.path()), Err(Error::Malformed { .. })), "{outside}");
    }
    let (lacks, _) = sharded(&|map| map.push(("more".into(), map[0].1.clone())));
    assert!(matches!(open(lacks.path()), Err(Error::Missing { kind: "tensor", id, .. }) if id == "more"));
    let (no_file, _) = sharded(&|map| map[0].1 = "model-3.safetensors".into());
    assert!(matches!(open(no_file.path()), Err(Error::Io { .. })));
    let (twice, _) = sharded(&|map| map.push(("more".into(), "copy.safetensors".into())));
    fs::copy(twice.path().join("model-2.safetensors"), twice.path().join("copy.safetensors")).unwrap();
    assert!(matches!(open(twice.path()), Err(Error::Duplicate { kind: "tensor", .. })));
    let (json, _) = sharded(&|_| {});
    fs::write(json.path().join("model.safetensors.index.json"), "{\"weight_map\": [1]}").unwrap();
    assert!(matches!(open(json.path()), Err(Error::Malformed { .. })));
}

/// Changes a folder's weights.
fn edit(folder: &Path, edit: impl FnOnce(&mut BTreeMap<String, Array>)) {
    let mut arrays = safetensors::read(weights(folder)).unwrap();
    edit(&mut arrays);
    safetensors::write(weights(folder), &arrays, &BTreeMap::new()).unwrap();
}

/// Says in a file's header that tensor `name` holds integers.
fn retype(path: &Path, name: &str) {
    let mut bytes = fs::read(path).unwrap();
    let find =
        |from: usize, text: &str| from + bytes[from..].windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
    let at = find(find(0, &format!("\"{name}\"")), "F32");
    bytes[at..at + 3].copy_from_slice(b"I32");
    fs::write(path, bytes).unwrap();
}

#[test]
fn weights_that_do_not_fit_are_errors() {
    let changed = |change: &dyn Fn(&mut BTreeMap<String, Array>)| {
        let (folder, _) = folder();
        edit(folder.path(), change);
        open(folder.path()).map(drop)
    };
    let bias = "text_model.final_layer_norm.bias";
    for name in [bias, "logit_scale", "visual_projection.weight", "vision_model.encoder.layers.1.mlp.fc1.bias"] {
        let got = changed(&|arrays| drop(arrays.remove(name)));
        assert!(matches!(got, Err(Error::MissingParameter { .. })), "{name}: {got:?}");
    }
    // A part of a packed projection, of the wrong length or absent, is named as the file names it.
    let part = "text_model.encoder.layers.0.self_attn.v_proj.bias";
    let got = changed(&|arrays| drop(arrays.remove(part)));
    assert!(matches!(&got, Err(Error::MissingParameter { name, .. }) if name == part), "{got:?}");
    let got = changed(&|arrays| drop(arrays.insert(part.into(), Array::zeros([3]))));
    assert!(matches!(got, Err(Error::ParameterShape { .. })), "{got:?}");
    for name in ["more", "text_model.more", "vision_model.encoder.layers.0.self_attn.o_proj.bias", "visual.proj"] {
        let got = changed(&|arrays| drop(arrays.insert(name.into(), Array::zeros([3]))));
        assert!(matches!(&got, Err(Error::UnknownParameter { name: n, .. }) if n == name), "{name}: {got:?}");
    }
    let got = changed(&|arrays| drop(arrays.insert(bias.into(), Array::zeros([127]))));
    assert!(matches!(got, Err(Error::ParameterShape { .. })), "{got:?}");
    let got = changed(&|arrays| drop(arrays.insert("text_projection.weight".into(), Array::zeros([20]))));
    assert!(matches!(got, Err(Error::Shape { .. } | Error::ParameterShape { .. })), "{got:?}");
    for value in [f32::NAN, f32::INFINITY] {
        let got = changed(&|arrays| arrays.get_mut(bias).unwrap().data_mut()[3] = value);
        assert!(matches!(&got, Err(Error::NonFinite { count: 1, .. })), "{got:?}");
    }

    // Integers are no weights; those beside them are left out.
    let (folder, clip) = folder();
    retype(&weights(folder.path()), bias);
    assert!(matches!(open(folder.path()), Err(Error::Malformed { place, .. }) if place.contains(bias)));
    clip.save_folder(folder.path()).unwrap();
    let ids = "text_model.embeddings.position_ids";
    edit(folder.path(), |arrays| drop(arrays.insert(ids.into(), Array::zeros([1, 7]))));
    retype(&weights(folder.path()), ids);
    assert_eq!(bits(open(folder.path()).unwrap().store()), bits(clip.store()));
}

#[test]
fn openai_files_that_do_not_fit_are_errors() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("clip.safetensors");
    let arrays = Clip::new(&gpu(), small(), 5).unwrap().store().to_arrays().unwrap();
    let changed = |change: &dyn Fn(&mut BTreeMap<String, Array>)| {
        let mut arrays = arrays.clone();
        change(&mut arrays);
        safetensors::write(&path, &arrays, &BTreeMap::new()).unwrap();
        open(&path).map(drop)
    };
    changed(&|_| {}).unwrap();
    changed(&|arrays| drop(arrays.insert("input_resolution".into(), Array::zeros([])))).unwrap();
    for name in ["visual.conv1.weight", "ln_final.weight", "positional_embedding", "visual.proj"] {
        let got = changed(&|arrays| drop(arrays.remove(name)));
        assert!(matches!(&got, Err(Error::MissingParameter { name: n, .. }) if n == name), "{name}: {got:?}");
    }
    // No grid of patches has 10 positions less one in a row of whole numbers, and none of these is a size.
    for (name, shape) in [
        ("visual.positional_embedding", vec![9, 64]),
        ("visual.positional_embedding", vec![0, 64]),
        ("visual.conv1.weight", vec![0, 3, 1 << 40, 1 << 40]),
        ("visual.conv1.weight", vec![64, 3, 8, 0]),
        ("token_embedding.weight", vec![1 << 40, 0]),
        ("ln_final.weight", vec![0]),
    ] {
        let got = changed(&|arrays| drop(arrays.insert(name.into(), Array::zeros(shape.clone()))));
        let typed = matches!(got, Err(Error::Argument { .. } | Error::ParameterShape { .. } | Error::Malformed { .. }));
        assert!(typed, "{name} {shape:?}: {got:?}");
    }
    changed(&|arrays| arrays.clear()).unwrap_err();
}

#[test]
fn pickles_are_refused_with_a_recipe() {
    let files = tempfile::tempdir().unwrap();
    let refused = |path: &Path, content: &[u8]| {
        fs::write(files.path().join(path), content).unwrap();
        let opened = if path.parent() == Some(Path::new("")) { path } else { path.parent().unwrap() };
        match open(&files.path().join(opened)) {
            Err(Error::Malformed { problem, .. }) => {
                assert!(problem.contains("torch.load") && problem.contains("weights_only=True"), "{problem}");
            }
            other => panic!("{}: {:?}", path.display(), other.map(drop)),
        }
    };
    refused(Path::new("ViT-B-32.pt"), b"PK\x03\x04rest of an archive");
    refused(Path::new("weights.bin"), b"anything");
    refused(Path::new("renamed.safetensors"), b"PK\x03\x04rest of an archive");
    refused(Path::new("old.safetensors"), b"\x80\x02}q\x00(X\x06");
    fs::create_dir(files.path().join("folder")).unwrap();
    refused(Path::new("folder/pytorch_model.bin"), b"PK\x03\x04");
    assert!(matches!(open(&files.path().join("nothing.pt")), Err(Error::Io { .. })));
    assert!(matches!(open(&files.path().join("nothing")), Err(Error::Io { .. })));
}

/// Changes one key of a folder's `config.json`; `part` is empty for the outermost keys.
fn configure(folder: &Path, part: &str, key: &str, value: Value) {
    let path = folder.join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let object = if part.is_empty() { &mut json } else { &mut json[part] };
    object[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn absurd_configurations_fail_before_memory_is_taken() {
    let own = common::builder().build().unwrap();
    let (text, vision) = ("text_config", "vision_config");
    for (part, key, value) in [
        (text, "vocab_size", json!(16_000_000)),
        (text, "vocab_size", json!(u64::MAX)),
        (text, "hidden_size", json!(1 << 23)),
        (text, "hidden_size", json!(0)),
        (text, "hidden_size", json!(-64)),
        (text, "intermediate_size", json!("wide")),
        (text, "num_hidden_layers", json!(999)),
        (text, "num_hidden_layers", json!(1_000_000)),
        (text, "num_attention_heads", json!(3)),
        (text, "num_attention_heads", json!(0)),
        (text, "max_position_embeddings", json!(1 << 24)),
        (text, "eos_token_id", json!([1, 2])),
        (text, "hidden_act", json!("relu")),
        (text, "hidden_act", json!("gelu")),
        (text, "layer_norm_eps", json!(1e-12)),
        (vision, "image_size", json!(1 << 24)),
        (vision, "image_size", json!(25)),
        (vision, "patch_size", json!(0)),
        (vision, "intermediate_size", json!(1 << 24)),
        ("", "projection_dim", json!(u64::MAX)),
        ("", "projection_dim", json!(1 << 24)),
        ("", "model_type", json!("clip_text_model")),
    ] {
        let (folder, _) = folder();
        configure(folder.path(), part, key, value.clone());
        let before = own.memory_report().peak;
        let got = Clip::open(&own, folder.path(), |_| false).map(drop);
        let typed =
            matches!(got, Err(Error::Malformed { .. } | Error::MissingParameter { .. } | Error::ParameterShape { .. }));
        assert!(typed, "{part}.{key} = {value}: {got:?}");
        assert_eq!(own.memory_report().peak, before, "{part}.{key} = {value} took memory");
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let config = ClipConfig { end_of_text: EndOfText::FirstId(49), ..small() };
    let clip = Clip::new(&gpu(), config, 5).unwrap();
    let tape = Tape::inference(&gpu());
    let text = |ids: &[u32], length: usize| clip.towers().text.encode(&tape, ids, length, None, true).map(drop);
    text(&[1, 2, 49, 0, 1, 49, 0, 0], 4).unwrap();
    assert!(matches!(text(&[1, 49, 0, 1, 2, 3], 3), Err(Error::Argument { argument: "ids", .. })));
    assert!(matches!(text(&[49; 8], 8), Err(Error::IndexOutOfRange { index: 8, len: 7, .. })));
    assert!(matches!(text(&[1, 50, 49], 3), Err(Error::IndexOutOfRange { index: 50, len: 50, .. })));
    assert!(matches!(text(&[1, 2, 49, 0], 3), Err(Error::Shape { .. })));
    assert!(matches!(text(&[1], 0), Err(Error::Shape { .. })));
    for shape in [vec![2, 3, 24, 23], vec![2, 1, 24, 24], vec![3, 24, 24], vec![1, 3, 32, 32]] {
        let pixels = tape.constant(Tensor::from_array(&gpu(), &noise(&shape, 1)).unwrap());
        assert!(matches!(clip.towers().image.encode(&pixels, false), Err(Error::Shape { .. })), "{shape:?}");
    }
}

#[cfg(feature = "text")]
#[test]
fn a_tokenizer_with_more_ids_than_the_table_has_rows_is_an_error() {
    use reelgrad::data::tokenizer::Tokenizer;

    // Padding, unknown, two words, start and end.
    let tokenizer = Tokenizer::from_words(&["a", "dog"]).unwrap();
    tokenizer.expect_below(6).unwrap();
    assert!(matches!(tokenizer.expect_below(5), Err(Error::IndexOutOfRange { index: 5, len: 5, .. })));
}

/// Towers whose rows can be read as halves.
fn wide() -> ClipConfig {
    let tower = TowerConfig { width: 128, heads: 2, layers: 2, mlp: 256 };
    ClipConfig { vision: tower, text: tower, ..small() }
}

/// Features of images, patches, sentences and words, each row divided by its length.
fn features(gpu: &Gpu, clip: &Clip) -> Vec<f32> {
    let tape = Tape::inference(gpu);
    let pixels = tape.constant(Tensor::from_array(gpu, &noise(&[3, 3, 24, 24], 2)).unwrap());
    let images = clip.towers().image.encode(&pixels, true).unwrap();
    let ids: Vec<u32> = (0..4 * 6).map(|i| (i * 7) % 50).collect();
    let texts = clip.towers().text.encode(&tape, &ids, 6, None, true).unwrap();
    let all = [images.image, images.patches.unwrap(), texts.sentence, texts.words.unwrap()];
    all.iter().flat_map(|var| var.l2_normalize(1e-12).unwrap().value().to_vec().unwrap()).collect()
}

#[test]
fn halves_take_half_the_memory_and_change_little() {
    let files = tempfile::tempdir().unwrap();
    Clip::new(&gpu(), wide(), 5).unwrap().save_folder(files.path()).unwrap();
    for gpu in common::gpus() {
        let (full, half) = (Clip::open(&gpu, files.path(), |_| true), Clip::open_half(&gpu, files.path()));
        let (full, half) = (full.unwrap(), half.unwrap());
        assert_eq!(half.store().trained_elements(), 0);
        let mut halved = 0;
        for (f, h) in full.store().parameters().iter().zip(half.store().parameters()) {
            let (f_bytes, h_bytes) = (f.value().bytes(), h.value().bytes());
            let is_matrix = f.name().contains("attn.") || f.name().contains("mlp.");
            if is_matrix && f.shape().len() == 2 {
                assert_eq!(2 * h_bytes, f_bytes, "{}", f.name());
                halved += 1;
            } else {
                assert_eq!(h_bytes, f_bytes, "{}", f.name());
            }
        }
        // Four in each of two blocks of two towers.
        assert_eq!(halved, 16);
        let (full, half) = (features(&gpu, &full), features(&gpu, &half));
        let worst = full.iter().zip(&half).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst > 0.0 && worst < 2e-3, "{}: {worst}", gpu.family());
    }
}

#[test]
fn what_halves_cannot_hold_is_named_as_in_the_file() {
    let files = tempfile::tempdir().unwrap();
    let clip = Clip::new(&gpu(), wide(), 5).unwrap();
    let changed = |path: &Path, name: &str, at: usize| {
        let file = if path.is_dir() { path.join("model.safetensors") } else { path.into() };
        let mut arrays = safetensors::read(&file).unwrap();
        arrays.get_mut(name).unwrap().data_mut()[at] = 1e6;
        safetensors::write(&file, &arrays, &BTreeMap::new()).unwrap();
        match Clip::open_half(&gpu(), path) {
            Err(Error::HalfOverflow { name, index, .. }) => (name, index),
            other => panic!("{:?}", other.map(drop)),
        }
    };
    let name = "text_model.encoder.layers.1.self_attn.k_proj.weight";
    let folder = files.path().join("folder");
    clip.save_folder(&folder).unwrap();
    assert_eq!(changed(&folder, name, 7), (name.into(), 7));
    let name = "transformer.resblocks.1.attn.in_proj_weight";
    let file = files.path().join("clip.safetensors");
    clip.save(&file).unwrap();
    assert_eq!(changed(&file, name, 7), (name.into(), 7));
}

#[test]
fn recomputed_blocks_give_the_same_gradients_bit_for_bit() {
    for gpu in common::gpus() {
        let gradients = |recompute: bool| {
            let clip = Clip::new(&gpu, ClipConfig { recompute, ..small() }, 5).unwrap();
            let tape = Tape::new(&gpu);
            let pixels = tape.constant(Tensor::from_array(&gpu, &noise(&[3, 3, 24, 24], 2)).unwrap());
            let images = clip.towers().image.encode(&pixels, false).unwrap();
            let ids: Vec<u32> = (0..3 * 5).map(|i| (i * 11) % 50).collect();
            let texts = clip.towers().text.encode(&tape, &ids, 5, None, false).unwrap();
            let loss = clip.logits_per_text(&texts.sentence, &images.image).unwrap().info_nce().unwrap();
            tape.backward(&loss).unwrap();
            let bits = |p: &reelgrad::nn::Parameter| -> Vec<u32> {
                p.gradient().unwrap().to_vec().unwrap().iter().map(|g| g.to_bits()).collect()
            };
            clip.store().parameters().iter().map(|p| (p.name().to_string(), bits(p))).collect::<BTreeMap<_, _>>()
        };
        let kept = gradients(false);
        assert!(kept["visual.transformer.resblocks.0.attn.in_proj_weight"].iter().any(|&b| b != 0));
        assert_eq!(gradients(true), kept, "{}", gpu.family());
    }
}
