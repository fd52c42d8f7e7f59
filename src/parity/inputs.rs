//! The inputs of a golden case of one op, and the comparison of what comes of them.

use std::collections::BTreeMap;

use super::Row;
use super::golden::Case;
use crate::autograd::{Gradients, Tape, Var};
use crate::tensor::Tensor;
use crate::{Gpu, Result};

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
