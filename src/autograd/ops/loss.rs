//! Losses on matrices of scores.

use crate::Result;
use crate::autograd::Var;
use crate::kernels::{cross_entropy, hinge};

impl Var {
    /// The bidirectional max-margin loss of scores (B, B) whose diagonal holds the matching pairs, summed over all
    /// negatives, or over the hardest of each row and column (Faghri et al., "VSE++", 2018).
    ///
    /// # Errors
    /// [`crate::Error::Shape`] unless square.
    pub fn hinge(&self, margin: f32, hardest: bool) -> Result<Var> {
        let negatives = if hardest { hinge::Negatives::Hardest } else { hinge::Negatives::All };
        let (loss, kept) = hinge::forward(self.value(), margin, negatives)?;
        Ok(self.tape().record("hinge", &[self], loss, vec![self.value().clone()], move |b| {
            Ok(vec![Some(hinge::backward(&b.saved[0], &kept, b.grad)?)])
        }))
    }

    /// The mean over rows of -log softmax(row)\[target\]: self (N, C), one target a row.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::IndexOutOfRange`].
    pub fn cross_entropy(&self, targets: &[u32]) -> Result<Var> {
        let (loss, kept) = cross_entropy::forward(self.value(), targets)?;
        Ok(self.tape().record("cross_entropy", &[self], loss, vec![self.value().clone()], move |b| {
            Ok(vec![Some(cross_entropy::backward(&b.saved[0], &kept, b.grad)?)])
        }))
    }

    /// Symmetric InfoNCE of scores (B, B): the mean of the cross entropies of rows and of columns, with the diagonal as
    /// targets (Radford et al., "CLIP", 2021).
    ///
    /// # Errors
    /// [`crate::Error::Shape`] unless square.
    pub fn info_nce(&self) -> Result<Var> {
        let (loss, kept) = cross_entropy::info_nce(self.value())?;
        Ok(self.tape().record("info_nce", &[self], loss, vec![self.value().clone()], move |b| {
            Ok(vec![Some(cross_entropy::info_nce_backward(&b.saved[0], &kept, b.grad)?)])
        }))
    }
}
