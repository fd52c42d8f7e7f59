//! Bad input gives typed errors, and leaves the device usable.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{builder, gpu, noise};
use reelgrad::autograd::{AttentionOptions, Tape, Var, concat};
use reelgrad::data::moments::pad_tokens;
use reelgrad::gpu::{AdapterChoice, KernelFamily, Launch};
use reelgrad::kernels::attention::Layout;
use reelgrad::kernels::elementwise::dropout::Dropout;
use reelgrad::kernels::elementwise::unary::{self, Unary};
use reelgrad::kernels::pooling::Masked;
use reelgrad::kernels::rows::layer_norm::Norm;
use reelgrad::models::Model;
use reelgrad::models::bicnet::{Bicnet, BicnetConfig};
use reelgrad::nn::{Init, Linear, MultiHeadAttention, StoreBuilder};
use reelgrad::shader::Variant;
use reelgrad::train::{Checkpoint, checkpoint};
use reelgrad::{Array, Error, Gpu, Tensor};
use sha2::{Digest, Sha256};

/// Asserts that a result is an error of this form.
macro_rules! refused {
    ($result:expr, $form:pat_param $(if $guard:expr)?) => {
        match $result.map(|_| ()) {
            Err($form) $(if $guard)? => {}
            other => panic!("{}: expected {}, got {other:?}", stringify!($result), stringify!($form)),
        }
    };
}

fn tensor(shape: &[usize]) -> Tensor {
    Tensor::from_array(&gpu(), &noise(shape, 1)).unwrap()
}

fn leaf(tape: &Tape, shape: &[usize]) -> Var {
    tape.leaf(tensor(shape))
}

/// The device still computes.
fn assert_works(gpu: &Gpu) {
    let x = Tensor::from_slice(gpu, [3], &[1.0, 2.0, 3.0]).unwrap();
    let y = Tape::inference(gpu).constant(x).square().unwrap();
    assert_eq!(y.value().to_vec().unwrap(), [1.0, 4.0, 9.0]);
}

#[test]
fn shapes_that_do_not_fit() {
    let tape = Tape::new(&gpu());
    let v = |shape: &[usize]| leaf(&tape, shape);
    use Error::{Argument, DType, IndexOutOfRange, Shape, ShapeMismatch};

    refused!(v(&[2, 3]).matmul(&v(&[4, 5])), ShapeMismatch { .. });
    refused!(v(&[3]).matmul(&v(&[3, 5])), Shape { .. });
    refused!(v(&[2, 3, 4]).matmul(&v(&[3, 4, 5])), ShapeMismatch { .. });
    refused!(v(&[2, 3]).matmul_nt(&v(&[3, 5])), ShapeMismatch { .. });
    refused!(v(&[2, 3]).linear(&v(&[5, 4]), None, None, None), ShapeMismatch { .. });
    refused!(v(&[2, 3]).linear(&v(&[5, 3]), Some(&v(&[4])), None, None), Shape { .. });
    refused!(v(&[2, 3]).linear(&v(&[5, 3]), None, None, Some(&v(&[2, 3]))), Shape { .. });
    refused!(v(&[2, 3]).cosine_matrix(&v(&[2, 4])), ShapeMismatch { .. });

    let heads = |heads| AttentionOptions { layout: Layout::TokensFirst { heads }, ..Default::default() };
    let x = v(&[2, 3, 8]);
    refused!(x.attention(&v(&[2, 3, 6]), &v(&[2, 3, 6]), &heads(2)), Shape { .. });
    refused!(x.attention(&x, &v(&[2, 4, 8]), &heads(2)), Shape { .. });
    refused!(x.attention(&x, &x, &heads(3)), Argument { argument: "heads", .. });
    refused!(x.attention(&x, &x, &heads(0)), Argument { argument: "heads", .. });
    refused!(x.attention(&x, &x, &AttentionOptions::default()), Shape { .. });
    refused!(v(&[1, 2, 129]).attention(&v(&[1, 2, 129]), &v(&[1, 2, 129]), &heads(1)), Argument { .. });
    let masked = |mask: Tensor| AttentionOptions { key_mask: Some(mask), ..heads(2) };
    refused!(x.attention(&x, &x, &masked(tensor(&[2, 4]))), Shape { argument: "mask", .. });
    let ids = || Tensor::from_u32(&gpu(), [2], &[1, 2]).unwrap();
    let both = AttentionOptions { key_lengths: Some(ids()), ..masked(tensor(&[2, 3])) };
    refused!(x.attention(&x, &x, &both), Argument { argument: "key_lengths", .. });
    let lengths = AttentionOptions { key_lengths: Some(tensor(&[2])), ..heads(2) };
    refused!(x.attention(&x, &x, &lengths), DType { expected: "u32", got: "f32", .. });
    let bias = AttentionOptions { bias: Some(v(&[2, 3, 3, 3])), ..heads(2) };
    refused!(x.attention(&x, &x, &bias), Shape { argument: "bias", .. });

    let norm = Norm::Biased { eps: 1e-5 };
    refused!(x.layer_norm(None, &v(&[7]), &v(&[8]), norm), Shape { .. });
    refused!(x.layer_norm(None, &v(&[8]), &v(&[7]), norm), Shape { .. });
    refused!(x.layer_norm(Some(&v(&[2, 3])), &v(&[8]), &v(&[8]), norm), Shape { .. });
    refused!(x.sum(3), IndexOutOfRange { op: "sum", index: 3, len: 3 });
    refused!(x.mean(3), IndexOutOfRange { op: "mean", index: 3, len: 3 });
    refused!(x.max(3), IndexOutOfRange { op: "max", index: 3, len: 3 });
    refused!(v(&[0, 3]).max(0), Argument { op: "max", argument: "axis", .. });
    refused!(v(&[]).score_consistency(1.0), IndexOutOfRange { .. });
    refused!(tape.constant(ids()).softmax(), DType { .. });
    refused!(tape.constant(ids()).exp(), DType { .. });
    refused!(tape.constant(ids()).l2_normalize(1e-12), DType { .. });
    refused!(unary::backward(Unary::Exp, &ids(), &tensor(&[2])), DType { argument: "x", expected: "f32", .. });
    refused!(unary::backward(Unary::Exp, &tensor(&[2]), &ids()), DType { argument: "gradient", expected: "f32", .. });

    refused!(v(&[2, 3]).add(&v(&[2, 4])), ShapeMismatch { op: "add", .. });
    refused!(v(&[2, 3]).div(&v(&[3, 2])), ShapeMismatch { op: "div", .. });
    refused!(v(&[2, 3]).masked_fill(&tensor(&[2, 2]), 0.0), ShapeMismatch { .. });
    for probability in [1.0, -0.1, f32::NAN] {
        let dropout = Dropout { probability, seed: 0, stream: 0 };
        refused!(x.dropout_with(dropout), Argument { argument: "probability", .. });
    }

    refused!(x.reshape([7, 7]), Shape { .. });
    refused!(x.reshape([usize::MAX, 2]), Shape { .. });
    refused!(x.permute(&[0, 1]), Argument { .. });
    refused!(x.permute(&[0, 1, 1]), Argument { .. });
    refused!(v(&[3]).transpose(), Shape { op: "transpose", .. });
    refused!(v(&[2, 3]).diagonal(), Shape { op: "diagonal", .. });
    refused!(x.slice(1, 2..4), IndexOutOfRange { index: 4, len: 3, .. });
    #[allow(clippy::reversed_empty_ranges)]
    {
        refused!(x.slice(1, 2..1), IndexOutOfRange { .. });
    }
    refused!(x.slice(9, 0..1), IndexOutOfRange { op: "slice", index: 9, len: 3 });
    refused!(concat::<Var>(&[], 0), Argument { op: "concat", .. });
    refused!(concat(&[&x, &v(&[2, 3])], 0), ShapeMismatch { .. });
    refused!(concat(&[&x, &v(&[2, 4, 8])], 2), ShapeMismatch { .. });
    refused!(concat(&[&x], 3), IndexOutOfRange { op: "concat", index: 3, len: 3 });
    refused!(v(&[4, 3]).embedding(&[0, 4], &[2]), IndexOutOfRange { index: 4, len: 4, .. });
    refused!(v(&[4, 3]).embedding(&[0, 1], &[3]), Shape { .. });
    refused!(x.embedding(&[0], &[1]), Shape { .. });
    refused!(v(&[2, 3, 9]).conv1d(&v(&[5, 4, 3]), None, 1, 0), ShapeMismatch { .. });
    refused!(v(&[2, 3, 9]).conv1d(&v(&[5, 3, 10]), None, 1, 0), Shape { argument: "weight", .. });
    refused!(v(&[2, 3, 9]).conv1d(&v(&[5, 3, 2]), None, 0, 0), Argument { .. });
    refused!(v(&[2, 3, 9]).conv1d(&v(&[5, 3, 2]), Some(&v(&[4])), 1, 0), Shape { .. });
    refused!(v(&[2, 3, 4]).patch_embed(&v(&[5, 3, 2, 2])), Shape { .. });
    refused!(v(&[2, 3, 4, 4]).patch_embed(&v(&[5, 4, 2, 2])), ShapeMismatch { .. });
    refused!(v(&[2, 3, 4, 4]).patch_embed(&v(&[5, 3, 2, 3])), Shape { op: "patch_embed", argument: "weight", .. });
    refused!(v(&[2, 3, 4, 4]).patch_embed(&v(&[5, 3, 0, 0])), Argument { .. });

    refused!(v(&[2, 3]).masked_mean(None), Shape { .. });
    refused!(x.masked_mean(Some(&tensor(&[3, 2]))), Shape { .. });
    refused!(x.masked_max(Some(&tensor(&[2, 4])), Masked::Hide), Shape { .. });
    refused!(x.attention_pool(&v(&[2, 3, 7]), None, 0.0), Shape { .. });
    refused!(x.attention_pool(&v(&[2, 4]), None, 0.0), Shape { .. });

    refused!(v(&[2, 3]).hinge(0.2, false), Shape { .. });
    refused!(v(&[2, 3]).info_nce(), Shape { .. });
    refused!(v(&[2, 3]).cross_entropy(&[0, 3]), IndexOutOfRange { index: 3, len: 3, .. });
    refused!(v(&[2, 3]).cross_entropy(&[0]), Shape { argument: "targets", .. });
    refused!(tape.backward(&x), Shape { argument: "loss", .. });
    refused!(tape.backward_from(&x, tensor(&[2, 3])), Shape { argument: "seed", .. });
    assert_works(&gpu());
}

#[test]
fn tensors() {
    let gpu = gpu();
    refused!(Tensor::from_slice(&gpu, [2, 3], &[0.0; 5]), Error::Shape { .. });
    refused!(Tensor::from_slice(&gpu, [usize::MAX, 2], &[]), Error::Shape { .. });
    refused!(Tensor::zeros(&gpu, "test", [usize::MAX, usize::MAX]), Error::Shape { .. });
    refused!(tensor(&[3]).write(&[1.0]), Error::Shape { .. });
    refused!(tensor(&[3]).copy_from(&tensor(&[4])), Error::ShapeMismatch { .. });
    refused!(tensor(&[200]).view(3, [2]), Error::Argument { .. });
    refused!(tensor(&[200]).view(192, [9]), Error::Shape { .. });
    refused!(tensor(&[2]).item(), Error::Shape { .. });
    refused!(tensor(&[2]).to_u32(), Error::DType { .. });
    let (caption, wider) = (noise(&[2, 3], 1), noise(&[2, 4], 2));
    refused!(pad_tokens(&[&caption, &wider]), Error::ShapeMismatch { op: "moments::collate", .. });
    let scalar = Array::new([], vec![1.0]).unwrap();
    refused!(pad_tokens(&[&caption, &scalar]), Error::Shape { op: "moments::collate", .. });
    refused!(pad_tokens(&[]), Error::Argument { .. });
    assert_works(&gpu);
}

#[test]
fn parameters() {
    let gpu = gpu();
    let build = StoreBuilder::new(&gpu, 1).build(|s| {
        s.declare("a", [2, 3], Init::Constant(1.0))?;
        refused!(s.declare("a", [9], Init::Constant(0.0)), Error::DuplicateParameter { name } if name == "a");
        refused!(s.declare_table("t", [3], vec![0.0; 2]), Error::Shape { .. });
        refused!(
            MultiHeadAttention::new(&s.scope("m"), ["q", "k", "v", "o"], 8, 3, 0.0, &Init::Constant(0.0)),
            Error::Argument { argument: "heads", .. }
        );
        Linear::new(&s.scope("head"), 3, 2, &Init::Normal { std: 0.1 })
    });
    let (store, _) = build.unwrap();
    refused!(store.get("b"), Error::UnknownParameter { name, .. } if name == "b");

    let before = store.to_arrays().unwrap();
    let edited = |edit: &dyn Fn(&mut BTreeMap<String, Array>)| {
        let mut arrays: BTreeMap<String, Array> =
            before.iter().map(|(n, a)| (n.clone(), noise(a.shape(), 5))).collect();
        edit(&mut arrays);
        arrays
    };
    let load = |edit: &dyn Fn(&mut BTreeMap<String, Array>)| {
        let result = store.load("file", &edited(edit));
        if result.is_err() {
            assert_eq!(store.to_arrays().unwrap(), before, "a failed load changes nothing");
        }
        result
    };
    refused!(
        load(&|a| drop(a.remove("head.bias"))),
        Error::MissingParameter { name, origin } if name == "head.bias" && origin == "file"
    );
    refused!(
        load(&|a| drop(a.insert("head.gain".into(), noise(&[2], 1)))),
        Error::UnknownParameter { name, .. } if name == "head.gain"
    );
    refused!(
        load(&|a| drop(a.insert("head.weight".into(), noise(&[3, 2], 1)))),
        Error::ParameterShape { expected, got, .. } if expected == [2, 3] && got == [3, 2]
    );
    // The last one in order, after all the others were found good.
    for (bad, count) in [(f32::NAN, 1), (f32::INFINITY, 1)] {
        refused!(
            load(&|a| a.get_mut("head.weight").unwrap().data_mut()[4] = bad),
            Error::NonFinite { place, count: found, .. } if place == "head.weight element 4" && found == count
        );
    }
    load(&|_| {}).unwrap();
    assert_ne!(store.to_arrays().unwrap(), before);
    let config = BicnetConfig { embedding_dim: 10, num_heads: 3, ..BicnetConfig::default() };
    refused!(Bicnet::new(&gpu, config, 0), Error::Argument { argument: "heads", .. });
}

/// Replaces the model's file in a checkpoint and makes the manifest vouch for it.
fn forge(dir: &Path, bytes: &[u8]) {
    let file = dir.join("model.safetensors");
    let digest = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let old = std::fs::read(&file).unwrap();
    let manifest = std::fs::read_to_string(dir.join("MANIFEST.json")).unwrap();
    let entry = |bytes: &[u8]| format!("\"size\": {},\n      \"sha256\": \"{}\"", bytes.len(), digest(bytes));
    assert!(manifest.contains(&entry(&old)), "{manifest}");
    std::fs::write(dir.join("MANIFEST.json"), manifest.replace(&entry(&old), &entry(bytes))).unwrap();
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn damaged_and_hostile_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let state = serde_json::json!({"step": 1});
    let arrays: BTreeMap<String, Array> = [("w".to_string(), noise(&[5, 7], 1))].into();
    let whole = Checkpoint { model: arrays, optimizer: BTreeMap::new(), state };
    let dir = folder.path().join("last");
    let save = || {
        checkpoint::save(&dir, &whole).unwrap();
        std::fs::read(dir.join("model.safetensors")).unwrap()
    };

    let bytes = save();
    for length in [0, 7, 8, 20, bytes.len() - 1] {
        save();
        std::fs::write(dir.join("model.safetensors"), &bytes[..length]).unwrap();
        refused!(checkpoint::load(&dir), Error::Checkpoint { path, .. } if path.ends_with("model.safetensors"));
        // Even if the manifest says so.
        save();
        forge(&dir, &bytes[..length]);
        refused!(checkpoint::load(&dir), Error::Malformed { path, .. } if path.ends_with("model.safetensors"));
    }
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let hostile = [
        u64::MAX.to_le_bytes().to_vec(),
        (1u64 << 40).to_le_bytes().to_vec(),
        header("{"),
        header("[]"),
        header(r#"{"w":{"dtype":"F32","shape":[4294967295,4294967295,4294967295],"data_offsets":[0,4]}}"#),
        header(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#),
        header(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,4]}}"#),
        header(r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,0]}}"#),
    ];
    for bytes in hostile {
        save();
        forge(&dir, &bytes);
        refused!(checkpoint::load(&dir), Error::Malformed { .. });
    }
    save();
    let twice = r#"{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
    forge(&dir, &header(twice));
    refused!(checkpoint::load(&dir), Error::Duplicate { id, .. } if id == "w");
    save();
    assert_eq!(checkpoint::load(&dir).unwrap(), whole);
    refused!(checkpoint::load(folder.path().join("none")), Error::Checkpoint { .. });
}

#[test]
fn adapters_and_families() {
    let names: Vec<String> = reelgrad::gpu::adapters().into_iter().map(|a| a.name).collect();
    for (choice, asked) in
        [(AdapterChoice::Name("no such GPU".into()), "no such GPU"), (AdapterChoice::Index(999), "index 999")]
    {
        refused!(
            Gpu::builder().adapter(choice).build(),
            Error::AdapterNotFound { wanted, available } if wanted == asked && available == names
        );
    }
    let error = Gpu::builder().adapter(AdapterChoice::Name("no such GPU".into())).build().unwrap_err();
    assert!(error.to_string().contains(&names[0]), "{error}");
    let subgroups = gpu().report().features.contains(wgpu::Features::SUBGROUP);
    for size in [0, 3, 64] {
        let family = || builder().family(KernelFamily::Subgroup { size }).build();
        if subgroups {
            refused!(family(), Error::Argument { argument: "family", .. });
        } else {
            refused!(family(), Error::MissingFeature { feature: "SUBGROUP", .. });
        }
    }
}

#[test]
fn limits_name_both_numbers() {
    let gpu = builder().binding_limit(4096).build().unwrap();
    let x = Tensor::zeros(&gpu, "test", [2000]).unwrap();
    refused!(
        Tape::inference(&gpu).constant(x).square(),
        Error::LimitExceeded { what: "bytes in one binding", needed: 8000, limit: 4096, .. }
    );
    // Parameters are spread over several buffers, and a large one has its own.
    let (store, ()) = StoreBuilder::new(&gpu, 0)
        .build(|s| {
            s.declare("small", [500], Init::Constant(1.0))?;
            s.declare("large", [1100], Init::Constant(2.0)).map(drop)
        })
        .unwrap();
    assert_eq!(store.shards().len(), 2);
    assert_eq!(store.get("large").unwrap().value().to_vec().unwrap(), [2.0; 1100]);
    let five = StoreBuilder::new(&gpu, 0)
        .build(|s| (0..5).try_for_each(|i| s.declare(&format!("p{i}"), [500], Init::Constant(i as f32)).map(drop)));
    let (store, ()) = five.unwrap();
    assert_eq!(store.shards().len(), 3);
    assert_eq!(store.get("p4").unwrap().value().to_vec().unwrap(), [4.0; 500]);
    let limit = gpu.report().limits.max_buffer_size;
    if let Some(bytes) = limit.checked_add(1) {
        refused!(gpu.allocate("test", bytes), Error::LimitExceeded { needed, limit: l, .. } if needed == bytes && l == limit);
    }
    assert_works(&gpu);
}

fn user(body: &str) -> Variant {
    let bindings = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;";
    Variant::user("mine", format!("{bindings}\n@compute @workgroup_size(1)\nfn main() {{\n{body}\n}}\n"), vec![])
}

#[test]
fn shaders_of_ones_own() {
    let gpu = builder().build().unwrap();
    let y = Tensor::zeros(&gpu, "test", [4]).unwrap();
    let launch = |variant: &Variant, buffers: usize, params: &[u8], grid| {
        let bindings = vec![y.binding(); buffers];
        gpu.launch(Launch { op: "mine", variant, bindings: &bindings, params, grid, flops: 0 })
    };
    let good = user("y[0] = 5.0;");
    for broken in ["y[0] = ;", "y[0] = nothing;", "y[0] = 1u;", "#import nothing", "#ifdef A"] {
        refused!(
            launch(&user(broken), 1, &[], [1; 3]),
            Error::ShaderRejected { kernel, message } if kernel == "mine" && !message.is_empty()
        );
    }
    let no_entry = Variant::user("empty", "fn other() {}", vec![]);
    refused!(launch(&no_entry, 0, &[], [1; 3]), Error::ShaderRejected { .. });
    refused!(gpu.warm_up(&[good.clone(), user("y[0] = ;")]), Error::ShaderRejected { .. });
    for buffers in [0, 2] {
        refused!(launch(&good, buffers, &[], [1; 3]), Error::Gpu { op, .. } if op == "mine");
    }
    refused!(launch(&good, 1, &[0; 132], [1; 3]), Error::Gpu { .. });
    let limit = gpu.report().limits.max_compute_workgroups_per_dimension;
    refused!(
        launch(&good, 1, &[], [1, limit + 1, 1]),
        Error::LimitExceeded { needed, limit: l, .. } if needed == u64::from(limit) + 1 && l == u64::from(limit)
    );
    let mut shifted = y.binding();
    shifted.offset = 4;
    let launch_shifted =
        Launch { op: "mine", variant: &good, bindings: &[shifted], params: &[], grid: [1; 3], flops: 0 };
    refused!(gpu.launch(launch_shifted), Error::LimitExceeded { what: "binding offset alignment", .. });
    // None of that reached the device.
    launch(&good, 1, &[], [0, 1, 1]).unwrap();
    assert_eq!(y.to_vec().unwrap()[0], 0.0);
    launch(&good, 1, &[], [1; 3]).unwrap();
    assert_eq!(y.to_vec().unwrap()[0], 5.0);

    // A range beyond its buffer, and a buffer of another device.
    let mut long = y.binding();
    long.bytes = 1 << 20;
    let launch_long = Launch { op: "mine", variant: &good, bindings: &[long], params: &[], grid: [1; 3], flops: 0 };
    refused!(gpu.launch(launch_long), Error::Argument { argument: "bindings", .. });
    let other = Tensor::zeros(&builder().build().unwrap(), "test", [4]).unwrap();
    let foreign = [other.binding()];
    let launch_foreign = Launch { op: "mine", variant: &good, bindings: &foreign, params: &[], grid: [1; 3], flops: 0 };
    refused!(gpu.launch(launch_foreign), Error::Argument { argument: "tensors", .. });
    let tape = Tape::inference(&gpu);
    refused!(tape.constant(y.clone()).add(&tape.constant(other.clone())), Error::Argument { op: "add", .. });
    refused!(y.copy_from(&other), Error::Argument { .. });
    refused!(Tensor::read_all(&[&y, &other]), Error::Argument { .. });
    assert_works(&gpu);
}

#[test]
fn grids_fold_at_the_limit() {
    let gpu = gpu();
    let limit = gpu.report().limits.max_compute_workgroups_per_dimension as usize;
    assert_eq!(gpu.grid(0), [0, 1, 1]);
    assert_eq!(gpu.grid(limit), [limit as u32, 1, 1]);
    assert_eq!(gpu.grid(65_535.min(limit))[1], 1);
    for groups in [limit + 1, 2 * limit, 2 * limit + 1, 12 * limit + 345] {
        let [x, y, z] = gpu.grid(groups).map(|n| n as usize);
        assert!(x <= limit && y <= limit && z == 1 && x * y >= groups && (x - 1) * y < groups, "{groups}: {x} {y}");
    }
    // One row a group: both sides of the fold compute every row.
    for rows in [65_535, 65_536, 65_537] {
        let x = Tensor::from_slice(&gpu, [rows, 2], &vec![3.0; 2 * rows]).unwrap();
        let y = Tape::inference(&gpu).constant(x).softmax().unwrap();
        assert!(y.value().to_vec().unwrap().iter().all(|&p| p == 0.5), "{rows}");
    }
}
