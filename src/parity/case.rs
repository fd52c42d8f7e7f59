//! A golden file: its tensors, its configuration and its tolerances (schema "reelgrad-golden/1").

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::Row;
use crate::autograd::{Gradients, Tape, Var};
use crate::data::formats::safetensors::TensorFile;
use crate::data::media::pixels::Image;
use crate::nn::ParameterStore;
use crate::tensor::{Array, Tensor};
use crate::{Error, Gpu, Result};

/// One case, opened.
pub(super) struct Case {
    pub(super) model: String,
    pub(super) config: Value,
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

    pub(super) fn has(&self, name: &str) -> bool {
        self.file.contains(name)
    }

    pub(super) fn array(&self, name: &str) -> Result<Array> {
        self.file.array(name)
    }

    pub(super) fn integers(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.file.integers(name)?.1)
    }

    /// A picture (height, width, 3).
    pub(super) fn image(&self, name: &str) -> Result<Image> {
        let (shape, rgb) = self.bytes(name)?;
        match shape[..] {
            [height, width, 3] => Image::new(width, height, rgb),
            _ => Err(Error::malformed(self.path(), name, format_args!("has shape {shape:?}"))),
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

    fn lacks(&self, key: &str) -> Error {
        Error::malformed(self.file.path(), format!("config.{key}"), "is missing or of the wrong type")
    }

    /// Compares a result with the tensor of the same full name, where `rows` says so.
    pub(super) fn row(&self, name: &str, got: &[f32]) -> Result<Row> {
        let expected = self.array(name)?;
        let fallback = if name.starts_with("grad") { self.grad_fallback } else { self.fallback };
        let (rtol, atol) = self.tolerances.get(name).copied().unwrap_or(fallback);
        let short = name.strip_prefix("output.").unwrap_or(name);
        let rows = format!("rows.{short}");
        let mut keep = vec![true; expected.len()];
        if self.has(&rows) {
            let mask = self.array(&rows)?;
            let each = expected.len() / mask.len().max(1);
            keep = mask.data().iter().flat_map(|&m| std::iter::repeat_n(m > 0.5, each)).collect();
        }
        if got.len() != expected.len() {
            let all = |values: &[f32]| values.iter().map(|&v| v.into()).collect::<Vec<f64>>();
            return Ok(Row::compare(name, &all(got), &all(expected.data()), rtol, atol));
        }
        let kept = |values: &[f32]| -> Vec<f64> {
            values.iter().zip(&keep).filter(|(_, k)| **k).map(|(&v, _)| v.into()).collect()
        };
        Ok(Row::compare(name, &kept(got), &kept(expected.data()), rtol, atol))
    }

    /// Compares whole numbers, exactly.
    pub(super) fn row_of_integers(&self, name: &str, got: &[u32]) -> Result<Row> {
        let expected: Vec<f64> = self.integers(name)?.iter().map(|&v| v as f64).collect();
        let got: Vec<f64> = got.iter().map(|&v| v.into()).collect();
        Ok(Row::compare(name, &got, &expected, 0.0, 0.0))
    }

    /// Compares the gradient of every parameter in `store` after a walk back.
    pub(super) fn parameter_gradients(&self, store: &ParameterStore) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for parameter in store.parameters() {
            let Some(gradient) = parameter.gradient() else { continue };
            let full = format!("grad.{}", parameter.name());
            let values = gradient.to_vec()?;
            if self.has(&full) {
                rows.push(self.row(&full, &values)?);
            } else if self.no_grad.iter().any(|n| n == parameter.name()) {
                rows.push(Case::row_without_gradient(parameter.name(), Some(&values)));
            }
        }
        // A gradient in the file of a parameter that the model does not have is a failure.
        for name in self.names("grad.").iter().filter(|n| store.get(n).is_err()) {
            rows.push(self.row(&format!("grad.{name}"), &[])?);
        }
        Ok(rows)
    }

    /// A row for something that must have no gradient, or one of zeros.
    pub(super) fn row_without_gradient(name: &str, got: Option<&[f32]>) -> Row {
        let got: Vec<f64> = got.unwrap_or(&[]).iter().map(|&v| v.into()).collect();
        Row::compare(format!("{name} has no gradient"), &got, &vec![0.0; got.len()], 0.0, 0.0)
    }
}

/// A case's inputs on a tape.
pub(super) struct Inputs<'a> {
    pub(super) case: &'a Case,
    pub(super) gpu: &'a Gpu,
    pub(super) tape: Tape,
    leaves: BTreeMap<String, Var>,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(case: &'a Case, gpu: &'a Gpu) -> Self {
        Self { case, gpu, tape: Tape::new(gpu), leaves: BTreeMap::new() }
    }

    /// `input.{name}` as a variable whose gradient is compared if the file has one.
    pub(super) fn var(&mut self, name: &str) -> Result<Var> {
        if let Some(var) = self.leaves.get(name) {
            return Ok(var.clone());
        }
        let var = self.tape.leaf(self.tensor(name)?);
        self.leaves.insert(name.to_string(), var.clone());
        Ok(var)
    }

    /// As [`Inputs::var`], or `None` if the file has no such input.
    pub(super) fn optional(&mut self, name: &str) -> Result<Option<Var>> {
        if self.case.has(&format!("input.{name}")) { self.var(name).map(Some) } else { Ok(None) }
    }

    /// `input.{name}` as a tensor.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        Tensor::from_array(self.gpu, &self.case.array(&format!("input.{name}"))?)
    }

    /// A constant computed from `input.{name}` element by element.
    pub(super) fn constant(&self, name: &str, f: impl Fn(f32) -> f32) -> Result<Var> {
        let array = self.case.array(&format!("input.{name}"))?;
        let data: Vec<f32> = array.data().iter().map(|&v| f(v)).collect();
        Ok(self.tape.constant(Tensor::from_slice(self.gpu, array.shape(), &data)?))
    }

    /// x·mask + (1 - mask)·`value`, the arithmetic that some published models use for masks.
    pub(super) fn arithmetic_mask(&self, x: &Var, mask: &str, value: f32) -> Result<Var> {
        x.mul(&self.constant(mask, |m| m)?)?.add(&self.constant(mask, |m| (1.0 - m) * value)?)
    }

    /// Compares the outputs, the loss and every gradient of the file. The first output is `y`, which the cotangent, if
    /// there is one, weights; otherwise `loss` is differentiated.
    pub(super) fn finish(self, outputs: &[(&str, Var)], loss: Option<Var>) -> Result<Vec<Row>> {
        let case = self.case;
        let mut rows = Vec::new();
        for (name, var) in outputs {
            let full = format!("output.{name}");
            if case.has(&full) {
                rows.push(case.row(&full, &var.value().to_vec()?)?);
            }
        }
        let gradients: Option<Gradients> = match (&loss, outputs.first()) {
            (Some(loss), _) => {
                rows.push(case.row("loss.total", &loss.value().to_vec()?)?);
                Some(self.tape.backward(loss)?)
            }
            (None, Some((_, y))) if case.has("input.cotangent") => {
                let cotangent = self.tensor("cotangent")?;
                let (values, weights) = (y.value().to_vec()?, cotangent.to_vec()?);
                let total: f64 = values.iter().zip(&weights).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum();
                rows.push(case.row("loss.total", &[total as f32])?);
                Some(self.tape.backward_from(y, cotangent)?)
            }
            _ => None,
        };
        for name in case.names("grad_input.") {
            let gradient = match (&gradients, self.leaves.get(&name)) {
                (Some(gradients), Some(leaf)) => gradients.get(leaf),
                _ => None,
            };
            let full = format!("grad_input.{name}");
            // No gradient where one is expected is a row that fails.
            let values = gradient.map(Tensor::to_vec).transpose()?.unwrap_or_default();
            rows.push(case.row(&full, &values)?);
        }
        for name in &case.no_grad {
            let gradient = match (&gradients, self.leaves.get(name)) {
                (Some(gradients), Some(leaf)) => gradients.get(leaf).map(Tensor::to_vec).transpose()?,
                _ => None,
            };
            rows.push(Case::row_without_gradient(name, gradient.as_deref()));
        }
        Ok(rows)
    }
}
