//! Products of matrices.

use crate::Result;
use crate::autograd::Var;
use crate::kernels::elementwise::unary::{self, Activation, Unary};
use crate::kernels::linear::matmul::{self, Options, product};
use crate::kernels::rows::reduce;
use crate::tensor::Tensor;

/// Sums the batch of a gradient for an operand that had none.
fn to_shape(gradient: Tensor, shape: &[usize]) -> Result<Tensor> {
    if gradient.shape() == shape { Ok(gradient) } else { reduce::sum_to(&gradient, shape, 1.0) }
}

impl Var {
    /// The matrix product of the last two dimensions; leading dimensions are equal, or one operand is 2-D and shared.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn matmul(&self, other: &Var) -> Result<Var> {
        self.matmul_transposed(other, false, false)
    }

    /// As [`Var::matmul`], with the last two dimensions of either operand swapped.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn matmul_transposed(&self, other: &Var, transpose_a: bool, transpose_b: bool) -> Result<Var> {
        let (a, b) = (self.value(), other.value());
        let y = product(a, b, transpose_a, transpose_b)?;
        self.tape().record("matmul", &[("self", self), ("other", other)], y, vec![a.clone(), b.clone()], move |back| {
            let (a, b, g) = (&back.saved[0], &back.saved[1], back.grad);
            let da = match (back.needs[0], transpose_a) {
                (false, _) => None,
                (true, false) => Some(product(g, b, false, !transpose_b)?),
                (true, true) => Some(product(b, g, transpose_b, true)?),
            };
            let db = match (back.needs[1], transpose_b) {
                (false, _) => None,
                (true, false) => Some(product(a, g, !transpose_a, false)?),
                (true, true) => Some(product(g, a, true, transpose_a)?),
            };
            Ok(vec![da.map(|t| to_shape(t, a.shape())).transpose()?, db.map(|t| to_shape(t, b.shape())).transpose()?])
        })
    }

    /// self otherᵀ: [`Var::matmul`] with the last two dimensions of `other` swapped.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn matmul_nt(&self, other: &Var) -> Result<Var> {
        self.matmul_transposed(other, false, true)
    }

    /// activation(self Wᵀ + bias) + residual in one kernel: self (.., in), `weight` (out, in), `bias` (out), `residual`
    /// (.., out).
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn linear(
        &self,
        weight: &Var,
        bias: Option<&Var>,
        activation: Option<Activation>,
        residual: Option<&Var>,
    ) -> Result<Var> {
        let (x, w) = (self.value(), weight.value());
        let options = Options {
            transpose_b: true,
            bias: bias.map(Var::value),
            activation,
            residual: residual.map(Var::value),
            keep_pre_activation: activation.is_some() && self.tape().is_recording(),
            ..Options::default()
        };
        let output = matmul::forward(x, w, &options)?;
        let mut saved = vec![x.clone(), w.clone()];
        saved.extend(output.pre_activation);
        let mut inputs = vec![("self", self), ("weight", weight)];
        inputs.extend(bias.map(|b| ("bias", b)));
        inputs.extend(residual.map(|r| ("residual", r)));
        let (has_bias, has_residual) = (bias.is_some(), residual.is_some());
        self.tape().record("linear", &inputs, output.y, saved, move |back| {
            let (x, w) = (&back.saved[0], &back.saved[1]);
            let g = match (activation, back.saved.get(2)) {
                (Some(activation), Some(pre)) => unary::backward(Unary::Activation(activation), pre, back.grad)?,
                _ => back.grad.clone(),
            };
            let (rows_x, rows_g) = (x.reshape([x.rows(), x.width()])?, g.reshape([g.rows(), g.width()])?);
            let dx = back.needs[0].then(|| product(&g, w, false, false)).transpose()?;
            let dw = back.needs[1].then(|| product(&rows_g, &rows_x, true, false)).transpose()?;
            let mut grads = vec![dx, dw];
            if has_bias {
                grads.push(back.needs[2].then(|| reduce::sum(&rows_g, 0)).transpose()?);
            }
            if has_residual {
                grads.push(Some(back.grad.clone()));
            }
            Ok(grads)
        })
    }

    /// Cosines of every row of self (N, D) with every row of `other` (M, D): (N, M). Norms are at least 1e-12.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn cosine_matrix(&self, other: &Var) -> Result<Var> {
        self.l2_normalize(1e-12)?.matmul_nt(&other.l2_normalize(1e-12)?)
    }
}
