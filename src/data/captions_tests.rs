use std::fmt;

use super::*;
use crate::data::testing::{Folder, mutations};

/// A real annotation file, where this machine has it.
fn real(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/annotations").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
    }
    path.exists().then_some(path)
}

fn jsonl(text: impl AsRef<[u8]>) -> Result<Split> {
    read_jsonl(Folder::new().file("a.jsonl", text))
}

fn place(result: Result<impl fmt::Debug>) -> String {
    match result {
        Err(Error::Malformed { place, .. } | Error::Duplicate { place, .. }) => place,
        other => panic!("{other:?}"),
    }
}

#[test]
fn real_msvd_files_have_the_known_sizes() {
    let Some(path) = real("msvd/captions_msvd.json") else { return };
    let all = read_msvd(&path).unwrap();
    assert_eq!((all.videos.len(), all.caption_count()), (1970, 80_827));
    for (list, videos, captions) in [("train", 1200, 48_774), ("val", 100, 4_290), ("test", 670, 27_763)] {
        let Some(list) = real(&format!("msvd/{list}_list.txt")) else { return };
        let split = all.select(&read_id_list(list).unwrap(), &path).unwrap();
        assert_eq!((split.videos.len(), split.caption_count()), (videos, captions));
    }
}

#[test]
#[cfg(feature = "datasets")]
fn real_msrvtt_files_have_the_known_sizes() {
    for (name, rows) in [("JSFUSION_test", 1000), ("train.9k", 9000), ("train.7k", 7010)] {
        let Some(path) = real(&format!("msrvtt/MSRVTT_{name}.csv")) else { return };
        assert_eq!(read_msrvtt_ids(&path).unwrap().len(), rows);
    }
    let Some(path) = real("msrvtt/MSRVTT_JSFUSION_test.csv") else { return };
    let test = read_msrvtt_test(path).unwrap();
    assert_eq!((test.videos.len(), test.caption_count()), (1000, 1000));
    assert_eq!(test.videos[0].id, "video9770");
    assert_eq!(test.videos[0].captions, ["a person is connecting something to system"]);
}

#[test]
fn both_neutral_forms_are_read() {
    let text = "\u{feff}{\"video_id\": \"b\", \"caption\": \"one\", \"start\": 3}\r\n\r\n\
        {\"video_id\": \"a\", \"captions\": [\"x\", \"x\"]}\r\n{\"caption\": \"two\", \"video_id\": \"b\"}";
    let split = jsonl(text).unwrap();
    let video =
        |id: &str, captions: [&str; 2]| VideoCaptions { id: id.into(), captions: captions.map(Into::into).into() };
    assert_eq!(split.videos, [video("b", ["one", "two"]), video("a", ["x", "x"])]);
    assert_eq!(split.caption_count(), 4);

    let folder = Folder::new();
    split.write_jsonl(folder.path("b.jsonl")).unwrap();
    assert_eq!(read_jsonl(folder.path("b.jsonl")).unwrap(), split);

    let only = split.select(&["a".to_owned()], "f").unwrap();
    assert_eq!(only.videos, split.videos[1..]);
    assert!(matches!(split.select(&["c".to_owned()], "f"), Err(Error::Missing { kind: "video", .. })));
}

#[test]
fn bad_lines_are_named() {
    let good = "{\"video_id\": \"a\", \"caption\": \"x\"}\n";
    for line in [
        "{",
        "[]",
        "{\"video_id\": \"b\"}",
        "{\"video_id\": 7, \"caption\": \"x\"}",
        "{\"video_id\": \"b\", \"caption\": \" \"}",
        "{\"video_id\": \"\", \"caption\": \"x\"}",
        "{\"video_id\": \"b\", \"caption\": \"x\", \"captions\": [\"x\"]}",
        "{\"video_id\": \"b\", \"captions\": [\"x\", \"\"]}",
        "{\"video_id\": \"b\", \"video_id\": \"c\", \"caption\": \"x\"}",
        "{\"video_id\": \"a\", \"captions\": [\"x\"]}",
        &format!("{{\"video_id\": {}", "[".repeat(100_000)),
        &"x".repeat(2 << 20),
    ] {
        assert!(place(jsonl(format!("{good}\n{line}\n{good}"))).starts_with("line 3"), "{line:.80}");
    }
    assert!(
        place(jsonl([good.as_bytes(), b"{\"video_id\": \"\xff\", \"caption\": \"x\"}"].concat())).starts_with("line 2")
    );
    let repeated = jsonl("{\"video_id\": \"a\", \"captions\": [\"x\"]}\n".repeat(2));
    assert!(matches!(repeated, Err(Error::Duplicate { kind: "video", .. })));
    let none = jsonl("{\"video_id\": \"a\", \"captions\": []}");
    assert!(matches!(none, Err(Error::Missing { kind: "caption of video", .. })));
    assert_eq!(place(jsonl("\n\n")), "end");
    assert!(matches!(read_jsonl("no/such/file"), Err(Error::Io { .. })));
}

#[test]
fn id_lists_skip_blanks_and_refuse_repeats() {
    let folder = Folder::new();
    assert_eq!(read_id_list(folder.file("a", "\u{feff}x\r\n\r\ny")).unwrap(), ["x", "y"]);
    assert_eq!(place(read_id_list(folder.file("a", "x\ny\nx \n"))), "line 3");
    assert_eq!(place(read_id_list(folder.file("a", b"x\n\xff"))), "line 2");
}

#[test]
fn json_annotations_are_checked() {
    let folder = Folder::new();
    let file = |text: &str| folder.file("a.json", text);
    let split = read_msrvtt(file(
        "\u{feff}{\"info\": {}, \"sentences\": [{\"video_id\": \"b\", \"caption\": \"1\", \"sen_id\": 0}, \
            {\"video_id\": \"a\", \"caption\": \"2\"}, {\"video_id\": \"b\", \"caption\": \"3\"}]}",
    ));
    let split = split.unwrap();
    assert_eq!(split.videos[0].captions, ["1", "3"]);
    assert_eq!(split.videos[1].id, "a");
    let blank =
        "{\"sentences\": [{\"video_id\": \"b\", \"caption\": \"1\"}, {\"video_id\": \"b\", \"caption\": \"\"}]}";
    assert_eq!(place(read_msrvtt(file(blank))), "sentence 2");
    assert_eq!(place(read_msrvtt(file("{\"sentences\": []}"))), "end");
    assert_eq!(place(read_msrvtt(file("{\n \"sentences\": 3}"))), "line 2, column 15");
    assert_eq!(place(read_msvd(file("{\"a\": [\"x\"], \"a\": [\"y\"]}"))), "entry 2");
    assert_eq!(place(read_msvd(file("{\"a\": [\"x\", \" \"]}"))), "entry 1");
    assert!(matches!(read_msvd(file("{\"a\": []}")), Err(Error::Missing { .. })));
    for bad in
        ["", "[]", "{\"a\": \"x\"}", "{\"a\": [\"x\"]", "{} {}", &"[".repeat(100_000), &"{\"a\":".repeat(100_000)]
    {
        place(read_msvd(file(bad)));
        place(read_msrvtt(file(bad)));
    }
}

#[test]
#[cfg(feature = "datasets")]
fn csv_rows_are_checked() {
    let folder = Folder::new();
    let file = |text: &str| folder.file("a.csv", text);
    let good = "\u{feff}key,video_id,sentence\r\nr0,v1,\"one, \"\"two\"\"\"\r\nr1,v0,three\r\n";
    let split = read_msrvtt_test(file(good)).unwrap();
    assert_eq!(split.videos[0].captions, ["one, \"two\""]);
    assert_eq!(read_msrvtt_ids(file(good)).unwrap(), ["v1", "v0"]);
    assert_eq!(place(read_msrvtt_ids(file(&format!("{good}r2,v1,x")))), "line 4");
    assert_eq!(place(read_msrvtt_test(file(&format!("{good}r2,v1,x")))), "line 4");
    assert_eq!(place(read_msrvtt_test(file(&format!("{good}r2,v2, ")))), "line 4");
    assert_eq!(place(read_msrvtt_ids(file(&format!("{good}r2,,x")))), "line 4");
    assert_eq!(place(read_msrvtt_ids(file(&format!("{good}r2,v2")))), "line 4");
    assert_eq!(place(read_msrvtt_ids(file(&format!("{good}r2,v2,{}", "x".repeat(2 << 20))))), "line 4");
    assert_eq!(place(read_msrvtt_ids(file("key\nx"))), "line 1");
    assert_eq!(place(read_msrvtt_ids(folder.file("b.csv", b"video_id\nv\n\xff\n"))), "line 3");
}

#[test]
fn damaged_files_never_panic() {
    let folder = Folder::new();
    let good = "{\"sentences\": [{\"video_id\": \"b\", \"caption\": \"one\"}]}\n{\"video_id\": \"a\", \"captions\": [\"x\"]}\n";
    for bytes in mutations(good.as_bytes(), 400) {
        let path = folder.file("bad", &bytes);
        let _ = (read_jsonl(&path), read_msvd(&path), read_msrvtt(&path), read_id_list(&path));
        #[cfg(feature = "datasets")]
        let _ = (read_msrvtt_ids(&path), read_msrvtt_test(&path));
    }
}
