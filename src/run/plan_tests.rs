use std::fs;

use super::*;
use crate::run::bicnet;
#[cfg(feature = "text")]
use crate::{models::eercf::EercfConfig, run::clip};

fn request(run: &Path, set: &[&str]) -> Request {
    let set = set.iter().map(|text| text.parse().unwrap()).collect();
    Request { run: Some(run.into()), set, ..Request::default() }
}

fn resumed(request: Request) -> Request {
    Request { resume: Some(Slot::Last), ..request }
}

#[test]
fn names_win_over_the_file_and_the_file_over_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    fs::write(&file, r#"{"fit": {"lr": 0.5, "batch": 3}, "model": {"num_heads": 8}}"#).unwrap();
    let run = folder.path().join("run");
    let mut request = Request { config: Some(file.clone()), ..request(&run, &["fit.batch=7"]) };
    let plan = Plan::<bicnet::Settings>::new(&request).unwrap();
    assert_eq!((plan.settings.fit.core.lr, plan.settings.fit.core.batch, plan.settings.model.num_heads), (0.5, 7, 8));
    assert!(plan.asked.has("fit.lr") && plan.asked.has("fit.batch") && !plan.asked.has("fit.steps"));
    assert_eq!(plan.settings.model.embedding_dim, 1024);
    request.small = true;
    assert_eq!(Plan::<bicnet::Settings>::new(&request).unwrap().settings.model.embedding_dim, 64);
    assert!(!run.exists(), "nothing is written");

    fs::write(&file, r#"{"fit": {"lrr": 0.5}}"#).unwrap();
    let error = Plan::<bicnet::Settings>::new(&request).unwrap_err();
    assert!(matches!(error, Error::UnknownSetting { nearest, .. } if nearest == "fit.lr"));
    fs::write(&file, "[1]").unwrap();
    assert!(matches!(Plan::<bicnet::Settings>::new(&request), Err(Error::Malformed { .. })));
}

#[test]
fn a_folder_with_a_run_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let error = Plan::<bicnet::Settings>::new(&request(folder.path(), &[])).unwrap_err();
    assert!(matches!(error, Error::Argument { argument: "run", .. }), "{error}");
}

#[test]
fn resuming_needs_a_run_and_refuses_another_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let none = Request { resume: Some(Slot::Last), ..Request::default() };
    assert!(matches!(Plan::<bicnet::Settings>::new(&none), Err(Error::Argument { argument: "resume", .. })));
    let empty = resumed(request(folder.path(), &[]));
    assert!(matches!(Plan::<bicnet::Settings>::new(&empty), Err(Error::Io { .. })));
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    Plan::<bicnet::Settings>::new(&empty).unwrap();
    let small = Request { small: true, ..empty };
    assert!(matches!(Plan::<bicnet::Settings>::new(&small), Err(Error::Argument { argument: "small", .. })));
}

#[test]
#[cfg(feature = "text")]
fn resuming_refuses_whatever_would_change_the_run() {
    type Settings = clip::Settings<EercfConfig>;
    let folder = tempfile::tempdir().unwrap();
    let config = json!(Settings::small());
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    for set in [
        "fit.seed=7",
        "fit.steps=2000",
        "data.dataset=msvd",
        "data.videos=elsewhere",
        "data.clip=elsewhere",
        // From rendered clips to a dataset.
        "data.root=elsewhere",
        "data.world.seed=1",
        "model.base.frames=4",
    ] {
        let error = Plan::<Settings>::new(&resumed(request(folder.path(), &[set]))).unwrap_err();
        let name = set.split_once('=').unwrap().0;
        assert!(matches!(&error, Error::ResumeChanges { name: n, .. } if n == name), "{set}: {error}");
    }
    // What the run has may be said again.
    let same = Plan::<Settings>::new(&resumed(request(folder.path(), &["fit.seed=0"]))).unwrap();
    assert_eq!(same.settings, Settings::small());
    assert_eq!(json!(stored::<Settings>(folder.path()).unwrap()), config);
}

#[test]
#[cfg(feature = "text")]
fn towers_and_videos_need_a_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let refused = |set: &[&str], small, named: &str| {
        let request = Request { small, ..request(&run, set) };
        match Plan::<clip::Settings<EercfConfig>>::new(&request) {
            Err(Error::Argument { argument, .. }) => assert_eq!(argument, named, "{set:?}"),
            other => panic!("{set:?}: {other:?}"),
        }
    };
    refused(&["data.clip=towers"], false, "clip");
    refused(&["data.videos=videos"], false, "videos");
    refused(&["data.root=annotations"], false, "data");
    refused(&["data.root=annotations", "data.clip=towers", "data.videos=videos"], true, "small");
}

#[test]
fn numbers_of_folders_are_free() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("a-b-1")).unwrap();
    assert_eq!(free_folder(folder.path(), "a b"), folder.path().join("a-b-2"));
}
