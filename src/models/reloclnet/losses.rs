//! The five losses of a batch.

use super::scores::mean;
use super::{ClipLevels, RankingLoss, Reloclnet, ReloclnetConfig, ReloclnetInputs};
use crate::autograd::{Tape, Var};
use crate::kernels::elementwise::unary::Activation;
use crate::models::Model;
use crate::random::Random;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Which negatives the ranking loss takes: for each row of the scores, the place of one when the row is sorted from high
/// to low with the matching pair first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegativeDraws {
    /// For each query a video.
    pub videos: Vec<u32>,
    /// For each video a query.
    pub queries: Vec<u32>,
}

impl NegativeDraws {
    /// Uniform draws for a batch of `n`: among all negatives, or with `hard` among the `pool` highest of a row.
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch of fewer than two, which has no negatives.
    pub fn new(n: usize, hard: bool, pool: usize, random: &mut Random) -> Result<Self> {
        if n < 2 || (hard && pool == 0) {
            let why = format!("of {n} with a pool of {pool} has no negatives");
            return Err(Error::Argument { op: "ReLoCLNet", argument: "batch", why });
        }
        let places = if hard { pool.min(n - 1) } else { n - 1 };
        let mut draw = || (0..n).map(|_| 1 + random.below(places) as u32).collect();
        Ok(Self { videos: draw(), queries: draw() })
    }
}

/// The losses of a batch, scalars, all weighted.
#[derive(Clone, Debug)]
pub struct Losses {
    /// Their sum.
    pub total: Var,
    /// Cross entropies of start and end.
    pub span: Var,
    /// FrameCL; `None` at weight 0.
    pub frame: Option<Var>,
    /// VideoCL; `None` at weight 0.
    pub video: Option<Var>,
    /// Ranking against sampled videos.
    pub negative_video: Var,
    /// Ranking against sampled queries.
    pub negative_query: Var,
}

impl Losses {
    /// The parts by name, for logs.
    pub fn parts(&self) -> Vec<(&'static str, Var)> {
        let parts = [
            ("span", Some(&self.span)),
            ("frame", self.frame.as_ref()),
            ("video", self.video.as_ref()),
            ("negative_video", Some(&self.negative_video)),
            ("negative_query", Some(&self.negative_query)),
        ];
        parts.into_iter().filter_map(|(name, part)| Some((name, part?.clone()))).collect()
    }
}

/// A draw or a label beyond the end is [`Error::IndexOutOfRange`]; what does not fit, [`Error::Shape`] or
/// [`Error::ShapeMismatch`].
impl Reloclnet {
    /// The losses of a batch in which query i belongs to video i.
    pub fn loss(&self, tape: &Tape, inputs: &ReloclnetInputs, draws: &NegativeDraws) -> Result<Losses> {
        let queries = self.encode_query(&tape.constant(inputs.query.clone()), &inputs.query_mask)?;
        let features: Vec<Var> = inputs.streams.iter().map(|s| tape.constant(s.features.clone())).collect();
        let masks: Vec<Tensor> = inputs.streams.iter().map(|s| s.mask.clone()).collect();
        let clips = self.encode_clips(&features, &masks)?;
        self.loss_of(&queries, &clips, &masks, &inputs.spans, draws)
    }

    /// As [`Reloclnet::loss`], of encoded queries and clips.
    pub fn loss_of(
        &self,
        queries: &[Var],
        clips: &[ClipLevels],
        masks: &[Tensor],
        spans: &[[u32; 2]],
        draws: &NegativeDraws,
    ) -> Result<Losses> {
        let c = self.config();
        let scores = self.video_scores(queries, clips, masks)?;
        let positives = scores.diagonal()?;
        let rank = |scores: &Var, places: &[u32], weight: f32| {
            ranking_loss(c, &positives, &scores.negatives_at(places)?)?.scale(weight)
        };
        let negative_video = rank(&scores, &draws.videos, c.weight_negative_video)?;
        let negative_query = rank(&scores.transpose()?, &draws.queries, c.weight_negative_query)?;
        let span = self.span_loss(queries, clips, &masks[0], spans)?;
        let wanted = |weight: f32| weight != 0.0;
        let frame = wanted(c.weight_frame)
            .then(|| mean(self.frame_losses(queries, clips, masks, spans)?)?.scale(c.weight_frame))
            .transpose()?;
        let video = wanted(c.weight_video)
            .then(|| self.contrast_scores(queries, clips, masks)?.mil_nce()?.scale(c.weight_video))
            .transpose()?;
        let mut total = negative_video.add(&negative_query)?.add(&span)?;
        for part in frame.iter().chain(&video) {
            total = total.add(part)?;
        }
        Ok(Losses { total, span, frame, video, negative_video, negative_query })
    }

    /// Cross entropy of the start plus that of the end, weighted.
    fn span_loss(&self, queries: &[Var], clips: &[ClipLevels], mask: &Tensor, spans: &[[u32; 2]]) -> Result<Var> {
        let logits = self.span_logits(queries, clips, mask)?;
        let targets = |i: usize| spans.iter().map(|s| s[i]).collect::<Vec<u32>>();
        let sum = logits.start.cross_entropy(&targets(0))?.add(&logits.end.cross_entropy(&targets(1))?)?;
        sum.scale(self.config().weight_span)
    }

    /// FrameCL of each stream, not weighted: products of the query's vector with the clips of its video, on the middle
    /// level; the label's clips are positives, the others negatives.
    pub fn frame_losses(
        &self,
        queries: &[Var],
        clips: &[ClipLevels],
        masks: &[Tensor],
        spans: &[[u32; 2]],
    ) -> Result<Vec<Var>> {
        self.each_stream(queries, clips, masks, |q, c, mask| {
            let (n, length, d) = (spans.len(), mask.width(), q.value().width());
            let scores = q.reshape([n, 1, d])?.matmul_nt(&c.mid)?;
            scores.reshape([n, length])?.jensen_shannon(&described(spans, mask)?, mask)
        })
    }
}

/// 1 for the clips of each label, both ends included: (N, Lc), as `mask`.
fn described(spans: &[[u32; 2]], mask: &Tensor) -> Result<Tensor> {
    let clips = 0..mask.width() as u32;
    let ones = spans
        .iter()
        .flat_map(|&[start, end]| clips.clone().map(move |clip| if (start..=end).contains(&clip) { 1.0 } else { 0.0 }));
    Tensor::from_slice(mask.gpu(), [spans.len(), mask.width()], &ones.collect::<Vec<f32>>())
}

fn ranking_loss(c: &ReloclnetConfig, positives: &Var, negatives: &Var) -> Result<Var> {
    let difference = negatives.sub(positives)?;
    let each = match c.ranking_loss {
        RankingLoss::Hinge => difference.affine(1.0, c.margin)?.activation(Activation::Relu)?,
        RankingLoss::Lse => difference.activation(Activation::Softplus)?,
    };
    each.mean_all()
}
