//! Reads the reference data that the tests compare with.

use std::collections::HashMap;
use std::path::Path;

use crate::gpu::Gpu;
use crate::tensor::{Array, Tensor};

use serde_json::Value;

/// One golden file.
pub(crate) struct Golden {
    name: String,
    tensors: HashMap<String, Array>,
    /// The operation's options.
    pub(crate) config: Value,
    tolerances: Value,
    fallback: [f32; 2],
}

/// The file's bytes, or none (with a message) where the reference data is not at hand.
pub(crate) fn bytes(file: &str) -> Option<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests/goldens", "../shared/goldens"];
    let bytes = folders.iter().find_map(|folder| std::fs::read(root.join(folder).join(file)).ok());
    if bytes.is_none() {
        eprintln!("skipped: no {file} in the folder of reference data");
    }
    bytes
}

impl Golden {
    /// Opens `name.safetensors`; none (with a message) where the reference data is not at hand.
    pub(crate) fn open(name: &str) -> Option<Self> {
        let bytes = bytes(&format!("{name}.safetensors"))?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let data: Vec<f32> = match view.dtype() {
                    safetensors::Dtype::F32 => bytemuck::pod_collect_to_vec(view.data()),
                    safetensors::Dtype::I64 => {
                        bytemuck::pod_collect_to_vec::<u8, i64>(view.data()).into_iter().map(|v| v as f32).collect()
                    }
                    other => panic!("{name}: {other:?}"),
                };
                (name, Array::new(view.shape(), data).expect("shape and data agree"))
            })
            .collect();
        let metadata = header.metadata().clone().unwrap();
        let json = |key: &str| serde_json::from_str::<Value>(&metadata[key]).unwrap();
        let fallback = ["rtol", "atol"].map(|key| metadata[key].parse().unwrap());
        Some(Self { name: name.into(), tensors, config: json("config"), tolerances: json("tolerances"), fallback })
    }

    /// A tensor by its full name; whole numbers as floats.
    pub(crate) fn get(&self, name: &str) -> &Array {
        &self.tensors[name]
    }

    /// The same on the GPU.
    pub(crate) fn upload(&self, gpu: &Gpu, name: &str) -> Tensor {
        Tensor::from_array(gpu, self.get(name)).expect("the device has room")
    }

    /// Asserts that the loss of `y`, its sum weighted by the cotangent, equals the file's.
    #[track_caller]
    pub(crate) fn check_loss(&self, y: &[f32]) {
        let weights = self.f32("input.cotangent");
        let loss: f64 = y.iter().zip(weights).map(|(&y, w)| f64::from(y) * f64::from(w)).sum();
        self.check("loss.total", &[loss as f32]);
    }

    /// A tensor's shape.
    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        self.tensors[name].shape()
    }

    /// Whether the file has a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A float tensor's elements.
    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        self.tensors[name].data().to_vec()
    }

    /// An integer tensor's elements.
    pub(crate) fn u32(&self, name: &str) -> Vec<u32> {
        self.tensors[name].data().iter().map(|&v| v as u32).collect()
    }

    /// Compares elements with a tensor of the file, within its tolerance.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, got: &[f32]) {
        let expected = self.f32(name);
        let [rtol, atol] = match self.tolerances.get(name) {
            Some(pair) => [0, 1].map(|i| pair[i].as_f64().unwrap() as f32),
            None => self.fallback,
        };
        assert_eq!(got.len(), expected.len(), "{}: {name}", self.name);
        for (i, (&g, &e)) in got.iter().zip(&expected).enumerate() {
            let off = (g - e).abs();
            assert!(off <= atol + rtol * e.abs(), "{}: {name}[{i}]: got {g}, expected {e}", self.name);
        }
    }
}
