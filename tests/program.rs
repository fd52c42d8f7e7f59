//! The program `reelgrad`, as a user runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/clip-tiny-hf");

fn reelgrad(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reelgrad")).args(arguments).output().unwrap()
}

/// What it answers on standard output, if it ends with `code`.
#[track_caller]
fn answer(code: i32, arguments: &[&str]) -> String {
    let output = reelgrad(arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it complains of on standard error when it ends with `code`, and answers nothing.
#[track_caller]
fn complaint(code: i32, arguments: &[&str]) -> String {
    let output = reelgrad(arguments);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{arguments:?}: {told}");
    told
}

fn ffmpeg(folder: &Path, arguments: &str) {
    let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-y"]).args(words).current_dir(folder);
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Videos in several containers, some damaged or none.
fn videos(root: &Path) -> PathBuf {
    let folder = root.join("videos");
    fs::create_dir_all(folder.join("deep")).unwrap();
    for (source, name) in [
        ("testsrc2=s=96x64:r=5:d=11", "deep/moving.mp4"),
        ("color=red:s=64x64:r=5:d=6", "red.mkv"),
        ("color=blue:s=64x48:r=10:d=4", "blue.webm"),
        ("mandelbrot=s=64x64:r=5", "-t 5 zoom.avi"),
        ("color=green:s=33x33:r=5:d=3", "green.ts"),
    ] {
        ffmpeg(&folder, &format!("-f lavfi -i {source} {name}"));
    }
    fs::rename(folder.join("red.mkv"), folder.join("a 'red'; $(video) <b>&.MKV")).unwrap();
    let whole = fs::read(folder.join("deep/moving.mp4")).unwrap();
    fs::write(folder.join("corrupt.mp4"), &whole[..whole.len() / 3]).unwrap();
    fs::write(folder.join("empty.mp4"), "").unwrap();
    ffmpeg(&folder, "-f lavfi -i sine=d=1 sound.mkv");
    fs::write(folder.join("notes.txt"), "nothing").unwrap();
    folder
}

#[test]
fn a_folder_is_indexed_searched_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    let (folder, index) = (videos(root.path()), at("i"));
    let folder = folder.to_str().unwrap();
    let make = ["index", folder, "--model", MODEL, "--out", &index];
    let made = reelgrad(&make);
    let told = String::from_utf8(made.stderr).unwrap();
    assert_eq!(made.status.code(), Some(1), "{told}");
    assert!(told.contains("5 read, 1 skipped (1 no video), 3 failed; 0.01 h of video"), "{told}");
    for name in ["corrupt.mp4", "empty.mp4", "sound.mkv"] {
        let about = told.lines().filter(|line| line.starts_with("failed") && line.contains(name)).count();
        assert_eq!(about, 1, "{name}: {told}");
    }
    assert_eq!(String::from_utf8(made.stdout).unwrap(), format!("index    {index}: 5 videos, 6 clips\n"));
    let again = String::from_utf8(reelgrad(&make).stderr).unwrap();
    assert!(
        again.contains("5 read (5 before), 1 skipped (1 no video), 3 failed; 0.00 h of video, 0 clips added"),
        "{again}"
    );

    search(&index, &at);

    let told: Value = serde_json::from_str(&answer(0, &["info", &index, "--json", "--videos"])).unwrap();
    assert_eq!((&told["schema"], &told["videos"], &told["clips"]), (&"reelgrad.info/1".into(), &5.into(), &6.into()));
    assert!(answer(0, &["info", &index]).contains("model    CLIP clip-tiny-hf ("));
    let red = told["list"].as_array().unwrap().iter().map(|v| v["id"].as_str().unwrap()).find(|id| id.contains("red"));
    let red = red.unwrap();
    assert_eq!(answer(0, &["delete", &index, red]), "deleted  1 videos; 4 are left\n");
    assert!(complaint(2, &["delete", &index, red]).contains("is missing"));
    assert_eq!(answer(0, &["compact", &index]), "compact  1 segments became 1\n");
    assert!(answer(0, &["verify", &index]).starts_with("whole    1 segments"));
    // A video that is gone; with --prune it leaves.
    fs::remove_file(Path::new(folder).join("blue.webm")).unwrap();
    for (extra, word, left) in [("--strict", "vanished", 5), ("--prune", "pruned", 4)] {
        let output = reelgrad(&[&make[..], &[extra]].concat());
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.lines().any(|line| line.starts_with(word) && line.ends_with("blue.webm")), "{told}");
        assert!(String::from_utf8(output.stdout).unwrap().contains(&format!(": {left} videos")), "{told}");
    }
    let segment = fs::read_dir(root.path().join("i/segments")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(segment.join("coarse")).unwrap();
    bytes[5] ^= 1;
    fs::write(segment.join("coarse"), bytes).unwrap();
    assert!(complaint(2, &["verify", &index]).contains("coarse: bytes 0 to"));
}

fn search(index: &str, at: &dyn Fn(&str) -> String) {
    fn asked<'a>(index: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["search", index, "--model", MODEL], more].concat()
    }
    let (png, html, cut) = (at("sheet.png"), at("sheet.html"), at("cut"));
    let json =
        asked(index, &["a red square", "blue", "--top", "3", "--json", "--times", "--sheet", &png, "--clip-out", &cut]);
    let found: Value = serde_json::from_str(&answer(0, &json)).unwrap();
    assert_eq!((&found["schema"], &found["index"]["clips"]), (&"reelgrad.search/1".into(), &6.into()));
    assert_eq!(found["stages"].as_array().unwrap().len(), 4);
    let results = found["answers"][0]["results"].as_array().unwrap();
    assert_eq!((results.len(), &found["answers"][1]["query"]), (3, &"blue".into()));
    for result in results {
        assert!(result["start"].as_f64().unwrap() < result["end"].as_f64().unwrap());
        assert!(Path::new(result["path"].as_str().unwrap()).is_file());
    }
    assert!(image::open(&png).unwrap().width() > 900);
    let cuts: Vec<PathBuf> = fs::read_dir(&cut).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(cuts.len(), 6, "{cuts:?}");
    for cut in &cuts {
        let frames = answer(0, &["encode", "frames", cut.to_str().unwrap(), "--rate", "1", "--json"]);
        let frames: Value = serde_json::from_str(&frames).unwrap();
        assert!(frames["duration"].as_f64().unwrap() > 0.5, "{}", cut.display());
    }
    // A line for each result; a table; a page without anything from elsewhere.
    let lines = answer(0, &asked(index, &["blue", "--jsonl"]));
    assert_eq!(lines.lines().count(), 5);
    lines.lines().for_each(|line| assert_eq!(serde_json::from_str::<Value>(line).unwrap()["query"], "blue"));
    let table = answer(0, &asked(index, &["blue", "--sheet", &html]));
    assert_eq!(table.lines().count(), 2 + 5, "{table}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("&lt;b&gt;") || page.contains("&lt;b>"), "a name is not escaped");
    assert!(page.contains("data:image/jpeg;base64,/9j/") && !page.contains("http"));
    // Like a clip; a picture of a frame finds its video.
    answer(0, &asked(index, &["--like", "0", "--top", "2"]));
    // Errors, in words.
    assert!(complaint(2, &asked(index, &["blue", "--top", "0"])).contains("at least one must be asked for"));
    assert!(complaint(2, &asked(index, &["blue", "--top", "7"])).contains("holds 6 clips"));
    assert!(complaint(2, &asked(index, &["  "])).contains("is blank"));
    assert!(complaint(2, &asked(index, &["blue", "--sheet", "x.gif"])).contains("--sheet"));
    assert!(complaint(2, &asked(index, &["--like", "99"])).contains("out of range"));
    assert!(complaint(2, &["search", &at("none"), "--model", MODEL, "x"]).contains("index \"none\" is missing"));
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/siglip-tiny-hf");
    let foreign = complaint(2, &["search", index, "--model", other, "x"]);
    assert!(
        foreign.contains("siglip-tiny-hf (SigLIP") && foreign.contains("was made by clip-tiny-hf (CLIP"),
        "{foreign}"
    );
}

#[test]
fn an_index_keeps_what_it_was_made_with() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("videos");
    fs::create_dir(&folder).unwrap();
    ffmpeg(&folder, "-f lavfi -i testsrc2=s=64x64:r=10:d=9 one.mp4");
    let (folder, index) = (folder.to_str().unwrap(), root.path().join("i"));
    let index = index.to_str().unwrap();
    let make = ["index", folder, "--model", MODEL, "--out", index, "--rate", "2", "--clip", "4", "--bytes"];
    assert_eq!(answer(0, &make), format!("index    {index}: 1 videos, 4 clips\n"));
    answer(0, &make);
    assert!(
        complaint(2, &["index", folder, "--model", MODEL, "--out", index, "--rate", "1"]).contains("--rate differs")
    );
    assert_eq!(answer(0, &["index", folder, "--model", MODEL, "--out", index]).lines().count(), 1);
    for (wrong, why) in [(["--rate", "0"], "above 0"), (["--step", "90"], "step"), (["--clip", "nan"], "seconds")] {
        let arguments = ["index", folder, "--model", MODEL, "--out", "/nowhere", wrong[0], wrong[1]];
        assert!(complaint(2, &arguments).contains(why), "{wrong:?}");
    }
    // What holds something else is told before a model is loaded.
    let taken = complaint(2, &["index", folder, "--model", MODEL, "--out", folder]);
    assert!(taken.contains("is not empty: it holds one.mp4") && !taken.contains("loading"), "{taken}");
    let missing = ["index", "/no/such/folder", "--model", MODEL, "--out", index];
    assert!(complaint(2, &missing).contains("cannot open /no/such/folder"));
}

/// A disk that is full in the middle of it, as a limit on the size of files makes one.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_a_whole_index() {
    let root = tempfile::tempdir().unwrap();
    let (folder, index) = (videos(root.path()), root.path().join("i"));
    let (folder, index) = (folder.to_str().unwrap(), index.to_str().unwrap());
    let one = Path::new(folder).join("blue.webm");
    answer(0, &["index", one.to_str().unwrap(), "--model", MODEL, "--out", index]);
    let make = ["index", folder, "--model", MODEL, "--out", index];
    let program = env!("CARGO_BIN_EXE_reelgrad");
    let full = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"", program])
        .args(make)
        .output()
        .unwrap();
    let told = String::from_utf8(full.stderr).unwrap();
    assert_eq!((full.status.code(), full.stdout.len()), (Some(2), 0), "{told}");
    assert!(told.contains("error: cannot write ") && told.contains("File too large"), "{told}");
    assert!(answer(0, &["verify", index]).contains(" 1 videos"));
    assert!(String::from_utf8(reelgrad(&make).stdout).unwrap().ends_with(": 5 videos, 6 clips\n"));
    answer(0, &["verify", index]);
}

#[test]
fn damaged_videos_are_failures_where_that_is_asked() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("videos");
    fs::create_dir(&folder).unwrap();
    ffmpeg(&folder, "-f lavfi -i testsrc2=s=64x64:r=10:d=9 -c:v mpeg4 -g 10 one.avi");
    let mut bytes = fs::read(folder.join("one.avi")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4000].fill(0x55);
    fs::write(folder.join("one.avi"), bytes).unwrap();
    let folder = folder.to_str().unwrap();
    let out = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    let encode = |more: &[&str], out: &str| {
        let words = ["encode", "clip", "--model", MODEL, "--videos", folder, "--out", out];
        let output = reelgrad(&[&words[..], more].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = encode(&[], &out("a.safetensors"));
    assert!(code == Some(0) && told.contains("note     one.avi: decoded"), "{told}");
    let (code, told) = encode(&["--strict"], &out("b.safetensors"));
    assert!(code == Some(1) && told.contains("failed   ") && told.contains("0 read, 0 skipped, 1 failed"), "{told}");
    let strict = ["index", folder, "--model", MODEL, "--out", &out("i"), "--strict"];
    assert_eq!(reelgrad(&strict).status.code(), Some(1));
}

#[test]
fn doctor_finds_this_machine_healthy() {
    let told: Value = serde_json::from_str(&answer(0, &["doctor", "--json"])).unwrap();
    assert_eq!((&told["schema"], &told["self_test"]["passed"]), (&"reelgrad.doctor/1".into(), &true.into()));
    assert!(told["speed"]["flops"].as_f64().unwrap() > 1e6 && told["ffmpeg"]["found"].as_bool().unwrap());
    let tables = answer(0, &["doctor"]);
    assert!(tables.contains("CLIP ViT-B-32") && tables.contains("GFLOP/s"), "{tables}");
    assert_eq!(answer(0, &["doctor", "--brief"]).lines().count(), 1);
    assert!(complaint(2, &["doctor", "--adapter", "no such adapter"]).contains("available:"));
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_reelgrad"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(141), String::new()));
}

#[test]
fn captions_are_evaluated_on_an_index() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    fs::create_dir_all(root.path().join("videos")).unwrap();
    for (source, name) in [("color=red:s=64x64:r=5:d=6", "red.mkv"), ("color=blue:s=64x48:r=10:d=4", "blue.webm")] {
        ffmpeg(&root.path().join("videos"), &format!("-f lavfi -i {source} {name}"));
    }
    let (index, captions) = (at("index"), at("captions.jsonl"));
    answer(0, &["index", &at("videos"), "--model", MODEL, "--out", &index]);
    let eval = ["eval", &index, "--model", MODEL, "--captions", &captions];
    let lines = [
        r#"{"video_id": "red", "captions": ["a red square", "something red"]}"#,
        r#"{"video_id": "2", "path": "blue.webm", "start": 0, "end": 4, "caption": "something blue"}"#,
    ];
    fs::write(&captions, lines.join("\n")).unwrap();
    let told: Value = serde_json::from_str(&answer(0, &[&eval[..], &["--json"]].concat())).unwrap();
    assert_eq!(
        (&told["schema"], &told["captions"], &told["videos"]),
        (&"reelgrad.eval/1".into(), &3.into(), &2.into())
    );
    // Of two videos the own one is at least the second.
    assert_eq!(told["recall"][1]["percent"]["value"], 100.0);
    assert!([1.0, 2.0].map(Value::from).contains(&told["median_rank"]["value"]), "{told}");
    // A video of one clip, of two in all: half of the guesses are right, and its only moment is it.
    assert_eq!((&told["moments"][0]["iou"], &told["moments"][0]["chance"]), (&0.5.into(), &50.0.into()));
    assert!(answer(0, &eval).contains("video   R@10            100.0 %"));

    let missing = [&lines[..], &[r#"{"video_id": "green", "caption": "something green"}"#]].concat();
    fs::write(&captions, missing.join("\n")).unwrap();
    let output = reelgrad(&eval);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && told.contains("left out green: the index holds no such video (1 captions)"),
        "{told}"
    );
    fs::write(&captions, missing[2]).unwrap();
    assert!(complaint(2, &eval).contains("name no video of the index"));
    fs::write(&captions, "{}").unwrap();
    assert!(complaint(2, &eval).contains("line 1"));
}

#[test]
fn help_shows_an_example_of_every_command() {
    for command in [
        "demo",
        "index",
        "search",
        "eval",
        "serve",
        "doctor",
        "info",
        "verify",
        "delete",
        "compact",
        "completions",
        "man",
    ] {
        assert!(answer(0, &[command, "--help"]).contains(&format!("Example: reelgrad {command}")), "{command}");
    }
    for what in ["clip", "bert", "frames"] {
        assert!(answer(0, &["encode", what, "--help"]).contains(&format!("Example: reelgrad encode {what}")), "{what}");
    }
    assert!(answer(0, &["--help"]).contains("Exit codes"));
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(answer(0, &["completions", shell]).contains("reelgrad"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    answer(0, &["man", folder.path().to_str().unwrap()]);
    assert!(fs::read_to_string(folder.path().join("reelgrad-search.1")).unwrap().contains("reelgrad"));
}
