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
use reelgrad::models::clip::{Clip, ClipActivation, ClipConfig, EndOfText, Family, Pretrained, TowerConfig};
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
    let siglip = ClipConfig {
        family: Family::Siglip,
        vision: TowerConfig { width: 30, heads: 3, layers: 1, mlp: 7 },
        joint: 30,
        activation: ClipActivation::GeluTanh,
        ..small()
    };
    let chinese = ClipConfig { family: Family::ChineseClip { token_types: 3, pad: 1 }, ..small() };
    for (name, config) in [("folder", small()), ("odd", odd), ("siglip", siglip), ("chinese", chinese)] {
        let path = files.path().join(name);
        let clip = Clip::new(&gpu(), config, 5).unwrap();
        clip.save_folder(&path).unwrap();
        let opened = open(&path).unwrap();
        assert_eq!(opened.config(), clip.config(), "{name}");
        assert_eq!(bits(opened.store()), bits(clip.store()), "{name}");
        // One file, under this crate's names, for which somebody says what it is.
        let file = files.path().join(format!("{name}.safetensors"));
        clip.save(&file).unwrap();
        let loaded = Clip::load(&gpu(), clip.config().clone(), &file).unwrap();
        assert_eq!(bits(loaded.store()), bits(clip.store()), "{name}");
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
    for name in [bias, "visual_projection.weight", "vision_model.encoder.layers.1.mlp.fc1.bias"] {
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
    assert!(matches!(got, Err(Error::ParameterShape { .. })), "{got:?}");
    for value in [f32::NAN, f32::INFINITY] {
        let matrix = "visual_projection.weight";
        let got = changed(&|arrays| arrays.get_mut(matrix).unwrap().data_mut()[64 + 3] = value);
        let Err(Error::NonFinite { count: 1, place, .. }) = got else { panic!("{got:?}") };
        assert_eq!(place, "visual_projection.weight [1, 3]");
    }
    // Vectors do not need the factor of similarities.
    changed(&|arrays| drop(arrays.remove("logit_scale"))).unwrap();

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

/// The configuration of the small model as open_clip writes it.
fn open_clip() -> Value {
    json!({
        "model_cfg": {
            "embed_dim": 20, "quick_gelu": true,
            "vision_cfg": { "image_size": 24, "layers": 2, "width": 64, "patch_size": 8, "mlp_ratio": 0.625 },
            "text_cfg": {
                "context_length": 7, "vocab_size": 50, "width": 128, "heads": 2, "layers": 1, "mlp_ratio": 0.5625,
            },
        },
        "preprocess_cfg": {},
    })
}

#[test]
fn open_clips_folders_are_read_and_what_does_not_fit_is_an_error() {
    let files = tempfile::tempdir().unwrap();
    let (path, config) = (files.path().join("open_clip_model.safetensors"), files.path().join("open_clip_config.json"));
    let clip = Clip::new(&gpu(), small(), 5).unwrap();
    let arrays = clip.store().to_arrays().unwrap();
    let changed = |json: &Value, change: &dyn Fn(&mut BTreeMap<String, Array>)| {
        let mut arrays = arrays.clone();
        change(&mut arrays);
        safetensors::write(&path, &arrays, &BTreeMap::new()).unwrap();
        fs::write(&config, json.to_string()).unwrap();
        open(files.path())
    };
    let good = open_clip();
    let opened = changed(&good, &|_| {}).unwrap();
    assert_eq!(opened.config(), clip.config());
    assert_eq!(bits(opened.store()), bits(clip.store()));
    changed(&good, &|arrays| drop(arrays.insert("input_resolution".into(), Array::zeros([])))).unwrap();
    for name in ["visual.conv1.weight", "ln_final.weight", "positional_embedding", "visual.proj"] {
        let got = changed(&good, &|arrays| drop(arrays.remove(name))).map(drop);
        assert!(matches!(&got, Err(Error::MissingParameter { name: n, .. }) if n == name), "{name}: {got:?}");
        let got = changed(&good, &|arrays| drop(arrays.insert(name.into(), Array::zeros([3, 1, 2])))).map(drop);
        assert!(matches!(&got, Err(Error::ParameterShape { name: n, .. }) if n == name), "{name}: {got:?}");
    }
    // GELU unless the file says otherwise; heads by their width.
    let edited = |part: &str, key: &str, value: Value| {
        let mut json = good.clone();
        let place = if part.is_empty() { &mut json["model_cfg"] } else { &mut json["model_cfg"][part] };
        place[key] = value;
        changed(&json, &|_| {}).map(|clip| clip.config().clone())
    };
    assert_eq!(edited("", "quick_gelu", Value::Null).unwrap().activation, ClipActivation::Gelu);
    assert_eq!(edited("vision_cfg", "head_width", json!(16)).unwrap().vision.heads, 4);
    for (part, key, value) in [
        ("vision_cfg", "timm_model_name", json!("vit_base_patch16_siglip_224")),
        ("vision_cfg", "timm_model_name", json!("vit_pe_core_base_patch16_224")),
        ("vision_cfg", "layers", json!([3, 4, 6, 3])),
        ("vision_cfg", "pool_type", json!("avg")),
        ("vision_cfg", "head_width", json!(17)),
        ("vision_cfg", "no_ln_pre", json!(true)),
        ("vision_cfg", "something_new", json!(1)),
        ("vision_cfg", "image_size", json!([24, 32])),
        ("text_cfg", "hf_model_name", json!("xlm-roberta-base")),
        ("text_cfg", "width", json!(-1)),
        ("", "multimodal_cfg", json!({})),
        ("", "embed_dim", Value::Null),
    ] {
        let got = edited(part, key, value.clone());
        assert!(matches!(got, Err(Error::Malformed { .. })), "{part}.{key} = {value}: {got:?}");
    }
}

#[test]
fn weights_alone_need_their_architecture() {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("weights.safetensors");
    Clip::new(&gpu(), small(), 5).unwrap().save(&file).unwrap();
    for path in [&file, files.path()] {
        let got = open(path).map(drop);
        let Err(Error::Argument { argument: "architecture", why, .. }) = &got else { panic!("{got:?}") };
        assert!(why.contains("ViT-B-32") && why.contains("-quickgelu"), "{why}");
    }
    let got = Pretrained::read(&file, Some("ViT-B-33")).map(drop);
    assert!(matches!(&got, Err(Error::Argument { why, .. }) if why.contains("ViT-B-32")), "{got:?}");
    // It is another size; no weight is taken for what it is not.
    let got = Pretrained::read(&file, Some("ViT-B-32")).map(drop);
    assert!(matches!(got, Err(Error::ParameterShape { .. })), "{got:?}");
    for name in reelgrad::models::clip::architectures() {
        ClipConfig::of_architecture(name).unwrap().check().unwrap();
    }
    let openai = ClipConfig::of_architecture("ViT-B-32-quickgelu").unwrap();
    assert_eq!(openai, ClipConfig::vit_b_32());
    // With its configuration beside it, a file is as good as its folder.
    let clip = Clip::new(&gpu(), small(), 5).unwrap();
    clip.save_folder(files.path()).unwrap();
    assert_eq!(bits(open(&weights(files.path())).unwrap().store()), bits(clip.store()));
}

#[test]
fn names_are_those_of_any_wrapper() {
    for rename in [
        |name: &str| format!("module.{name}"),
        |name: &str| format!("_orig_mod.module.{name}"),
        |name: &str| format!("clip.{name}"),
        // As transformers 5.6 writes the text tower.
        |name: &str| name.strip_prefix("text_model.").unwrap_or(name).to_string(),
        |name: &str| if name.starts_with("text_model.") { format!("text_model.{name}") } else { name.into() },
    ] {
        let (folder, clip) = folder();
        edit(folder.path(), |arrays| {
            *arrays = std::mem::take(arrays).into_iter().map(|(n, a)| (rename(&n), a)).collect()
        });
        assert_eq!(bits(open(folder.path()).unwrap().store()), bits(clip.store()));
    }
    let (folder, _) = folder();
    edit(folder.path(), |arrays| drop(arrays.insert("module.logit_scale".into(), Array::zeros([]))));
    assert!(matches!(open(folder.path()), Err(Error::Duplicate { kind: "parameter", .. })));
}

#[test]
fn one_file_of_another_name_and_numbered_files_are_found() {
    let (folder, clip) = folder();
    let (root, single) = (folder.path(), weights(folder.path()));
    fs::rename(&single, root.join("model.fp16.safetensors")).unwrap();
    let read = Pretrained::read(root, None).unwrap();
    assert!(read.notes.iter().any(|note| note.contains("model.fp16.safetensors")), "{:?}", read.notes);
    fs::copy(root.join("model.fp16.safetensors"), root.join("other.safetensors")).unwrap();
    assert!(matches!(open(root), Err(Error::Malformed { problem, .. }) if problem.contains("other.safetensors")));
    fs::remove_file(root.join("other.safetensors")).unwrap();
    fs::rename(root.join("model.fp16.safetensors"), &single).unwrap();
    shard(root, |_| {});
    fs::remove_file(root.join("model.safetensors.index.json")).unwrap();
    for number in 1..=2 {
        let named = root.join(format!("model-0000{number}-of-00002.safetensors"));
        fs::rename(root.join(format!("model-{number}.safetensors")), named).unwrap();
    }
    assert_eq!(bits(open(root).unwrap().store()), bits(clip.store()));
    fs::copy(root.join("model-00002-of-00002.safetensors"), root.join("model-00003-of-00003.safetensors")).unwrap();
    assert!(matches!(open(root), Err(Error::Malformed { problem, .. }) if problem.contains("of a set of")));
}

#[test]
fn what_is_no_such_model_is_named() {
    let problem = |folder: &Path| match open(folder).map(drop) {
        Err(Error::Malformed { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    for (name, word) in [
        ("altclip", "AltCLIP"),
        ("xclip", "X-CLIP"),
        ("blip", "BLIP"),
        ("siglip2", "NaFlex"),
        ("clip_text_model", "text tower"),
        ("clip_vision_model", "image tower"),
        ("bert", "encode bert"),
        ("never-heard-of", "never-heard-of"),
    ] {
        let (folder, _) = folder();
        configure(folder.path(), "", "model_type", json!(name));
        let problem = problem(folder.path());
        assert!(problem.contains(word) && problem.contains("supported are CLIP"), "{problem}");
    }
    for (content, word) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"[..], "git lfs pull"),
        (b"<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"  <html lang=en>", "web page"),
        (b"", "empty"),
    ] {
        let (folder, _) = folder();
        fs::write(weights(folder.path()), content).unwrap();
        let problem = problem(folder.path());
        assert!(problem.contains(word), "{problem}");
    }
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("modules.json"), "[]").unwrap();
    fs::create_dir(root.path().join("0_CLIPModel")).unwrap();
    fs::write(root.path().join("0_CLIPModel/config.json"), "{}").unwrap();
    assert!(problem(root.path()).contains("0_CLIPModel"));
    assert!(problem(tempfile::tempdir().unwrap().path()).contains("config.json"));
    assert!(problem(Path::new("openai/clip-vit-base-patch32")).contains("hf download openai/clip-vit-base-patch32"));
}

#[test]
fn old_configurations_are_read_as_their_authors_do() {
    let (folder, clip) = folder();
    let path = folder.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    // The dict stands for the whole section, and alone.
    json["text_config_dict"] = json["text_config"].take();
    json["text_config"] = json!({"hidden_size": 7});
    json["vision_config_dict"] = json["vision_config"].take();
    json.as_object_mut().unwrap().remove("vision_config");
    fs::write(&path, json.to_string()).unwrap();
    assert_eq!(ClipConfig::from_hugging_face(&path).unwrap(), *clip.config());
    json["text_config_dict"]["eos_token_id"] = json!([49]);
    json["logit_scale_init_value"] = Value::Null;
    fs::write(&path, json.to_string()).unwrap();
    assert_eq!(ClipConfig::from_hugging_face(&path).unwrap().end_of_text, EndOfText::FirstId(49));
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
    // The configuration by itself is one that no network has, or the weights are of another one.
    let malformed = |got: &Result<()>| matches!(got, Err(Error::Malformed { .. }));
    let shape = |got: &Result<()>| matches!(got, Err(Error::ParameterShape { .. }));
    let missing = |got: &Result<()>| matches!(got, Err(Error::MissingParameter { .. }));
    type Is<'a> = &'a dyn Fn(&Result<()>) -> bool;
    let rows: [(&str, &str, Value, Is<'_>); 22] = [
        (text, "vocab_size", json!(16_000_000), &shape),
        (text, "vocab_size", json!(u64::MAX), &malformed),
        (text, "hidden_size", json!(1 << 23), &shape),
        (text, "hidden_size", json!(0), &malformed),
        (text, "hidden_size", json!(-64), &malformed),
        (text, "intermediate_size", json!("wide"), &malformed),
        (text, "num_hidden_layers", json!(999), &missing),
        (text, "num_hidden_layers", json!(1_000_000), &malformed),
        (text, "num_attention_heads", json!(3), &malformed),
        (text, "num_attention_heads", json!(0), &malformed),
        (text, "max_position_embeddings", json!(1 << 24), &shape),
        (text, "eos_token_id", json!([1, 2]), &malformed),
        (text, "hidden_act", json!("relu"), &malformed),
        (text, "hidden_act", json!("gelu"), &malformed),
        (text, "layer_norm_eps", json!(1e-12), &malformed),
        (vision, "image_size", json!(1 << 24), &shape),
        (vision, "image_size", json!(33), &shape),
        (vision, "patch_size", json!(0), &malformed),
        (vision, "intermediate_size", json!(1 << 24), &shape),
        ("", "projection_dim", json!(u64::MAX), &malformed),
        ("", "projection_dim", json!(1 << 24), &shape),
        ("", "model_type", json!("clip_text_model"), &malformed),
    ];
    for (part, key, value, is) in rows {
        let (folder, _) = folder();
        configure(folder.path(), part, key, value.clone());
        let before = own.memory_report().peak;
        let got = Clip::open(&own, folder.path(), |_| false).map(drop);
        assert!(is(&got), "{part}.{key} = {value}: {got:?}");
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
    let config = files.path().join("open/open_clip_config.json");
    fs::create_dir(config.parent().unwrap()).unwrap();
    let mut json = open_clip();
    for part in ["vision_cfg", "text_cfg"] {
        ["width", "layers", "mlp_ratio"]
            .into_iter()
            .zip([128, 2, 2])
            .for_each(|(key, v)| json["model_cfg"][part][key] = json!(v));
    }
    fs::write(&config, json.to_string()).unwrap();
    let file = config.with_file_name("open_clip_model.safetensors");
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
