//! Scores of queries and videos, and the span predictor.

use super::{ClipLevels, Padding, Reloclnet};
use crate::autograd::{Var, concat};
use crate::models::Model;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// What masked clips have for a logit.
pub(super) const MASKED_LOGIT: f32 = -1e10;

/// Logits over the positions of a video, -1e10 at padded ones.
#[derive(Clone, Debug)]
pub struct SpanLogits {
    /// Of the first clip.
    pub start: Var,
    /// Of the last.
    pub end: Var,
}

/// The mean over streams.
pub(super) fn mean(parts: Vec<Var>) -> Result<Var> {
    let count = parts.len() as f32;
    let sum = parts.into_iter().map(Ok).reduce(|a, b| a?.add(&b?));
    let none = || Error::Argument { op: "ReLoCLNet", argument: "streams", why: "are none".into() };
    sum.ok_or_else(none)??.scale(1.0 / count)
}

/// What does not fit is [`Error::Shape`] or [`Error::ShapeMismatch`], and [`Error::Argument`] for another number of streams
/// than the model's.
impl Reloclnet {
    /// The video-level scores (Nq, Nv): cosines of each query's vectors with every clip of the last level, the highest
    /// over the clips where the stream's mask (Nv, Lc) is 1, averaged over the streams.
    pub fn video_scores(&self, queries: &[Var], clips: &[ClipLevels], masks: &[Tensor]) -> Result<Var> {
        mean(self.each_stream(queries, clips, masks, |q, c, mask| {
            q.l2_normalize(1e-12)?.max_similarity(&c.last.l2_normalize(1e-12)?, Some(mask))
        })?)
    }

    /// The scores of VideoCL (Nq, Nv): as [`Reloclnet::video_scores`], with products instead of cosines, on the middle
    /// level.
    pub fn contrast_scores(&self, queries: &[Var], clips: &[ClipLevels], masks: &[Tensor]) -> Result<Var> {
        mean(self.each_stream(queries, clips, masks, |q, c, mask| q.max_similarity(&c.mid, Some(mask)))?)
    }

    /// The query vectors (N, D) as the span predictor compares them with clips.
    pub fn span_queries(&self, queries: &[Var]) -> Result<Vec<Var>> {
        self.expect_streams("queries", queries.len())?;
        self.context.streams.iter().zip(queries).map(|(s, q)| s.query_linear.forward(q)).collect()
    }

    /// The span logits (N, Lc) of each query in the video of the same number; `mask` (N, Lc) is the first stream's.
    pub fn span_logits(&self, queries: &[Var], clips: &[ClipLevels], mask: &Tensor) -> Result<SpanLogits> {
        let score = |(q, c): (&Var, &ClipLevels)| {
            let &[n, d] = q.shape() else { return Err(not_rows(q)) };
            q.reshape([n, 1, d])?.matmul_nt(&c.last)
        };
        let scores = self.span_queries(queries)?.iter().zip(clips).map(score).collect::<Result<_>>()?;
        let [n, length] = [mask.shape()[0], mask.width()];
        let logits = self.predict(mean(scores)?, &mask.reshape([n, 1, length])?)?;
        let flat = |x: Var| x.reshape([n, length]);
        Ok(SpanLogits { start: flat(logits.start)?, end: flat(logits.end)? })
    }

    /// The span logits (Nq, Nv, Lc) of each query in every video. Search computes them for the best videos alone, see
    /// [`crate::kernels::similarity::spans`].
    pub fn cross_span_logits(&self, queries: &[Var], clips: &[ClipLevels], mask: &Tensor) -> Result<SpanLogits> {
        let score = |(q, c): (&Var, &ClipLevels)| {
            let (&[_, d], &[videos, length, _]) = (q.shape(), c.last.shape()) else { return Err(not_rows(q)) };
            let rows = c.last.reshape([videos * length, d])?;
            q.matmul_nt(&rows)?.reshape([q.shape()[0], videos, length])
        };
        let scores = self.span_queries(queries)?.iter().zip(clips).map(score).collect::<Result<_>>()?;
        self.predict(mean(scores)?, mask)
    }

    /// Both convolutions over the last dimension of similarities (A, B, Lc); `mask` is broadcast to them.
    fn predict(&self, similarities: Var, mask: &Tensor) -> Result<SpanLogits> {
        let tape = similarities.tape().clone();
        let &[queries, videos, length] = similarities.shape() else { return Err(not_rows(&similarities)) };
        let similarities = match self.config().padding {
            Padding::Official => similarities,
            Padding::Masked => similarities.masked_fill(mask, 0.0)?,
        };
        let taps = concat(&[&self.start_predictor.on(&tape), &self.end_predictor.on(&tape)], 0)?;
        let rows = similarities.reshape([queries * videos, 1, length])?;
        let both = rows.conv1d(&taps, None, 1, self.config().conv_kernel / 2)?;
        let part =
            |i: usize| both.slice(1, i..i + 1)?.reshape([queries, videos, length])?.masked_fill(mask, MASKED_LOGIT);
        Ok(SpanLogits { start: part(0)?, end: part(1)? })
    }

    /// What `f` makes of each stream.
    pub(super) fn each_stream(
        &self,
        queries: &[Var],
        clips: &[ClipLevels],
        masks: &[Tensor],
        f: impl Fn(&Var, &ClipLevels, &Tensor) -> Result<Var>,
    ) -> Result<Vec<Var>> {
        self.expect_streams("queries", queries.len())?;
        self.expect_streams("clips", clips.len())?;
        self.expect_streams("masks", masks.len())?;
        queries.iter().zip(clips).zip(masks).map(|((q, c), mask)| f(q, c, mask)).collect()
    }

    /// Refuses what does not hold one entry for each stream.
    pub(super) fn expect_streams(&self, argument: &'static str, got: usize) -> Result<()> {
        let wanted = self.context.streams.len();
        if got == wanted {
            return Ok(());
        }
        let why = format!("hold {got} streams, the model has {wanted}");
        Err(Error::Argument { op: "ReLoCLNet", argument, why })
    }
}

fn not_rows(x: &Var) -> Error {
    Error::Shape { op: "ReLoCLNet", argument: "queries", expected: "(N, D)".into(), got: x.shape().to_vec() }
}
