//! Captions as token ids.

mod cleaning;
mod pipelines;
mod references;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::Path;

use super::checked_index;
use super::formats::{atomic, text};
use crate::{Error, Result};

pub use cleaning::Cleaning;

/// Largest tokenizer file that is read. Vocabularies of 250,000 pieces take 17 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Longest row of ids.
const MAX_LENGTH: usize = 1 << 16;

/// The ids that frame a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specials {
    /// Stands before every text: `<|startoftext|>`, `[CLS]` or `<s>`.
    pub start: u32,
    /// Stands behind every text: `<|endoftext|>`, `[SEP]` or `</s>`.
    pub end: u32,
    /// Fills rows: `[PAD]` or `<pad>`; CLIP's vocabulary has none.
    pub pad: Option<u32>,
}

/// What fills a row behind the end token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Id 0, as CLIP4Clip and its descendants do.
    Zero,
    /// The end token, as Hugging Face's CLIP does.
    End,
    /// [`Specials::pad`], as BERT and RoBERTa do.
    Special,
}

/// Token ids in rows of equal length.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// Token ids (texts, length), row-major: start, text, end, padding.
    pub ids: Vec<u32>,
    /// 1 for each token of a text, start and end among them, 0 for padding; (texts, length).
    pub mask: Vec<f32>,
    /// The length of a row.
    pub length: usize,
    /// The numbers of the texts that did not fit and lost tokens before their end token, ascending.
    pub cut: Vec<usize>,
}

/// Splits texts into tokens as a model's authors did.
///
/// A special token that a caption spells out, such as `<|endoftext|>`, is ordinary text and never becomes the special id:
/// captions are not to be trusted with the place where a text ends. [`Tokenizer::trusting`] changes that.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    specials: Specials,
    largest_id: u32,
    cleaning: Cleaning,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or from a folder `tokenizer.json`, else CLIP's `vocab.json` and `merges.txt`. Truncation
    /// and padding that the file asks for are left out: [`Tokenizer::encode`] says what they are.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Missing`] for a folder without these files; [`Error::Malformed`] for a file over 64 MiB, of
    /// another form, or whose vocabulary has no start and end token.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Self::parse(path, &text::read_at_most(path, MAX_FILE_BYTES)?);
        }
        let json = path.join("tokenizer.json");
        if json.exists() {
            return Self::open(json);
        }
        let (vocab, merges) = (path.join("vocab.json"), path.join("merges.txt"));
        if vocab.exists() && merges.exists() {
            return Self::parse(&vocab, &pipelines::clip(&vocab, &merges)?);
        }
        Err(Error::missing(path, "file", "tokenizer.json, or vocab.json and merges.txt"))
    }

    /// A vocabulary of whole words, for models that are trained from scratch. Texts are lower-cased, and split at white
    /// space and around every punctuation mark. Ids: 0 is `<pad>`, 1 `<unk>`, which stands for every other word, then
    /// `words` in their order, and at last CLIP's start and end tokens: the end has the largest id, where CLIP's pooling
    /// looks for it.
    ///
    /// # Errors
    /// [`Error::Argument`] for a word that is empty, occurs twice, or is more than one word.
    pub fn from_words(words: &[&str]) -> Result<Self> {
        let place = Path::new("words");
        let tokenizer = Self::parse(place, &pipelines::words(words)?)?;
        for (i, word) in words.iter().enumerate() {
            let ids = tokenizer.ids(word)?;
            if ids != [pipelines::FIRST_WORD + i as u32] {
                let why = format!("hold {word:?}, which is not one word, or occurs twice");
                return Err(Error::argument("Tokenizer::from_words", "words", why));
            }
        }
        Ok(tokenizer)
    }

    fn parse(path: &Path, json: &[u8]) -> Result<Self> {
        let malformed = |place: &str, problem: &dyn std::fmt::Display| Error::malformed(path, place, problem);
        let mut inner =
            tokenizers::Tokenizer::from_bytes(text::without_mark(json)).map_err(|e| malformed("JSON", &e))?;
        inner.with_truncation(None).map_err(|e| malformed("truncation", &e))?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(true);
        let id = |name| inner.token_to_id(name);
        let pairs = [("<|startoftext|>", "<|endoftext|>"), ("[CLS]", "[SEP]"), ("<s>", "</s>")];
        let (start, end) = pairs.into_iter().find_map(|(start, end)| id(start).zip(id(end))).ok_or_else(|| {
            malformed(
                "vocabulary",
                &"has neither <|startoftext|> and <|endoftext|>, nor [CLS] and [SEP], nor <s> and </s>",
            )
        })?;
        let specials = Specials { start, end, pad: id("[PAD]").or_else(|| id("<pad>")) };
        let largest_id = inner.get_vocab(true).into_values().max().unwrap_or(end);
        Ok(Self { inner, specials, largest_id, cleaning: Cleaning::None })
    }

    /// Cleans texts before they are split. Without a call they are not.
    pub fn with_cleaning(mut self, cleaning: Cleaning) -> Self {
        self.cleaning = cleaning;
        self
    }

    /// Lets special tokens that a caption spells out become special ids, as the original tokenizers do. Not for captions
    /// from strangers.
    pub fn trusting(mut self) -> Self {
        self.inner.set_encode_special_tokens(false);
        self
    }

    /// Writes a `tokenizer.json`, atomically. Cleaning and trust are not part of it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let json = self.inner.to_string(true).map_err(|e| Error::io("write", path, std::io::Error::other(e)))?;
        atomic::write(path, |file| file.write_all(json.as_bytes()))
    }

    /// The ids that frame a text.
    pub fn specials(&self) -> Specials {
        self.specials
    }

    /// The largest id of the vocabulary.
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// Checks that an embedding of `rows` rows has one for every id.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] with the largest id and `rows`.
    pub fn expect_below(&self, rows: usize) -> Result<()> {
        checked_index("the tokenizer's largest id as a row of the embedding", self.largest_id as usize, rows).map(drop)
    }

    /// The tokens of one text: all of them, without start and end.
    ///
    /// # Errors
    /// [`Error::Argument`] when the vocabulary has no token for a part of it, and none for the unknown.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let cleaned = self.cleaning.apply(text);
        let failed = |e: tokenizers::Error| Error::argument("Tokenizer::ids", "text", format!("has no tokens: {e}"));
        let mut ids = self.inner.encode_fast(cleaned.as_ref(), false).map_err(failed)?.get_ids().to_vec();
        if self.inner.get_encode_special_tokens() {
            // Some vocabularies use the end token for the unknown; others can spell a special token.
            let Specials { start, end, pad } = self.specials;
            ids.retain(|&id| id != start && id != end && Some(id) != pad);
        }
        Ok(ids)
    }

    /// Rows of `length` ids: the start token, as many of the text's tokens as leave room for the end token, the end
    /// token, and `padding`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a `length` outside 2 to 65,536, for [`Padding::Special`] without a padding token, and as
    /// [`Tokenizer::ids`].
    pub fn encode(&self, texts: &[&str], length: usize, padding: Padding) -> Result<Tokens> {
        let bad = |argument, why: String| Error::argument("Tokenizer::encode", argument, why);
        if !(2..=MAX_LENGTH).contains(&length) {
            return Err(bad("length", format!("is {length}; it must be from 2 to {MAX_LENGTH}")));
        }
        let Specials { start, end, pad } = self.specials;
        let fill = match padding {
            Padding::Zero => 0,
            Padding::End => end,
            Padding::Special => pad.ok_or_else(|| bad("padding", "is a token that the vocabulary lacks".into()))?,
        };
        let size = texts.len() * length;
        let (mut ids, mut mask) = (Vec::with_capacity(size), Vec::with_capacity(size));
        let mut cut = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            let tokens = self.ids(text)?;
            let kept = tokens.len().min(length - 2);
            if kept < tokens.len() {
                cut.push(number);
            }
            ids.push(start);
            ids.extend(&tokens[..kept]);
            ids.push(end);
            ids.resize(ids.len() + length - 2 - kept, fill);
            mask.resize(mask.len() + kept + 2, 1.0);
            mask.resize(ids.len(), 0.0);
        }
        Ok(Tokens { ids, mask, length, cut })
    }
}
