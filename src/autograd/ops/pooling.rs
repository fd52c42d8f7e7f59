//! Pooling of a sequence (B, S, D) to (B, D), and over its similarities to queries.

use crate::Result;
use crate::autograd::Var;
use crate::kernels::pooling::{self, AttentionPool, Masked, Pooled};
use crate::kernels::similarity::{max_similarity, soft_similarity};
use crate::tensor::Tensor;

impl Var {
    /// The mean over the positions where `mask` (B, S) is 1; zeros where it is nowhere.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn masked_mean(&self, mask: Option<&Tensor>) -> Result<Var> {
        let y = pooling::mean(self.value(), mask)?;
        let length = self.shape()[1];
        self.derive("masked_mean", y, mask.cloned().into_iter().collect(), move |b| {
            pooling::mean_backward(b.grad, length, b.saved.first())
        })
    }

    /// The largest over the positions where `mask` (B, S) is 1, for each channel; the gradient goes to the first of
    /// equals.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn masked_max(&self, mask: Option<&Tensor>, masked: Masked) -> Result<Var> {
        let (y, positions) = pooling::max(self.value(), mask, masked)?;
        let length = self.shape()[1];
        let saved = std::iter::once(positions).chain(mask.cloned()).collect();
        self.derive("masked_max", y, saved, move |b| {
            pooling::max_backward(b.grad, &b.saved[0], length, b.saved.get(1), masked)
        })
    }

    /// The sum of the positions, weighted by the softmax over them of `logits`: (B, S, D) for weights by channel, or
    /// (B, S) for weights that all channels share. Positions where `mask` is 0 have no weight.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn attention_pool(&self, logits: &Var, mask: Option<&Tensor>, dropout: f32) -> Result<Var> {
        Ok(self.attention_pool_weights(logits, mask, Masked::Hide, dropout)?.0)
    }

    /// As [`Var::attention_pool`], returning the weights too, without a gradient, and with a choice of what becomes of
    /// masked positions.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn attention_pool_weights(
        &self,
        logits: &Var,
        mask: Option<&Tensor>,
        masked: Masked,
        dropout: f32,
    ) -> Result<(Var, Var)> {
        let options = AttentionPool { masked, dropout: self.tape().next_dropout(dropout) };
        let x = self.value();
        let pooled = pooling::attention(x, logits.value(), mask, options)?;
        let saved = [x.clone(), pooled.y.clone(), pooled.weights.clone()].into_iter().chain(mask.cloned()).collect();
        let weights = self.tape().constant(pooled.weights);
        let y =
            self.tape().record("attention_pool", &[("self", self), ("logits", logits)], pooled.y, saved, move |b| {
                let pooled = Pooled { y: b.saved[1].clone(), weights: b.saved[2].clone() };
                let (dx, dlogits) = pooling::attention_backward(b.grad, &b.saved[0], &pooled, b.saved.get(3), options)?;
                Ok(vec![Some(dx), Some(dlogits)])
            })?;
        Ok((y, weights))
    }

    /// For each of these queries (Nq, D) and each video of `clips` (Nv, L, D), the largest dot product with a clip
    /// whose `mask` (Nv, L) is 1: (Nq, Nv). The gradient goes to the first of equals. A video without such a clip scores
    /// [`max_similarity::NO_CLIP`], without a gradient.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn max_similarity(&self, clips: &Var, mask: Option<&Tensor>) -> Result<Var> {
        let (q, x) = (self.value(), clips.value());
        let (scores, positions) = max_similarity::forward(q, x, mask, None)?;
        let saved = vec![q.clone(), x.clone(), positions];
        self.tape().record("max_similarity", &[("self", self), ("clips", clips)], scores, saved, |b| {
            let wanted = [b.needs[0], b.needs[1]];
            Ok(max_similarity::backward(&b.saved[0], &b.saved[1], &b.saved[2], None, b.grad, wanted)?.into())
        })
    }

    /// For each of these texts (B, D) and each video of `items` (N, R, D), Σ q s over its dot products s with the items
    /// whose `mask` (N, R) is 1, q = softmax(s / temperature): (B, N). A video without such an item scores 0, without a
    /// gradient. The dot products are made anew on the way back, some at a time.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`]; [`crate::Error::Argument`] unless `temperature` is above 0.
    pub fn soft_similarity(&self, items: &Var, mask: Option<&Tensor>, temperature: f32) -> Result<Var> {
        let (t, x) = (self.value(), items.value());
        let (y, lse) = soft_similarity::forward(t, x, mask, temperature)?;
        let saved = [t.clone(), x.clone(), y.clone(), lse].into_iter().chain(mask.cloned()).collect();
        self.tape().record("soft_similarity", &[("self", self), ("items", items)], y, saved, move |b| {
            let (results, wanted) = ((&b.saved[2], &b.saved[3]), [b.needs[0], b.needs[1]]);
            let (t, x, mask) = (&b.saved[0], &b.saved[1], b.saved.get(4));
            Ok(soft_similarity::backward(t, x, mask, temperature, results, b.grad, wanted)?.into())
        })
    }
}
