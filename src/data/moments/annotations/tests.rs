use super::*;
use crate::data::moments::{QueryKind, Saliency};
use crate::data::testing::{Folder, mutations, outside};

type Reader = fn(&Path, &mut Problems) -> Result<MomentSplit>;

/// Queries, videos, windows and mended rows of a real file, read strictly.
fn sizes(name: &str, read: Reader) -> [usize; 4] {
    let mut problems = Problems::strict();
    let split = read(&outside(&format!("annotations/{name}")), &mut problems).unwrap();
    assert!(problems.skipped().is_empty());
    for query in &split.queries {
        let video = split.videos.iter().find(|v| Some(&v.id) == query.video.as_ref()).unwrap();
        assert!(query.windows.iter().all(|&[s, e]| 0.0 <= s && s < e && e <= video.duration), "{query:?}");
    }
    let summary = split.summary();
    [summary.queries, summary.videos, summary.windows, problems.mended().len()]
}

const NEUTRAL: Reader = |path, problems| read_neutral(path, problems);
const ACTIVITYNET: Reader = |path, problems| read_activitynet(path, problems);
const CHARADES: Reader = |path, problems| read_charades(path, problems);
const DIDEMO: Reader = |path, problems| read_didemo(path, problems);

#[test]
#[ignore = "reads files that are not part of this repository; CONTRIBUTING.md says how to run it"]
fn real_tvr_files_have_the_known_sizes() {
    let durations = outside("annotations/tvr/tvr_video2dur_idx.json");
    let (val, test) =
        (outside("annotations/tvr/tvr_val_release.jsonl"), outside("annotations/tvr/tvr_test_public_release.jsonl"));
    let mut problems = Problems::strict();
    let split = read_tvr(&val, &durations, "val", &mut problems).unwrap();
    let summary = split.summary();
    assert_eq!((summary.queries, summary.windows, summary.videos, summary.unlabelled), (10_895, 10_895, 2_179, 0));
    assert!((summary.mean_window - 9.19).abs() < 0.005 && (summary.mean_duration - 75.7).abs() < 0.1, "{summary}");
    let first = &split.queries[0];
    assert_eq!((first.id, first.video.as_deref()), (90_200, Some("friends_s01e03_seg02_clip_19")));
    assert_eq!((first.windows[0], first.kind), ([16.48, 33.87], Some(QueryKind::Video)));
    assert_eq!((split.videos[0].index, split.videos[2_178].index), (19_614, 21_792));

    let split = read_tvr(&test, &durations, "test_public", &mut problems).unwrap();
    let summary = split.summary();
    assert_eq!((summary.queries, summary.unlabelled, summary.videos), (5_445, 5_445, 1_089));
    assert_eq!(split.videos[0].index, 1_090);
    // Without their own queries the other splits still list their videos.
    for (name, videos) in [("train", 17_435), ("test_challenge", 1_090)] {
        assert_eq!(read_tvr(&test, &durations, name, &mut problems).unwrap().videos.len(), videos);
    }
    assert!(problems.mended().is_empty());
    let wrong = read_tvr(&val, &durations, "train", &mut problems);
    assert!(matches!(wrong, Err(Error::Missing { kind: "video", .. })));
    let wrong = read_tvr(&val, &durations, "validation", &mut problems);
    assert!(matches!(wrong, Err(Error::Missing { kind: "split", .. })));
}

#[test]
#[ignore = "reads files that are not part of this repository; CONTRIBUTING.md says how to run it"]
fn real_activitynet_files_have_the_known_sizes() {
    for (name, want) in [
        ("train", [37_421, 10_009, 37_421, 265]),
        ("val_1", [17_505, 4_917, 17_505, 134]),
        ("val_2", [17_031, 4_885, 17_031, 111]),
    ] {
        let got = sizes(&format!("activitynet-captions/{name}.json"), ACTIVITYNET);
        assert_eq!(got, want, "{name}");
    }
    let mut problems = Problems::strict();
    let split = read_activitynet(outside("annotations/activitynet-captions/train.json"), &mut problems).unwrap();
    assert_eq!((split.videos[0].id.as_str(), split.videos[1].id.as_str()), ("v_QOlSCBRmfWY", "v_ehGHCYKzyZ8"));
    let windows = |id: &str| -> Vec<[f64; 2]> {
        split.queries.iter().filter(|q| q.video.as_deref() == Some(id)).map(|q| q.windows[0]).collect()
    };
    assert_eq!(windows("v_0bosp4-pyTM")[3], [60.71, 61.29]);
    assert_eq!(windows("v_4rKTw99bM8g")[1], [4.97, 4.97 + 0.01]);
}

#[test]
#[ignore = "reads files that are not part of this repository; CONTRIBUTING.md says how to run it"]
fn real_neutral_files_have_the_known_sizes() {
    for (name, want) in [
        ("qvhighlights/highlight_train_release.jsonl", [7_218, 7_100, 12_803, 0]),
        ("qvhighlights/highlight_val_release.jsonl", [1_550, 1_519, 2_803, 0]),
        ("qvhighlights/highlight_test_release.jsonl", [1_542, 1_529, 0, 0]),
        ("charades-sta/charades_train_release.jsonl", [12_404, 5_336, 12_404, 0]),
        ("charades-sta/charades_test_release.jsonl", [3_720, 1_334, 3_720, 0]),
    ] {
        let got = sizes(name, NEUTRAL);
        assert_eq!(got, want, "{name}");
    }
    let path = outside("annotations/qvhighlights/highlight_val_release.jsonl");
    let split = read_neutral(&path, &mut Problems::strict()).unwrap();
    assert_eq!(split.queries[0].saliency[0], Saliency { clip: 41, scores: vec![1, 1, 2] });
    let folder = Folder::new();
    write_neutral(folder.path("a.jsonl"), &split).unwrap();
    assert_eq!(read_neutral(folder.path("a.jsonl"), &mut Problems::strict()).unwrap(), split);
}

/// The place of the first problem when `text` is read strictly; the skipped rows when it is read leniently.
fn problems(read: Reader, text: impl AsRef<[u8]>) -> (String, usize) {
    let folder = Folder::new();
    let path = folder.file("a.txt", text);
    let place = match read(&path, &mut Problems::strict()) {
        Err(Error::Malformed { place, .. } | Error::Duplicate { place, .. } | Error::Blank { place, .. }) => place,
        other => panic!("{other:?}"),
    };
    let mut lenient = Problems::lenient();
    let split = read(&path, &mut lenient).unwrap();
    // A bad row leaves nothing behind.
    assert_eq!((split.queries.len(), split.videos.len()), (2, 1), "{:?}", lenient.skipped());
    (place, lenient.skipped().len())
}

#[test]
fn bad_lines_are_named_or_left_out() {
    let line = |id: u32, rest: &str| format!("{{\"qid\": {id}, \"query\": \"a\", {rest}}}");
    let window = |w: &str| line(7, &format!("\"vid\": \"y\", \"duration\": 9.5, \"relevant_windows\": [{w}]"));
    let good = line(1, "\"vid\": \"x\", \"duration\": 10, \"relevant_windows\": [[0, 4.5], [5, 10]], \"more\": {}");
    let also = line(2, "\"vid\": \"x\", \"duration\": 10.0");
    let scored = |clips: &str, scores: &str| {
        let labels = format!("\"relevant_clip_ids\": {clips}, \"saliency_scores\": {scores}");
        line(7, &format!("\"vid\": \"y\", \"duration\": 9.5, {labels}"))
    };
    for bad in [
        window("[3, 2]"),
        window("[2, 2]"),
        window("[-0.5, 2]"),
        window("[1, 10.6]"),
        window("[9.5, 9.7]"),
        window("[NaN, 1]"),
        window("[0, 1e999]"),
        window("[1]"),
        window("[1, 2, 3]"),
        window("1, 2"),
        window("[\"1\", 2]"),
        window(&"[".repeat(100_000)),
        line(1, "\"vid\": \"y\", \"duration\": 9.5"),
        line(7, "\"vid\": \"x\", \"duration\": 9.5"),
        line(7, "\"vid\": \"y\", \"duration\": 0"),
        line(7, "\"vid\": \"y\", \"duration\": null"),
        line(7, "\"vid\": \" \", \"duration\": 1"),
        line(7, "\"vid\": \"y\""),
        line(7, "\"relevant_windows\": [[0, 1]]"),
        "{\"qid\": 7, \"query\": \" \\t\", \"vid\": \"y\", \"duration\": 1}".into(),
        "{\"qid\": -7, \"query\": \"a\"}".into(),
        scored("[1, 2]", "[[0, 1, 2]]"),
        scored("[1, 1]", "[[0], [1]]"),
        scored("[5]", "[[0]]"),
        // Of 9.5 s the last half clip is not scored.
        scored("[4]", "[[0]]"),
        scored("[3]", "[[0, 1, 2, 3]]"),
        "{\"qid\": 7, \"query\": \"a\", \"saliency_scores\": [[1, 2, 3]]}".into(),
        line(7, "\"vid\": \"y\", \"duration\": 1e300"),
        line(7, "\"vid\": \"y\", \"duration\": 8, \"duration\": 9"),
        "[7, \"a\", 9.5, \"y\", [], [], []]".into(),
        scored("[3]", "[[5]]"),
        "{".into(),
        "[]".into(),
        "x".repeat(3 << 20),
    ] {
        let (place, skipped) = problems(NEUTRAL, format!("\u{feff}{good}\r\n\r\n{bad}\r\n{also}"));
        assert!(place.starts_with("line 3"), "{place}: {bad:.90}");
        assert_eq!(skipped, 1, "{bad:.90}");
    }
    let (place, skipped) = problems(NEUTRAL, [good.as_bytes(), b"\n{\xff}\n\xfe\n", also.as_bytes()].concat());
    assert_eq!((place.as_str(), skipped), ("line 2", 2));
    for empty in ["", "\n \r\n"] {
        let got = read_neutral(Folder::new().file("a", empty), &mut Problems::lenient());
        assert!(matches!(got, Err(Error::Malformed { .. })));
    }
    assert!(matches!(read_neutral("no/such/file", &mut Problems::lenient()), Err(Error::Io { .. })));
}

#[test]
fn ends_beyond_the_video_are_cut() {
    let folder = Folder::new();
    let text = "{\"qid\": 1, \"query\": \"a\", \"vid\": \"x\", \"duration\": 10, \"relevant_windows\": [[3, 10.5]]}";
    let mut problems = Problems::strict();
    let split = read_neutral(folder.file("a", text), &mut problems).unwrap();
    assert_eq!(split.queries[0].windows, [[3.0, 10.0]]);
    assert!(matches!(&problems.mended()[0], Error::Malformed { place, .. } if place == "line 1"));
}

#[test]
fn activitynet_videos_are_checked() {
    let file = |bad: &str| {
        let (x, y) =
            ("\"x\": {\"duration\": 8, \"timestamps\": [[0, 8.5], [3, 2]], \"sentences\": [\"a\", \" b\"]}", bad);
        format!("{{{x},\n{y}}}")
    };
    for (bad, place) in [
        ("\"y\": {\"duration\": 8, \"timestamps\": [[0, 1]], \"sentences\": []}", "entry 2, video \"y\""),
        ("\"y\": {\"duration\": -8, \"timestamps\": [], \"sentences\": []}", "entry 2, video \"y\""),
        ("\"y\": {\"duration\": \"8\", \"timestamps\": [], \"sentences\": []}", "entry 2, video \"y\""),
        ("\"y\": [8]", "entry 2, video \"y\""),
        ("\"x\": {\"duration\": 8, \"timestamps\": [[0, 1]], \"sentences\": [\"a\"]}", "entry 2, video \"x\""),
    ] {
        assert_eq!(problems(ACTIVITYNET, file(bad)), (place.to_owned(), 1), "{bad}");
    }
    let folder = Folder::new();
    let sentences =
        "\"z\": {\"duration\": 8, \"timestamps\": [[9, 9], [0, 9.5], [1, 2]], \"sentences\": [\"\", \"a\", \" \"]}";
    let path = folder.file("a.json", file(sentences));
    let mut lenient = Problems::lenient();
    let split = read_activitynet(&path, &mut lenient).unwrap();
    assert_eq!((split.queries.len(), split.videos.len(), lenient.skipped().len()), (2, 2, 3));
    assert_eq!(split.queries[1].windows, [[2.0, 3.0]]);
    assert_eq!(split.queries[1].text, " b");
    // Cut and swapped; those that were skipped are not mended.
    assert_eq!(lenient.mended().len(), 2);
    let both = "\"z\": {\"duration\": 10, \"timestamps\": [[15, 1]], \"sentences\": [\"a\"]}";
    let path = folder.file("b.json", file(both));
    let error = read_activitynet(&path, &mut Problems::strict()).unwrap_err().to_string();
    assert!(error.contains("the moment [15, 1] of 10 s reaches beyond the video's end"), "{error}");
    let cut = "\"z\": {\"duration\": 10, \"timestamps\": [[10.5, 1]], \"sentences\": [\"a\"]}";
    let mut mended = Problems::strict();
    let split = read_activitynet(folder.file("b.json", file(cut)), &mut mended).unwrap();
    assert_eq!(split.queries[2].windows, [[1.0, 10.0]]);
    let note = mended.mended()[2].to_string();
    assert!(
        note.contains("[10.5, 1.0] is reversed, its ends are swapped, and ends at 10.5 s, cut to the video's 10 s"),
        "{note}"
    );
    for bad in ["", "[]", "{\"x\": {\"duration\": NaN}}", &"[".repeat(100_000), &"{\"a\":".repeat(100_000), "{} {}"] {
        let got = read_activitynet(folder.file("b", bad), &mut Problems::lenient());
        assert!(matches!(got, Err(Error::Malformed { .. })), "{bad:.40}");
    }
}

#[test]
fn charades_lines_are_checked() {
    let text = "AO8RW 0.0 6.9##a person, at ## work.\r\nAO8RW 7.5 3##b\n\nY6R7T 4 4##c";
    let mut mended = Problems::strict();
    let split = read_charades(Folder::new().file("a.txt", text), &mut mended).unwrap();
    assert_eq!(split.queries[0].text, "a person, at ## work.");
    assert_eq!(split.queries[1].windows, [[3.0, 7.5]]);
    assert_eq!((split.queries[2].id, split.queries[2].windows[0]), (3, [4.0, 4.01]));
    let videos: Vec<_> = split.videos.iter().map(|v| (v.id.as_str(), v.duration, v.index)).collect();
    assert_eq!(videos, [("AO8RW", 7.5, 0), ("Y6R7T", 4.01, 1)]);
    assert_eq!(mended.mended().len(), 2);
    for bad in ["Y 0 1#a", "Y 0 1## ", "Y 0##a", "Y 0 1 2##a", "Y zero 1##a", "Y NaN 1##a", "Y 0 inf##a", "Y -1 2##a"] {
        let (place, skipped) = problems(CHARADES, format!("x 0 1##a\n{bad}\nx 1 2##a"));
        assert_eq!((place.as_str(), skipped), ("line 2", 1), "{bad}");
    }
}

#[test]
fn didemo_segments_become_seconds() {
    let row = |id: u32, rest: &str| format!("{{\"annotation_id\": {id}, \"description\": \"a\", {rest}}}");
    let good =
        row(1, "\"video\": \"x.mp4\", \"num_segments\": 5, \"times\": [[0, 0], [1, 2], [4, 4], [1, 2]], \"dl\": 1");
    let also = row(2, "\"video\": \"x.mp4\", \"num_segments\": 5, \"times\": [[3, 4]]");
    let path = Folder::new();
    let path = path.file("a.json", format!("[{good}]"));
    let split = read_didemo(&path, &mut Problems::strict()).unwrap();
    assert_eq!(split.queries[0].windows, [[0.0, 5.0], [5.0, 15.0], [20.0, 25.0], [5.0, 15.0]]);
    assert_eq!((split.videos[0].duration, split.queries[0].id), (25.0, 1));
    for bad in [
        row(3, "\"video\": \"y\", \"times\": [[0, 6]]"),
        row(3, "\"video\": \"y\", \"times\": [[2, 1]]"),
        row(3, "\"video\": \"y\", \"times\": [[-1, 1]]"),
        row(3, "\"video\": \"y\", \"times\": [[0.5, 1]]"),
        row(3, "\"video\": \"y\", \"times\": []"),
        row(3, "\"video\": \"y\", \"num_segments\": 18446744073709551615, \"times\": [[0, 1]]"),
        row(3, "\"video\": \"y\", \"video\": \"z\", \"times\": [[0, 1]]"),
        row(3, "\"video\": \"x.mp4\", \"times\": [[0, 1]]"),
        row(1, "\"video\": \"y\", \"times\": [[0, 1]]"),
        "7".into(),
    ] {
        assert_eq!(problems(DIDEMO, format!("[{good}, {bad}, {also}]")), ("row 2".into(), 1), "{bad}");
    }
}

#[test]
fn tvr_splits_are_written_and_read() {
    let video = |id: &str, duration, index| MomentVideo { id: id.into(), duration, index };
    let query = |id, video: Option<&str>, windows: Vec<[f64; 2]>| MomentQuery {
        id,
        text: format!("query \"{id}\" "),
        video: video.map(Into::into),
        windows,
        kind: Some(QueryKind::Both),
        saliency: Vec::new(),
    };
    let train = MomentSplit {
        queries: vec![query(3, Some("b"), vec![[0.0, 1.25]]), query(1, Some("a"), vec![[0.5, 2.0]; 4])],
        videos: vec![video("b", 7.25, 4), video("a", 3.0, 2), video("c", 1.0, 9)],
    };
    let test = MomentSplit { queries: vec![query(8, None, vec![])], videos: vec![video("z", 2.0, 0)] };
    let folder = Folder::new();
    write_tvr(folder.root(), &[("train", &train), ("test_public", &test)]).unwrap();
    let read = |name: &str| {
        let queries = folder.path(&format!("tvr_{name}_release.jsonl"));
        read_tvr(queries, folder.path("tvr_video2dur_idx.json"), name, &mut Problems::strict()).unwrap()
    };
    assert_eq!(read("train"), train);
    assert_eq!(read("test_public"), test);

    let stray = MomentSplit { queries: vec![query(1, Some("q"), vec![])], videos: vec![] };
    assert!(matches!(write_tvr(folder.root(), &[("val", &stray)]), Err(Error::Missing { kind: "video", .. })));
    assert!(matches!(write_neutral(folder.path("n"), &stray), Err(Error::Missing { kind: "video", .. })));
}

#[test]
fn tvr_rows_are_checked() {
    let folder = Folder::new();
    let row = |id: u32, rest: &str| format!("{{\"desc\": \"a\", \"desc_id\": {id}{rest}}}\n");
    let good = row(1, ", \"vid_name\": \"x\", \"duration\": 10.5, \"ts\": [0, 10.2], \"type\": \"t\"") + &row(2, "");
    let durations = folder.file("d.json", "{\"val\": {\"x\": [10, 3]}, \"train\": {\"y\": [10, 3]}}");
    for bad in [
        row(3, ", \"vid_name\": \"x\", \"ts\": [3, 1]"),
        row(3, ", \"vid_name\": \"x\", \"ts\": [-1, 1]"),
        row(3, ", \"vid_name\": \"x\", \"ts\": [[0, 1], [0, 12]]"),
        row(3, ", \"vid_name\": \"x\", \"ts\": {}"),
        row(3, ", \"vid_name\": \"x\", \"ts\": \"12.5\""),
        row(3, ", \"vid_name\": \"x\", \"ts\": [\"00:12\", \"00:14\"]"),
        row(3, ", \"vid_name\": \"x\", \"ts\": [0]"),
        row(3, ", \"vid_name\": \"x\", \"duration\": 12, \"ts\": [0, 1]"),
        row(3, ", \"vid_name\": \"y\", \"ts\": [0, 1]"),
        row(3, ", \"ts\": [0, 1]"),
        row(3, ", \"type\": \"x\""),
        row(1, ""),
    ] {
        let path = folder.file("a.jsonl", format!("{good}{bad}"));
        match read_tvr(&path, &durations, "val", &mut Problems::strict()) {
            Err(Error::Malformed { path: named, place, .. } | Error::Duplicate { path: named, place, .. }) => {
                assert!(named == path && place.starts_with("line 3"), "{bad}: {place}");
            }
            Err(Error::Missing { path: named, kind: "video", id }) => {
                assert_eq!((named, id.as_str()), (durations.clone(), "y"))
            }
            other => panic!("{bad}: {other:?}"),
        }
        let mut lenient = Problems::lenient();
        let split = read_tvr(&path, &durations, "val", &mut lenient).unwrap();
        assert_eq!((split.queries.len(), lenient.skipped().len()), (2, 1), "{bad}");
        assert_eq!(split.queries[0].windows, [[0.0, 10.0]]);
    }
    let times = folder.file("a.jsonl", row(3, ", \"vid_name\": \"x\", \"ts\": \"12.5\""));
    let error = read_tvr(&times, &durations, "val", &mut Problems::strict()).unwrap_err().to_string();
    assert!(error.ends_with("ts must be [start, end] in seconds, as numbers, or a list of such pairs"), "{error}");
    let path = folder.file("a.jsonl", good);
    for bad in ["\"y\": [0, 4]", "\"y\": [1, 3]", "\"x\": [1, 4]", "\"y\": [1]", "\"y\": [1, -4]", "\"\": [1, 4]"] {
        let durations = folder.file("d.json", format!("{{\"val\": {{\"x\": [10, 3], {bad}}}}}"));
        assert!(read_tvr(&path, &durations, "val", &mut Problems::strict()).is_err(), "{bad}");
        let mut lenient = Problems::lenient();
        let split = read_tvr(&path, &durations, "val", &mut lenient).unwrap();
        assert_eq!((split.videos.len(), lenient.skipped().len()), (1, 1), "{bad}");
    }
    let twice = folder.file("d.json", "{\"val\": {}, \"val\": {}}");
    let got = read_tvr(&path, &twice, "val", &mut Problems::lenient());
    assert!(matches!(got, Err(Error::Duplicate { kind: "split", .. })));
}

#[test]
fn damaged_files_never_panic() {
    let folder = Folder::new();
    let lines = "{\"qid\": 1, \"query\": \"a\", \"vid\": \"x\", \"duration\": 10, \"relevant_windows\": [[0, 4.5]]}\n\
        {\"desc\": \"a\", \"desc_id\": 2, \"vid_name\": \"x\", \"ts\": [[0, 1], [2, 3]]}\nx 0 1##a\n";
    let json = "{\"val\": {\"x\": [10, 3], \"duration\": 8, \"timestamps\": [[0, 1]], \"sentences\": [\"a\"]}}";
    for (lines, json) in mutations(lines.as_bytes(), 200).zip(mutations(json.as_bytes(), 200)) {
        let (lines, json) = (folder.file("a", lines), folder.file("b", json));
        for mut problems in [Problems::strict(), Problems::lenient()] {
            let _ = read_tvr(&lines, &json, "val", &mut problems);
            for read in [NEUTRAL, ACTIVITYNET, CHARADES, DIDEMO] {
                let _ = (read(&lines, &mut problems), read(&json, &mut problems));
            }
        }
    }
}
