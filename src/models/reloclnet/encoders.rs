//! The query encoder and the context encoder.

use super::{Padding, Reloclnet, ReloclnetConfig};
use crate::autograd::{AttentionOptions, Tape, Var, concat};
use crate::kernels::elementwise::unary::Activation;
use crate::models::Model;
use crate::nn::{AttentionBlock, Init, LayerNorm, Linear, MultiHeadAttention, Parameter, Scope};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Of every normalisation, inside the root.
const NORM_EPS: f32 = 1e-5;
/// What the official code adds to the scores of masked keys.
const MASKED_SCORE: f32 = -10_000.0;

/// LayerNorm, dropout, affine map, ReLU.
struct InputProjection {
    norm: LayerNorm,
    linear: Linear,
    dropout: f32,
}

impl InputProjection {
    fn new(s: &Scope<'_>, inputs: usize, c: &ReloclnetConfig) -> Result<Self> {
        let norm = LayerNorm::new(&s.scope("LayerNorm"), inputs, NORM_EPS)?;
        let linear = Linear::new(&s.scope("net.1"), inputs, c.hidden_size, c.linear_init())?;
        Ok(Self { norm, linear, dropout: c.input_dropout })
    }

    /// x (B, L, inputs) to (B, L, D). Features may be wider than the network by far: a batch of them that is larger than a
    /// binding may be is projected in parts.
    fn forward(&self, x: &Var) -> Result<Var> {
        let project =
            |x: &Var| self.linear.fused(&self.norm.forward(x)?.dropout(self.dropout)?, Some(Activation::Relu), None);
        let limit = x.value().gpu().report().limits.max_storage_buffer_binding_size;
        if x.value().bytes() <= limit || x.needs_gradient() {
            return project(x);
        }
        let video: usize = x.shape()[1..].iter().product();
        let parts = x.parts((limit / 4) as usize / video.max(1))?;
        let parts: Vec<Var> = parts.iter().map(project).collect::<Result<_>>()?;
        concat(&parts, 0)
    }
}

/// Adds a trained vector for each position, normalises, drops out.
struct Positions {
    table: Parameter,
    norm: LayerNorm,
    dropout: f32,
}

impl Positions {
    fn new(s: &Scope<'_>, positions: usize, c: &ReloclnetConfig) -> Result<Self> {
        let init = Init::Normal { std: c.init_std };
        let table = s.declare("position_embeddings.weight", [positions, c.hidden_size], init)?;
        let norm = LayerNorm::new(&s.scope("LayerNorm"), c.hidden_size, NORM_EPS)?;
        Ok(Self { table, norm, dropout: c.input_dropout })
    }

    fn forward(&self, x: &Var) -> Result<Var> {
        let (len, rows) = (x.shape()[1], self.table.shape()[0]);
        if len > rows {
            return Err(Error::IndexOutOfRange { op: "position embeddings", index: len as u64, len: rows as u64 });
        }
        let mut table = self.table.on(x.tape());
        if len < rows {
            table = table.slice(0, 0..len)?;
        }
        self.norm.forward(&x.add(&table)?)?.dropout(self.dropout)
    }
}

fn attention_block(s: &Scope<'_>, c: &ReloclnetConfig) -> Result<AttentionBlock> {
    let names = ["self.query", "self.key", "self.value", "output.dense"];
    let attention = MultiHeadAttention::new(s, names, c.hidden_size, c.num_heads, c.dropout, c.linear_init())?;
    let norm = LayerNorm::new(&s.scope("output.LayerNorm"), c.hidden_size, NORM_EPS)?;
    Ok(AttentionBlock { attention, norm, dropout: c.dropout })
}

/// Sentences to one vector for each stream.
pub(super) struct QueryEncoder {
    input: InputProjection,
    positions: Positions,
    blocks: [AttentionBlock; 2],
    /// (streams, D): a score of each token for each stream.
    modular: Linear,
}

impl QueryEncoder {
    pub(super) fn new(s: &Scope<'_>, c: &ReloclnetConfig, streams: usize) -> Result<Self> {
        let positions = Positions::new(&s.scope("query_pos_embed"), c.max_tokens, c)?;
        let input = InputProjection::new(&s.scope("query_input_proj"), c.query_dim, c)?;
        let blocks = [attention_block(&s.scope("query_encoder"), c)?, attention_block(&s.scope("query_encoder1"), c)?];
        let init = Init::Normal { std: c.init_std };
        let modular = Linear::without_bias(&s.scope("modular_vector_mapping"), c.hidden_size, streams, &init)?;
        Ok(Self { input, positions, blocks, modular })
    }
}

/// One stream's share of the context encoder and of the span predictor.
pub(super) struct Stream {
    input: InputProjection,
    /// Before the cross attention, and the two after it.
    blocks: [AttentionBlock; 3],
    /// With two streams: attention over the other one, without an output projection, and its normalisation.
    cross: Option<(MultiHeadAttention, LayerNorm)>,
    /// Of the query's vector, for the span predictor.
    pub(super) query_linear: Linear,
}

/// The streams, and what they share.
pub(super) struct ContextEncoder {
    positions: Positions,
    pub(super) streams: Vec<Stream>,
}

impl ContextEncoder {
    pub(super) fn new(s: &Scope<'_>, c: &ReloclnetConfig, widths: &[(&str, usize)]) -> Result<Self> {
        let positions = Positions::new(&s.scope("ctx_pos_embed"), c.max_clips, c)?;
        let streams = widths.iter().map(|&(name, inputs)| Self::stream(s, c, name, inputs, widths.len() > 1));
        Ok(Self { positions, streams: streams.collect::<Result<_>>()? })
    }

    fn stream(s: &Scope<'_>, c: &ReloclnetConfig, name: &str, inputs: usize, crosses: bool) -> Result<Stream> {
        let d = c.hidden_size;
        let part = |part: &str| s.scope(format!("{name}_{part}"));
        let input = InputProjection::new(&part("input_proj"), inputs, c)?;
        let block = |level: usize| attention_block(&s.scope(format!("{name}_encoder{level}")), c);
        let blocks = [block(1)?, block(2)?, block(3)?];
        let cross = if crosses {
            let (s, names) = (part("cross_att"), ["query", "key", "value"]);
            let attention = MultiHeadAttention::without_output(&s, names, d, c.num_heads, c.dropout, c.linear_init())?;
            Some((attention, LayerNorm::new(&part("cross_layernorm"), d, NORM_EPS)?))
        } else {
            None
        };
        let query_linear = Linear::new(&part("query_linear"), d, d, c.linear_init())?;
        Ok(Stream { input, blocks, cross, query_linear })
    }
}

/// One stream of a batch of videos.
#[derive(Clone, Debug)]
pub struct StreamInput {
    /// Clip features (B, Lc, width), endpoint features included.
    pub features: Tensor,
    /// 1 for clips, 0 for padding (B, Lc).
    pub mask: Tensor,
}

/// A stream's clips (B, Lc, D) at the three levels of the context encoder.
#[derive(Clone, Debug)]
pub struct ClipLevels {
    /// Before the cross attention.
    pub first: Var,
    /// What the contrastive losses see.
    pub mid: Var,
    /// What retrieval and the span predictor see.
    pub last: Var,
}

impl Reloclnet {
    /// Token features (B, Lq, query_dim) with their mask (B, Lq) to one vector (B, D) for each stream.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::ShapeMismatch`]; [`Error::IndexOutOfRange`] for more tokens than positions.
    pub fn encode_query(&self, tokens: &Var, mask: &Tensor) -> Result<Vec<Var>> {
        let q = &self.query;
        expect_width("tokens", tokens, self.config().query_dim)?;
        let mut x = q.positions.forward(&q.input.forward(tokens)?)?;
        let masks = self.key_masks(x.tape(), mask, None)?;
        for block in &q.blocks {
            x = block.forward(&x, &masks)?;
        }
        let scores = q.modular.forward(&x)?;
        let &[batch, len, streams] = scores.shape() else {
            let expected = "(batch, tokens, query_dim)".to_string();
            return Err(Error::Shape { op: "ReLoCLNet", argument: "tokens", expected, got: tokens.shape().to_vec() });
        };
        (0..streams)
            .map(|stream| {
                let logits = scores.slice(2, stream..stream + 1)?.reshape([batch, len])?;
                x.attention_pool(&logits, Some(mask), 0.0)
            })
            .collect()
    }

    /// The clips of each stream at three levels. The features are on the tape: inputs may need gradients.
    ///
    /// # Errors
    /// As [`Reloclnet::encode_query`]; [`Error::Argument`] unless there is one input for each stream.
    pub fn encode_clips(&self, features: &[Var], masks: &[Tensor]) -> Result<Vec<ClipLevels>> {
        let context = &self.context;
        self.expect_streams("features", features.len())?;
        self.expect_streams("masks", masks.len())?;
        let own: Vec<AttentionOptions> =
            features.iter().zip(masks).map(|(x, mask)| self.key_masks(x.tape(), mask, None)).collect::<Result<_>>()?;
        for ((_, width), x) in self.config().stream_widths().into_iter().zip(features) {
            expect_width("features", x, width)?;
        }
        let mut first = Vec::new();
        for ((stream, x), masks) in context.streams.iter().zip(features).zip(&own) {
            let x = context.positions.forward(&stream.input.forward(x)?)?;
            first.push(stream.blocks[0].forward(&x, masks)?);
        }
        let level = |i: usize, stream: &Stream| -> Result<ClipLevels> {
            let mut x = first[i].clone();
            if let Some((attention, norm)) = &stream.cross {
                let other = 1 - i;
                let seen = self.key_masks(x.tape(), &masks[other], Some(&masks[i]))?;
                x = norm.of_sum(&attention.forward(&x, &first[other], &seen, None)?, &x)?;
            }
            let mid = stream.blocks[1].forward(&x, &own[i])?;
            let last = stream.blocks[2].forward(&mid, &own[i])?;
            Ok(ClipLevels { first: first[i].clone(), mid, last })
        };
        context.streams.iter().enumerate().map(|(i, stream)| level(i, stream)).collect()
    }

    /// Which keys are seen: those where `keys` (B, Tk) is 1, and officially none by padded `queries` (B, Tq).
    fn key_masks(&self, tape: &Tape, keys: &Tensor, queries: Option<&Tensor>) -> Result<AttentionOptions> {
        if self.config().padding == Padding::Masked {
            return Ok(AttentionOptions { key_mask: Some(keys.clone()), ..Default::default() });
        }
        let (batch, length) = (keys.shape()[0], keys.width());
        let mut seen = tape.constant(keys.reshape([batch, 1, 1, length])?);
        if let Some(queries) = queries {
            seen = seen.mul(&tape.constant(queries.reshape([batch, 1, queries.width(), 1])?))?;
        }
        // (1 - seen) · -10,000, in f32 as the official code has it.
        let bias = Some(seen.affine(-MASKED_SCORE, MASKED_SCORE)?);
        Ok(AttentionOptions { bias, ..Default::default() })
    }
}

/// That features are (batch, length, width): deeper, an error would be about what a user has not given.
fn expect_width(argument: &'static str, x: &Var, width: usize) -> Result<()> {
    match *x.shape() {
        [_, _, own] if own == width => Ok(()),
        _ => Err(Error::shape("ReLoCLNet", argument, format!("(batch, length, {width})"), x.shape())),
    }
}
