//! Ops along one dimension: softmax, normalisation, reductions.

use crate::Result;
use crate::autograd::Var;
use crate::kernels::l2_normalize::{self, Epsilon};
use crate::kernels::layer_norm::{self, Norm};
use crate::kernels::{reduce, softmax};

impl Var {
    /// Softmax over the last dimension.
    ///
    /// # Errors
    /// Device errors.
    pub fn softmax(&self) -> Result<Var> {
        let y = softmax::softmax(self.value(), 1.0, None)?;
        Ok(self.tape().record("softmax", &[self], y.clone(), vec![y], |b| {
            Ok(vec![Some(softmax::softmax_backward(&b.saved[0], b.grad, 1.0)?)])
        }))
    }

    /// Log-softmax over the last dimension.
    ///
    /// # Errors
    /// Device errors.
    pub fn log_softmax(&self) -> Result<Var> {
        let y = softmax::log_softmax(self.value(), 1.0, None)?;
        Ok(self.tape().record("log_softmax", &[self], y.clone(), vec![y], |b| {
            Ok(vec![Some(softmax::log_softmax_backward(&b.saved[0], b.grad, 1.0)?)])
        }))
    }

    /// log Σ e^x over the last dimension, which is removed.
    ///
    /// # Errors
    /// Device errors.
    pub fn logsumexp(&self) -> Result<Var> {
        let y = softmax::logsumexp(self.value(), 1.0, None)?;
        Ok(self.tape().record("logsumexp", &[self], y.clone(), vec![self.value().clone(), y], |b| {
            Ok(vec![Some(softmax::logsumexp_backward(&b.saved[0], &b.saved[1], b.grad, 1.0, None)?)])
        }))
    }

    /// gain * normalised(self + residual) + bias over the last dimension; `gain` and `bias` are (width).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn layer_norm(&self, residual: Option<&Var>, gain: &Var, bias: &Var, norm: Norm) -> Result<Var> {
        let (x, r) = (self.value(), residual.map(Var::value));
        let output = layer_norm::forward(x, r, gain.value(), bias.value(), norm)?;
        let sum = output.sum.unwrap_or_else(|| x.clone());
        let saved = vec![sum, gain.value().clone(), output.stats];
        let mut inputs = vec![self, gain, bias];
        inputs.extend(residual);
        let has_residual = residual.is_some();
        Ok(self.tape().record("layer_norm", &inputs, output.y, saved, move |b| {
            let g = layer_norm::backward(b.grad, &b.saved[0], &b.saved[1], &b.saved[2], norm)?;
            let residual = has_residual.then(|| Some(g.x.clone()));
            Ok([Some(g.x), Some(g.gain), Some(g.bias)].into_iter().chain(residual).collect())
        }))
    }

    /// self / max(‖self‖, eps) over the last dimension.
    ///
    /// # Errors
    /// Device errors.
    pub fn l2_normalize(&self, eps: f32) -> Result<Var> {
        self.normalize(Epsilon::Max(eps))
    }

    /// Divides by the norm, with either place of the epsilon.
    ///
    /// # Errors
    /// Device errors.
    pub fn normalize(&self, epsilon: Epsilon) -> Result<Var> {
        let output = l2_normalize::forward(self.value(), epsilon)?;
        let saved = vec![self.value().clone(), output.norms];
        Ok(self.tape().record("l2_normalize", &[self], output.y, saved, move |b| {
            Ok(vec![Some(l2_normalize::backward(&b.saved[0], &b.saved[1], b.grad, epsilon)?)])
        }))
    }

    /// The sum over dimension `axis`, which is removed.
    ///
    /// # Errors
    /// [`crate::Error::IndexOutOfRange`].
    pub fn sum(&self, axis: usize) -> Result<Var> {
        let y = reduce::sum(self.value(), axis)?;
        let shape = self.shape().to_vec();
        Ok(self.tape().record("sum", &[self], y, vec![], move |b| {
            Ok(vec![Some(reduce::broadcast_back(b.grad, &shape, axis, 1.0)?)])
        }))
    }

    /// The mean over dimension `axis`, which is removed.
    ///
    /// # Errors
    /// [`crate::Error::IndexOutOfRange`].
    pub fn mean(&self, axis: usize) -> Result<Var> {
        let y = reduce::mean(self.value(), axis)?;
        let shape = self.shape().to_vec();
        Ok(self.tape().record("mean", &[self], y, vec![], move |b| {
            Ok(vec![Some(reduce::broadcast_back(b.grad, &shape, axis, 1.0 / shape[axis] as f32)?)])
        }))
    }

    /// The largest over dimension `axis`, which is removed; the gradient goes to the first of equals.
    ///
    /// # Errors
    /// [`crate::Error::IndexOutOfRange`].
    pub fn max(&self, axis: usize) -> Result<Var> {
        let (y, indices) = reduce::max(self.value(), axis)?;
        let shape = self.shape().to_vec();
        Ok(self.tape().record("max", &[self], y, vec![indices], move |b| {
            Ok(vec![Some(reduce::max_backward(b.grad, &b.saved[0], &shape, axis)?)])
        }))
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
