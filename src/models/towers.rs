//! What models that compare texts with videos through CLIP's towers share: one interface for training, evaluation and
//! two-stage retrieval.

use crate::Result;
use crate::autograd::Var;
use crate::models::Model;
use crate::models::clip::TextFeatures;
use crate::models::clip4clip::{Base, VideoFeatures};
use crate::models::heads::Head;
use crate::models::pairing::PairList;

/// A loss, and its parts by name.
pub type LossParts = (Var, Vec<(&'static str, Var)>);

/// What a model needs beside sentences and frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Words of texts.
    pub words: bool,
    /// Patches of frames.
    pub patches: bool,
}

/// A model that compares texts with videos by what CLIP's towers make of them. What does not fit is
/// [`crate::Error::Shape`] or [`crate::Error::ShapeMismatch`].
pub trait TowerModel: Model {
    /// Texts as the heads compare them.
    type Texts;
    /// Videos as the heads compare them.
    type Videos;

    /// Towers and temporal transformer.
    fn base(&self) -> &Base;

    /// Whether texts need their words, and videos their patches.
    fn needs(&self) -> Needs;

    /// The loss of a batch whose text i belongs to video i.
    fn loss(&self, texts: &TextFeatures, videos: &VideoFeatures) -> Result<LossParts>;

    /// What depends on texts alone, computed once.
    fn prepare_texts(&self, texts: &TextFeatures) -> Result<Self::Texts>;

    /// What depends on videos alone, computed once.
    fn prepare_videos(&self, videos: &VideoFeatures) -> Result<Self::Videos>;

    /// Every head for any texts (B) and videos (N): (B, N) each.
    fn compare(&self, texts: &Self::Texts, videos: &Self::Videos) -> Result<Vec<Head>>;

    /// The score that ranks, from the heads: (B, V).
    fn similarity(&self, heads: &[Head]) -> Result<Var>;
}

/// A model whose videos have one vector each for a first stage, which finds the candidates of the second.
pub trait TwoStageModel: TowerModel {
    /// Texts for the first stage (B, D), of any length.
    fn coarse_texts(&self, texts: &Self::Texts) -> Var;

    /// Videos for the first stage (N, D), of unit length.
    fn coarse_videos(&self, videos: &Self::Videos) -> Var;

    /// Every head for listed pairs of texts and videos: (P, 1) each.
    ///
    /// # Errors
    /// [`crate::Error::IndexOutOfRange`] for a text or video that there is not.
    fn compare_pairs(&self, texts: &Self::Texts, videos: &Self::Videos, pairs: &PairList) -> Result<Vec<Head>>;

    /// Multiply-adds that the heads take for a pair, counting dot products with features alone, as the EERCF paper's
    /// figure 1 does: first of the coarse score, then of all others. `videos` tells how many frames and patches there are.
    fn pair_cost(&self, videos: &Self::Videos) -> [u64; 2];
}
