//! Tests of the tokenizer. The golden cases are checked in `parity::tokenizer`.

use super::*;
use crate::data::testing::{Folder, mutations, outside};
use crate::parity::golden;

fn small() -> Tokenizer {
    Tokenizer::from_words(&["a", "Red", "circle", "moves", "left", ","]).unwrap()
}

#[test]
fn words_are_framed_cut_and_padded() {
    let tokenizer = small();
    assert_eq!(tokenizer.specials(), Specials { start: Some(8), end: 9, pad: Some(0) });
    assert_eq!(tokenizer.ids("A red CIRCLE,moves  up!").unwrap(), [2, 3, 4, 7, 5, 1, 1]);
    let texts = ["a red circle moves left", "left", ""];
    let tokens = tokenizer.encode(&texts, 5).unwrap();
    assert_eq!(tokens.ids, [8, 2, 3, 4, 9, 8, 6, 9, 0, 0, 8, 9, 0, 0, 0]);
    assert_eq!(tokens.mask, [1., 1., 1., 1., 1., 1., 1., 1., 0., 0., 1., 1., 0., 0., 0.]);
    assert_eq!((tokens.length, &tokens.cut[..]), (5, &[0][..]));
    assert_eq!(tokenizer.clone().padded_with(Padding::End).encode(&["left"], 5).unwrap().ids, [8, 6, 9, 9, 9]);
    assert_eq!(tokenizer.clone().padded_with(Padding::Special).encode(&["left"], 2).unwrap().ids, [8, 9]);
    assert!(tokenizer.encode(&[], 5).unwrap().ids.is_empty());
}

#[test]
fn bad_arguments_are_errors() {
    for words in [&["a", "A"][..], &[""], &["two words"], &["t-shirt"], &["<pad>"], &["<|endoftext|>"]] {
        assert!(matches!(Tokenizer::from_words(words), Err(Error::Argument { .. })), "{words:?}");
    }
    for length in [0, 1, usize::MAX] {
        assert!(matches!(small().encode(&["a"], length), Err(Error::Argument { .. })), "{length}");
    }
    assert!(small().expect_below(10).is_ok());
    assert!(matches!(small().expect_below(9), Err(Error::IndexOutOfRange { index: 9, len: 9, .. })));
}

#[test]
fn special_tokens_in_a_caption_are_text_unless_trusted() {
    let tokenizer = small();
    for text in ["<|endoftext|>", "a <|startoftext|> <pad> left", "<|STARTOFTEXT|>"] {
        let ids = tokenizer.ids(text).unwrap();
        assert!(ids.iter().all(|&id| id != 0 && id < 8), "{text}: {ids:?}");
    }
    assert_eq!(tokenizer.trusting().ids("a<|endoftext|>").unwrap(), [2, 9]);
}

#[test]
fn a_saved_tokenizer_reads_back() {
    let folder = Folder::new();
    let path = folder.path("tokenizer.json");
    small().save(&path).unwrap();
    for place in [folder.root(), &path] {
        let read = Tokenizer::open(place).unwrap();
        assert_eq!(read.specials(), small().specials());
        assert_eq!(read.ids("a RED <pad> left").unwrap(), small().ids("a RED <pad> left").unwrap());
    }
}

#[test]
fn damaged_files_are_errors() {
    let folder = Folder::new();
    assert!(matches!(Tokenizer::open(folder.path("none.json")), Err(Error::Io { .. })));
    assert!(matches!(Tokenizer::open(folder.root()), Err(Error::Missing { .. })));
    let path = folder.path("good.json");
    small().save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    for bytes in mutations(&good, 200) {
        // A changed byte may leave a tokenizer; it must not panic.
        if let Ok(tokenizer) = Tokenizer::open(folder.file("bad.json", bytes)) {
            let _ = tokenizer.encode(&["a red circle"], 7);
        }
    }
    let deep = [&b"[".repeat(200_000)[..], b"]"].concat();
    let without_end =
        r#"{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;
    for bytes in [&b""[..], b"{}", b"nonsense", &deep, without_end.as_bytes()] {
        assert!(matches!(Tokenizer::open(folder.file("bad.json", bytes)), Err(Error::Malformed { .. })));
    }
    let huge = std::fs::File::create(folder.path("huge.json")).unwrap();
    huge.set_len(MAX_FILE_BYTES + 1).unwrap();
    assert!(matches!(Tokenizer::open(folder.path("huge.json")), Err(Error::Malformed { .. })));
}

#[test]
fn vocabulary_and_merges_give_the_same_as_the_whole_file() {
    let (folder, model) = (Folder::new(), golden::path("clip-tiny-hf"));
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(model.join(name), folder.path(name)).unwrap();
    }
    let [whole, built] = [model.as_path(), folder.root()].map(|folder| Tokenizer::open(folder).unwrap());
    let texts = ["A man's \t playing,,, 12 guitars", "naïve 犬 😀", "<|endoftext|>", "", "\n\n"];
    let encode = |t: &Tokenizer| t.encode(&texts, 32).unwrap();
    assert_eq!(encode(&built), encode(&whole));
    assert!(matches!(built.clone().padded_with(Padding::Special).encode(&texts, 9), Err(Error::Argument { .. })));
    folder.file("vocab.json", "{\"a\":0}");
    assert!(matches!(Tokenizer::open(folder.root()), Err(Error::Malformed { .. })));
}

#[test]
fn merges_that_are_cut_are_named() {
    let (folder, model) = (Folder::new(), golden::path("clip-tiny-hf"));
    std::fs::copy(model.join("vocab.json"), folder.path("vocab.json")).unwrap();
    let whole = std::fs::read_to_string(model.join("merges.txt")).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!((lines.len(), lines[7]), (487, "th e</w>"));
    let last = format!("{}\n", lines[..486].join("\n"));
    for (text, wanted) in [
        ("", "line 0: the file ends after 0 pairs, and none makes \"in\" of vocab.json"),
        ("#version: 0.2\n", "line 1: the file ends after 0 pairs"),
        (&last, "line 486: the file ends after 485 pairs, and none makes "),
        (&format!("{}\n#version: 0.2", lines[..3].join("\n")), "line 4: \"#version: 0.2\" needs \"#version:\""),
        (&format!("{}\nth e</", lines[..7].join("\n")), "line 8: \"th e</\" needs \"e</\", which is not in vocab.json"),
        ("#version: 0.2\na b c\n", "line 2: \"a b c\" is not a pair"),
        ("犬 猫\n", "line 1: \"犬 猫\" needs"),
        (&lines.join("\r\n"), ""),
    ] {
        let path = folder.file("merges.txt", text);
        match (Tokenizer::open(folder.root()), wanted) {
            (Ok(_), "") => {}
            (Err(error), wanted) => {
                let start = format!("{}: {wanted}", path.display());
                assert!(error.to_string().starts_with(&start), "{error}\n{start}");
            }
            (Ok(_), wanted) => panic!("{wanted}"),
        }
    }
}

#[test]
#[ignore = "reads files that are not part of this repository; CONTRIBUTING.md says how to run it"]
fn the_vocabulary_of_clip_is_read() {
    let clip = Tokenizer::open(outside("clip-tokenizer")).unwrap();
    assert_eq!(clip.specials(), Specials { start: Some(49406), end: 49407, pad: None });
    assert_eq!(clip.largest_id(), 49407);
    let texts = ["naïve 犬 😀", "<|endoftext|>", ""];
    let ids = clip.encode(&texts, 32).unwrap().ids;
    assert_eq!(ids.iter().filter(|&&id| id == 49407).count(), texts.len());
}

#[test]
fn other_families_are_recognised_by_their_special_tokens() {
    let folder = Folder::new();
    for (names, pad) in [(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], Some(0)), (["<x>", "<unk>", "<s>", "</s>"], None)] {
        let vocab: serde_json::Map<_, _> = names.iter().zip(0..4).map(|(n, i)| ((*n).into(), i.into())).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": { "max_length": 3, "strategy": "LongestFirst", "stride": 0,
            "direction": "Right" }, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "BertPreTokenizer" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": names[1] },
        });
        let tokenizer = Tokenizer::open(folder.file("t.json", json.to_string())).unwrap();
        assert_eq!(tokenizer.specials(), Specials { start: Some(2), end: 3, pad });
        assert_eq!(tokenizer.ids("a b c d e").unwrap(), [1; 5], "the file's own truncation is left out");
    }
}

#[test]
fn a_hugging_face_model_gets_its_ids() {
    let file = golden::open("clip-tiny-hf/expected");
    let texts = ["a man is playing a guitar", "Two dogs run!", "it's raining"];
    let tokens =
        Tokenizer::open(golden::path("clip-tiny-hf")).unwrap().padded_with(Padding::End).encode(&texts, 11).unwrap();
    assert_eq!(tokens.ids, file.u32("input.input_ids"));
    assert_eq!(tokens.mask, file.f32("input.attention_mask"));
}
