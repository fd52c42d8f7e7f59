//! What models that compare texts with videos through CLIP's towers share: one interface for training, evaluation and
//! two-stage retrieval.

use crate::autograd::Var;
use crate::models::clip::TextFeatures;
use crate::models::clip4clip::{Base, Clip4Clip, VideoFeatures, unit};
use crate::models::eercf::{Eercf, EercfTexts, EercfVideos};
use crate::models::glccl::{Glccl, GlcclTexts, GlcclVideos};
use crate::models::heads::{Head, weighted_sum};
use crate::models::pairing::PairList;
use crate::nn::ParameterStore;
use crate::{Error, Result};

/// A loss, and its parts by name.
pub type PairLoss = (Var, Vec<(&'static str, Var)>);

/// What a model needs beside sentences and frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Words of texts.
    pub words: bool,
    /// Patches of frames.
    pub patches: bool,
}

/// A model that compares texts with videos.
pub trait PairModel {
    /// Texts as the heads compare them.
    type Texts;
    /// Videos as the heads compare them.
    type Videos;

    /// Towers and temporal transformer.
    fn base(&self) -> &Base;

    /// The parameters.
    fn store(&self) -> &ParameterStore;

    /// Whether texts need their words, and videos their patches.
    fn needs(&self) -> Needs;

    /// The loss of a batch whose text i belongs to video i.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::ShapeMismatch`].
    fn loss(&self, texts: &TextFeatures, videos: &VideoFeatures) -> Result<PairLoss>;

    /// What depends on texts alone, computed once.
    ///
    /// # Errors
    /// As [`PairModel::loss`].
    fn prepare_texts(&self, texts: &TextFeatures) -> Result<Self::Texts>;

    /// What depends on videos alone, computed once.
    ///
    /// # Errors
    /// As [`PairModel::loss`].
    fn prepare_videos(&self, videos: &VideoFeatures) -> Result<Self::Videos>;

    /// Every head for any texts (B) and videos (N): (B, N) each.
    ///
    /// # Errors
    /// As [`PairModel::loss`].
    fn compare(&self, texts: &Self::Texts, videos: &Self::Videos) -> Result<Vec<Head>>;

    /// The score that ranks, from the heads: (B, V).
    ///
    /// # Errors
    /// Device errors.
    fn similarity(&self, heads: &[Head]) -> Result<Var>;
}

/// A model whose videos have one vector each for a first stage, which finds the candidates of the second.
pub trait TwoStageModel: PairModel {
    /// Texts for the first stage (B, D), of any length.
    fn coarse_texts(&self, texts: &Self::Texts) -> Var;

    /// Videos for the first stage (N, D), of unit length.
    fn coarse_videos(&self, videos: &Self::Videos) -> Var;

    /// Every head for listed pairs of texts and videos: (P, 1) each.
    ///
    /// # Errors
    /// As [`PairModel::loss`]; [`Error::IndexOutOfRange`] for a text or video that there is not.
    fn compare_pairs(&self, texts: &Self::Texts, videos: &Self::Videos, pairs: &PairList) -> Result<Vec<Head>>;

    /// Multiply-adds that the heads take for a pair, counting dot products with features alone, as the EERCF paper's
    /// figure 1 does: first of the coarse score, then of all others. `videos` tells how many frames and patches there are.
    fn pair_cost(&self, videos: &Self::Videos) -> [u64; 2];
}

impl PairModel for Clip4Clip {
    type Texts = Var;
    type Videos = Var;

    fn base(&self) -> &Base {
        self.base()
    }

    fn store(&self) -> &ParameterStore {
        self.store()
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn loss(&self, texts: &TextFeatures, videos: &VideoFeatures) -> Result<PairLoss> {
        let heads = self.compare(&self.prepare_texts(texts)?, &self.prepare_videos(videos)?)?;
        Ok((heads[0].scores.info_nce()?, Vec::new()))
    }

    fn prepare_texts(&self, texts: &TextFeatures) -> Result<Var> {
        unit(&texts.sentence)
    }

    fn prepare_videos(&self, videos: &VideoFeatures) -> Result<Var> {
        self.videos(videos)
    }

    fn compare(&self, texts: &Var, videos: &Var) -> Result<Vec<Head>> {
        self.heads(texts, videos)
    }

    fn similarity(&self, heads: &[Head]) -> Result<Var> {
        Ok(heads[0].scores.clone())
    }
}

impl PairModel for Eercf {
    type Texts = EercfTexts;
    type Videos = EercfVideos;

    fn base(&self) -> &Base {
        self.base()
    }

    fn store(&self) -> &ParameterStore {
        self.store()
    }

    fn needs(&self) -> Needs {
        Needs { words: false, patches: self.uses_patches() }
    }

    fn loss(&self, texts: &TextFeatures, videos: &VideoFeatures) -> Result<PairLoss> {
        let matched = self.matched(&texts.sentence, &self.videos(videos)?)?;
        let losses = self.losses(&texts.sentence, &matched)?;
        let parts = [("weak", losses.weak), ("strong", losses.strong)];
        Ok((losses.total, parts.into_iter().chain(losses.pearson).collect()))
    }

    fn prepare_texts(&self, texts: &TextFeatures) -> Result<EercfTexts> {
        self.texts(&texts.sentence)
    }

    fn prepare_videos(&self, videos: &VideoFeatures) -> Result<EercfVideos> {
        self.videos(videos)
    }

    fn compare(&self, texts: &EercfTexts, videos: &EercfVideos) -> Result<Vec<Head>> {
        self.heads(texts, videos)
    }

    /// The second stage's score.
    fn similarity(&self, heads: &[Head]) -> Result<Var> {
        weighted_sum(heads, &self.config().rerank.by_head())
    }
}

impl TwoStageModel for Eercf {
    fn coarse_texts(&self, texts: &EercfTexts) -> Var {
        texts.coarse.clone()
    }

    fn coarse_videos(&self, videos: &EercfVideos) -> Var {
        videos.video.clone()
    }

    fn compare_pairs(&self, texts: &EercfTexts, videos: &EercfVideos, pairs: &PairList) -> Result<Vec<Head>> {
        self.heads_of(texts, videos, pairs)
    }

    fn pair_cost(&self, videos: &EercfVideos) -> [u64; 2] {
        let width = videos.video.value().width() as u64;
        let rows = |x: &Var| x.shape()[1] as u64;
        // The tower's frames and the temporal ones; then the patches.
        [width, width * (2 * rows(&videos.frames) + videos.patches.as_ref().map_or(0, rows))]
    }
}

/// The words that GLCCL needs.
fn words(texts: &TextFeatures) -> Result<&Var> {
    let lack = || Error::Argument { op: "GLCCL", argument: "texts", why: "lack their words".into() };
    texts.words.as_ref().ok_or_else(lack)
}

impl PairModel for Glccl {
    type Texts = GlcclTexts;
    type Videos = GlcclVideos;

    fn base(&self) -> &Base {
        self.base()
    }

    fn store(&self) -> &ParameterStore {
        self.store()
    }

    fn needs(&self) -> Needs {
        Needs { words: true, patches: false }
    }

    fn loss(&self, texts: &TextFeatures, videos: &VideoFeatures) -> Result<PairLoss> {
        let losses = self.losses(&self.compare(&self.prepare_texts(texts)?, &self.videos(videos)?)?)?;
        let parts = [("contrast", Some(losses.contrast)), ("consistency", losses.consistency)];
        Ok((losses.total, parts.into_iter().filter_map(|(name, part)| Some((name, part?))).collect()))
    }

    fn prepare_texts(&self, texts: &TextFeatures) -> Result<GlcclTexts> {
        self.texts(&texts.sentence, words(texts)?)
    }

    fn prepare_videos(&self, videos: &VideoFeatures) -> Result<GlcclVideos> {
        self.videos(videos)
    }

    fn compare(&self, texts: &GlcclTexts, videos: &GlcclVideos) -> Result<Vec<Head>> {
        self.heads(texts, videos)
    }

    fn similarity(&self, heads: &[Head]) -> Result<Var> {
        self.similarity(heads)
    }
}

impl TwoStageModel for Glccl {
    fn coarse_texts(&self, texts: &GlcclTexts) -> Var {
        texts.unit.clone()
    }

    fn coarse_videos(&self, videos: &GlcclVideos) -> Var {
        videos.video.clone()
    }

    fn compare_pairs(&self, texts: &GlcclTexts, videos: &GlcclVideos, pairs: &PairList) -> Result<Vec<Head>> {
        self.heads_of(texts, videos, pairs)
    }

    fn pair_cost(&self, videos: &GlcclVideos) -> [u64; 2] {
        let (frames, width) = (videos.frames.shape()[1] as u64, videos.video.value().width() as u64);
        // Sentence and words, each raw and mapped, with every frame; the sentence once more at unit length.
        [width, width * frames * (2 * self.config().base.words as u64 + 3)]
    }
}
