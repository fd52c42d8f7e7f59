//! Losses on matrices of scores.

use crate::Result;
use crate::autograd::{Var, concat};
use crate::kernels::elementwise::unary::Activation;
use crate::kernels::loss::{cross_entropy, hinge};
use crate::kernels::ranking::pick;
use crate::tensor::Tensor;

impl Var {
    /// The bidirectional max-margin loss of scores (B, B) whose diagonal holds the matching pairs, summed over all
    /// negatives, or over the hardest of each row and column (Faghri et al., "VSE++", 2018).
    ///
    /// # Errors
    /// [`crate::Error::Shape`] unless square.
    pub fn hinge(&self, margin: f32, hardest: bool) -> Result<Var> {
        let negatives = if hardest { hinge::Negatives::Hardest } else { hinge::Negatives::All };
        let (loss, kept) = hinge::forward(self.value(), margin, negatives)?;
        self.derive("hinge", loss, vec![self.value().clone()], move |b| hinge::backward(&b.saved[0], &kept, b.grad))
    }

    /// The mean over rows of -log softmax(row)\[target\]: self (N, C), one target a row.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::IndexOutOfRange`].
    pub fn cross_entropy(&self, targets: &[u32]) -> Result<Var> {
        let (loss, kept) = cross_entropy::forward(self.value(), targets)?;
        self.derive("cross_entropy", loss, vec![self.value().clone()], move |b| {
            cross_entropy::backward(&b.saved[0], &kept, b.grad)
        })
    }

    /// Symmetric InfoNCE of scores (B, B): the mean of the cross entropies of rows and of columns, with the diagonal as
    /// targets (Radford et al., "CLIP", 2021).
    ///
    /// # Errors
    /// [`crate::Error::Shape`] unless square.
    pub fn info_nce(&self) -> Result<Var> {
        let (loss, kept) = cross_entropy::info_nce(self.value())?;
        self.derive("info_nce", loss, vec![self.value().clone()], move |b| {
            cross_entropy::info_nce_backward(&b.saved[0], &kept, b.grad)
        })
    }

    /// MIL-NCE as ReLoCLNet's VideoCL has it: self (B, B) holds unscaled scores whose diagonal are the matching pairs;
    /// the mean over i of log Σ exp over row i and column i together, less the diagonal. The positive thus stands twice
    /// in the sum (Miech et al., 2020; Zhang et al., 2021).
    ///
    /// # Errors
    /// [`crate::Error::Shape`] unless square.
    pub fn mil_nce(&self) -> Result<Var> {
        let both = concat(&[self, &self.transpose()?], 1)?;
        both.logsumexp()?.sub(&self.diagonal()?)?.mean_all()
    }

    /// The Jensen-Shannon estimate of mutual information, negated, as ReLoCLNet's FrameCL has it: self (B, L) holds the
    /// scores of a query's clips, `positive` (B, L) is 1 for those it describes, and the other clips where `mask`
    /// (B, L) is 1 are its negatives. The mean over B of E⁻[softplus(-r) + r - ln 2] - E⁺[ln 2 - softplus(-r)].
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn jensen_shannon(&self, positive: &Tensor, mask: &Tensor) -> Result<Var> {
        const LN_2: f32 = std::f32::consts::LN_2;
        let positive = self.tape().constant(positive.clone());
        let negative = positive.affine(-1.0, 1.0)?.mul(&self.tape().constant(mask.clone()))?;
        let softplus = |x: &Var| x.scale(-1.0)?.activation(Activation::Softplus);
        // Means over all of 0 and 1; the smallest of denominators keeps a row without positives finite.
        let mean = |x: &Var, of: &Var| x.mul(of)?.sum(1)?.div(&of.sum(1)?.affine(1.0, 1e-12)?);
        let gain = mean(&softplus(&self.masked_fill(positive.value(), 0.0)?)?.affine(-1.0, LN_2)?, &positive)?;
        let r = self.masked_fill(negative.value(), 0.0)?;
        let cost = mean(&softplus(&r)?.add(&r)?.affine(1.0, -LN_2)?, &negative)?;
        cost.sub(&gain)?.mean_all()
    }

    /// For each row of square scores (B, B) the entry at place `places[i]` when the row is sorted from high to low with
    /// its diagonal, the matching pair, at place 0: a sampled negative. (B).
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::IndexOutOfRange`].
    pub fn negatives_at(&self, places: &[u32]) -> Result<Var> {
        self.pick(&pick::at_rank(self.value(), places)?)
    }

    /// Pearson's correlation of each column of self (B, D) with the same column of `other` over the batch, with the unbiased
    /// deviation in the denominator and the batch size above it, as EERCF has it: at most (B - 1) / B. (D). A column that
    /// does not vary gives NaN.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn correlations(&self, other: &Var) -> Result<Var> {
        self.column_scores()?.mul(&other.column_scores()?)?.mean(0)
    }

    /// EERCF's Pearson constraint: `diagonal` · Σ_d (c_dd - 1)² + `others` · Σ_{d ≠ d'} c_dd'², with c the correlations of
    /// the columns of self (B, D) with those of `other`, as in [`Var::correlations`]. Published: 0.14 and 0.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    pub fn pearson(&self, other: &Var, diagonal: f32, others: f32) -> Result<Var> {
        let (a, b) = (self.column_scores()?, other.column_scores()?);
        let own = a.mul(&b)?.mean(0)?;
        let loss = own.affine(1.0, -1.0)?.square()?.sum_all()?.scale(diagonal)?;
        if others == 0.0 {
            return Ok(loss);
        }
        let batch = self.shape()[0] as f32;
        let all = a.matmul_transposed(&b, true, false)?.scale(1.0 / batch)?.square()?.sum_all()?;
        loss.add(&all.sub(&own.square()?.sum_all()?)?.scale(others)?)
    }

    /// Each column of self (B, D) less its mean, over its unbiased deviation.
    fn column_scores(&self) -> Result<Var> {
        let centred = self.sub(&self.mean(0)?)?;
        let variance = centred.square()?.sum(0)?.scale(1.0 / (self.shape()[0] as f32 - 1.0))?;
        centred.div(&variance.sqrt()?)
    }

    /// GLCCL's contrastive score consistency of the heads' scores, self (H, B, B): the mean over matching pairs of the
    /// unbiased variance among the heads, over its sum over the other pairs divided by `others`. Officially `others` is B²;
    /// the mean would have B² - B.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] unless the last two dimensions are equal.
    pub fn score_consistency(&self, others: f32) -> Result<Var> {
        let centred = self.sub(&self.mean(0)?)?;
        let heads = self.shape()[0] as f32;
        let variance = centred.square()?.sum(0)?.scale(1.0 / (heads - 1.0))?;
        let matching = variance.diagonal()?;
        let rest = variance.sum_all()?.sub(&matching.sum_all()?)?;
        matching.mean_all()?.div(&rest.scale(1.0 / others)?)
    }
}
