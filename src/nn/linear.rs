//! Affine maps and tables of rows.

use std::ops::Range;

use crate::Result;
use crate::autograd::Var;
use crate::kernels::elementwise::unary::Activation;
use crate::nn::{Init, Parameter, Scope};

/// How the weight and the bias of an affine map start; from an [`Init`] both start alike.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearInit {
    /// Of the weight.
    pub weight: Init,
    /// Of the bias.
    pub bias: Init,
}

impl From<&Init> for LinearInit {
    fn from(init: &Init) -> Self {
        Self { weight: init.clone(), bias: init.clone() }
    }
}

/// y = x Wᵀ + b, with PyTorch's layout: `weight` is (out, in).
#[derive(Clone, Debug)]
pub struct Linear {
    /// (out, in).
    pub weight: Parameter,
    /// (out).
    pub bias: Option<Parameter>,
    /// Of the outputs those that this map has, where several maps share packed parameters.
    pub rows: Option<Range<usize>>,
}

impl Linear {
    /// Declares `weight` and `bias`.
    ///
    /// # Errors
    /// [`crate::Error::DuplicateParameter`].
    pub fn new(s: &Scope<'_>, inputs: usize, outputs: usize, init: impl Into<LinearInit>) -> Result<Self> {
        let init = init.into();
        let weight = s.declare_matrix("weight", [outputs, inputs], init.weight)?;
        let bias = Some(s.declare("bias", [outputs], init.bias)?);
        Ok(Self { weight, bias, rows: None })
    }

    /// Declares `weight` alone.
    ///
    /// # Errors
    /// As [`Linear::new`].
    pub fn without_bias(s: &Scope<'_>, inputs: usize, outputs: usize, init: &Init) -> Result<Self> {
        let weight = s.declare_matrix("weight", [outputs, inputs], init.clone())?;
        Ok(Self { weight, bias: None, rows: None })
    }

    /// (.., in) to (.., out).
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn forward(&self, x: &Var) -> Result<Var> {
        self.fused(x, None, None)
    }

    /// activation(x Wᵀ + b) + residual in one kernel; `residual` is (.., out).
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn fused(&self, x: &Var, activation: Option<Activation>, residual: Option<&Var>) -> Result<Var> {
        let on = |p: &Parameter| match &self.rows {
            None => Ok(p.on(x.tape())),
            Some(rows) => p.rows_on(x.tape(), rows.clone()),
        };
        let weight = on(&self.weight)?;
        let bias = self.bias.as_ref().map(on).transpose()?;
        x.linear(&weight, bias.as_ref(), activation, residual)
    }
}

/// A table of rows, looked up by number.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// (rows, width).
    pub weight: Parameter,
}

impl Embedding {
    /// Declares `weight`.
    ///
    /// # Errors
    /// [`crate::Error::DuplicateParameter`].
    pub fn new(s: &Scope<'_>, rows: usize, width: usize, init: &Init) -> Result<Self> {
        Ok(Self { weight: s.declare("weight", [rows, width], init.clone())? })
    }

    /// The rows numbered `ids`, as a tensor of `shape` followed by the width.
    ///
    /// # Errors
    /// [`crate::Error::IndexOutOfRange`], [`crate::Error::Shape`].
    pub fn forward(&self, tape: &crate::autograd::Tape, ids: &[u32], shape: &[usize]) -> Result<Var> {
        self.weight.on(tape).embedding(ids, shape)
    }
}
