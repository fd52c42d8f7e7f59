//! A model's golden case on its way: inputs as leaves of a tape, and what comes of them.

use super::Row;
use super::golden::Case;
use crate::autograd::{Tape, Var};
use crate::nn::ParameterStore;
use crate::tensor::Tensor;
use crate::{Error, Gpu, Result};

/// Collects results by the names that the file has for them.
pub(super) struct Run<'a> {
    pub(super) case: &'a Case,
    pub(super) tape: Tape,
    inputs: Vec<(&'static str, Var)>,
    results: Vec<(String, Var)>,
}

impl<'a> Run<'a> {
    /// Loads the file's parameters into `store`; `inputs` are those whose gradients the file may hold.
    pub(super) fn new(gpu: &Gpu, case: &'a Case, store: &ParameterStore, inputs: &[&'static str]) -> Result<Self> {
        store.load("the golden file", &case.parameters()?)?;
        let tape = Tape::new(gpu);
        let leaf = |&name: &&'static str| Ok((name, tape.leaf(case.tensor(gpu, &format!("input.{name}"))?)));
        let inputs = inputs.iter().map(leaf).collect::<Result<_>>()?;
        Ok(Self { case, tape, inputs, results: Vec::new() })
    }

    pub(super) fn input(&self, name: &str) -> Result<Var> {
        let missing = || Error::Argument { op: "parity", argument: "input", why: format!("{name} was not read") };
        self.inputs.iter().find(|(known, _)| *known == name).map(|(_, v)| v.clone()).ok_or_else(missing)
    }

    /// `input.{name}` without a gradient.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        self.case.tensor(self.tape.gpu(), &format!("input.{name}"))
    }

    pub(super) fn add(&mut self, name: impl Into<String>, var: &Var) {
        self.results.push((name.into(), var.clone()));
    }

    /// Rows for every output and loss of the file (one that was not computed fails), and for gradients if there is a loss.
    pub(super) fn finish(self, store: &ParameterStore, loss: Option<&Var>) -> Result<Vec<Row>> {
        let case = self.case;
        let mut rows = case.results("output.", &self.results)?;
        rows.extend(case.results("loss.", &self.results)?);
        let Some(loss) = loss else { return Ok(rows) };
        let gradients = self.tape.backward(loss)?;
        for (name, leaf) in &self.inputs {
            let full = format!("grad_input.{name}");
            if case.has(&full) {
                let values = gradients.get(leaf).map(Tensor::to_vec).transpose()?.unwrap_or_default();
                rows.push(case.row(&full, &values)?);
            }
        }
        rows.extend(case.parameter_gradients(store)?);
        Ok(rows)
    }
}
