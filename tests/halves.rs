//! Half precision: who may be in it, and what becomes of values that it cannot hold.

mod common;

use std::collections::BTreeMap;

use reelgrad::data::formats::safetensors;
use reelgrad::kernels::elementwise::permute;
use reelgrad::kernels::linear::matmul;
use reelgrad::kernels::similarity::{gathered, max_similarity, spans};
use reelgrad::nn::{Init, Linear, ParameterStore, Scope, StoreBuilder};
use reelgrad::tensor::DType;
use reelgrad::{Array, Error, Gpu, Result, Tensor};

use common::{gpu, gpus};

/// Origin, name and index.
fn overflow<T>(result: Result<T>) -> (String, String, usize) {
    match result {
        Err(Error::HalfOverflow { origin, name, index, .. }) => (origin, name, index),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("what overflows was accepted"),
    }
}

#[test]
fn words_are_no_halves() {
    for gpu in gpus() {
        let t = |shape: &[usize]| Tensor::zeros(&gpu, "test", shape).unwrap();
        let words = |shape: &[usize]| Tensor::from_u32(&gpu, shape, &vec![0; shape.iter().product()]).unwrap();
        let refused = |result: Result<()>, wanted: &str| {
            let is = matches!(&result, Err(Error::DType { argument, got: "u32", .. }) if *argument == wanted);
            assert!(is, "{wanted}: {result:?}");
        };
        for width in [4, 8] {
            let transposed = matmul::Options { transpose_b: true, ..Default::default() };
            refused(matmul::forward(&t(&[3, 8]), &words(&[5, width]), &transposed).map(drop), "b");
            let clips = words(&[3, 4, width]);
            refused(gathered::forward(&t(&[2, 1, 8]), &clips, &[[0, 0]]).map(drop), "items");
            refused(max_similarity::forward(&t(&[2, 8]), &clips, None, None).map(drop), "clips");
            let first = spans::Stream { queries: &t(&[2, 8]), clips: &clips };
            let search = spans::Search { first, second: None, mask: &t(&[3, 4]), candidates: &words(&[2, 2]) };
            let taps = t(&[3]);
            let predictor = spans::Predictor { start: &taps, end: &taps, mask_similarity: false };
            refused(spans::probabilities(&search, &predictor).map(drop), "clips");
        }
    }
}

#[test]
fn tensors_of_halves_have_logical_shapes() {
    let gpu = gpu();
    let values: Vec<f32> = (0..391).map(|i| i as f32 / 8.0).collect();
    let tensor = Tensor::from_slice_f16(&gpu, [17, 23], &values).unwrap();
    assert_eq!((tensor.dtype(), tensor.shape(), tensor.bytes()), (DType::F16, &[17, 23][..], 784));
    assert_eq!(tensor.to_vec().unwrap(), values);
    assert_eq!(tensor.view(128, [3]).unwrap().to_vec().unwrap(), values[128..131]);
    assert!(matches!(tensor.view(64, [3]), Err(Error::Argument { argument: "offset", .. })));
    let rounded = Tensor::from_slice_f16(&gpu, [3], &[0.1, 65504.0, -65519.0]).unwrap();
    assert_eq!(rounded.to_vec().unwrap(), [0.099_975_586, 65504.0, -65504.0]);
    assert_eq!(overflow(Tensor::from_slice_f16(&gpu, [2], &[1.0, 65520.0])).2, 1);
    // What moves words takes no halves.
    assert!(matches!(permute::transpose(&tensor), Err(Error::DType { got: "f16", .. })));
    assert!(matches!(tensor.to_u32(), Err(Error::DType { got: "f16", .. })));
    let single = Tensor::zeros(&gpu, "test", [17, 23]).unwrap();
    assert!(matches!(single.copy_from(&tensor), Err(Error::DType { got: "f16", .. })));
}

/// A store with one matrix in halves.
fn halved(gpu: &Gpu, init: f32) -> Result<ParameterStore> {
    let builder = StoreBuilder::new(gpu, 0).freeze(|_| true).halve();
    let layer = |s: &Scope<'_>| Linear::without_bias(&s.scope("layer"), 128, 2, &Init::Constant(init));
    Ok(builder.build(layer)?.0)
}

#[test]
fn weights_that_overflow_are_named_as_in_the_file() {
    let gpu = gpu();
    let store = halved(&gpu, 0.5).unwrap();
    let named = |name: &str, at: usize, value: f32| {
        let mut data = vec![0.25; 256];
        data[at] = value;
        BTreeMap::from([(name.to_string(), Array::new([2, 128], data).unwrap())])
    };
    for name in ["layer.weight", "module.layer.weight"] {
        let got = overflow(store.load("a.safetensors", &named(name, 130, -7e4)));
        assert_eq!(got, ("a.safetensors".into(), name.into(), 130));
    }
    let infinite = store.load("a.safetensors", &named("layer.weight", 3, f32::INFINITY));
    assert!(matches!(infinite, Err(Error::NonFinite { .. })), "{infinite:?}");
    // All or none: nothing was loaded.
    assert_eq!(store.to_arrays().unwrap()["layer.weight"].data(), [0.5; 256]);
    store.load("a.safetensors", &named("layer.weight", 3, 65504.0)).unwrap();
    assert_eq!(store.to_arrays().unwrap()["layer.weight"].data()[..4], [0.25, 0.25, 0.25, 65504.0]);
    assert_eq!(overflow(halved(&gpu, 1e6)).1, "layer.weight");
}

#[test]
fn files_of_halves_refuse_what_overflows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let arrays = BTreeMap::from([("x".to_string(), Array::new([3], vec![1.0, 65504.0, 65520.0]).unwrap())]);
    let write = |dtype| safetensors::write_as(&path, &arrays, &BTreeMap::new(), dtype);
    assert_eq!(overflow(write(DType::F16)), (path.display().to_string(), "x".into(), 2));
    assert!(matches!(write(DType::U32), Err(Error::DType { got: "u32", .. })));
    assert!(!path.exists());
    write(DType::F32).unwrap();
}
