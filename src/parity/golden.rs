//! A golden file: its tensors, its configuration and its tolerances (schema "reelgrad-golden/1"), and how tests open one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Row;
use crate::autograd::Var;
use crate::data::formats::safetensors::TensorFile;
use crate::data::media::pixels::Image;
use crate::nn::ParameterStore;
use crate::tensor::{Array, Tensor};
use crate::{Error, Gpu, Result};

#[cfg(test)]
pub(crate) use testing::{assert_passed, json, open, path};

/// One case, opened.
pub(crate) struct Case {
    pub(super) model: String,
    pub(crate) config: Value,
    /// Parameters and inputs that must receive no gradient.
    pub(super) no_grad: Vec<String>,
    file: TensorFile,
    tolerances: BTreeMap<String, (f64, f64)>,
    fallback: (f64, f64),
    grad_fallback: (f64, f64),
}

impl Case {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let meta = file.metadata().clone();
        let text = |key: &str| {
            meta.get(key).ok_or_else(|| Error::malformed(path, format!("__metadata__.{key}"), "is missing"))
        };
        let bad = |key: &str, e: &dyn std::fmt::Display| Error::malformed(path, format!("__metadata__.{key}"), e);
        if text("format")? != "reelgrad-golden/1" {
            return Err(Error::malformed(path, "__metadata__.format", "is not reelgrad-golden/1"));
        }
        let number = |key: &str| text(key)?.parse::<f64>().map_err(|e| bad(key, &e));
        let config: Value = serde_json::from_str(text("config")?).map_err(|e| bad("config", &e))?;
        let tolerances = serde_json::from_str(text("tolerances")?).map_err(|e| bad("tolerances", &e))?;
        let no_grad = serde_json::from_str(text("no_grad")?).map_err(|e| bad("no_grad", &e))?;
        Ok(Self {
            model: text("model")?.clone(),
            config,
            no_grad,
            fallback: (number("rtol")?, number("atol")?),
            grad_fallback: (number("grad_rtol")?, number("grad_atol")?),
            file,
            tolerances,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file.contains(name)
    }

    pub(crate) fn array(&self, name: &str) -> Result<Array> {
        self.file.array(name)
    }

    /// A tensor on the GPU; whole numbers as floats.
    pub(super) fn tensor(&self, gpu: &Gpu, name: &str) -> Result<Tensor> {
        Tensor::from_array(gpu, &self.array(name)?)
    }

    /// Gives a model the file's parameters.
    pub(super) fn load(&self, store: &ParameterStore) -> Result<()> {
        store.load("the golden file", &self.parameters()?)
    }

    /// Every parameter, by its official name.
    pub(super) fn parameters(&self) -> Result<BTreeMap<String, Array>> {
        let array = |name: String| Ok((name.clone(), self.array(&format!("param.{name}"))?));
        self.names("param.").into_iter().map(array).collect()
    }

    pub(super) fn integers(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.file.integers(name)?.1)
    }

    /// A picture (height, width, 3).
    pub(crate) fn image(&self, name: &str) -> Result<Image> {
        let (shape, rgb) = self.bytes(name)?;
        match shape[..] {
            [height, width, 3] => Image::new(width, height, rgb),
            _ => Err(self.misshaped(name)),
        }
    }

    /// The shape and the values of bytes.
    pub(super) fn bytes(&self, name: &str) -> Result<(Vec<usize>, Vec<u8>)> {
        self.file.bytes(name)
    }

    /// Ids or labels as the kernels take them.
    pub(super) fn ids(&self, name: &str) -> Result<(Vec<usize>, Vec<u32>)> {
        let (shape, values) = self.file.integers(name)?;
        let ids = values.into_iter().map(u32::try_from).collect::<Result<_, _>>();
        Ok((shape, ids.map_err(|e| Error::malformed(self.file.path(), name, e))?))
    }

    /// The names that start with `prefix`, without it.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        self.file.names().filter_map(|n| n.strip_prefix(prefix)).map(str::to_string).collect()
    }

    pub(super) fn number(&self, key: &str) -> Result<f64> {
        self.config[key].as_f64().ok_or_else(|| self.lacks(key))
    }

    pub(super) fn size(&self, key: &str) -> Result<usize> {
        self.config[key].as_u64().map(|n| n as usize).ok_or_else(|| self.lacks(key))
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.config[key].as_bool().unwrap_or(false)
    }

    pub(super) fn text(&self, key: &str) -> &str {
        self.config[key].as_str().unwrap_or("")
    }

    /// What the configuration says under `names`, the fields of a `T`; `renamed` have another name there, which comes first.
    pub(super) fn fields<T: DeserializeOwned>(&self, names: &[&str], renamed: &[(&str, &str)]) -> Result<T> {
        let fields = names.iter().map(|name| (name, name)).chain(renamed.iter().map(|(theirs, ours)| (theirs, ours)));
        let value = |key: &str| self.config.get(key).cloned().ok_or_else(|| self.lacks(key));
        let fields: Map<String, Value> =
            fields.map(|(theirs, ours)| Ok((ours.to_string(), value(theirs)?))).collect::<Result<_>>()?;
        T::deserialize(Value::from(fields)).map_err(|e| Error::malformed(self.path(), "config", e))
    }

    /// The error of a tensor with other axes than it must have.
    pub(super) fn misshaped(&self, name: &str) -> Error {
        let shape = self.file.shape(name).unwrap_or_default();
        Error::malformed(self.path(), name, format_args!("has shape {shape:?}"))
    }

    fn lacks(&self, key: &str) -> Error {
        Error::malformed(self.file.path(), format!("config.{key}"), "is missing or of the wrong type")
    }

    /// Compares a result with the tensor of the same full name, where `rows` says so.
    pub(super) fn row(&self, name: &str, got: &[f32]) -> Result<Row> {
        let expected = self.array(name)?;
        let fallback = if name.starts_with("grad") { self.grad_fallback } else { self.fallback };
        let (rtol, atol) = self.tolerances.get(name).copied().unwrap_or(fallback);
        let rows = format!("rows.{}", name.strip_prefix("output.").unwrap_or(name));
        if !self.has(&rows) || got.len() != expected.len() {
            return Ok(Row::compare(name, got, expected.data(), rtol, atol));
        }
        let mask = self.array(&rows)?;
        let each = (expected.len() / mask.len().max(1)).max(1);
        let kept = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks(each).zip(mask.data()).filter(|(_, m)| **m > 0.5);
            rows.flat_map(|(row, _)| row).copied().collect()
        };
        Ok(Row::compare(name, &kept(got), &kept(expected.data()), rtol, atol))
    }

    /// Compares every tensor of the file whose name starts with `prefix`; one that has no result fails.
    pub(super) fn results(&self, prefix: &str, results: &[(String, Var)]) -> Result<Vec<Row>> {
        let row = |name: String| {
            let got = results.iter().find(|(known, _)| *known == name);
            self.row(&name, &got.map(|(_, var)| var.value().to_vec()).transpose()?.unwrap_or_default())
        };
        self.names(prefix).iter().map(|name| row(format!("{prefix}{name}"))).collect()
    }

    /// Compares whole numbers, exactly.
    pub(super) fn row_of_integers(&self, name: &str, got: &[u32]) -> Result<Row> {
        let expected: Vec<f64> = self.integers(name)?.iter().map(|&v| v as f64).collect();
        Ok(Row::compare(name, got, &expected, 0.0, 0.0))
    }

    /// Compares the gradients of parameters, by their names in the file; one that is not there fails.
    pub(super) fn parameter_gradients(&self, gradients: &BTreeMap<String, Array>) -> Result<Vec<Row>> {
        let got = |name: &str| gradients.get(name).map(Array::data);
        let row = |name: &String| self.row(&format!("grad.{name}"), got(name).unwrap_or_default());
        let mut rows: Vec<Row> = self.names("grad.").iter().map(row).collect::<Result<_>>()?;
        let unused = self.no_grad.iter().filter_map(|name| Some((name, got(name)?)));
        rows.extend(unused.map(|(name, gradient)| Self::row_without_gradient(name, gradient)));
        Ok(rows)
    }

    /// A row for something that must have no gradient, or one of zeros.
    pub(super) fn row_without_gradient(name: &str, got: &[f32]) -> Row {
        Row::compare(format!("{name} has no gradient"), got, &vec![0.0; got.len()], 0.0, 0.0)
    }
}

/// Tests open the committed files; one that is missing is a failure.
#[cfg(test)]
mod testing {
    use std::path::PathBuf;

    use super::*;

    /// The path of a file or folder in `tests/goldens`.
    #[track_caller]
    pub(crate) fn path(name: &str) -> PathBuf {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
        assert!(path.exists(), "there is no golden file {}", path.display());
        path
    }

    /// The case `name.safetensors`.
    #[track_caller]
    pub(crate) fn open(name: &str) -> Case {
        Case::open(&path(&format!("{name}.safetensors"))).unwrap()
    }

    /// The case `name.json`.
    #[track_caller]
    pub(crate) fn json(name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(path(&format!("{name}.json"))).unwrap()).unwrap()
    }

    /// Asserts that a JSON case passes, and that it compares at least so much.
    #[track_caller]
    pub(crate) fn assert_passed(name: &str, rows: &[Row], least: usize) {
        assert!(rows.len() >= least, "{name}: only {} values compared", rows.len());
        let failed: Vec<_> = rows.iter().filter(|row| !row.passed).collect();
        assert!(failed.is_empty(), "{name}: {failed:#?}");
    }

    impl Case {
        /// A tensor on the GPU; whole numbers as floats.
        pub(crate) fn upload(&self, gpu: &Gpu, name: &str) -> Tensor {
            self.tensor(gpu, name).unwrap()
        }

        pub(crate) fn shape(&self, name: &str) -> &[usize] {
            self.file.shape(name).unwrap()
        }

        /// A tensor's elements; whole numbers as floats.
        pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
            self.array(name).unwrap().data().to_vec()
        }

        /// The elements of whole numbers.
        pub(crate) fn u32(&self, name: &str) -> Vec<u32> {
            self.ids(name).unwrap().1
        }

        /// Compares elements with a tensor of the file, within its tolerance.
        #[track_caller]
        pub(crate) fn check(&self, name: &str, got: &[f32]) {
            let row = self.row(name, got).unwrap();
            assert!(row.passed, "{}: {row:?}", self.path().display());
        }

        /// Asserts that the loss of `y`, its sum weighted by the cotangent, equals the file's.
        #[track_caller]
        pub(crate) fn check_loss(&self, y: &[f32]) {
            let weights = self.f32("input.cotangent");
            let loss: f64 = y.iter().zip(weights).map(|(&y, w)| f64::from(y) * f64::from(w)).sum();
            self.check("loss.total", &[loss as f32]);
        }
    }
}
