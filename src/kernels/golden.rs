//! Golden files of single ops, for the kernels' tests: results of the reference implementations.

use std::collections::HashMap;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use super::testing::assert_slices_close;
use crate::Gpu;
use crate::tensor::{Array, Tensor};

/// One file: its tensors by name, and the tolerance of every float result.
pub(crate) struct Golden {
    tensors: HashMap<String, Array>,
    tolerances: HashMap<String, (f32, f32)>,
}

impl Golden {
    /// Reads `op-<case>.safetensors`; none, with a message, where the files are not there.
    pub(crate) fn open(case: &str) -> Option<Self> {
        let file = format!("{}/../shared/goldens/op-{case}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let Ok(bytes) = std::fs::read(&file) else {
            println!("skipped: there is no golden file op-{case}");
            return None;
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a golden file is well formed");
        let notes = header.metadata().clone().unwrap_or_default();
        let tolerances = serde_json::from_str(&notes["tolerances"]).expect("tolerances are pairs");
        let data = SafeTensors::deserialize(&bytes).expect("a golden file is well formed");
        let tensors = data.tensors().into_iter().map(|(name, view)| {
            let words = view.data();
            let values = match view.dtype() {
                Dtype::F32 => bytemuck::pod_collect_to_vec(words),
                Dtype::I64 => bytemuck::pod_collect_to_vec::<u8, i64>(words).iter().map(|&v| v as f32).collect(),
                other => panic!("{case}: {name} is {other:?}"),
            };
            (name, Array::new(view.shape().to_vec(), values).expect("shape and data agree"))
        });
        Some(Self { tensors: tensors.collect(), tolerances })
    }

    /// A tensor by its full name; whole numbers as floats.
    pub(crate) fn get(&self, name: &str) -> &Array {
        &self.tensors[name]
    }

    /// A tensor by its full name, uploaded.
    pub(crate) fn upload(&self, gpu: &Gpu, name: &str) -> Tensor {
        Tensor::from_array(gpu, self.get(name)).expect("the device has room")
    }

    /// Asserts that `got` equals the result called `name`, by the file's tolerance.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, got: &[f32]) {
        let (rtol, atol) = self.tolerances[name];
        assert_slices_close(got, self.get(name).data(), rtol, atol);
    }

    /// Asserts that the loss of `y`, its sum weighted by the cotangent, equals the file's.
    #[track_caller]
    pub(crate) fn check_loss(&self, y: &[f32]) {
        let weights = self.get("input.cotangent").data();
        let loss: f64 = y.iter().zip(weights).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum();
        self.check("loss.total", &[loss as f32]);
    }
}
