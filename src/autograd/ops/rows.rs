//! Ops along one dimension: softmax, normalisation, reductions.

use crate::Result;
use crate::autograd::Var;
use crate::kernels::rows::l2_normalize::{self, Divisor};
use crate::kernels::rows::layer_norm::{self, Norm, Residual};
use crate::kernels::rows::{reduce, softmax};

impl Var {
    /// Softmax over the last dimension.
    ///
    /// # Errors
    /// Device errors.
    pub fn softmax(&self) -> Result<Var> {
        let y = softmax::softmax(self.value(), 1.0, None)?;
        self.derive("softmax", y.clone(), vec![y], |b| softmax::softmax_backward(&b.saved[0], b.grad, 1.0))
    }

    /// Log-softmax over the last dimension.
    ///
    /// # Errors
    /// Device errors.
    pub fn log_softmax(&self) -> Result<Var> {
        let y = softmax::log_softmax(self.value(), 1.0, None)?;
        self.derive("log_softmax", y.clone(), vec![y], |b| softmax::log_softmax_backward(&b.saved[0], b.grad, 1.0))
    }

    /// log Σ e^x over the last dimension, which is removed.
    ///
    /// # Errors
    /// Device errors.
    pub fn logsumexp(&self) -> Result<Var> {
        let y = softmax::logsumexp(self.value(), 1.0, None)?;
        self.derive("logsumexp", y.clone(), vec![self.value().clone(), y], |b| {
            softmax::logsumexp_backward(&b.saved[0], 1.0, None, &b.saved[1], b.grad)
        })
    }

    /// gain * normalised(self + residual) + bias over the last dimension; `gain` and `bias` are (width).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn layer_norm(&self, residual: Option<&Var>, gain: &Var, bias: &Var, norm: Norm) -> Result<Var> {
        let x = self.value();
        let added = residual.map(|r| Residual { tensor: r.value(), keep_sum: self.tape().is_recording() });
        let output = layer_norm::forward(x, added, gain.value(), bias.value(), norm)?;
        let sum = output.sum.unwrap_or_else(|| x.clone());
        let saved = vec![sum, gain.value().clone(), output.stats];
        let mut inputs = vec![("self", self), ("gain", gain), ("bias", bias)];
        inputs.extend(residual.map(|r| ("residual", r)));
        let has_residual = residual.is_some();
        self.tape().record("layer_norm", &inputs, output.y, saved, move |b| {
            let (dx, dgain, dbias) = layer_norm::backward(b.grad, &b.saved[0], &b.saved[1], &b.saved[2], norm)?;
            let residual = has_residual.then(|| Some(dx.clone()));
            Ok([Some(dx), Some(dgain), Some(dbias)].into_iter().chain(residual).collect())
        })
    }

    /// self / max(‖self‖, eps) over the last dimension.
    ///
    /// # Errors
    /// Device errors.
    pub fn l2_normalize(&self, eps: f32) -> Result<Var> {
        self.normalize(Divisor::Clamped { eps })
    }

    /// Divides by the norm, with either place of the epsilon.
    ///
    /// # Errors
    /// Device errors.
    pub fn normalize(&self, divisor: Divisor) -> Result<Var> {
        let (y, stats) = l2_normalize::forward(self.value(), divisor)?;
        self.derive("l2_normalize", y.clone(), vec![y, stats], move |b| {
            l2_normalize::backward(&b.saved[0], b.grad, &b.saved[1], divisor)
        })
    }

    /// The sum over dimension `axis`, which is removed.
    ///
    /// # Errors
    /// [`crate::Error::IndexOutOfRange`].
    pub fn sum(&self, axis: usize) -> Result<Var> {
        let y = reduce::sum(self.value(), axis)?;
        let n = self.shape()[axis];
        self.derive("sum", y, vec![], move |b| reduce::expand(b.grad, axis, n, 1.0))
    }

    /// The mean over dimension `axis`, which is removed.
    ///
    /// # Errors
    /// [`crate::Error::IndexOutOfRange`].
    pub fn mean(&self, axis: usize) -> Result<Var> {
        let y = reduce::mean(self.value(), axis)?;
        let n = self.shape()[axis];
        self.derive("mean", y, vec![], move |b| reduce::expand(b.grad, axis, n, 1.0 / n as f32))
    }

    /// The largest over dimension `axis`, which is removed; the gradient goes to the first of equals.
    ///
    /// # Errors
    /// [`crate::Error::IndexOutOfRange`]; [`crate::Error::Argument`] for an empty dimension.
    pub fn max(&self, axis: usize) -> Result<Var> {
        let (y, indices) = reduce::max(self.value(), axis)?;
        let n = self.shape()[axis];
        self.derive("max", y, vec![indices], move |b| reduce::max_backward(b.grad, &b.saved[0], axis, n))
    }

    /// The sum of all elements: a scalar.
    ///
    /// # Errors
    /// Device errors.
    pub fn sum_all(&self) -> Result<Var> {
        self.reshape([self.value().len()])?.sum(0)
    }

    /// The mean of all elements: a scalar.
    ///
    /// # Errors
    /// Device errors.
    pub fn mean_all(&self) -> Result<Var> {
        self.reshape([self.value().len()])?.mean(0)
    }
}
