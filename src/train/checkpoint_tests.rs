use super::*;
use serde_json::json;

fn checkpoint(step: u64) -> Checkpoint {
    let array = |n: usize| Array::new([n], (0..n).map(|i| (i as f32 + step as f32).sin()).collect()).unwrap();
    Checkpoint {
        model: [("a.weight".to_string(), array(7)), ("a.bias".to_string(), array(3))].into(),
        optimizer: [("m.a.weight".to_string(), array(5))].into(),
        state: json!({"step": step, "best": 0.1 + 0.2, "seed": u64::MAX}),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn problem_file(result: Result<Checkpoint>) -> String {
    match result {
        Err(Error::Checkpoint { path, .. }) => path.file_name().unwrap().to_str().unwrap().to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn survives_exactly_and_replaces_the_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("last");
    let mut first = checkpoint(1);
    first.model.insert("odd".into(), Array::new([3], vec![f32::NAN, -0.0, f32::MIN_POSITIVE / 2.0]).unwrap());
    save(&dir, &first).unwrap();
    let back = load(&dir).unwrap();
    let bits = |c: &Checkpoint| c.model["odd"].data().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&back), bits(&first));
    assert_eq!((back.state, back.optimizer), (first.state, first.optimizer));
    save(&dir, &checkpoint(2)).unwrap();
    assert_eq!(load(&dir).unwrap(), checkpoint(2));
    assert_eq!(load_model(&dir).unwrap(), checkpoint(2).model);
    assert_eq!(names(folder.path()), ["last"]);
    assert_eq!(names(&dir), [MANIFEST, MODEL, OPTIMIZER, STATE]);
}

#[test]
fn every_flipped_bit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("last");
    save(&dir, &checkpoint(1)).unwrap();
    for name in names(&dir) {
        let path = dir.join(&name);
        let whole = fs::read(&path).unwrap();
        // The digest covers the other files; here and there is enough.
        for bit in (0..whole.len() * 8).step_by(if name == MANIFEST { 1 } else { 61 }) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let found = problem_file(load(&dir));
            // A changed size or digest in the manifest shows at the file that it is about.
            assert!(found == name || name == MANIFEST, "bit {bit} of {name}: reported {found}");
        }
        fs::write(&path, whole).unwrap();
    }
    load(&dir).unwrap();
}

#[test]
fn truncated_missing_and_extra_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("last");
    save(&dir, &checkpoint(1)).unwrap();
    for name in names(&dir) {
        let path = dir.join(&name);
        let whole = fs::read(&path).unwrap();
        for keep in [0, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..keep]).unwrap();
            assert_eq!(problem_file(load(&dir)), name);
        }
        fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
        assert_eq!(problem_file(load(&dir)), name);
        fs::remove_file(&path).unwrap();
        assert_eq!(problem_file(load(&dir)), name);
        fs::create_dir(&path).unwrap();
        assert!(load(&dir).is_err());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, whole).unwrap();
    }
    fs::write(dir.join("extra.bin"), b"x").unwrap();
    assert_eq!(problem_file(load(&dir)), "extra.bin");
    assert_eq!(problem_file(load(folder.path().join("none"))), MANIFEST);
}

/// Stops after every step in turn, as a killed process would, with and without an older checkpoint.
#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new_one() {
    for replaces in [false, true] {
        for stop in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path().join("last");
            if replaces {
                save(&dir, &checkpoint(1)).unwrap();
            }
            let (mut steps, mut published) = (0, false);
            let crashed = save_in_steps(&dir, &checkpoint(2), &mut |step| {
                published |= step == MANIFEST && !replaces || step == "set aside";
                steps += 1;
                if steps > stop { Err(Error::Interrupted { saved: None }) } else { Ok(()) }
            });
            if crashed.is_ok() {
                assert_eq!(stop, if replaces { 8 } else { 6 });
                break;
            }
            // Reading repairs nothing, so it gives the same before and after the repair.
            for _ in 0..2 {
                match load(&dir) {
                    Ok(found) => assert_eq!(found, checkpoint(if published { 2 } else { 1 }), "after step {stop}"),
                    Err(e) => assert!(!replaces && !published, "after step {stop}: {e}"),
                }
                settle(&dir).unwrap();
                assert!(names(folder.path()).iter().all(|name| name == "last"), "after step {stop}");
            }
            save(&dir, &checkpoint(3)).unwrap();
            assert_eq!(load(&dir).unwrap(), checkpoint(3));
        }
    }
}

#[test]
fn half_written_folders_are_ignored_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("last");
    save(&dir, &checkpoint(1)).unwrap();
    let half = folder.path().join("last.tmp-1");
    fs::create_dir(&half).unwrap();
    fs::write(half.join(MODEL), b"half").unwrap();
    // Not ours: another name, and no process id.
    for other in ["last.tmp-x", "lastly.tmp-1", "best.tmp-1"] {
        fs::create_dir(folder.path().join(other)).unwrap();
    }
    assert_eq!(load(&dir).unwrap(), checkpoint(1));
    save(&dir, &checkpoint(2)).unwrap();
    assert_eq!(load(&dir).unwrap(), checkpoint(2));
    assert_eq!(names(folder.path()), ["best.tmp-1", "last", "last.tmp-x", "lastly.tmp-1"]);
    // A copy of the older checkpoint is taken back when the new one is not whole.
    fs::rename(&dir, folder.path().join("last.old-1")).unwrap();
    fs::create_dir(&half).unwrap();
    assert_eq!(load(&dir).unwrap(), checkpoint(2));
    settle(&dir).unwrap();
    assert_eq!(load(&dir).unwrap(), checkpoint(2));
}

#[test]
fn a_failed_save_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("last");
    save(&dir, &checkpoint(1)).unwrap();
    let mut bad = checkpoint(2);
    bad.model.insert("__metadata__".into(), Array::zeros([1]));
    assert!(save(&dir, &bad).is_err());
    assert_eq!(load(&dir).unwrap(), checkpoint(1));
    assert_eq!(names(folder.path()), ["last"]);
    assert!(matches!(save(folder.path().join("no/such"), &checkpoint(1)), Err(Error::Io { .. })));
    // A folder of something else is not replaced.
    let other = folder.path().join("thesis");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("chapter1.txt"), b"x").unwrap();
    assert!(matches!(save(&other, &checkpoint(1)), Err(Error::Checkpoint { .. })));
    assert_eq!(names(&other), ["chapter1.txt"]);
}
