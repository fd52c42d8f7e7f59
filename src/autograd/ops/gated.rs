//! Similarities of texts and videos from dot products of words and frames.

use crate::Result;
use crate::autograd::Var;
use crate::kernels::similarity::{aosm, gates};
use crate::tensor::Tensor;

impl Var {
    /// The gates of text-guided frame averages, of the shape of these dot products (R, V, F) of text rows and frames:
    /// g = w / √(wKw') with w = softmax(self / temperature) over the frames whose `mask` (V, F) is 1, and the frames'
    /// Gram matrices K, `grams` (V, F, F). For any vector x with dot products d, Σ gd is the dot product of x with the
    /// average of length 1. Gates are 0 where no frame counts.
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; [`crate::Error::Argument`] unless the temperature is above 0;
    /// [`crate::Error::LimitExceeded`] for more than [`gates::MOST_FRAMES`] frames.
    pub fn gates(&self, grams: &Var, mask: Option<&Tensor>, temperature: f32) -> Result<Var> {
        let y = gates::forward(self.value(), grams.value(), mask, None, temperature)?;
        let saved = vec![y.clone(), grams.value().clone()];
        self.tape().record("gates", &[("self", self), ("grams", grams)], y, saved, move |b| {
            let wanted = [b.needs[0], b.needs[1]];
            Ok(gates::backward(b.grad, &b.saved[0], &b.saved[1], temperature, wanted)?.into())
        })
    }

    /// Attention over similarity matrices: scores (B, V, n) of these rows and those of `y`, both (B, n, V, F). For a
    /// text and a video, row k has the dot products m_kl = Σ_f x_kf y_lf, and its score is Σ_ab p_ka matrix_ab m_kb with
    /// p_k = softmax(m_k / temperature); `matrix` is (n, n) (Ma et al., "X-CLIP", 2022).
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; [`crate::Error::Argument`] unless the temperature is above 0;
    /// [`crate::Error::LimitExceeded`] for more than [`aosm::MOST_ROWS`] rows.
    pub fn aosm(&self, y: &Var, matrix: &Var, temperature: f32) -> Result<Var> {
        let output = aosm::forward(self.value(), y.value(), matrix.value(), temperature)?;
        let inputs = [("self", self), ("y", y), ("matrix", matrix)];
        self.tape().record("aosm", &inputs, output.scores, output.kept, move |b| {
            Ok(aosm::backward(b.grad, b.saved, temperature, [b.needs[0], b.needs[1], b.needs[2]])?.into())
        })
    }
}
