//! BERT and RoBERTa: encoders of text, number for number as Hugging Face's `BertModel` and `RobertaModel` (Devlin et
//! al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2019; Liu et al., "RoBERTa:
//! A Robustly Optimized BERT Pretraining Approach", 2019).
//!
//! BiC-Net and ReLoCLNet are fed with their features: see [`TokenRecipe`].

mod config;
mod features;
mod weights;

#[cfg(all(test, feature = "datasets"))]
mod tests;

use crate::autograd::{AttentionOptions, Tape, Var, concat};
use crate::kernels::elementwise::unary::Activation;
use crate::models::{Finish, Model, Stored};
use crate::nn::{
    AttentionBlock, Embedding, FeedForward, Init, LayerNorm, Linear, LinearInit, MultiHeadAttention, Scope,
};
use crate::tensor::Tensor;
use crate::{Error, Result};

pub use config::{BertConfig, BertKind};
pub use features::TokenRecipe;

/// Sentences as ids, padded to one length: (B, L), row by row.
#[derive(Clone, Copy, Debug)]
pub struct Sentences<'a> {
    /// Ids of words (B, L).
    pub ids: &'a [u32],
    /// 1 for tokens, 0 for padding (B, L).
    pub mask: &'a [f32],
    /// Numbers of the sentence within a pair (B, L); `None` for 0 everywhere.
    pub token_types: Option<&'a [u32]>,
    /// Positions of each, L.
    pub length: usize,
}

impl Sentences<'_> {
    /// The number of sentences, B.
    ///
    /// # Errors
    /// [`Error::Shape`] unless all parts are (B, L).
    pub fn count(&self) -> Result<usize> {
        let n = self.ids.len();
        let wrong = |argument, expected: String, got: usize| {
            Err(Error::Shape { op: "Sentences", argument, expected, got: vec![got] })
        };
        if self.length == 0 || !n.is_multiple_of(self.length) {
            return wrong("ids", format!("rows of {}", self.length), n);
        }
        if self.mask.len() != n {
            return wrong("mask", format!("that of the {n} ids"), self.mask.len());
        }
        match self.token_types {
            Some(types) if types.len() != n => wrong("token_types", format!("that of the {n} ids"), types.len()),
            _ => Ok(n / self.length),
        }
    }
}

/// What the network makes of a batch.
#[derive(Clone, Debug)]
pub struct BertOutputs {
    /// What the first layer takes (B, L, D).
    pub embedding_output: Var,
    /// The result of the layer before the last (B, L, D); with a single layer, the embeddings.
    pub second_to_last_hidden_state: Var,
    /// The result of the last layer (B, L, D).
    pub last_hidden_state: Var,
    /// tanh of an affine map of the first token (B, D); `None` without a pooler.
    pub pooler_output: Option<Var>,
    mask: Tensor,
}

impl BertOutputs {
    /// The mean of the last layer over the tokens (B, D).
    pub fn mean_pooled(&self) -> Result<Var> {
        self.last_hidden_state.masked_mean(Some(&self.mask))
    }

    /// The last two layers side by side, the last one second (B, L, 2 D).
    pub fn concat_last_two(&self) -> Result<Var> {
        concat(&[&self.second_to_last_hidden_state, &self.last_hidden_state], 2)
    }
}

/// Words, token types and positions: three tables, summed and normalised.
struct Embeddings {
    words: Embedding,
    positions: Embedding,
    token_types: Embedding,
    norm: LayerNorm,
}

/// Attention and a feed-forward network, each normalised after its residual sum.
struct Layer {
    attention: AttentionBlock,
    feed_forward: FeedForward,
    norm: LayerNorm,
}

/// The network without a store of its own: a part of a larger model.
pub(crate) struct Encoder {
    config: BertConfig,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    pooler: Option<Linear>,
}

/// The network.
pub struct Bert {
    stored: Stored<BertConfig>,
    encoder: Encoder,
}

/// The parameters have Hugging Face's names.
impl Model for Bert {
    type Config = BertConfig;

    fn declare(config: &BertConfig, s: &Scope<'_>) -> Result<Finish<Self>> {
        let encoder = Encoder::new(s, config)?;
        Ok(Box::new(move |stored| Self { stored, encoder }))
    }

    fn stored(&self) -> &Stored<BertConfig> {
        &self.stored
    }
}

impl Bert {
    /// Encodes sentences. Padding is no key; what stands at its own positions has no meaning.
    ///
    /// # Errors
    /// [`Error::Shape`] unless all parts of `sentences` are (B, L); [`Error::IndexOutOfRange`] for ids beyond the
    /// vocabulary, token types beyond their table, and more tokens than positions; device errors.
    pub fn forward(&self, tape: &Tape, sentences: &Sentences<'_>) -> Result<BertOutputs> {
        self.encoder.forward(tape, sentences)
    }
}

impl Encoder {
    /// Declares the parameters under Hugging Face's names.
    pub(crate) fn new(s: &Scope<'_>, config: &BertConfig) -> Result<Self> {
        config.check()?;
        let (c, d, init) = (config, config.hidden_size, linear_init(config));
        let (first, layers) = (s.scope("embeddings"), s.scope("encoder.layer"));
        let table = |name: &str, rows: usize| Embedding::new(&first.scope(name), rows, d, &init.weight);
        let embeddings = Embeddings {
            words: table("word_embeddings", c.vocab_size)?,
            positions: table("position_embeddings", c.max_position_embeddings)?,
            token_types: table("token_type_embeddings", c.type_vocab_size)?,
            norm: LayerNorm::new(&first.scope("LayerNorm"), d, c.layer_norm_eps)?,
        };
        let layers = (0..c.num_hidden_layers).map(|l| layer(&layers.scope(l), c)).collect::<Result<_>>()?;
        let pooler = c.add_pooling_layer.then(|| Linear::new(&s.scope("pooler.dense"), d, d, init)).transpose()?;
        Ok(Self { config: config.clone(), embeddings, layers, pooler })
    }

    /// As [`Bert::forward`].
    pub(crate) fn forward(&self, tape: &Tape, sentences: &Sentences<'_>) -> Result<BertOutputs> {
        let shape = [sentences.count()?, sentences.length];
        let mask = Tensor::from_slice(tape.gpu(), shape, sentences.mask)?;
        let embedding_output = self.embed(tape, sentences, &shape)?;
        let masks = AttentionOptions { key_mask: Some(mask.clone()), ..Default::default() };
        let (mut before, mut x) = (embedding_output.clone(), embedding_output.clone());
        for layer in &self.layers {
            let attended = layer.attention.forward(&x, &masks)?;
            let next = layer.norm.forward(&layer.feed_forward.forward(&attended, &attended)?)?;
            before = std::mem::replace(&mut x, next);
        }
        let pool = |pooler: &Linear| {
            let first = x.slice(1, 0..1)?.reshape([shape[0], self.config.hidden_size])?;
            pooler.fused(&first, Some(Activation::Tanh), None)
        };
        let pooler_output = self.pooler.as_ref().map(pool).transpose()?;
        Ok(BertOutputs {
            embedding_output,
            second_to_last_hidden_state: before,
            last_hidden_state: x,
            pooler_output,
            mask,
        })
    }

    fn embed(&self, tape: &Tape, sentences: &Sentences<'_>, shape: &[usize]) -> Result<Var> {
        let look_up = |table: &Embedding, op: &'static str, ids: &[u32]| {
            let rows = table.weight.shape()[0] as u64;
            match ids.iter().find(|&&id| u64::from(id) >= rows) {
                Some(&id) => Err(Error::IndexOutOfRange { op, index: id.into(), len: rows }),
                None => table.forward(tape, ids, shape),
            }
        };
        let e = &self.embeddings;
        let zeros = vec![0; sentences.ids.len()];
        let types = look_up(&e.token_types, "token types", sentences.token_types.unwrap_or(&zeros))?;
        let positions = look_up(&e.positions, "token positions", &self.positions(sentences))?;
        let sum = look_up(&e.words, "token ids", sentences.ids)?.add(&types)?;
        e.norm.of_sum(&sum, &positions)?.dropout(self.config.hidden_dropout_prob)
    }

    /// The row of the position table for every token.
    fn positions(&self, sentences: &Sentences<'_>) -> Vec<u32> {
        let pad = self.config.pad_token_id;
        let rows = sentences.ids.chunks_exact(sentences.length);
        match self.config.model_type {
            BertKind::Bert => rows.flat_map(|row| 0..row.len() as u32).collect(),
            // Padding is told by its id, not by the mask, and all of it stands at one position.
            BertKind::Roberta => rows
                .flat_map(|row| {
                    let mut last = pad;
                    row.iter().map(move |&id| {
                        last += u32::from(id != pad);
                        if id == pad { pad } else { last }
                    })
                })
                .collect(),
        }
    }
}

fn linear_init(c: &BertConfig) -> LinearInit {
    LinearInit { weight: Init::Normal { std: c.initializer_range }, bias: Init::Constant(0.0) }
}

fn layer(s: &Scope<'_>, c: &BertConfig) -> Result<Layer> {
    let (d, hidden, init) = (c.hidden_size, c.intermediate_size, linear_init(c));
    let (heads, dropout) = (c.num_attention_heads, c.attention_probs_dropout_prob);
    let norm = |name: &str| LayerNorm::new(&s.scope(name), d, c.layer_norm_eps);
    let linear = |name: &str, inputs: usize, outputs: usize| Linear::new(&s.scope(name), inputs, outputs, init.clone());
    let names = ["self.query", "self.key", "self.value", "output.dense"];
    let attention = AttentionBlock {
        attention: MultiHeadAttention::new(&s.scope("attention"), names, d, heads, dropout, init.clone())?,
        norm: norm("attention.output.LayerNorm")?,
        dropout: c.hidden_dropout_prob,
    };
    let feed_forward = FeedForward {
        expand: linear("intermediate.dense", d, hidden)?,
        activation: Activation::Gelu,
        contract: linear("output.dense", hidden, d)?,
        dropout_hidden: 0.0,
        dropout_output: c.hidden_dropout_prob,
    };
    Ok(Layer { attention, feed_forward, norm: norm("output.LayerNorm")? })
}
