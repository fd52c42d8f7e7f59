use super::*;
use serde_json::json;

fn checkpoint(step: u64) -> Checkpoint {
    Checkpoint { state: json!({"step": step}), ..Default::default() }
}

fn read(folder: &RunFolder, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).unwrap()
}

/// Steps `from..to` with a loss each, recalls after every second one.
fn train(folder: &mut RunFolder, from: u64, to: u64) {
    for step in from + 1..=to {
        folder.log(step, &[("loss", 1.0 / step as f64), ("lr", 1e-5 * step as f64)]).unwrap();
        if step % 2 == 0 {
            folder.log(step, &[("t2v/R@1", step as f64), ("v2t, R@1", step as f64 + 0.5)]).unwrap();
        }
    }
}

#[test]
fn both_tables_say_the_same() {
    let temporary = tempfile::tempdir().unwrap();
    let mut folder = RunFolder::create(temporary.path().join("run"), &json!({"lr": 1e-4})).unwrap();
    train(&mut folder, 0, 3);
    folder.log(3, &[("loss", f64::NAN)]).unwrap();
    assert_eq!(read(&folder, CONFIG), "{\n  \"lr\": 0.0001\n}\n");
    assert_eq!(
        read(&folder, JSONL),
        "{\"step\":1,\"loss\":1.0,\"lr\":0.00001}\n\
         {\"step\":2,\"loss\":0.5,\"lr\":0.00002}\n\
         {\"step\":2,\"t2v/R@1\":2.0,\"v2t, R@1\":2.5}\n\
         {\"step\":3,\"loss\":0.3333333333333333,\"lr\":0.000030000000000000004}\n\
         {\"step\":3,\"loss\":null}\n"
    );
    assert_eq!(
        read(&folder, CSV),
        "step,loss,lr,t2v/R@1,\"v2t, R@1\"\n\
         1,1.0,0.00001,,\n2,0.5,0.00002,,\n2,,,2.0,2.5\n\
         3,0.3333333333333333,0.000030000000000000004,,\n3,NaN,,,\n"
    );
    for bad in [("", 1.0), ("step", 1.0)] {
        assert!(matches!(folder.log(4, &[bad]), Err(Error::Argument { .. })));
    }
    assert!(folder.log(4, &[("a", 1.0), ("a", 1.0)]).is_err());
    assert!(folder.log(2, &[("loss", 1.0)]).is_err());
    assert_eq!(folder.history().series(0).count(), 4);
}

#[test]
fn a_resumed_run_leaves_the_same_files_as_one_that_ran_through() {
    let temporary = tempfile::tempdir().unwrap();
    let mut through = RunFolder::create(temporary.path().join("a"), &json!({})).unwrap();
    train(&mut through, 0, 7);
    let path = temporary.path().join("b");
    let mut stopped = RunFolder::create(&path, &json!({"seed": 3})).unwrap();
    train(&mut stopped, 0, 4);
    stopped.save(Slot::Last, &checkpoint(4)).unwrap();
    train(&mut stopped, 4, 6);
    drop(stopped);
    // Cut off in mid-line.
    let jsonl = path.join(JSONL);
    let length = fs::metadata(&jsonl).unwrap().len();
    OpenOptions::new().write(true).open(&jsonl).unwrap().set_len(length - 3).unwrap();

    let mut resumed = RunFolder::resume(&path, Slot::Last).unwrap();
    assert_eq!((resumed.config, resumed.checkpoint), (json!({"seed": 3}), Some(checkpoint(4))));
    train(&mut resumed.folder, 4, 7);
    for name in [JSONL, CSV] {
        assert_eq!(read(&resumed.folder, name), read(&through, name));
    }
    assert_eq!(resumed.folder.history(), through.history());
}

#[test]
fn a_run_without_a_checkpoint_starts_over() {
    let temporary = tempfile::tempdir().unwrap();
    let mut folder = RunFolder::create(temporary.path(), &json!({})).unwrap();
    train(&mut folder, 0, 4);
    assert!(matches!(folder.save(Slot::Last, &Checkpoint::default()), Err(Error::Argument { .. })));
    drop(folder);
    let resumed = RunFolder::resume(temporary.path(), Slot::Last).unwrap();
    assert_eq!(resumed.checkpoint, None);
    assert_eq!((read(&resumed.folder, JSONL).as_str(), read(&resumed.folder, CSV).as_str()), ("", "step\n"));
}

#[test]
fn a_folder_serves_one_run() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(temporary.path(), &json!({})).unwrap();
    match RunFolder::resume(temporary.path(), Slot::Last) {
        Err(Error::Io { action: "lock", source, .. }) => {
            if cfg!(unix) {
                assert!(source.to_string().contains(&format!("process {}", std::process::id())), "{source}");
            }
        }
        other => panic!("{other:?}"),
    }
    drop(folder);
    assert!(matches!(RunFolder::create(temporary.path(), &json!({})), Err(Error::Argument { .. })));
    // The lock file of a process that is gone holds nobody up.
    fs::write(temporary.path().join(LOCK), "999999\n").unwrap();
    RunFolder::resume(temporary.path(), Slot::Last).unwrap();
    assert!(matches!(RunFolder::resume(temporary.path().join("none"), Slot::Last), Err(Error::Io { .. })));
}

#[test]
fn edited_metrics_and_damaged_checkpoints_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let mut folder = RunFolder::create(temporary.path(), &json!({})).unwrap();
    train(&mut folder, 0, 2);
    folder.save(Slot::Last, &checkpoint(2)).unwrap();
    drop(folder);
    for line in ["{\"step\":1,\"loss\":\"low\"}", "{\"loss\":1}", "[]", "{\"step\":-1}", "{\"step\":0,\"a\":1,\"a\":1}"]
    {
        fs::write(temporary.path().join(JSONL), format!("{{\"step\":0}}\n{line}\n")).unwrap();
        match RunFolder::resume(temporary.path(), Slot::Last) {
            Err(Error::Malformed { place, .. }) => assert_eq!(place, "line 2"),
            other => panic!("{line}: {other:?}"),
        }
    }
    fs::write(temporary.path().join("checkpoints/last/state.json"), "{\"step\":3}").unwrap();
    assert!(matches!(RunFolder::resume(temporary.path(), Slot::Last), Err(Error::Checkpoint { .. })));
    assert_eq!(RunFolder::resume(temporary.path(), Slot::Best).unwrap().checkpoint, None);
}

#[cfg(feature = "plot")]
#[test]
fn curves_are_drawn_from_what_is_there() {
    let temporary = tempfile::tempdir().unwrap();
    let mut folder = RunFolder::create(temporary.path(), &json!({})).unwrap();
    folder.plot().unwrap();
    assert!(!temporary.path().join("curves.svg").exists());
    folder.log(0, &[("loss", f64::NAN)]).unwrap();
    folder.plot().unwrap();
    train(&mut folder, 0, 1);
    folder.plot().unwrap();
    train(&mut folder, 1, 5000);
    folder.plot().unwrap();
    let svg = read(&folder, "curves.svg");
    for text in ["<svg", "Loss", "Learning rate", "Recall (%)", "t2v/R@1"] {
        assert!(svg.contains(text), "{text}");
    }
    // Long runs are thinned out.
    assert!(svg.len() < 400_000, "{}", svg.len());
}
