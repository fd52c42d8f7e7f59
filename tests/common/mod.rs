//! What the integration tests share.

// Each test program uses a part.
#![allow(dead_code, unused_imports)]

mod gpus;
pub mod pairs;

use std::collections::BTreeMap;
use std::path::Path;

use reelgrad::nn::ParameterStore;
use reelgrad::random::Random;
use reelgrad::{Array, Gpu};

pub use gpus::{builder, gpus};

/// A device of the adapter's own kernel family, shared by a test program.
pub fn gpu() -> Gpu {
    gpus()[0].clone()
}

/// Normal values, the same for the same seed.
pub fn noise(shape: &[usize], seed: u64) -> Array {
    let mut random = Random::new(seed, 0);
    let data = (0..shape.iter().product()).map(|_| random.normal()).collect();
    Array::new(shape, data).expect("as many values as the shape holds")
}

/// A random order of values that are `gap` apart and at least half of it from 0, for functions with kinks.
pub fn spaced(shape: &[usize], gap: f32, seed: u64) -> Array {
    let n: usize = shape.iter().product();
    let mut order: Vec<usize> = (0..n).collect();
    Random::new(seed, 0).shuffle(&mut order);
    let data = order.iter().map(|&i| gap * (i as f32 - (n / 2) as f32 + 0.5)).collect();
    Array::new(shape, data).expect("as many values as the shape holds")
}

/// What a run leaves behind, to the bit; of the log, everything but the speed.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub parameters: BTreeMap<String, Vec<u32>>,
    pub log: Vec<String>,
}

pub fn outcome(store: &ParameterStore, folder: &Path) -> Outcome {
    let bits = |a: &Array| a.data().iter().map(|v| v.to_bits()).collect();
    let log = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let without_speed = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("samples_per_second");
        line.to_string()
    };
    Outcome {
        parameters: store.to_arrays().unwrap().iter().map(|(name, a)| (name.clone(), bits(a))).collect(),
        log: log.lines().map(without_speed).collect(),
    }
}
