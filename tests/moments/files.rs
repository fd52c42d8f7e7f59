//! The index on disk: saved, opened, damaged, forged.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use reelgrad::data::formats::safetensors;
use reelgrad::data::moments::{MomentSource, Problems};
use reelgrad::models::Model;
use reelgrad::models::reloclnet::{Padding, Reloclnet, Streams};
use reelgrad::random::Random;
use reelgrad::retrieval::moments::{IndexOptions, MomentIndex, MomentResults, MomentSearch, WantedMoment};
use reelgrad::tensor::DType;
use reelgrad::{Array, Error, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::gpu;
use crate::corpus::{Corpus, build, config, corpus, model, options};
use crate::index::{assert_close, assert_equal, search};

/// Saves an index of seven videos in segments of three.
fn saved(model: &Reloclnet, precision: DType, folder: &Path) -> MomentIndex {
    let bytes = if precision == DType::F16 { 528 } else { 1056 };
    let options = IndexOptions { precision, segment_bytes: bytes, ..IndexOptions::default() };
    let index = build(model, &corpus(), options).unwrap();
    index.save(folder).unwrap();
    index
}

fn names(folder: &Path) -> Vec<String> {
    let entry = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(entry).collect();
    names.sort();
    names
}

#[test]
fn an_index_survives_saving_and_opening() {
    let folder = tempfile::tempdir().unwrap();
    for (name, streams) in [("both", Streams::Both), ("sub", Streams::Sub)] {
        let model = model(streams, Padding::Official);
        let path = folder.path().join(name);
        let index = saved(&model, DType::F32, &path);
        let segments = [0, 1, 2].map(|n| format!("segment-{n:05}.safetensors"));
        assert_eq!(names(&path), [&["index.json".to_string()][..], &segments].concat());
        let opened = MomentIndex::open(&gpu(), &path).unwrap();
        assert_eq!((opened.videos(), opened.precision()), (index.videos(), DType::F32));
        assert_eq!(opened.bytes(), index.bytes());
        let found = search(&model, &index);
        assert_equal(&search(&model, &opened), &found);

        let path = folder.path().join(format!("{name} half"));
        let half = saved(&model, DType::F16, &path);
        let opened = MomentIndex::open(&gpu(), &path).unwrap();
        assert_eq!((opened.precision(), opened.bytes()), (DType::F16, half.bytes()));
        assert_equal(&search(&model, &opened), &search(&model, &half));
        assert_close(&search(&model, &opened), &found);
        // What was rounded once is not rounded again.
        let again = folder.path().join(format!("{name} again"));
        opened.save(&again).unwrap();
        for file in names(&path) {
            assert!(fs::read(path.join(&file)).unwrap() == fs::read(again.join(&file)).unwrap(), "{file}");
        }
    }
}

#[test]
fn saving_replaces_nothing_and_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(Streams::Sub, Padding::Official);
    let (path, file) = (folder.path().join("index"), folder.path().join("file"));
    let index = saved(&model, DType::F32, &path);
    fs::write(&file, "mine").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let before = names(folder.path());
    for taken in ["index", "file", "empty", ".", ".."] {
        let got = index.save(folder.path().join(taken));
        let exists = |source: &std::io::Error| source.kind() == ErrorKind::AlreadyExists;
        assert!(matches!(&got, Err(Error::Io { source, .. }) if exists(source)), "{taken}: {got:?}");
    }
    assert!(matches!(index.save(folder.path().join("no/such/folder")), Err(Error::Io { .. })));
    assert!(matches!(index.save(file.join("below")), Err(Error::Io { .. })));
    assert_eq!(names(folder.path()), before);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert!(MomentIndex::open(&gpu(), &path).is_ok());
}

/// Opens the index in `folder` with one file replaced (`None`: removed), and puts it back.
fn with_file(folder: &Path, name: &str, bytes: Option<&[u8]>) -> Result<()> {
    let path = folder.join(name);
    let good = fs::read(&path).unwrap();
    match bytes {
        Some(bytes) => fs::write(&path, bytes).unwrap(),
        None => fs::remove_file(&path).unwrap(),
    }
    let got = MomentIndex::open(&gpu(), folder).map(drop);
    fs::write(&path, good).unwrap();
    got
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    saved(&model(Streams::Both, Padding::Official), DType::F32, &path);
    for name in names(&path) {
        assert!(matches!(with_file(&path, &name, None), Err(Error::Io { path: p, .. }) if p == path.join(&name)));
    }
    let name = "segment-00001.safetensors";
    let good = fs::read(path.join(name)).unwrap();
    let refused = |bytes: &[u8], what: &str| match with_file(&path, name, Some(bytes)) {
        Err(Error::Malformed { path: p, place, .. }) => assert_eq!((p, place.as_str()), (path.join(name), "content")),
        other => panic!("{what}: {other:?}"),
    };
    for place in [0, 9, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        refused(&bytes, "a flipped bit");
    }
    for length in [0, 7, good.len() - 1] {
        refused(&good[..length], "cut short");
    }
    refused(&[&good[..], &[0]].concat(), "one byte more");
    refused(&fs::read(path.join("segment-00000.safetensors")).unwrap(), "another segment");

    let manifest = fs::read(path.join("index.json")).unwrap();
    let mut random = Random::new(5, 0);
    for _ in 0..300 {
        let mut bytes = manifest.clone();
        bytes[random.below(manifest.len())] = random.below(256) as u8;
        // A name or a time may have become another good one; nothing panics.
        let _ = with_file(&path, "index.json", Some(&bytes));
        bytes.truncate(random.below(manifest.len()));
        assert!(matches!(with_file(&path, "index.json", Some(&bytes)), Err(Error::Malformed { .. })));
    }
    assert!(MomentIndex::open(&gpu(), &path).is_ok());
    assert!(matches!(MomentIndex::open(&gpu(), folder.path()), Err(Error::Io { .. })));
}

#[test]
fn manifests_that_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    saved(&model(Streams::Both, Padding::Official), DType::F16, &path);
    fs::write(folder.path().join("outside"), "secret").unwrap();
    let good: Value = serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
    let edited = |pointer: &str, value: Value| {
        let mut manifest = good.clone();
        *manifest.pointer_mut(pointer).unwrap() = value;
        with_file(&path, "index.json", Some(manifest.to_string().as_bytes()))
    };
    edited("/segments/0/file", good["segments"][0]["file"].clone()).unwrap();
    let absolute = folder.path().join("outside").display().to_string();
    for (pointer, value) in [
        ("/format", json!("reelgrad-moments/2")),
        ("/precision", json!("f64")),
        ("/positions", json!(0)),
        ("/positions", json!(12)),
        ("/positions", json!(u64::MAX)),
        ("/positions", json!(-1)),
        ("/width", json!(0)),
        ("/width", json!(7)),
        ("/width", json!(u64::MAX - 1)),
        ("/streams", json!([])),
        ("/streams", json!(["sub", "video"])),
        ("/streams", json!(["video", "../sub"])),
        ("/videos", json!([])),
        ("/videos/6", json!(null)),
        ("/videos/6/clips", json!(0)),
        ("/videos/6/clips", json!(12)),
        ("/videos/6/duration", json!(-3.0)),
        ("/videos/6/seconds_per_clip", json!(0)),
        ("/videos/6/index", json!(-1)),
        ("/segments", json!([])),
        ("/segments/0/videos", json!(0)),
        ("/segments/0/videos", json!(2)),
        ("/segments/0/videos", json!(u64::MAX)),
        ("/segments/0/digest/size", json!(1)),
        ("/segments/0/digest/sha256", json!("00")),
        ("/segments/0/file", json!("")),
        ("/segments/0/file", json!("..")),
        ("/segments/0/file", json!(".")),
        ("/segments/0/file", json!("../outside")),
        ("/segments/0/file", json!("./segment-00000.safetensors")),
        ("/segments/0/file", json!("../index/segment-00000.safetensors")),
        ("/segments/0/file", json!("segment-00000.safetensors/")),
        ("/segments/0/file", json!(absolute)),
        ("/segments/0/file", json!("index.json")),
        ("", json!([])),
    ] {
        let got = edited(pointer, value.clone());
        let Err(Error::Malformed { path: named, .. }) = &got else { panic!("{pointer} = {value}: {got:?}") };
        assert!(named.starts_with(&path), "{named:?}");
    }
    // The videos of two segments, in three and in one; then one video twice.
    let mut moved = good.clone();
    moved["segments"][0]["videos"] = json!(2);
    moved["segments"][1]["videos"] = json!(4);
    let got = with_file(&path, "index.json", Some(moved.to_string().as_bytes()));
    assert!(matches!(got, Err(Error::Malformed { .. })), "{got:?}");
    let got = edited("/videos/6/id", good["videos"][0]["id"].clone());
    assert!(
        matches!(&got, Err(Error::Duplicate { place, id, .. }) if place == "video 6" && id == "video 0"),
        "{got:?}"
    );
    let mut more = good.clone();
    more["note"] = json!("?");
    let got = with_file(&path, "index.json", Some(more.to_string().as_bytes()));
    assert!(matches!(got, Err(Error::Malformed { .. })), "{got:?}");
}

/// Opens the index with the first segment replaced by arrays for which the manifest vouches.
fn forged(path: &Path, arrays: &[(&str, Array)]) -> Result<()> {
    let name = "segment-00000.safetensors";
    let (segment, manifest) = (path.join(name), path.join("index.json"));
    let (good, text) = (fs::read(&segment).unwrap(), fs::read(&manifest).unwrap());
    let arrays = arrays.iter().map(|(name, array)| (name.to_string(), array.clone())).collect();
    safetensors::write(&segment, &arrays, &Default::default()).unwrap();
    let bytes = fs::read(&segment).unwrap();
    let mut listed: Value = serde_json::from_slice(&text).unwrap();
    let sha256: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    listed["segments"][0]["digest"] = json!({"size": bytes.len(), "sha256": sha256});
    fs::write(&manifest, listed.to_string()).unwrap();
    let got = MomentIndex::open(&gpu(), path).map(drop);
    fs::write(&segment, good).unwrap();
    fs::write(&manifest, text).unwrap();
    got
}

#[test]
fn forged_segments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    saved(&model(Streams::Both, Padding::Official), DType::F32, &path);
    let fine = Array::zeros([3, 11, 8]);
    forged(&path, &[("video", fine.clone()), ("sub", fine.clone())]).unwrap();
    for shape in [&[3, 11, 7][..], &[2, 11, 8], &[3, 11, 8, 1], &[264], &[0, 11, 8]] {
        let got = forged(&path, &[("video", fine.clone()), ("sub", Array::zeros(shape))]);
        assert!(matches!(&got, Err(Error::Malformed { place, .. }) if place == "sub"), "{got:?}");
    }
    assert!(matches!(forged(&path, &[("video", fine.clone())]), Err(Error::Missing { id, .. }) if id == "sub"));
    let mut nan = fine.clone();
    nan.data_mut()[2 * 88] = f32::NAN;
    let got = forged(&path, &[("video", fine), ("sub", nan)]);
    assert!(matches!(&got, Err(Error::NonFinite { place, .. }) if place == "sub, row 2"), "{got:?}");
}

#[test]
fn an_index_belongs_to_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let own = model(Streams::Both, Padding::Official);
    saved(&own, DType::F32, &path);
    let index = MomentIndex::open(&gpu(), &path).unwrap();
    assert!(MomentSearch::new(&own, &index, options()).is_ok());
    let refused = |model: &Reloclnet| {
        let got = MomentSearch::new(model, &index, options()).map(drop);
        assert!(matches!(got, Err(Error::Argument { argument: "index", .. })), "{got:?}");
    };
    refused(&Reloclnet::new(&gpu(), config(Streams::Both, Padding::Official), 4).unwrap());
    refused(&model(Streams::Video, Padding::Official));
    // The same parameters.
    refused(&model(Streams::Both, Padding::Masked));
    // One value of one parameter.
    let mut arrays = own.store().to_arrays().unwrap();
    arrays.get_mut("merged_st_predictor.weight").unwrap().data_mut()[0] += 1e-3;
    own.store().load("test", &arrays).unwrap();
    refused(&own);
}

#[test]
fn an_index_is_made_once_and_shown() {
    let (model, corpus, folder) = (model(Streams::Both, Padding::Official), corpus(), tempfile::tempdir().unwrap());
    let path = folder.path().join("index");
    let mut seen = 0;
    let mut open = |source: &Corpus, precision, problems: &mut Problems| {
        let mut count = |_, _, _: &str| seen += 1;
        MomentIndex::open_or_build(&model, source, &path, precision, problems, &mut count).map(|index| (index, seen))
    };
    let (made, steps) = open(&corpus, None, &mut Problems::strict()).unwrap();
    assert_eq!((made.precision(), steps), (DType::F16, 1));
    let (opened, steps) = open(&corpus, Some(DType::F16), &mut Problems::strict()).unwrap();
    assert_eq!((opened.videos(), steps), (made.videos(), 1), "it was encoded once");
    let other = Corpus::new(&[4, 4, 4, 4, 4, 4, 4, 4], &[2]);
    let refused = |result: Result<_>, part: &str| match result.map(drop) {
        Err(Error::Argument { argument: "index", why, .. }) => assert!(why.contains(part), "{why}"),
        got => panic!("{part}: {got:?}"),
    };
    refused(open(&corpus, Some(DType::F32), &mut Problems::strict()), "another precision");
    refused(open(&other, None, &mut Problems::strict()), "other videos");
    assert!(open(&other, None, &mut Problems::lenient()).is_ok(), "the eighth may be one that cannot be read");

    let wanted = [
        WantedMoment::of_query(&corpus, corpus.queries()[0].id).unwrap(),
        WantedMoment::new("a < b", corpus.tokens[1].clone()),
    ];
    assert!(matches!(WantedMoment::of_query(&corpus, 1 << 40), Err(Error::Missing { kind: "query", .. })));
    let search = MomentSearch::new(&model, &opened, options()).unwrap();
    let (found, stages) = search.search_timed(&wanted.iter().map(|w| &w.features).collect::<Vec<_>>()).unwrap();
    let results = MomentResults { wanted: &wanted, found: &found.moments, stages: &stages, index: &opened };
    let best = &opened.video(found.moments[1][0].video).unwrap().id;
    let lines = results.to_json_lines(Path::new("run"));
    let second: Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&second["query"], &second["results"][0]["video_id"]), (&json!("a < b"), &json!(best)));
    assert_eq!((second["stages"].as_array().unwrap().len(), second["results"].as_array().unwrap().len()), (5, 40));
    let text = results.to_string();
    assert!(text.contains("\"a < b\"\n  rank") && text.contains("\n2 queries in 7 videos: "), "{text}");
    assert_eq!(text.matches("  labelled  ").count(), 1, "{text}");
    results.write_svgs(&folder.path().join("svg")).unwrap();
    let svg = fs::read_to_string(folder.path().join("svg/001.svg")).unwrap();
    assert!(svg.contains("a &lt; b") && svg.contains(best.as_str()) && svg.ends_with("</svg>\n"), "{svg}");
    assert_eq!(svg.matches("<title>").count(), 40);
}
