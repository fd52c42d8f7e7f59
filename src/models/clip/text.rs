//! The text tower: a causal transformer over tokens.

use super::blocks::ResidualBlocks;
use super::config::{ClipConfig, EndOfText, NORM_EPS};
use crate::autograd::{AttentionOptions, Tape, Var};
use crate::nn::{Embedding, Init, LayerNorm, Parameter, Scope};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Token ids to the joint space.
pub struct TextTower {
    tokens: Embedding,
    positions: Parameter,
    blocks: ResidualBlocks,
    norm: LayerNorm,
    projection: Parameter,
    end_of_text: EndOfText,
}

/// What the text tower gives for B texts, before any normalisation to unit length.
#[derive(Clone, Debug)]
pub struct TextFeatures {
    /// Of the end token (B, D).
    pub sentence: Var,
    /// Of every position, padding included (B, L, D), where they were asked for.
    pub words: Option<Var>,
}

impl TextTower {
    pub(super) fn new(s: &Scope<'_>, config: &ClipConfig) -> Result<Self> {
        let width = config.text.width;
        let normal = |std: f32| Init::Normal { std };
        let positions = s.declare("positional_embedding", [config.positions, width], normal(0.01))?;
        let projection_init = normal(1.0 / (width as f32).sqrt());
        let projection = s.declare("text_projection", [width, config.joint], projection_init)?;
        let (blocks, activation) = (s.scope("transformer.resblocks"), config.activation.into());
        let blocks = ResidualBlocks::new(&blocks, config.text, activation, NORM_EPS, config.recompute)?;
        let tokens = Embedding::new(&s.scope("token_embedding"), config.vocabulary, width, &normal(0.02))?;
        let norm = LayerNorm::new(&s.scope("ln_final"), width, NORM_EPS)?;
        Ok(Self { tokens, positions, blocks, norm, projection, end_of_text: config.end_of_text })
    }

    /// Ids (B · length) to the last block's tokens (B, length, width). A token sees those up to itself; where there is a
    /// `mask` (B, length), only those of them that it has at 1.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] for more positions than the table has, or an id beyond the vocabulary;
    /// [`Error::Shape`] for ids that are no whole number of texts.
    pub fn tokens(&self, tape: &Tape, ids: &[u32], length: usize, mask: Option<&Tensor>) -> Result<Var> {
        let rows = self.positions.shape()[0];
        if length > rows {
            return Err(Error::IndexOutOfRange { op: "text tower", index: length as u64, len: rows as u64 });
        }
        let x = self.tokens.forward(tape, ids, &[self.count(ids, length)?, length])?;
        let x = x.add(&self.positions.rows_on(tape, 0..length)?)?;
        let masks = AttentionOptions { causal: true, key_mask: mask.cloned(), ..AttentionOptions::default() };
        self.blocks.forward(&x, &masks)
    }

    /// Tokens (.., width) to the joint space (.., D).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn project(&self, tokens: &Var) -> Result<Var> {
        self.norm.forward(tokens)?.matmul(&self.projection.on(tokens.tape()))
    }

    /// The features of tokens (B, length, width) or words (B, length, D) that stand for the whole text: (B, ..).
    ///
    /// # Errors
    /// [`Error::Argument`] for a text without an end token.
    pub fn pool(&self, tokens: &Var, ids: &[u32], length: usize) -> Result<Var> {
        let texts = self.count(ids, length)?;
        let end = |(i, text): (usize, &[u32])| -> Result<u32> {
            let at = match self.end_of_text {
                EndOfText::LargestId => text.iter().max().and_then(|max| text.iter().position(|id| id == max)),
                EndOfText::FirstId(end) => text.iter().position(|&id| id == end),
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
        mask: Option<&Tensor>,
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
