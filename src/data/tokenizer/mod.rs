//! Captions as token ids.

mod cleaning;
mod pipelines;
mod references;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};

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
    /// Stands before every text: `<|startoftext|>`, `[CLS]` or `<s>`; SigLIP's texts have none.
    pub start: Option<u32>,
    /// Stands behind every text: `<|endoftext|>`, `[SEP]`, `</s>` or `<eos>`.
    pub end: u32,
    /// Fills rows: `[PAD]`, `<pad>`, or with SigLIP what its configuration names; CLIP's vocabulary has none.
    pub pad: Option<u32>,
}

/// What fills a row behind the end token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Id 0, as CLIP4Clip and its descendants do.
    Zero,
    /// The end token, as Hugging Face's CLIP does.
    End,
    /// [`Specials::pad`], as BERT, RoBERTa and SigLIP do.
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
    padding: Padding,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or from a folder `tokenizer.json`, else CLIP's `vocab.json` and `merges.txt`, else BERT's
    /// `vocab.txt`. Truncation and padding that the file asks for are left out: [`Tokenizer::encode`] says what they are.
    /// Rows are padded with 0 until [`Tokenizer::padded_with`] says otherwise.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Missing`] for a folder without these files; [`Error::Malformed`] for a file over 64 MiB, of
    /// another form, or whose vocabulary has no start and end token.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (place, mut inner) = read(path)?;
        let id = |name| inner.token_to_id(name);
        let pairs = [("<|startoftext|>", "<|endoftext|>"), ("[CLS]", "[SEP]"), ("<s>", "</s>")];
        let (start, end) = pairs.into_iter().find_map(|(start, end)| id(start).zip(id(end))).ok_or_else(|| {
            let lacks = "has neither <|startoftext|> and <|endoftext|>, nor [CLS] and [SEP], nor <s> and </s>";
            Error::malformed(&place, "vocabulary", lacks)
        })?;
        let specials = Specials { start: Some(start), end, pad: id("[PAD]").or_else(|| id("<pad>")) };
        inner.set_encode_special_tokens(true);
        Ok(Self::new(inner, specials))
    }

    /// Reads a SigLIP's `tokenizer.json`: texts have no start token, end with `</s>`, or with `<eos>` (SigLIP 2), and are
    /// lower-cased and padded as they were in training. `tokenizer_config.json` beside it names the token that pads;
    /// without it `</s>` does, and with SigLIP 2 `<pad>`.
    ///
    /// # Errors
    /// As [`Tokenizer::open`]; [`Error::Missing`] where there is only a `spiece.model`, with what to do.
    pub fn open_siglip(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        if !folder.join("tokenizer.json").exists() {
            let recipe = "tokenizer.json; from spiece.model it is made by: python -c \"from transformers import \
                          AutoTokenizer; AutoTokenizer.from_pretrained('FOLDER').save_pretrained('FOLDER')\"";
            return Err(Error::missing(folder, "file", recipe));
        }
        let (place, mut inner) = read(folder)?;
        let id = |name: &str| inner.token_to_id(name);
        let lacks = |what: &str| Error::malformed(&place, "vocabulary", format_args!("has no {what}"));
        let (end, standard) = match (id("<bos>").zip(id("<eos>")), id("</s>")) {
            (Some((_, end)), _) => (end, "<pad>"),
            (None, Some(end)) => (end, "</s>"),
            (None, None) => return Err(lacks("</s> or <eos>")),
        };
        let named = pipelines::pad_token(&folder.join("tokenizer_config.json"))?;
        let name = named.as_deref().unwrap_or(standard);
        let pad = Some(id(name).ok_or_else(|| lacks(name))?);
        inner.set_encode_special_tokens(true);
        let read = Self::new(inner, Specials { start: None, end, pad });
        Ok(read.with_cleaning(Cleaning::Lower).padded_with(Padding::Special))
    }

    /// A vocabulary of whole words, for models that are trained from scratch. Texts are lower-cased, and split at white
    /// space and around every punctuation mark. Ids: 0 is `<pad>`, 1 `<unk>`, which stands for every other word, then
    /// `words` in their order, and at last CLIP's start and end tokens: the end has the largest id, where CLIP's pooling
    /// looks for it.
    ///
    /// # Errors
    /// [`Error::Argument`] for a word that is empty, occurs twice, or is more than one word.
    pub fn from_words(words: &[&str]) -> Result<Self> {
        let mut inner = parse(Path::new("words"), &pipelines::words(words)?)?;
        inner.set_encode_special_tokens(true);
        let [start, end] = [1, 2].map(|behind| pipelines::FIRST_WORD - 1 + words.len() as u32 + behind);
        let tokenizer = Self::new(inner, Specials { start: Some(start), end, pad: Some(0) });
        for (i, word) in words.iter().enumerate() {
            let ids = tokenizer.ids(word)?;
            if ids != [pipelines::FIRST_WORD + i as u32] {
                let why = format!("hold {word:?}, which is not one word, or occurs twice");
                return Err(Error::argument("Tokenizer::from_words", "words", why));
            }
        }
        Ok(tokenizer)
    }

    fn new(inner: tokenizers::Tokenizer, specials: Specials) -> Self {
        let largest_id = inner.get_vocab(true).into_values().max().unwrap_or(specials.end);
        Self { inner, specials, largest_id, cleaning: Cleaning::None, padding: Padding::Zero }
    }

    /// Cleans texts before they are split. Without a call they are not.
    pub fn with_cleaning(mut self, cleaning: Cleaning) -> Self {
        self.cleaning = cleaning;
        self
    }

    /// Fills rows with this. Without a call it is id 0, but for SigLIP's.
    pub fn padded_with(mut self, padding: Padding) -> Self {
        self.padding = padding;
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
            ids.retain(|&id| Some(id) != start && id != end && Some(id) != pad);
        }
        Ok(ids)
    }

    /// Rows of `length` ids: the start token, as many of the text's tokens as leave room for the end token, the end
    /// token, and padding.
    ///
    /// # Errors
    /// [`Error::Argument`] for a `length` outside 2 to 65,536, for [`Padding::Special`] without a padding token, and as
    /// [`Tokenizer::ids`].
    pub fn encode(&self, texts: &[&str], length: usize) -> Result<Tokens> {
        let bad = |argument, why: String| Error::argument("Tokenizer::encode", argument, why);
        if !(2..=MAX_LENGTH).contains(&length) {
            return Err(bad("length", format!("is {length}; it must be from 2 to {MAX_LENGTH}")));
        }
        let Specials { start, end, pad } = self.specials;
        let fill = match self.padding {
            Padding::Zero => 0,
            Padding::End => end,
            Padding::Special => pad.ok_or_else(|| bad("padding", "is a token that the vocabulary lacks".into()))?,
        };
        let size = texts.len() * length;
        let (mut ids, mut mask) = (Vec::with_capacity(size), Vec::with_capacity(size));
        let mut cut = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            let tokens = self.ids(text)?;
            let framing = 1 + usize::from(start.is_some());
            let kept = tokens.len().min(length - framing);
            if kept < tokens.len() {
                cut.push(number);
            }
            ids.extend(start);
            ids.extend(&tokens[..kept]);
            ids.push(end);
            ids.resize(ids.len() + length - framing - kept, fill);
            mask.resize(mask.len() + kept + framing, 1.0);
            mask.resize(ids.len(), 0.0);
        }
        Ok(Tokens { ids, mask, length, cut })
    }
}

/// The tokenizer of a file or of a folder, and the file that it is from.
fn read(path: &Path) -> Result<(PathBuf, tokenizers::Tokenizer)> {
    let json = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
    if json.exists() || !path.is_dir() {
        let inner = parse(&json, &text::read_at_most(&json, MAX_FILE_BYTES)?)?;
        return Ok((json, inner));
    }
    let [vocab, merges, words] = ["vocab.json", "merges.txt", "vocab.txt"].map(|name| path.join(name));
    if vocab.exists() && merges.exists() {
        let inner = parse(&vocab, &pipelines::clip(&vocab, &merges)?)?;
        return Ok((vocab, inner));
    }
    if words.exists() {
        let lower = pipelines::lower_case(&path.join("tokenizer_config.json"))?;
        let inner = parse(&words, &pipelines::word_pieces(&words, lower)?)?;
        return Ok((words, inner));
    }
    Err(Error::missing(path, "file", "tokenizer.json, or vocab.json and merges.txt, or vocab.txt"))
}

fn parse(path: &Path, json: &[u8]) -> Result<tokenizers::Tokenizer> {
    let malformed = |place: &str, problem: &dyn std::fmt::Display| Error::malformed(path, place, problem);
    let mut inner = tokenizers::Tokenizer::from_bytes(text::without_mark(json)).map_err(|e| malformed("JSON", &e))?;
    inner.with_truncation(None).map_err(|e| malformed("truncation", &e))?;
    inner.with_padding(None);
    Ok(inner)
}
