//! A process that changes an index without pause is killed at arbitrary moments: the index holds exactly what was
//! acknowledged, and perhaps what was under way.

#[path = "common/kill.rs"]
mod kill;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use reelgrad::retrieval::index::{Clip, ClipPlan, Index, IndexSpec, IndexWriter, ModelIdentity, Video, VideoVectors};
use reelgrad::tensor::DType;

const FOLDER: &str = "REELGRAD_TEST_INDEX_FOLDER";
const WIDTH: usize = 64;

fn spec() -> IndexSpec {
    let model = ModelIdentity { family: "CLIP".into(), name: "none".into(), sha256: String::new() };
    let (clips, preprocess) = (ClipPlan::default(), serde_json::Value::Null);
    IndexSpec { model, width: WIDTH, precision: DType::F32, bytes: true, patches: 0, clips, preprocess }
}

/// Numbers that follow from the video's own: its version.
fn vectors(id: &str, version: u64) -> VideoVectors {
    let mut coarse = vec![0.0; WIDTH];
    coarse[version as usize % WIDTH] = 1.0;
    let video =
        Video { id: id.into(), path: None, size: version, modified: 0, duration: 8.0, offset: 0.0, notes: Vec::new() };
    let frames = vec![version as f32; 8 * WIDTH];
    let times = (0..8).map(f64::from).collect();
    let clips = vec![Clip { start: 0.0, end: 8.0, first: 0, count: 8 }];
    VideoVectors { video, clips, coarse, frames, times, patches: Vec::new(), thumbnails: Vec::new() }
}

/// Videos by id, with their versions.
type State = BTreeMap<String, u64>;

/// What a change does; number `step` is always the same.
#[derive(Clone, Copy)]
enum Change {
    Add,
    Delete,
    Compact,
}

fn change(step: u64) -> (Change, Vec<String>) {
    let id = |n: u64| format!("video {}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60);
    match step % 5 {
        3 => (Change::Delete, vec![id(step / 2)]),
        4 => (Change::Compact, Vec::new()),
        _ => {
            let mut ids = vec![id(step), id(step + 77)];
            ids.dedup();
            (Change::Add, ids)
        }
    }
}

fn apply(state: &mut State, step: u64) {
    let (what, ids) = change(step);
    for id in ids {
        match what {
            Change::Add => drop(state.insert(id, step)),
            Change::Delete => drop(state.remove(&id)),
            Change::Compact => {}
        }
    }
}

/// The process to be killed.
#[test]
#[ignore = "is what the other test runs and kills"]
fn child() {
    let folder = std::env::var_os(FOLDER).unwrap();
    let mut log = OpenOptions::new().append(true).open(Path::new(&folder).join("log")).unwrap();
    let from = std::fs::read_to_string(Path::new(&folder).join("log")).unwrap().lines().count() as u64;
    let mut writer = IndexWriter::open(Path::new(&folder).join("index")).unwrap();
    // The limit is for a parent that died.
    for step in from..from + 5000 {
        let (what, ids) = change(step);
        match what {
            Change::Add => {
                ids.iter().for_each(|id| writer.add(vectors(id, step)).unwrap());
                writer.commit().unwrap();
            }
            Change::Delete => {
                let there: Vec<&str> = ids.iter().map(String::as_str).filter(|id| writer.contains(id)).collect();
                writer.delete(&there).unwrap();
            }
            Change::Compact => drop(writer.compact().unwrap()),
        }
        // A line for each change that is done.
        log.write_all(b"\n").unwrap();
    }
}

fn held(index: &Index) -> State {
    index.videos().map(|video| (video.id.clone(), video.size)).collect()
}

#[test]
fn a_killed_process_leaves_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = (folder.path().join("index"), folder.path().join("log"));
    IndexWriter::create(&path, spec()).unwrap();
    std::fs::write(&log, "").unwrap();
    let (mut state, mut done) = (State::new(), 0);
    for round in 0..100u64 {
        // Odd steps, so that the kill meets every part of a change.
        kill::child_after(FOLDER, folder.path(), Duration::from_micros(15_000 + 1_370 * (round * 37 % 50)));
        let acknowledged = std::fs::read(&log).unwrap().len() as u64;
        (done..acknowledged).for_each(|step| apply(&mut state, step));
        let mut and_next = state.clone();
        apply(&mut and_next, acknowledged);
        let index = Index::open(&path).unwrap();
        index.verify().unwrap();
        let held = held(&index);
        assert!(held == state || held == and_next, "round {round}, change {acknowledged}: {held:?}, not {state:?}");
        for number in 0..index.len() {
            let version = index.clip(number).unwrap().video.size;
            assert_eq!(index.frames(number).unwrap().0, vec![version as f32; 8 * WIDTH]);
        }
        // What was under way counts as done, if it is: the next process goes on behind it.
        if held == and_next && held != state {
            OpenOptions::new().append(true).open(&log).unwrap().write_all(b"\n").unwrap();
            apply(&mut state, acknowledged);
            done = acknowledged + 1;
        } else {
            done = acknowledged;
        }
    }
    assert!(done > 100, "only {done} changes were ever finished");
    IndexWriter::open(&path).unwrap();
    let segments = std::fs::read_dir(path.join("segments")).unwrap().count();
    assert_eq!(segments, Index::open(&path).unwrap().segments(), "orphans are left");
}
