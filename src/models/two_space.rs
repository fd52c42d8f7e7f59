//! Models with two spaces: a text embedding is compared with two of the video, one by its regions and one by its frames.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::models::Model;
use crate::tensor::Tensor;

/// The inputs of a batch, on the GPU.
#[derive(Clone, Debug)]
pub struct TwoSpaceInputs {
    /// Token features (B, L, text_dim).
    pub text: Tensor,
    /// 1 for tokens, 0 for padding (B, L).
    pub text_mask: Tensor,
    /// Region features (B, T, R, region_dim).
    pub region: Tensor,
    /// Frame features (B, T, global_dim).
    pub global: Tensor,
    /// 1 for frames that count (B, T); `None` for all, as the official trainer feeds.
    pub frame_mask: Option<Tensor>,
}

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

/// A hinge loss on a matrix of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hinge {
    /// By how much a matching pair must lead.
    pub margin: f32,
    /// Hardest negatives instead of the sum over all.
    pub max_violation: bool,
}

/// A model with one embedding of text and two of video.
pub trait TwoSpaceModel: Model {
    /// Width D of the embeddings.
    fn width(&self) -> usize;

    /// The loss of both spaces.
    fn hinge(&self) -> Hinge;

    /// Token features (B, L, text_dim) with their mask (B, L) to (B, D).
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::ShapeMismatch`].
    fn encode_text(&self, tape: &Tape, text: &Tensor, mask: &Tensor) -> Result<Var>;

    /// All three embeddings of a batch.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for inputs that do not fit the configuration.
    fn forward(&self, tape: &Tape, inputs: &TwoSpaceInputs) -> Result<Embeddings>;

    /// The two hinge losses on cosines, and their mean. Every video of the batch has one caption.
    ///
    /// # Errors
    /// [`crate::Error::ShapeMismatch`].
    fn loss(&self, e: &Embeddings) -> Result<Loss> {
        let Hinge { margin, max_violation } = self.hinge();
        let hinge = |videos: &Var| videos.cosine_matrix(&e.text)?.hinge(margin, max_violation);
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
