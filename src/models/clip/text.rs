//! The text tower: a transformer over tokens.

use super::blocks::ResidualBlocks;
use super::config::{ClipConfig, EndOfText, Family};
use crate::autograd::{AttentionOptions, Tape, Var};
use crate::models::bert::{BertConfig, Encoder, Sentences};
use crate::nn::{Embedding, Init, LayerNorm, Linear, LinearInit, Parameter, Scope};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Token ids to the joint space.
pub struct TextTower {
    network: Network,
    projection: Projection,
    standing_for_all: StandingForAll,
    positions: usize,
}

enum Network {
    /// Normalises last, and with CLIP a token sees those up to itself.
    Transformer { tokens: Embedding, positions: Parameter, blocks: ResidualBlocks, norm: LayerNorm, causal: bool },
    /// Padding, which has this id, is not seen.
    Bert { encoder: Box<Encoder>, pad: u32 },
}

enum Projection {
    /// (width, D).
    Matrix(Parameter),
    /// With a bias.
    Affine(Linear),
}

/// The token whose feature is the text's.
#[derive(Clone, Copy)]
enum StandingForAll {
    First,
    Last,
    End(EndOfText),
}

/// What the text tower gives for B texts, before any normalisation to unit length.
#[derive(Clone, Debug)]
pub struct TextFeatures {
    /// Of the token that stands for all (B, D).
    pub sentence: Var,
    /// Of every position, padding included (B, L, D), where they were asked for.
    pub words: Option<Var>,
}

impl TextTower {
    pub(super) fn new(s: &Scope<'_>, config: &ClipConfig) -> Result<Self> {
        let (width, joint, family) = (config.text.width, config.joint, config.family);
        let init = Init::Normal { std: 1.0 / (width as f32).sqrt() };
        let positions = || s.declare("positional_embedding", [config.positions, width], Init::Normal { std: 0.01 });
        let matrix = |init| s.declare("text_projection", [width, joint], init).map(Projection::Matrix);
        let (network, projection, standing_for_all) = match family {
            Family::Clip => {
                let (positions, projection) = (positions()?, matrix(init)?);
                let end = StandingForAll::End(config.end_of_text);
                (Network::transformer(s, config, positions, true)?, projection, end)
            }
            Family::Siglip => {
                let init = LinearInit { weight: init, bias: Init::Constant(0.0) };
                let projection = Linear::new(&s.scope("text_projection"), width, joint, init)?;
                let network = Network::transformer(s, config, positions()?, false)?;
                (network, Projection::Affine(projection), StandingForAll::Last)
            }
            Family::ChineseClip { token_types, pad } => {
                let encoder = Box::new(Encoder::new(&s.scope("bert"), &bert(config, token_types, pad))?);
                (Network::Bert { encoder, pad }, matrix(init)?, StandingForAll::First)
            }
        };
        Ok(Self { network, projection, standing_for_all, positions: config.positions })
    }

    /// Ids (B · length) to the network's tokens (B, length, width), which [`TextTower::project`] takes. With CLIP a token
    /// sees those up to itself, otherwise all; where there is a `mask` (B, length), only those of them that it has at 1.
    /// Without one, Chinese-CLIP's sees what is no padding.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] for more positions than the table has, or an id beyond the vocabulary;
    /// [`Error::Shape`] for ids that are no whole number of texts, or a mask of another length; [`Error::Argument`] for
    /// texts of a SigLIP that are not padded to all its positions.
    pub fn tokens(&self, tape: &Tape, ids: &[u32], length: usize, mask: Option<&[f32]>) -> Result<Var> {
        let texts = self.count(ids, length)?;
        if length > self.positions {
            return Err(Error::IndexOutOfRange { op: "text tower", index: length as u64, len: self.positions as u64 });
        }
        let (tokens, positions, blocks, causal) = match &self.network {
            Network::Transformer { tokens, positions, blocks, causal, .. } => (tokens, positions, blocks, *causal),
            Network::Bert { encoder, pad } => {
                let seen: Vec<f32> = ids.iter().map(|id| if id == pad { 0.0 } else { 1.0 }).collect();
                let sentences = Sentences { ids, mask: mask.unwrap_or(&seen), token_types: None, length };
                return Ok(encoder.forward(tape, &sentences)?.last_hidden_state);
            }
        };
        if !causal && length != self.positions {
            let why = format!("of {length} tokens must be padded to {}, as SigLIP was trained", self.positions);
            return Err(Error::argument("text tower", "ids", why));
        }
        let x = tokens.forward(tape, ids, &[texts, length])?;
        let x = x.add(&positions.rows_on(tape, 0..length)?)?;
        let mask = mask.map(|mask| Tensor::from_slice(tape.gpu(), [texts, length], mask)).transpose()?;
        blocks.forward(&x, &AttentionOptions { causal, key_mask: mask, ..AttentionOptions::default() })
    }

    /// Tokens (.., width) after the last normalisation, where the network has one; [`TextTower::project`] does it, too.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn normed(&self, tokens: &Var) -> Result<Var> {
        match &self.network {
            Network::Transformer { norm, .. } => norm.forward(tokens),
            Network::Bert { .. } => Ok(tokens.clone()),
        }
    }

    /// Tokens (.., width) to the joint space (.., D).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn project(&self, tokens: &Var) -> Result<Var> {
        let normed = self.normed(tokens)?;
        match &self.projection {
            Projection::Matrix(matrix) => normed.matmul(&matrix.on(tokens.tape())),
            Projection::Affine(linear) => linear.forward(&normed),
        }
    }

    /// The features of tokens (B, length, width) or words (B, length, D) that stand for the whole text: (B, ..).
    ///
    /// # Errors
    /// [`Error::Argument`] for a text without an end token.
    pub fn pool(&self, tokens: &Var, ids: &[u32], length: usize) -> Result<Var> {
        let texts = self.count(ids, length)?;
        let end = |(i, text): (usize, &[u32])| -> Result<u32> {
            let at = match self.standing_for_all {
                StandingForAll::First => Some(0),
                StandingForAll::Last => Some(length - 1),
                StandingForAll::End(EndOfText::LargestId) => {
                    text.iter().max().and_then(|max| text.iter().position(|id| id == max))
                }
                StandingForAll::End(EndOfText::FirstId(end)) => text.iter().position(|&id| id == end),
            };
            let why = || format!("of text {i} lack the end token");
            let at = at.ok_or_else(|| Error::Argument { op: "text tower", argument: "ids", why: why() })?;
            Ok((i * length + at) as u32)
        };
        let ends: Vec<u32> = ids.chunks_exact(length.max(1)).enumerate().map(end).collect::<Result<_>>()?;
        tokens.reshape([texts * length, tokens.value().width()])?.embedding(&ends, &[texts])
    }

    /// Ids (B · length) to the joint space; `words` says whether those are wanted, too. The network runs at `length`: what
    /// stands after the end token changes no sentence, but it does have words.
    ///
    /// # Errors
    /// As [`TextTower::tokens`] and [`TextTower::pool`].
    pub fn encode(
        &self,
        tape: &Tape,
        ids: &[u32],
        length: usize,
        mask: Option<&[f32]>,
        words: bool,
    ) -> Result<TextFeatures> {
        let tokens = self.tokens(tape, ids, length, mask)?;
        if !words {
            let sentence = self.project(&self.pool(&tokens, ids, length)?)?;
            return Ok(TextFeatures { sentence, words: None });
        }
        let words = self.project(&tokens)?;
        Ok(TextFeatures { sentence: self.pool(&words, ids, length)?, words: Some(words) })
    }

    fn count(&self, ids: &[u32], length: usize) -> Result<usize> {
        if length == 0 || !ids.len().is_multiple_of(length) {
            let expected = format!("texts of {length} tokens");
            return Err(Error::Shape { op: "text tower", argument: "ids", expected, got: vec![ids.len()] });
        }
        Ok(ids.len() / length)
    }
}

impl Network {
    fn transformer(s: &Scope<'_>, config: &ClipConfig, positions: Parameter, causal: bool) -> Result<Self> {
        let (width, eps) = (config.text.width, config.family.norm_eps());
        let (blocks, activation) = (s.scope("transformer.resblocks"), config.activation.into());
        let blocks = ResidualBlocks::new(&blocks, config.text, activation, eps, config.recompute)?;
        let tokens =
            Embedding::new(&s.scope("token_embedding"), config.vocabulary, width, &Init::Normal { std: 0.02 })?;
        let norm = LayerNorm::new(&s.scope("ln_final"), width, eps)?;
        Ok(Self::Transformer { tokens, positions, blocks, norm, causal })
    }
}

/// Chinese-CLIP's BERT; dropout is for those who train one from scratch.
fn bert(config: &ClipConfig, token_types: usize, pad: u32) -> BertConfig {
    BertConfig {
        vocab_size: config.vocabulary,
        hidden_size: config.text.width,
        num_hidden_layers: config.text.layers,
        num_attention_heads: config.text.heads,
        intermediate_size: config.text.mlp,
        max_position_embeddings: config.positions,
        type_vocab_size: token_types,
        pad_token_id: pad,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        add_pooling_layer: false,
        ..BertConfig::default()
    }
}
