//! Element-wise functions and broadcasting arithmetic.

use crate::Result;
use crate::autograd::Var;
use crate::kernels::elementwise::binary::{self, Binary};
use crate::kernels::elementwise::dropout::{self, Dropout};
use crate::kernels::elementwise::unary::{self, Activation, Unary};
use crate::kernels::rows::reduce;
use crate::tensor::Tensor;

impl Var {
    fn unary(&self, op: &'static str, function: Unary) -> Result<Var> {
        let y = unary::forward(function, self.value())?;
        self.derive(op, y, vec![self.value().clone()], move |b| unary::backward(function, &b.saved[0], b.grad))
    }

    /// One of the activation functions.
    ///
    /// # Errors
    /// Device errors.
    pub fn activation(&self, activation: Activation) -> Result<Var> {
        self.unary("activation", Unary::Activation(activation))
    }

    /// `scale * self + shift`.
    ///
    /// # Errors
    /// Device errors.
    pub fn affine(&self, scale: f32, shift: f32) -> Result<Var> {
        let y = unary::forward(Unary::Affine { scale, shift }, self.value())?;
        self.derive("affine", y, vec![], move |b| unary::forward(Unary::Affine { scale, shift: 0.0 }, b.grad))
    }

    /// `factor * self`.
    ///
    /// # Errors
    /// Device errors.
    pub fn scale(&self, factor: f32) -> Result<Var> {
        self.affine(factor, 0.0)
    }

    /// e^self.
    ///
    /// # Errors
    /// Device errors.
    pub fn exp(&self) -> Result<Var> {
        self.unary("exp", Unary::Exp)
    }

    /// The natural logarithm.
    ///
    /// # Errors
    /// Device errors.
    pub fn log(&self) -> Result<Var> {
        self.unary("log", Unary::Log)
    }

    /// √self of elements above 0, as e^(½ ln self).
    ///
    /// # Errors
    /// Device errors.
    pub fn sqrt(&self) -> Result<Var> {
        self.log()?.scale(0.5)?.exp()
    }

    /// self².
    ///
    /// # Errors
    /// Device errors.
    pub fn square(&self) -> Result<Var> {
        self.unary("square", Unary::Square)
    }

    fn binary(&self, op: &'static str, kind: Binary, other: &Var) -> Result<Var> {
        let (a, b) = (self.value(), other.value());
        let y = binary::forward(kind, a, b)?;
        let (left, right) = (a.shape().to_vec(), b.shape().to_vec());
        // Sums need no values on the way back, only shapes.
        if let Binary::Add | Binary::Sub = kind {
            let sign = if let Binary::Sub = kind { -1.0 } else { 1.0 };
            return self.tape().record(op, &[("self", self), ("other", other)], y, vec![], move |back| {
                let part = |i: usize, shape: &[usize], sign: f32| {
                    back.needs[i].then(|| reduce::sum_to(back.grad, shape, sign)).transpose()
                };
                Ok(vec![part(0, &left, 1.0)?, part(1, &right, sign)?])
            });
        }
        self.tape().record(op, &[("self", self), ("other", other)], y, vec![a.clone(), b.clone()], move |back| {
            let wanted = [back.needs[0], back.needs[1]];
            let (da, db) = binary::backward(kind, &back.saved[0], &back.saved[1], back.grad, wanted)?;
            Ok(vec![da, db])
        })
    }

    /// self + other, broadcasting as NumPy does.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn add(&self, other: &Var) -> Result<Var> {
        self.binary("add", Binary::Add, other)
    }

    /// self - other, broadcasting.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn sub(&self, other: &Var) -> Result<Var> {
        self.binary("sub", Binary::Sub, other)
    }

    /// self * other, element by element, broadcasting.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn mul(&self, other: &Var) -> Result<Var> {
        self.binary("mul", Binary::Mul, other)
    }

    /// self / other, broadcasting.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn div(&self, other: &Var) -> Result<Var> {
        self.binary("div", Binary::Div, other)
    }

    /// Where `mask` (broadcast to self's shape) is 1, self; elsewhere `value`, without a gradient.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn masked_fill(&self, mask: &Tensor, value: f32) -> Result<Var> {
        let y = binary::where_mask(self.value(), mask, value)?;
        self.derive("masked_fill", y, vec![mask.clone()], |b| binary::where_mask_backward(b.grad, &b.saved[0]))
    }

    /// Drops elements in training (see [`crate::autograd::Tape::training`]); otherwise self.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] for a probability outside [0, 1).
    pub fn dropout(&self, probability: f32) -> Result<Var> {
        match self.tape().next_dropout(probability) {
            None => Ok(self.clone()),
            Some(dropout) => self.dropout_with(dropout),
        }
    }

    /// Drops elements by a given mask.
    ///
    /// # Errors
    /// As [`Var::dropout`].
    pub fn dropout_with(&self, mask: Dropout) -> Result<Var> {
        let y = dropout::apply(self.value(), mask)?;
        self.derive("dropout", y, vec![], move |b| dropout::apply(b.grad, mask))
    }

    /// activation(dropout(self)) in one kernel.
    ///
    /// # Errors
    /// As [`Var::dropout`].
    pub fn dropout_activation(&self, probability: f32, activation: Activation) -> Result<Var> {
        match self.tape().next_dropout(probability) {
            None => self.activation(activation),
            Some(dropout) => self.dropout_activation_with(dropout, activation),
        }
    }

    /// As [`Var::dropout_activation`], by a given mask.
    ///
    /// # Errors
    /// As [`Var::dropout`].
    pub fn dropout_activation_with(&self, mask: Dropout, activation: Activation) -> Result<Var> {
        let y = dropout::apply_activation(self.value(), mask, activation)?;
        self.derive("dropout activation", y, vec![self.value().clone()], move |b| {
            dropout::apply_activation_backward(&b.saved[0], b.grad, mask, activation)
        })
    }
}
