//! `reelgrad fetch`, with a hub on this machine.

#[path = "fetch/hub.rs"]
mod hub;
#[path = "fetch/place.rs"]
mod place;
#[path = "fetch/refusals.rs"]
mod refusals;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use hub::{COMMIT, File, Reply, Repository, Request, Server};
use place::{NEEDED, Place, WEIGHTS, assert_whole, source, source_of};
use serde_json::Value;

#[test]
fn a_model_is_fetched_whole_and_then_kept() {
    let (place, model) = (Place::new(), Repository::tiny());
    let server = model.clone().serve();
    let answer = place.fetch(&server);
    assert_eq!((&answer["schema"], &answer["name"]), (&"reelgrad.fetch/1".into(), &"somebody/tiny".into()));
    assert_eq!((&answer["revision"], &answer["commit"]), (&"main".into(), &COMMIT.into()));
    assert_eq!((&answer["folder"], source(&answer)), (&"tiny".into(), "hub"));
    for (told, name) in answer["files"].as_array().unwrap().iter().zip(NEEDED) {
        let (file, key) = (model.file(name), if name == WEIGHTS { "sha256" } else { "blob" });
        assert_eq!((&told["name"], &told[key]), (&name.into(), &file.sum().into()));
        assert_eq!(told["bytes"], file.content.len());
    }
    assert_whole(&place.at("tiny"), &model, &NEEDED);

    let asked = server.seen("").len();
    let again = place.run(&server, &["somebody/tiny", "--out", "./tiny"], &[]);
    assert_eq!(server.seen("").len(), asked + 1, "a file that is there was asked for");
    assert_eq!((again.code, again.answer.lines().count()), (Some(0), 1 + NEEDED.len()), "{}", again.told);
    assert!(again.answer.starts_with("folder   ./tiny\nhere"), "{}", again.answer);
    assert!(again.told.contains("0 from the hub, 0 from the cache, 6 kept"), "{}", again.told);
    assert!(again.told.ends_with("reelgrad index FOLDER --model ./tiny --out videos.index\n"), "{}", again.told);

    // Of the right size, but with other content.
    let mut other = model.file(WEIGHTS).content.clone();
    other[9] ^= 1;
    fs::write(place.model(WEIGHTS), other).unwrap();
    let mended = place.fetch(&server);
    assert_eq!((source_of(&mended, WEIGHTS), source_of(&mended, "vocab.json")), ("hub", "here"));
    assert_whole(&place.at("tiny"), &model, &NEEDED);
}

#[test]
fn a_part_goes_on_where_it_was() {
    let (place, model) = (Place::new(), Repository::tiny());
    place.part(&model.file(WEIGHTS).content[..100_000]);
    let server = model.clone().serve();
    place.fetch(&server);
    let asked = server.seen(WEIGHTS);
    assert_eq!((asked.len(), asked[0].header("range")), (1, Some("bytes=100000-")));
    assert_whole(&place.at("tiny"), &model, &NEEDED);
    // All bytes are there, but not the name; and more than all.
    for (more, requests) in [(0, 1), (5, 2)] {
        let content = [&*fs::read(place.model(WEIGHTS)).unwrap(), &vec![0; more]].concat();
        fs::remove_file(place.model(WEIGHTS)).unwrap();
        place.part(&content);
        place.fetch(&server);
        assert_eq!(server.seen(WEIGHTS).len(), requests);
        assert_whole(&place.at("tiny"), &model, &NEEDED);
    }
}

#[test]
fn a_server_that_does_not_go_on_sends_all_of_it() {
    let whole = |request: &Request, model: &Repository| {
        request.path.ends_with(WEIGHTS).then(|| Reply::new(200, &*model.file(WEIGHTS).content))
    };
    let refuses = |request: &Request, _: &Repository| request.header("range").map(|_| Reply::new(416, ""));
    let elsewhere = |request: &Request, model: &Repository| {
        let reply = model.file(WEIGHTS).reply(request);
        let headers = vec![("Content-Range".into(), "bytes 7-9/10".into())];
        request.header("range").map(|_| Reply { headers, ..reply })
    };
    let model = Repository::tiny;
    for (server, requests) in
        [(model().serve_but(whole), 1), (model().serve_but(refuses), 2), (model().serve_but(elsewhere), 2)]
    {
        let place = Place::new();
        // Nothing of this may stay.
        place.part(&[7; 1000]);
        place.fetch(&server);
        let asked = server.seen(WEIGHTS);
        assert_eq!((asked.len(), asked[0].header("range")), (requests, Some("bytes=1000-")));
        assert_whole(&place.at("tiny"), &model(), &NEEDED);
    }
}

#[test]
fn a_lost_connection_is_tried_again() {
    let (place, model, tries) = (Place::new(), Repository::tiny(), AtomicUsize::new(0));
    let server = model.clone().serve_but(move |request, model| {
        let file = model.file(WEIGHTS);
        let first = request.path.ends_with(WEIGHTS).then(|| tries.fetch_add(1, Ordering::Relaxed))?;
        match first {
            0 => Some(Reply::new(503, "busy")),
            1 => Some(file.reply(request).cut(70_000)),
            2 => Some(file.reply(request).cut(1000)),
            _ => None,
        }
    });
    place.fetch(&server);
    let asked: Vec<_> = server.seen(WEIGHTS).iter().map(|r| r.header("range").map(String::from)).collect();
    assert_eq!(asked, [None, None, Some("bytes=70000-".into()), Some("bytes=71000-".into())]);
    assert_whole(&place.at("tiny"), &model, &NEEDED);
}

#[test]
fn a_token_stays_at_its_origin() {
    let model = Repository::tiny();
    let copy = model.clone();
    let elsewhere = Server::start(move |request| copy.file(WEIGHTS).reply(request));
    let away = elsewhere.address.clone();
    // The weights lie at another port, the vocabulary behind a redirect at home.
    let server = model.clone().serve_but(move |request, model| match request.path.rsplit('/').next()? {
        WEIGHTS => Some(Reply::redirect(format!("{away}/signed?key=1"))),
        "vocab.json" => Some(Reply::redirect("/cached/vocabulary".into())),
        "vocabulary" => Some(model.file("vocab.json").reply(request)),
        _ => None,
    });
    let place = Place::new();
    place.part(&model.file(WEIGHTS).content[..1000]);
    let ran = place.run(&server, &["somebody/tiny"], &[("HF_TOKEN", "hf_secret")]);
    assert_eq!(ran.code, Some(0), "{}", ran.told);
    assert!(server.seen("").iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));
    assert_eq!(server.seen("/cached/vocabulary").len(), 1);
    let there = elsewhere.seen("/signed?key=1");
    assert_eq!((there.len(), there[0].header("range")), (1, Some("bytes=1000-")));
    assert!(there[0].header("authorization").is_none(), "{there:?}");
    assert!(!ran.told.contains("hf_secret") && !ran.answer.contains("hf_secret"));
    assert_whole(&place.at("tiny"), &model, &NEEDED);

    let server = Server::start(|request| Reply::redirect(request.path.clone()));
    assert!(place.complaint(&server, &[]).contains("redirected more than 10 times"));
    assert_eq!(server.seen("").len(), 11);
}

#[test]
fn a_token_is_the_environments_or_that_of_the_home() {
    let (place, server) = (Place::new(), Repository::tiny().serve());
    let sent = || server.seen("blobs=true").last().unwrap().header("authorization").map(String::from);
    place.fetch(&server);
    assert_eq!(sent(), None);
    fs::create_dir(place.at("home")).unwrap();
    fs::write(place.at("home/token"), "hf_home\n").unwrap();
    place.fetch(&server);
    assert_eq!(sent().as_deref(), Some("Bearer hf_home"));
    place.run(&server, &["somebody/tiny"], &[("HF_TOKEN", "hf_given")]);
    assert_eq!(sent().as_deref(), Some("Bearer hf_given"));
    let told = place.complaint(&server, &[("HF_TOKEN", "hf given")]);
    assert!(told.contains("HF_TOKEN") && !told.contains("hf given"), "{told}");
}

#[test]
fn shards_come_with_their_index() {
    let names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ];
    let mut model = Repository::new(names.iter().map(|name| File::new(name, format!("{name} itself"))).collect());
    model.files.push(File::new("other.safetensors", "x"));
    let place = Place::new();
    place.fetch(&model.clone().serve());
    assert_whole(&place.at("tiny"), &model, &names);
    // A folder of another model, whose weights would be read in place of these.
    fs::write(place.model(WEIGHTS), "x").unwrap();
    let told = place.complaint(&model.serve(), &[]);
    assert!(told.contains("holds model.safetensors, which somebody/tiny has not"), "{told}");
}

#[test]
fn a_revision_is_asked_for_and_its_commit_fetched() {
    let (place, model) = (Place::new(), Repository::tiny());
    let listing = "/api/models/somebody/tiny/revision/refs%2Fpr%2F4?blobs=true";
    let server = model.clone().serve_but(move |request, model| {
        (request.path == listing).then(|| Reply::new(200, model.listing().to_string()))
    });
    let ran = place.run(&server, &["somebody/tiny", "--revision", "refs/pr/4", "--out", "deep/er", "--json"], &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.told);
    let answer: Value = serde_json::from_str(&ran.answer).unwrap();
    assert_eq!((&answer["revision"], &answer["commit"]), (&"refs/pr/4".into(), &COMMIT.into()));
    assert_eq!(server.seen(&format!("/somebody/tiny/resolve/{COMMIT}/{WEIGHTS}")).len(), 1);
    assert_whole(&place.at("deep/er"), &model, &NEEDED);
}

#[cfg(unix)]
#[test]
fn without_a_network_the_cache_is_all_there_is() {
    let (place, model) = (Place::new(), Repository::tiny());
    let server = model.clone().serve();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let told = place.complaint(&server, &offline);
    assert!(told.contains("somebody/tiny with revision main is not in the cache"), "{told}");
    model.cache(&place.at("home"), &NEEDED[..2]);
    let told = place.complaint(&server, &offline);
    assert!(told.contains("in the cache, ") && told.contains("has no weights"), "{told}");
    model.cache(&place.at("home"), &NEEDED[2..]);
    for (revision, value) in [("main", "yes"), (COMMIT, "ON")] {
        let arguments = ["somebody/tiny", "--revision", revision, "--out", revision, "--json"];
        let ran = place.run(&server, &arguments, &[("HF_HUB_OFFLINE", value)]);
        assert_eq!(ran.code, Some(0), "{}", ran.told);
        let answer: Value = serde_json::from_str(&ran.answer).unwrap();
        assert_eq!((source(&answer), &answer["commit"]), ("cache", &COMMIT.into()));
        assert_whole(&place.at(revision), &model, &NEEDED);
    }
    let ran = place.run(&server, &["somebody/tiny", "--revision", "v9"], &offline);
    assert!(ran.code == Some(2) && ran.told.contains("revision v9 is not in the cache"), "{}", ran.told);
    // A blob that is no longer what its name says.
    let blob = place.at("home/hub/models--somebody--tiny/blobs").join(model.file(WEIGHTS).sum());
    fs::write(&blob, vec![0; model.file(WEIGHTS).content.len()]).unwrap();
    assert!(place.complaint(&server, &offline).contains("the cache is damaged"));
    assert!(!place.model(WEIGHTS).exists());
    assert_eq!(server.seen("").len(), 0, "the network was asked");
}

#[cfg(unix)]
#[test]
fn what_the_cache_has_is_not_downloaded() {
    let (place, model) = (Place::new(), Repository::tiny());
    model.cache(&place.at("home"), &[WEIGHTS, "vocab.json"]);
    let vocabulary = place.at("home/hub/models--somebody--tiny/blobs").join(model.file("vocab.json").sum());
    let mut damaged = model.file("vocab.json").content.clone();
    damaged[5] ^= 1;
    fs::write(vocabulary, damaged).unwrap();
    let server = model.clone().serve();
    let answer = place.fetch(&server);
    assert_eq!((source_of(&answer, WEIGHTS), source_of(&answer, "vocab.json")), ("cache", "hub"));
    assert_eq!((server.seen(WEIGHTS).len(), server.seen("vocab.json").len()), (0, 1));
    assert_whole(&place.at("tiny"), &model, &NEEDED);
    assert!(fs::symlink_metadata(place.model(WEIGHTS)).unwrap().is_file(), "a link into the cache");
}

#[test]
fn a_proxy_of_the_environment_is_asked() {
    let place = Place::new();
    let (proxy, server) = (Server::start(|_| Reply::new(502, "")), Repository::tiny().serve());
    let told = place.complaint(&server, &[("HTTP_PROXY", &proxy.address)]);
    let asked = proxy.seen("");
    assert!(asked[0].method == "CONNECT" && server.address.ends_with(&asked[0].path), "{told}");
    assert_eq!(server.seen("").len(), 0);
    let ran = place.run(&server, &["somebody/tiny"], &[("HTTP_PROXY", &proxy.address), ("NO_PROXY", "127.0.0.1")]);
    assert_eq!(ran.code, Some(0), "{}", ran.told);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_the_part() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let (place, model, tries) = (Place::new(), Repository::tiny(), AtomicUsize::new(0));
    let server = model.clone().serve_but(move |request, model| {
        let silent = request.path.ends_with(WEIGHTS) && tries.fetch_add(1, Ordering::Relaxed) == 0;
        silent.then(|| Reply { after: hub::After::Silence, ..model.file(WEIGHTS).reply(request).cut(50_000) })
    });
    let mut command = place.command(&server.address, &["somebody/tiny"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (part, begun) = (place.model("model.safetensors.part"), Instant::now());
    while fs::metadata(&part).map_or(0, |about| about.len()) < 50_000 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no part came");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(130), 0), "{told}");
    assert!(told.contains("what is done is kept in tiny; the same command goes on"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for the hub");
    place.fetch(&server);
    assert_eq!(server.seen(WEIGHTS)[1].header("range"), Some("bytes=50000-"));
    assert_whole(&place.at("tiny"), &model, &NEEDED);
}
