//! Ops that move elements.

use std::ops::Range;

use crate::autograd::Var;
use crate::kernels::elementwise::permute;
use crate::kernels::linear::conv1d::{self, Conv1d};
use crate::kernels::linear::embedding;
use crate::kernels::linear::patches;
use crate::kernels::ranking::pick;
use crate::tensor::Tensor;
use crate::{Error, Result};

impl Var {
    /// The same elements under another shape, without a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if the element counts differ.
    pub fn reshape(&self, shape: impl Into<Vec<usize>>) -> Result<Var> {
        let y = self.value().reshape(shape)?;
        let from = self.shape().to_vec();
        self.derive("reshape", y, vec![], move |b| b.grad.reshape(from))
    }

    /// Dimension `i` of the result is dimension `order[i]` of self.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `order` is a permutation.
    pub fn permute(&self, order: &[usize]) -> Result<Var> {
        let y = permute::permute(self.value(), order)?;
        let inverse = permute::inverse(order);
        self.derive("permute", y, vec![], move |b| permute::permute(b.grad, &inverse))
    }

    /// The last two dimensions swapped.
    ///
    /// # Errors
    /// [`Error::Shape`] for fewer than two dimensions.
    pub fn transpose(&self) -> Result<Var> {
        let rank = self.shape().len();
        if rank < 2 {
            return Err(Error::shape("transpose", "self", "at least two dimensions", self.shape()));
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 2, rank - 1);
        self.permute(&order)
    }

    /// The diagonal of a square matrix (N, N): (N).
    ///
    /// # Errors
    /// [`Error::Shape`] unless square.
    pub fn diagonal(&self) -> Result<Var> {
        match *self.shape() {
            [n, columns] if n == columns => {
                let columns: Vec<u32> = (0..n as u32).collect();
                self.pick(&Tensor::from_u32(self.value().gpu(), [n], &columns)?)
            }
            _ => Err(Error::shape("diagonal", "self", "(N, N)", self.shape())),
        }
    }

    /// One element of each row of self (rows, width), by its column in `at` u32 (rows): (rows).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`].
    pub fn pick(&self, at: &Tensor) -> Result<Var> {
        let y = pick::forward(self.value(), at)?;
        let width = self.value().width();
        self.derive("pick", y, vec![at.clone()], move |b| pick::backward(b.grad, &b.saved[0], width))
    }

    /// The elements of `range` along `axis`.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Result<Var> {
        let y = permute::slice(self.value(), axis, range.clone())?;
        let n = self.shape()[axis];
        self.derive("slice", y, vec![], move |b| permute::slice_backward(b.grad, axis, range.start, n))
    }

    /// Self in parts of at most `most` along the first dimension (or as few as views allow), one after another: views where
    /// no gradient is needed, copies otherwise.
    ///
    /// # Errors
    /// Device errors.
    pub fn parts(&self, most: usize) -> Result<Vec<Var>> {
        let [count, rest @ ..] = self.shape() else { return Ok(vec![self.clone()]) };
        let width: usize = rest.iter().product();
        // Views start at multiples of 64 elements.
        let step = (1..=64).find(|n| (n * width).is_multiple_of(64)).unwrap_or(64);
        let most = (most / step).max(1) * step;
        if most >= *count {
            return Ok(vec![self.clone()]);
        }
        let part = |first: usize| {
            let range = first..(first + most).min(*count);
            if self.needs_gradient() {
                return self.slice(0, range);
            }
            let shape = [&[range.len()], rest].concat();
            Ok(self.tape().constant(self.value().view(first * width, shape)?))
        };
        (0..*count).step_by(most).map(part).collect()
    }

    /// Rows of self (rows, width) by number, as a tensor of `shape` followed by the width.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`]; [`Error::Shape`] unless `shape` holds as many as there are ids.
    pub fn embedding(&self, ids: &[u32], shape: &[usize]) -> Result<Var> {
        let y = embedding::forward(self.value(), ids, shape)?;
        let (rows, kept) = (self.shape()[0], ids.to_vec());
        self.derive("embedding", y, vec![], move |b| embedding::backward(b.grad, &kept, rows))
    }

    /// Cross-correlation of self (B, Cin, L) with `weight` (Cout, Cin, K): (B, Cout, L').
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn conv1d(&self, weight: &Var, bias: Option<&Var>, stride: usize, padding: usize) -> Result<Var> {
        let (x, w, conv) = (self.value(), weight.value(), Conv1d { stride, padding });
        let y = conv1d::forward(x, w, bias.map(Var::value), conv)?;
        let mut inputs = vec![("self", self), ("weight", weight)];
        inputs.extend(bias.map(|b| ("bias", b)));
        self.tape().record("conv1d", &inputs, y, vec![x.clone(), w.clone()], move |b| {
            let (x, w) = (&b.saved[0], &b.saved[1]);
            let dx = b.needs[0].then(|| conv1d::backward_x(b.grad, w, x.width(), conv)).transpose()?;
            let dw = b.needs[1].then(|| conv1d::backward_weight(b.grad, x, w.width(), conv)).transpose()?;
            let bias_wanted = b.needs.get(2).copied().unwrap_or(false);
            let dbias = bias_wanted.then(|| conv1d::backward_bias(b.grad)).transpose()?;
            Ok(vec![dx, dw, dbias])
        })
    }

    /// Non-overlapping patches of self (N, C, H, W) times `weight` (out, C, P, P): (N, H/P · W/P, out), patches row by
    /// row.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::ShapeMismatch`].
    pub fn patch_embed(&self, weight: &Var) -> Result<Var> {
        let (outputs, channels, patch) = match *weight.shape() {
            [outputs, channels, patch, across] if patch == across => (outputs, channels, patch),
            _ => return Err(Error::shape("patch_embed", "weight", "(out, channels, patch, patch)", weight.shape())),
        };
        let columns = patches::unfold(self.value(), patch)?;
        let shape = self.shape().to_vec();
        let columns = self.derive("unfold patches", columns, vec![], move |b| patches::fold(b.grad, &shape, patch))?;
        let images = self.shape()[0];
        let y = columns.linear(&weight.reshape([outputs, channels * patch * patch])?, None, None, None)?;
        let per_image = y.value().rows() / images.max(1);
        y.reshape([images, per_image, outputs])
    }
}

/// The parts one after another along `axis`; their other extents are equal.
///
/// # Errors
/// [`Error::ShapeMismatch`]; [`Error::Argument`] for no parts; [`Error::IndexOutOfRange`].
pub fn concat<V: AsRef<Var>>(parts: &[V], axis: usize) -> Result<Var> {
    let parts: Vec<&Var> = parts.iter().map(V::as_ref).collect();
    let Some(first) = parts.first() else {
        return Err(Error::Argument { op: "concat", argument: "parts", why: "is empty".into() });
    };
    let values: Vec<_> = parts.iter().map(|p| p.value()).collect();
    let y = permute::concat(&values, axis)?;
    let extents: Vec<usize> = parts.iter().map(|p| p.shape()[axis]).collect();
    let inputs: Vec<_> = parts.iter().map(|&p| ("parts", p)).collect();
    first.tape().record("concat", &inputs, y, vec![], move |b| {
        let mut start = 0;
        extents
            .iter()
            .zip(b.needs)
            .map(|(&extent, &need)| {
                let range = start..start + extent;
                start += extent;
                need.then(|| permute::slice(b.grad, axis, range)).transpose()
            })
            .collect()
    })
}
