//! A process that saves without pause is killed at arbitrary moments; a whole checkpoint must be left every time.

#[path = "common/kill.rs"]
mod kill;

use std::path::Path;
use std::time::Duration;

use reelgrad::tensor::Array;
use reelgrad::train::{Checkpoint, checkpoint};

const FOLDER: &str = "REELGRAD_TEST_KILL_FOLDER";

fn at_step(step: u64) -> Checkpoint {
    let array = |value: f32| Array::new([1000], vec![value; 1000]).unwrap();
    Checkpoint {
        model: [("w".to_string(), array(step as f32))].into(),
        optimizer: [("m.w".to_string(), array(-(step as f32)))].into(),
        state: serde_json::json!({"step": step}),
    }
}

fn step_of(dir: &Path) -> u64 {
    let found = checkpoint::load(dir).unwrap();
    let step = found.state["step"].as_u64().unwrap();
    assert_eq!(found, at_step(step), "parts of different checkpoints");
    step
}

/// The process to be killed.
#[test]
#[ignore = "is what the other test runs and kills"]
fn child() {
    let folder = std::env::var_os(FOLDER).unwrap();
    let dir = Path::new(&folder).join("last");
    let from = step_of(&dir);
    // The limit is for a parent that died.
    for step in from + 1..from + 5000 {
        checkpoint::save(&dir, &at_step(step)).unwrap();
    }
}

#[test]
fn a_killed_process_leaves_a_whole_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("last");
    checkpoint::save(&dir, &at_step(0)).unwrap();
    let mut before = 0;
    for round in 0..25 {
        // Odd steps, so that the kill meets every part of a save.
        kill::child_after(FOLDER, folder.path(), Duration::from_micros(20_000 + 3_700 * round));
        let after = step_of(&dir);
        assert!(after >= before, "went back from step {before} to {after}");
        before = after;
    }
    assert!(before > 0, "no save was ever finished");
    checkpoint::settle(&dir).unwrap();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["last"]);
}
