use std::fmt;
use std::path::PathBuf;

use super::*;
use crate::data::testing::{Folder, mutations};
#[cfg(feature = "datasets")]
use crate::data::{Part, testing::outside};

fn jsonl(text: impl AsRef<[u8]>) -> Result<Split> {
    read_jsonl(Folder::new().file("a.jsonl", text), &mut Problems::strict())
}

fn place(result: Result<impl fmt::Debug>) -> String {
    match result {
        Err(Error::Malformed { place, .. } | Error::Duplicate { place, .. } | Error::Blank { place, .. }) => place,
        other => panic!("{other:?}"),
    }
}

/// What `read` makes of a file, strictly.
fn strictly<T>(read: impl FnOnce(&mut Problems) -> Result<T>) -> Result<T> {
    let mut problems = Problems::strict();
    let result = read(&mut problems);
    assert!(problems.skipped().is_empty());
    result
}

fn ids(list: &[&str]) -> Vec<String> {
    list.iter().map(|&id| id.to_owned()).collect()
}

fn video(id: &str, captions: &[&str]) -> VideoCaptions {
    VideoCaptions::new(id, ids(captions))
}

#[test]
#[cfg(feature = "datasets")]
#[ignore = "reads files that are not part of this repository; CONTRIBUTING.md says how to run it"]
fn real_datasets_have_the_known_sizes() {
    let msvd = outside("annotations/msvd");
    let all = strictly(|p| read_caption_lists(msvd.join("captions_msvd.json"), p)).unwrap();
    assert_eq!((all.videos.len(), all.caption_count()), (1970, 80_827));
    for (part, videos, captions) in
        [(Part::Train, 1200, 48_774), (Part::Validation, 100, 4_290), (Part::Test, 670, 27_763)]
    {
        let split = strictly(|p| Dataset::Msvd.read(&msvd, part, p)).unwrap();
        assert_eq!((split.videos.len(), split.caption_count(), split.items().count()), (videos, captions, captions));
    }
    let report = Dataset::Msvd.check(&msvd, |_| true).unwrap();
    assert!(report.shared.is_empty() && report.parts.iter().all(|part| part.missing_files.is_empty()), "{report}");

    let msrvtt = outside("annotations/msrvtt");
    for (name, rows) in [("train.9k", 9000), ("train.7k", 7010), ("JSFUSION_test", 1000)] {
        let ids = strictly(|p| read_msrvtt_ids(msrvtt.join(format!("MSRVTT_{name}.csv")), p)).unwrap();
        assert_eq!(ids.len(), rows);
    }
    let test = strictly(|p| Dataset::MsrVtt9k.read(&msrvtt, Part::Test, p)).unwrap();
    assert_eq!((test.videos.len(), test.caption_count()), (1000, 1000));
    assert_eq!(test.videos[0], video("video9770", &["a person is connecting something to system"]));

    let activitynet = outside("annotations/activitynet-captions");
    for (part, videos, stray) in [(Part::Train, 10_009, 15), (Part::Validation, 4_917, 9)] {
        let mut problems = Problems::strict();
        let split = Dataset::ActivityNet.read(&activitynet, part, &mut problems).unwrap();
        assert_eq!((split.videos.len(), split.caption_count()), (videos, videos));
        let unlisted = problems.mended().iter().filter(|e| matches!(e, Error::Missing { .. })).count();
        assert_eq!(unlisted, stray);
        if part == Part::Validation {
            let first = split.videos.iter().find(|v| v.id == "v_uqiMw7tQ1Cc").unwrap();
            assert_eq!((first.file.as_str(), first.start, first.end), ("uqiMw7tQ1Cc", 0.0, Some(56.0)));
            let text = "A weight lifting tutorial is given. The coach helps the guy in red with the proper body \
                placement and lifting technique.";
            assert_eq!(first.captions, [text]);
        }
    }
}

#[test]
fn both_neutral_forms_are_read() {
    let text = "\u{feff}{\"video_id\": \"b\", \"caption\": \"one\", \"more\": 3}\r\n\r\n\
        {\"video_id\": \"a\", \"captions\": [\"x\", \"x\"], \"path\": \"d/a.mkv\", \"start\": 2.5, \"end\": 4}\r\n\
        {\"caption\": \"two\", \"video_id\": \"b\"}\n{\"caption\": \"z\", \"video_id\": \"c\", \"start\": 3}";
    let split = jsonl(text).unwrap();
    let a = VideoCaptions { file: "d/a.mkv".into(), start: 2.5, end: Some(4.0), ..video("a", &["x", "x"]) };
    let c = VideoCaptions { start: 3.0, ..video("c", &["z"]) };
    assert_eq!(split.videos, [video("b", &["one", "two"]), a, c]);
    assert_eq!(split.caption_count(), 5);
    assert_eq!(split.items().collect::<Vec<_>>(), [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]);

    let folder = Folder::new();
    split.write_jsonl(folder.path("b.jsonl")).unwrap();
    assert_eq!(strictly(|p| read_jsonl(folder.path("b.jsonl"), p)).unwrap(), split);

    let only = strictly(|p| split.select(&ids(&["a"]), "f", p)).unwrap();
    assert_eq!(only.videos, split.videos[1..2]);
    let unknown = strictly(|p| split.select(&ids(&["d"]), "f", p));
    assert!(matches!(unknown, Err(Error::Missing { kind: "video", .. })));
    let mut lenient = Problems::lenient();
    assert_eq!(split.select(&ids(&["d", "a"]), "f", &mut lenient).unwrap(), only);
    assert_eq!(lenient.skipped().len(), 1);
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
        "{\"video_id\": \"a\", \"caption\": \"x\", \"start\": 1}",
        "{\"video_id\": \"a\", \"caption\": \"x\", \"path\": \"b\"}",
        "{\"video_id\": \"b\", \"caption\": \"x\", \"start\": -1}",
        "{\"video_id\": \"b\", \"caption\": \"x\", \"start\": 2, \"end\": 2}",
        "{\"video_id\": \"b\", \"caption\": \"x\", \"start\": 2, \"end\": 1e300}",
        "[\"b\", null, null, null, \"x\", null]",
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
    assert!(matches!(strictly(|p| read_jsonl("no/such/file", p)), Err(Error::Io { .. })));
}

#[test]
fn id_lists_skip_blanks_and_refuse_repeats() {
    let folder = Folder::new();
    let read = |path: PathBuf| strictly(|p| read_id_list(path, p));
    assert_eq!(read(folder.file("a", "\u{feff}x\r\n\r\ny")).unwrap(), ["x", "y"]);
    assert_eq!(place(read(folder.file("a", "x\ny\nx \n"))), "line 3");
    assert_eq!(place(read(folder.file("a", b"x\n\xff"))), "line 2");
    assert_eq!(read(folder.file("a", "x\ry\r")).unwrap(), ["x", "y"]);
}

#[test]
fn json_annotations_are_checked() {
    let folder = Folder::new();
    let file = |text: &str| folder.file("a.json", text);
    let read_msrvtt = |path: PathBuf| strictly(|p| read_msrvtt(path, p));
    let read_caption_lists = |path: PathBuf| strictly(|p| read_caption_lists(path, p));
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
    assert_eq!(place(read_caption_lists(file("{\"a\": [\"x\"], \"a\": [\"y\"]}"))), "entry 2");
    assert_eq!(place(read_caption_lists(file("{\"a\": [\"x\", \" \"]}"))), "entry 1");
    assert!(matches!(read_caption_lists(file("{\"a\": []}")), Err(Error::Missing { .. })));
    for bad in
        ["", "[]", "{\"a\": \"x\"}", "{\"a\": [\"x\"]", "{} {}", &"[".repeat(100_000), &"{\"a\":".repeat(100_000)]
    {
        place(read_caption_lists(file(bad)));
        place(read_msrvtt(file(bad)));
    }
}

#[test]
#[cfg(feature = "datasets")]
fn quotes_that_do_not_match_are_errors_of_their_line() {
    let folder = Folder::new();
    let file = |text: &str| folder.file("a.csv", text);
    let head = "video_id,sentence\n";
    for (rows, bad, captions) in [
        ("v0,x\nv1,\"a\nv2,b\nv3,c\n", "line 3", vec!["x", "b", "c"]),
        ("v1,\"a\nv2,\"b\"\nv3,c\n", "line 2", vec!["b", "c"]),
        ("v1,\"a\"b\nv2,c\n", "line 2", vec!["c"]),
        ("v1,\"a\rv2,b", "line 2", vec!["b"]),
    ] {
        let path = file(&format!("{head}{rows}"));
        assert_eq!(place(strictly(|p| read_msrvtt_test(&path, p))), bad, "{rows}");
        let mut lenient = Problems::lenient();
        let split = read_msrvtt_test(&path, &mut lenient).unwrap();
        let got: Vec<&str> = split.videos.iter().map(|v| v.captions[0].as_str()).collect();
        assert_eq!((got, lenient.skipped().len()), (captions, 1), "{rows}");
    }
    // What is well formed: line breaks and quotes in quotes, letters that are quotes, lone CR.
    let rows = "v1,\"a\nb \"\"c\"\"\"\nv2,an 8\" pipe\n\nv3,\"\"\"d\"\n";
    let split = strictly(|p| read_msrvtt_test(file(&format!("{head}{rows}")), p)).unwrap();
    let got: Vec<&str> = split.videos.iter().map(|v| v.captions[0].as_str()).collect();
    assert_eq!(got, ["a\nb \"c\"", "an 8\" pipe", "\"d"]);
    assert_eq!(place(strictly(|p| read_msrvtt_test(file(&format!("{head}{rows}v2,x")), p))), "line 7");
    let split = strictly(|p| read_msrvtt_test(file("video_id,sentence\rv1,a\rv2,b\r"), p)).unwrap();
    assert_eq!(split.videos, [video("v1", &["a"]), video("v2", &["b"])]);
}

#[test]
#[cfg(feature = "datasets")]
fn lists_without_ids_end_at_once() {
    let folder = Folder::new();
    assert_eq!(place(strictly(|p| read_id_list(folder.file("a", "\n \n"), p))), "end");
    assert_eq!(place(strictly(|p| read_msrvtt_ids(folder.file("a", "video_id\n"), p))), "end");
    assert_eq!(place(strictly(|p| read_msrvtt_ids(folder.file("a", ""), p))), "line 1");
    let captions = folder.file("a.json", "{\"x\": [\"a\"]}");
    assert_eq!(place(strictly(|p| read_activitynet_paragraphs(folder.file("ids", "[]"), &captions, p))), "end");
    // None of the listed videos is annotated.
    let split = Split { videos: vec![video("a", &["x"])] };
    let error = split.select(&ids(&["b", "c"]), "f", &mut Problems::lenient()).unwrap_err().to_string();
    assert!(error.contains("none of the 2 listed videos has captions here"), "{error}");
}

#[test]
fn rows_are_objects_whose_keys_occur_once() {
    let folder = Folder::new();
    let problem = |text: &str| match strictly(|p| read_msrvtt(folder.file("a.json", text), p)) {
        Err(Error::Malformed { place, problem, .. }) => format!("{place}: {problem}"),
        other => panic!("{other:?}"),
    };
    let twice = "{\"sentences\": [{\"video_id\": \"a\", \"caption\": \"x\", \"caption\": \"y\"}]}";
    assert_eq!(problem(twice), "sentence 1: duplicate field `caption`");
    let positions = "{\"sentences\": [[\"a\", \"x\"]]}";
    assert_eq!(problem(positions), "sentence 1: an object with named fields is expected");
    assert_eq!(problem("[[]]"), "top level: an object with named fields is expected");
    assert!(place(jsonl("[\"a\", null, null, null, \"x\", null]")).starts_with("line 1"));
}

#[test]
fn files_in_sub_folders_are_named_and_nothing_outside() {
    let row = |path: &str| jsonl(format!("{{\"video_id\": \"a\", \"caption\": \"x\", \"path\": \"{path}\"}}"));
    assert_eq!(row("sub/a.mp4").unwrap().videos[0].file, "sub/a.mp4");
    for path in ["../a.mp4", "/a.mp4", "sub/../../a", "", "./a", "a//b", "a/"] {
        assert_eq!(place(row(path)), "line 1", "{path}");
    }
}

#[test]
#[cfg(feature = "datasets")]
fn csv_rows_are_checked() {
    let folder = Folder::new();
    let file = |text: &str| folder.file("a.csv", text);
    let read_msrvtt_ids = |path: PathBuf| strictly(|p| read_msrvtt_ids(path, p));
    let read_msrvtt_test = |path: PathBuf| strictly(|p| read_msrvtt_test(path, p));
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
fn pickles_are_refused_with_advice() {
    let folder = Folder::new();
    let path = folder.file("raw-captions.pkl", b"\x80\x04.");
    match strictly(|p| read_caption_lists(&path, p)) {
        Err(Error::Malformed { problem, .. }) => assert!(problem.contains("python3 -c"), "{problem}"),
        other => panic!("{other:?}"),
    }
    #[cfg(feature = "datasets")]
    {
        folder.file("test_list.txt", "a");
        let refused = strictly(|p| Dataset::Msvd.read(folder.root(), Part::Test, p));
        assert!(matches!(refused, Err(Error::Malformed { path: named, .. }) if named == path));
    }
}

#[test]
fn lsmdc_ids_may_recur_with_another_sentence() {
    let row = |id: &str, sentence: &str| format!("{id}\t00.01\t00.02\t00.01\t00.02\t{sentence}\n");
    let good = row("0001_A.B_1", "SOMEONE sits.") + &row("c", "x") + &row("0001_A.B_1", "\"He\" stands.");
    let folder = Folder::new();
    let split = strictly(|p| read_lsmdc(folder.file("a.csv", &good), p)).unwrap();
    assert_eq!(split.videos, [video("0001_A.B_1", &["SOMEONE sits.", "\"He\" stands."]), video("c", &["x"])]);
    for bad in [row("c", "x"), row("c", ""), row("", "x"), "c\tx\n".into(), row("c", "x\ty")] {
        let path = folder.file("a.csv", good.clone() + &bad);
        assert_eq!(place(strictly(|p| read_lsmdc(&path, p))), "line 4", "{bad}");
        let mut lenient = Problems::lenient();
        assert_eq!(read_lsmdc(&path, &mut lenient).unwrap(), split);
        assert_eq!(lenient.skipped().len(), 1);
    }
}

#[test]
fn paragraphs_join_sentences_in_order() {
    let folder = Folder::new();
    let row = |id: u32, video: &str, text: &str| {
        format!("{{\"annotation_id\": {id}, \"video\": \"{video}\", \"description\": \"{text}\", \"times\": [[0, 1]]}}")
    };
    let rows = [row(1, "b.mov", "one"), row(2, "a.", "two "), row(3, "b.mov", " three"), row(4, "c.avi", "x")];
    let annotations = folder.file("val_data.json", format!("[{}]", rows.join(", ")));
    let read = |list: &str| strictly(|p| read_didemo_paragraphs(folder.file("val_list.txt", list), &annotations, p));
    let split = read("a.\nb.mov\n").unwrap();
    assert!(split.videos.iter().all(|v| v.end == Some(31.0)));
    let texts: Vec<_> = split.videos.iter().map(|v| (v.id.as_str(), v.file.as_str(), v.captions[0].as_str())).collect();
    assert_eq!(texts, [("a.", "a.", "two"), ("b.mov", "b.mov", "one three")]);
    assert!(matches!(read("d\n"), Err(Error::Missing { kind: "video", .. })));

    let ids = folder.file("ids.json", "[\"v_b\", \"v_none\", \"v_a\"]");
    let sentences = "\"duration\": 9.2, \"timestamps\": [[0, 1], [2, 3]], \"sentences\": [\"One.\", \"  Two. \"]";
    let annotations = folder.file("a.json", format!("{{\"v_a\": {{{sentences}}}, \"v_b\": {{{sentences}}}}}"));
    let mut problems = Problems::strict();
    let split = read_activitynet_paragraphs(&ids, &annotations, &mut problems).unwrap();
    let b = VideoCaptions { file: "b".into(), end: Some(10.0), ..video("v_b", &["One. Two."]) };
    assert_eq!((&split.videos[0], split.videos.len(), problems.mended().len()), (&b, 2, 1));
    for bad in ["[\"v_b\", 3]", "[\"v_b\", \"v_b\"]", "[\"v_b\", \" \"]"] {
        let ids = folder.file("ids.json", bad);
        assert_eq!(place(strictly(|p| read_activitynet_paragraphs(&ids, &annotations, p))), "entry 2", "{bad}");
    }
}

#[test]
#[cfg(feature = "datasets")]
fn a_check_counts_what_is_wrong() {
    let folder = Folder::new();
    folder.file("MSRVTT_train.9k.csv", "video_id\nv1\nv2\nv1\nv9\n");
    folder.file(
        "MSRVTT_data.json",
        "{\"videos\": 7, \"sentences\": [{\"video_id\": \"v1\", \"caption\": \"a\"}, \
            {\"video_id\": \"v2\", \"caption\": \"b\"}, {\"video_id\": \"v1\", \"caption\": \" \"}, \
            {\"video_id\": \"v1\", \"caption\": \"c\"}, {\"caption\": \"d\"}]}",
    );
    folder.file("MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence\nr0,m,v2,b\nr1,m,v3,d\nr2,m,v4,\n");
    let report = Dataset::MsrVtt9k.check(folder.root(), |video| video.file != "v3").unwrap();
    let part = |name: &str, captions, missing: &[&str], [duplicate_ids, blank_captions, other_problems]: [usize; 3]| {
        let (name, missing_files) = (name.to_owned(), ids(missing));
        PartReport { name, videos: 2, captions, missing_files, duplicate_ids, blank_captions, other_problems }
    };
    assert_eq!(report.parts, [part("train", 3, &[], [1, 1, 2]), part("test", 2, &["v3"], [0, 1, 0])]);
    assert_eq!(report.shared, [Shared { parts: ["train".into(), "test".into()], ids: ids(&["v2"]) }]);
    let text = report.to_string();
    assert!(text.contains("test: 2 videos, 2 captions, 1 missing file"), "{text}");
    assert!(text.contains("train and test share 1 id, such as \"v2\""), "{text}");

    let strict = strictly(|p| Dataset::MsrVtt9k.read(folder.root(), Part::Train, p));
    assert!(matches!(strict, Err(Error::Duplicate { place, .. }) if place == "line 4"));
    let none = strictly(|p| Dataset::MsrVtt7k.read(folder.root(), Part::Validation, p));
    assert!(matches!(none, Err(Error::Argument { argument: "part", .. })));
    assert!(Dataset::ALL.iter().all(|dataset| dataset.name().parse::<Dataset>().unwrap() == *dataset));
    assert!(matches!("msr".parse::<Dataset>(), Err(Error::Argument { .. })));
}

#[test]
fn damaged_files_never_panic() {
    let folder = Folder::new();
    let good = "{\"sentences\": [{\"video_id\": \"b\", \"caption\": \"one\"}]}\n\
        {\"video_id\": \"a\", \"captions\": [\"x\"]}\na\tb\tc\td\te\tf\nvideo_id,sentence\n\"a\",b\n";
    for bytes in mutations(good.as_bytes(), 400) {
        let path = folder.file("bad", &bytes);
        for p in [&mut Problems::strict(), &mut Problems::lenient()] {
            let _ = (read_jsonl(&path, p), read_caption_lists(&path, p), read_msrvtt(&path, p));
            let _ = (read_id_list(&path, p), read_lsmdc(&path, p), read_activitynet_paragraphs(&path, &path, p));
            #[cfg(feature = "datasets")]
            let _ = (read_msrvtt_ids(&path, p), read_msrvtt_test(&path, p));
        }
    }
}
