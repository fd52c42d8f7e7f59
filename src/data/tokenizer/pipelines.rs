//! Tokenizers that are built here, as the JSON in which Hugging Face stores them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::MAX_FILE_BYTES;
use crate::data::formats::text;
use crate::{Error, Result};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Ends the tokens that end a word.
const END_OF_WORD: &str = "</w>";

/// What a CLIP text is cut into before the byte pairs.
const CLIP_PATTERN: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The id of the first word of [`words`].
pub(super) const FIRST_WORD: u32 = 2;

/// CLIP's byte pairs from its two files.
pub(super) fn clip(vocab_path: &Path, merges_path: &Path) -> Result<Vec<u8>> {
    let bytes = text::read_at_most(vocab_path, MAX_FILE_BYTES)?;
    let vocab: BTreeMap<String, u32> = text::parse_json(vocab_path, &bytes)?;
    let (Some(&start), Some(&end)) = (vocab.get(START), vocab.get(END)) else {
        return Err(Error::malformed(vocab_path, "vocabulary", "is not CLIP's: it lacks its start or end token"));
    };
    let merges = read_merges(merges_path, &vocab)?;
    let normalizer = json!({ "type": "Sequence", "normalizers": [
        { "type": "NFC" },
        { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
        { "type": "Lowercase" },
    ]});
    let splitter = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": CLIP_PATTERN }, "behavior": "Removed", "invert": true },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
    ]});
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
        "end_of_word_suffix": END_OF_WORD, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges,
    });
    Ok(pipeline(&[(START, start), (END, end)], normalizer, splitter, model))
}

/// BERT's word pieces from a list of them, one in each line; lower-cased, and without accents, if `lower` says so.
pub(super) fn word_pieces(path: &Path, lower: bool) -> Result<Vec<u8>> {
    let mut vocab: BTreeMap<String, u32> = BTreeMap::new();
    text::for_each_line(path, |number, line| {
        // What stands twice is found under its last number, as in the published tokenizer.
        vocab.insert(line?.trim_end().to_owned(), number as u32 - 1);
        Ok(())
    })?;
    let mut specials = Vec::new();
    for name in ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] {
        let lacks = || Error::malformed(path, "vocabulary", format_args!("has no {name}"));
        specials.push((name, *vocab.get(name).ok_or_else(lacks)?));
    }
    let normalizer = json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
        "lowercase": lower,
    });
    let model = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": vocab,
    });
    Ok(pipeline(&specials, normalizer, json!({ "type": "BertPreTokenizer" }), model))
}

/// The token that pads, as a `tokenizer_config.json` names it, if there is one and it does.
pub(super) fn pad_token(path: &Path) -> Result<Option<String>> {
    let config = config(path)?;
    let token = &config["pad_token"];
    Ok(token.as_str().or_else(|| token["content"].as_str()).map(String::from))
}

/// Whether a `tokenizer_config.json` lets texts be lower-cased; without one they are.
pub(super) fn lower_case(path: &Path) -> Result<bool> {
    Ok(config(path)?["do_lower_case"].as_bool().unwrap_or(true))
}

fn config(path: &Path) -> Result<Value> {
    if path.exists() { text::read_json(path) } else { Ok(Value::Null) }
}

/// The pairs of a `merges.txt`, which make all tokens of `vocab` that are more than one character.
fn read_merges(path: &Path, vocab: &BTreeMap<String, u32>) -> Result<Vec<String>> {
    let (mut merges, mut made, mut last) = (Vec::new(), BTreeSet::new(), 0);
    text::for_each_line(path, |number, line| {
        let line = line?;
        last = number;
        if number == 1 && line.starts_with("#version") {
            return Ok(());
        }
        let bad = |problem: String| Error::malformed(path, format_args!("line {number}"), problem);
        let Some((first, second)) = line.split_once(' ').filter(|(_, second)| !second.contains(' ')) else {
            return Err(bad(format!("{line:?} is not a pair")));
        };
        if let Some(part) =
            [first, second, &format!("{first}{second}")].into_iter().find(|part| !vocab.contains_key(*part))
        {
            return Err(bad(format!("{line:?} needs {part:?}, which is not in vocab.json: is the line cut?")));
        }
        made.insert(format!("{first}{second}"));
        merges.push(line.to_owned());
        Ok(())
    })?;
    let is_made = |token: &str| {
        let characters =
            token.strip_suffix(END_OF_WORD).filter(|rest| !rest.is_empty()).unwrap_or(token).chars().count();
        characters < 2 || made.contains(token) || token == START || token == END
    };
    if let Some((token, _)) = vocab.iter().filter(|(token, _)| !is_made(token)).min_by_key(|(_, id)| **id) {
        let problem = format!(
            "the file ends after {} pairs, and none makes {token:?} of vocab.json: it is cut, or another vocabulary's",
            merges.len()
        );
        return Err(Error::malformed(path, format_args!("line {last}"), problem));
    }
    Ok(merges)
}

/// Whole words, with `<pad>` and `<unk>` before them and CLIP's start and end tokens behind.
pub(super) fn words(words: &[&str]) -> Result<Vec<u8>> {
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    if lower.iter().collect::<BTreeSet<_>>().len() < words.len() || words.len() > u32::MAX as usize / 2 {
        let why = "hold a word twice, lower case for upper case, or are too many";
        return Err(Error::argument("Tokenizer::from_words", "words", why));
    }
    let names = ["<pad>", "<unk>"].into_iter().chain(lower.iter().map(String::as_str)).chain([START, END]);
    let vocab: BTreeMap<&str, u32> = names.zip(0..).collect();
    let end = FIRST_WORD + words.len() as u32 + 1;
    let normalizer = json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }, { "type": "Lowercase" }] });
    let model = json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" });
    let specials = [("<pad>", 0), ("<unk>", 1), (START, end - 1), (END, end)];
    Ok(pipeline(&specials, normalizer, json!({ "type": "BertPreTokenizer" }), model))
}

fn pipeline(specials: &[(&str, u32)], normalizer: Value, pre_tokenizer: Value, model: Value) -> Vec<u8> {
    let added = |&(content, id): &(&str, u32)| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": specials.iter().map(added).collect::<Vec<_>>(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": null,
        "model": model,
    })
    .to_string()
    .into_bytes()
}
