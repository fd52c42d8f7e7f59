//! A golden case on its way: inputs as leaves of a tape, and what comes of them.

use std::collections::BTreeMap;

use super::Row;
use super::golden::Case;
use crate::autograd::{Gradients, Tape, Var};
use crate::nn::ParameterStore;
use crate::tensor::{Array, Tensor};
use crate::{Gpu, Result};

/// Collects results by the names that the file has for them.
pub(super) struct Run<'a> {
    pub(super) case: &'a Case,
    pub(super) tape: Tape,
    leaves: BTreeMap<String, Var>,
    results: Vec<(String, Var)>,
}

impl<'a> Run<'a> {
    pub(super) fn new(gpu: &Gpu, case: &'a Case) -> Self {
        Self { case, tape: Tape::new(gpu), leaves: BTreeMap::new(), results: Vec::new() }
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

    /// As [`Run::var`], or `None` if the file has no such input.
    pub(super) fn optional(&mut self, name: &str) -> Result<Option<Var>> {
        self.case.has(&format!("input.{name}")).then(|| self.var(name)).transpose()
    }

    /// `input.{name}` as a tensor, without a gradient.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        self.case.tensor(self.tape.gpu(), &format!("input.{name}"))
    }

    /// A constant computed from `input.{name}` element by element.
    pub(super) fn constant(&self, name: &str, f: impl Fn(f32) -> f32) -> Result<Var> {
        let array = self.case.array(&format!("input.{name}"))?;
        let data: Vec<f32> = array.data().iter().map(|&v| f(v)).collect();
        Ok(self.tape.constant(Tensor::from_slice(self.tape.gpu(), array.shape(), &data)?))
    }

    /// x·mask + (1 - mask)·`value`, the arithmetic that some published models use for masks.
    pub(super) fn arithmetic_mask(&self, x: &Var, mask: &str, value: f32) -> Result<Var> {
        x.mul(&self.constant(mask, |m| m)?)?.add(&self.constant(mask, |m| (1.0 - m) * value)?)
    }

    pub(super) fn add(&mut self, name: impl Into<String>, var: &Var) {
        self.results.push((name.into(), var.clone()));
    }

    /// Rows for every output and loss of the file (one that was not computed fails), and for the inputs' gradients if there
    /// is a loss.
    pub(super) fn finish(self, loss: Option<&Var>) -> Result<Vec<Row>> {
        let mut rows = self.case.results("output.", &self.results)?;
        rows.extend(self.case.results("loss.", &self.results)?);
        if let Some(loss) = loss {
            rows.extend(self.input_gradients(&self.tape.backward(loss)?)?);
        }
        Ok(rows)
    }

    /// As [`Run::finish`], and rows for the gradients of the parameters in `store`.
    pub(super) fn finish_model(self, store: &ParameterStore, loss: Option<&Var>) -> Result<Vec<Row>> {
        let case = self.case;
        let mut rows = self.finish(loss)?;
        if loss.is_some() {
            rows.extend(case.parameter_gradients(&gradients_of(store)?)?);
        }
        Ok(rows)
    }

    /// As [`Run::finish`], of an op with the output y; the loss is its sum, weighted by the file's cotangent.
    pub(super) fn finish_weighted(mut self, y: &Var) -> Result<Vec<Row>> {
        self.add("output.y", y);
        let cotangent = self.tensor("cotangent")?;
        let mut rows = self.case.results("output.", &self.results)?;
        let (values, weights) = (y.value().to_vec()?, cotangent.to_vec()?);
        let total: f64 = values.iter().zip(&weights).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum();
        rows.push(self.case.row("loss.total", &[total as f32])?);
        rows.extend(self.input_gradients(&self.tape.backward_from(y, cotangent)?)?);
        Ok(rows)
    }

    /// No gradient where the file has one is a row that fails.
    fn input_gradients(&self, gradients: &Gradients) -> Result<Vec<Row>> {
        let values = |name: &String| -> Result<Vec<f32>> {
            let gradient = self.leaves.get(name).and_then(|leaf| gradients.get(leaf));
            Ok(gradient.map(Tensor::to_vec).transpose()?.unwrap_or_default())
        };
        let row = |name: &String| self.case.row(&format!("grad_input.{name}"), &values(name)?);
        let mut rows: Vec<Row> = self.case.names("grad_input.").iter().map(row).collect::<Result<_>>()?;
        for name in self.case.no_grad.iter().filter(|name| self.leaves.contains_key(*name)) {
            rows.push(Case::row_without_gradient(name, &values(name)?));
        }
        Ok(rows)
    }
}

/// The gradients of what is trained, by name.
pub(super) fn gradients_of(store: &ParameterStore) -> Result<BTreeMap<String, Array>> {
    let trained = store.parameters().iter().filter_map(|p| Some((p.name().to_string(), p.gradient()?)));
    trained.map(|(name, gradient)| Ok((name, gradient.to_array()?))).collect()
}
