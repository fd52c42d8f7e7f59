//! What BiC-Net and its baseline share: a text embedding compared with two of the video.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::models::bicnet::{BicnetConfig, BicnetInputs};
use crate::nn::ParameterStore;
use crate::tensor::Tensor;

/// What such a model returns: (B, D) each, not normalised.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// Of the captions.
    pub text: Var,
    /// Of the videos, by regions.
    pub region: Var,
    /// Of the videos, by frames.
    pub global: Var,
}

/// The losses of a batch, scalars.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Half of `global` plus half of `region`.
    pub total: Var,
    /// Hinge loss of frame embeddings against text.
    pub global: Var,
    /// Hinge loss of region embeddings against text.
    pub region: Var,
}

/// A model with one embedding of text and two of video.
pub trait TwoSpaceModel {
    /// Sizes and options.
    fn config(&self) -> &BicnetConfig;

    /// The parameters.
    fn store(&self) -> &ParameterStore;

    /// Token features (B, L, text_dim) with their mask (B, L) to (B, D).
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::ShapeMismatch`].
    fn encode_text(&self, tape: &Tape, text: &Tensor, mask: &Tensor) -> Result<Var>;

    /// All three embeddings of a batch.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for inputs that do not fit the configuration.
    fn forward(&self, tape: &Tape, inputs: &BicnetInputs) -> Result<Embeddings>;

    /// The two hinge losses on cosines, and their mean. Every video of the batch has one caption.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    fn loss(&self, e: &Embeddings) -> Result<Loss> {
        let c = self.config();
        let hinge = |videos: &Var| videos.cosine_matrix(&e.text)?.hinge(c.margin, c.max_violation);
        let (global, region) = (hinge(&e.global)?, hinge(&e.region)?);
        let total = global.add(&region)?.scale(0.5)?;
        Ok(Loss { total, global, region })
    }
}

/// 0.5 cos(global, text) + 0.5 cos(region, text), from embeddings (N, D) and (M, D): rows videos, columns texts.
///
/// # Errors
/// [`crate::Error::ShapeMismatch`].
pub fn similarity(e: &Embeddings) -> Result<Var> {
    e.global.cosine_matrix(&e.text)?.add(&e.region.cosine_matrix(&e.text)?)?.scale(0.5)
}
