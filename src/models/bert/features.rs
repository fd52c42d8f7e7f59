//! Features of tokens: what BiC-Net and ReLoCLNet take in place of words, and the files they are read from.

#[cfg(feature = "datasets")]
use std::{collections::BTreeMap, path::Path};

use super::{Bert, BertConfig, BertOutputs, Sentences};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::models::Model;
use crate::tensor::Array;
#[cfg(feature = "datasets")]
use crate::{
    Error,
    data::formats::{atomic, hdf5_write},
};

/// Tokens of one batch, padding included: bounds the memory, at about 40 KB a token in networks of base size.
const BATCH_TOKENS: usize = 4096;

/// What a model takes as the feature of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRecipe {
    /// BiC-Net: the last two layers side by side, of every token, the special ones at both ends included. The published
    /// features encode all captions of a video as one text, so that each has seen the others; here each is a text of
    /// its own, as the published ones are for a video with one caption.
    Bicnet,
    /// ReLoCLNet: the layer before the last, without the special tokens at both ends.
    Reloclnet,
}

impl TokenRecipe {
    /// The width of a feature: 1536 and 768 for networks of base size.
    pub fn width(self, config: &BertConfig) -> usize {
        match self {
            Self::Bicnet => 2 * config.hidden_size,
            Self::Reloclnet => config.hidden_size,
        }
    }

    fn features(self, outputs: &BertOutputs) -> Result<Var> {
        match self {
            Self::Bicnet => outputs.concat_last_two(),
            Self::Reloclnet => Ok(outputs.second_to_last_hidden_state.clone()),
        }
    }

    /// Which of a sentence's positions count.
    fn kept(self, mask: &[f32]) -> Vec<usize> {
        let tokens: Vec<usize> = (0..mask.len()).filter(|&i| mask[i] > 0.5).collect();
        match (self, tokens.as_slice()) {
            (Self::Reloclnet, [_, words @ .., _]) => words.to_vec(),
            (Self::Reloclnet, _) => Vec::new(),
            (Self::Bicnet, _) => tokens,
        }
    }
}

impl Bert {
    /// Encodes any number of sentences, and hands each one's number and features (tokens, width) to `take`, in their
    /// order. They are encoded in batches of bounded memory, each only as long as its longest sentence.
    ///
    /// # Errors
    /// Those of [`Bert::forward`], and what `take` returns.
    pub fn token_features(
        &self,
        sentences: &Sentences<'_>,
        recipe: TokenRecipe,
        mut take: impl FnMut(usize, Array) -> Result<()>,
    ) -> Result<()> {
        let (count, length, width) = (sentences.count()?, sentences.length, recipe.width(self.config()));
        let rows = (BATCH_TOKENS / length).max(1);
        for first in (0..count).step_by(rows) {
            let places = first * length..count.min(first + rows) * length;
            let masks: Vec<&[f32]> = sentences.mask[places.clone()].chunks_exact(length).collect();
            let longest =
                masks.iter().filter_map(|m| m.iter().rposition(|&m| m > 0.5)).max().map_or(1, |last| last + 1);
            let ids = cut(&sentences.ids[places.clone()], length, longest);
            let mask = cut(&sentences.mask[places.clone()], length, longest);
            let token_types = sentences.token_types.map(|types| cut(&types[places.clone()], length, longest));
            let batch = Sentences { ids: &ids, mask: &mask, token_types: token_types.as_deref(), length: longest };
            let outputs = self.forward(&Tape::inference(self.store().gpu()), &batch)?;
            let features = recipe.features(&outputs)?.value().to_vec()?;
            for (row, (values, mask)) in features.chunks_exact(longest * width).zip(masks).enumerate() {
                let kept = recipe.kept(mask);
                let data = kept.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect();
                take(first + row, Array::new([kept.len(), width], data)?)?;
            }
        }
        Ok(())
    }

    /// Writes the text files of BiC-Net's folder, `text_default.h5` and `text_lens_default.json`, as
    /// [`BicnetDataset`](crate::data::bicnet::BicnetDataset) reads them. `videos` are ids with their number of
    /// captions; `captions` are those of the first video, then those of the second, and so on.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are as many captions as the videos have, and for a video without any or a
    /// caption without tokens; [`Error::Duplicate`] for an id that occurs twice; [`Error::Io`]; those of
    /// [`Bert::forward`].
    #[cfg(feature = "datasets")]
    pub fn write_bicnet_text(&self, folder: &Path, videos: &[(String, usize)], captions: &Sentences<'_>) -> Result<()> {
        let op = "write_bicnet_text";
        expect_sentences(op, captions, videos.iter().map(|(_, count)| count).sum())?;
        if let Some((id, _)) = videos.iter().find(|(_, count)| *count == 0) {
            return Err(Error::Argument { op, argument: "videos", why: format!("hold {id:?} without captions") });
        }
        let mut left = videos.iter();
        let mut counts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        hdf5_write::write(&folder.join("text_default.h5"), |file| {
            let (mut tokens, mut lengths) = (Vec::new(), Vec::new());
            self.token_features(captions, TokenRecipe::Bicnet, |caption, features| {
                expect_tokens(op, caption, &features)?;
                lengths.push(features.shape()[0]);
                tokens.extend_from_slice(features.data());
                // The video at hand is whole with its last caption.
                if let Some((id, count)) = left.as_slice().first()
                    && lengths.len() == *count
                {
                    file.dataset(id, &[lengths.iter().sum(), features.shape()[1]], &tokens)?;
                    counts.insert(id, std::mem::take(&mut lengths));
                    tokens.clear();
                    left.next();
                }
                Ok(())
            })
        })?;
        let path = folder.join("text_lens_default.json");
        atomic::write(&path, |file| Ok(serde_json::to_writer(file, &counts)?))
    }

    /// Writes a file of query features as [`TvrDataset`](crate::data::moments::TvrDataset) reads it: a dataset for each
    /// of `queries`, their numbers (`desc_id`) in the order of `sentences`. The published file holds at most 30 tokens
    /// a query, which is 32 positions with the special tokens.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are as many sentences as queries, and for one without words;
    /// [`Error::Duplicate`] for a number that occurs twice; [`Error::Io`]; those of [`Bert::forward`].
    #[cfg(feature = "datasets")]
    pub fn write_reloclnet_queries(&self, path: &Path, queries: &[u64], sentences: &Sentences<'_>) -> Result<()> {
        let op = "write_reloclnet_queries";
        expect_sentences(op, sentences, queries.len())?;
        hdf5_write::write(path, |file| {
            self.token_features(sentences, TokenRecipe::Reloclnet, |sentence, features| {
                expect_tokens(op, sentence, &features)?;
                file.dataset(&queries[sentence].to_string(), features.shape(), features.data())
            })
        })
    }
}

/// The first `kept` columns of rows of `length`.
fn cut<T: Copy>(values: &[T], length: usize, kept: usize) -> Vec<T> {
    values.chunks_exact(length).flat_map(|row| &row[..kept]).copied().collect()
}

#[cfg(feature = "datasets")]
fn expect_sentences(op: &'static str, sentences: &Sentences<'_>, expected: usize) -> Result<()> {
    let count = sentences.count()?;
    if count == expected {
        return Ok(());
    }
    let why = format!("must be {expected}, there are {count}");
    Err(Error::Argument { op, argument: "sentences", why })
}

#[cfg(feature = "datasets")]
fn expect_tokens(op: &'static str, sentence: usize, features: &Array) -> Result<()> {
    if features.is_empty() {
        let why = format!("hold no tokens in number {sentence}");
        return Err(Error::Argument { op, argument: "sentences", why });
    }
    Ok(())
}
