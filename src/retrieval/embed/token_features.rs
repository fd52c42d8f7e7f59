//! Token features by BERT, in the files that BiC-Net's and ReLoCLNet's loaders read.

use std::path::Path;

use serde::Deserialize;

use crate::data::captions::read_jsonl;
use crate::data::formats::text::for_each_value;
use crate::data::moments::Problems;
use crate::data::tokenizer::{Padding, Tokenizer};
use crate::gpu::Gpu;
use crate::models::Model;
use crate::models::bert::{Bert, Sentences};
use crate::{Error, Result};

/// Sentences whose token features are wanted.
#[derive(Clone, Debug)]
pub struct TokenFeatureInput {
    texts: Vec<String>,
    of: Of,
}

#[derive(Clone, Debug)]
enum Of {
    /// For BiC-Net: the ids of videos, with how many captions they have.
    Videos(Vec<(String, usize)>),
    /// For ReLoCLNet: numbers of queries.
    Queries(Vec<u64>),
}

impl TokenFeatureInput {
    /// For BiC-Net: a JSON line for each video, `{"video_id": "..", "captions": ["..", ..]}`.
    pub fn captions(path: impl AsRef<Path>) -> Result<Self> {
        let (mut videos, mut texts) = (Vec::new(), Vec::new());
        for video in read_jsonl(path, &mut Problems::strict())?.videos {
            videos.push((video.id, video.captions.len()));
            texts.extend(video.captions);
        }
        Ok(Self { texts, of: Of::Videos(videos) })
    }

    /// For ReLoCLNet: a JSON line for each query, `{"desc_id": 1, "desc": ".."}`, such as TVR's annotations.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] naming the line.
    pub fn queries(path: impl AsRef<Path>) -> Result<Self> {
        #[derive(Deserialize)]
        struct Query {
            desc_id: u64,
            desc: String,
        }

        let (path, mut queries, mut texts) = (path.as_ref(), Vec::new(), Vec::new());
        for_each_value(path, |_, query: Result<Query>| {
            let query = query?;
            queries.push(query.desc_id);
            texts.push(query.desc);
            Ok(())
        })?;
        Ok(Self { texts, of: Of::Queries(queries) })
    }

    /// The number of sentences.
    pub fn sentences(&self) -> usize {
        self.texts.len()
    }

    /// Encodes the sentences, of at most `words` tokens with the special ones, by the BERT or RoBERTa in the folder `model`,
    /// and writes them to `out`: for BiC-Net a folder, for ReLoCLNet an HDF5 file. Returns how many sentences were cut.
    ///
    /// # Errors
    /// As [`Tokenizer::open`], [`Bert::open`], [`Bert::write_bicnet_text`] and [`Bert::write_reloclnet_queries`].
    pub fn encode(&self, gpu: &Gpu, model: &Path, words: usize, out: &Path) -> Result<usize> {
        let tokenizer = Tokenizer::open(model)?.padded_with(Padding::Special);
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        let tokens = tokenizer.encode(&texts, words)?;
        let sentences = Sentences { ids: &tokens.ids, mask: &tokens.mask, token_types: None, length: words };
        let bert = Bert::open(gpu, model)?;
        tokenizer.expect_below(bert.config().vocab_size)?;
        match &self.of {
            Of::Videos(videos) => {
                std::fs::create_dir_all(out).map_err(|e| Error::io("create", out, e))?;
                bert.write_bicnet_text(out, videos, &sentences)?;
            }
            Of::Queries(queries) => bert.write_reloclnet_queries(out, queries, &sentences)?,
        }
        Ok(tokens.cut.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Folder;

    #[test]
    fn captions_and_queries_are_read() {
        let folder = Folder::new();
        let path = folder.file("a.jsonl", "{\"video_id\": \"v\", \"captions\": [\"a b\", \"c\"]}\n");
        let captions = TokenFeatureInput::captions(path).unwrap();
        assert_eq!(captions.sentences(), 2);
        assert!(matches!(captions.of, Of::Videos(videos) if videos == [("v".to_string(), 2)]));
        let path = folder
            .file("b.jsonl", "{\"desc_id\": 7, \"desc\": \"a\", \"more\": 1}\n\n{\"desc_id\": 2, \"desc\": \"b\"}\n");
        let queries = TokenFeatureInput::queries(path).unwrap();
        assert_eq!(queries.texts, ["a", "b"]);
        assert!(matches!(queries.of, Of::Queries(numbers) if numbers == [7, 2]));
        let bad = TokenFeatureInput::queries(
            folder.file("c.jsonl", "{\"desc_id\": 7, \"desc\": \"a\"}\n{\"desc\": \"b\"}\n"),
        );
        assert!(matches!(bad, Err(Error::Malformed { place, .. }) if place.starts_with("line 2")));
    }
}
