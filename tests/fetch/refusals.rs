//! What is refused, and in which words.

use std::fs;

use super::hub::{COMMIT, File, Reply, Repository, Server};
use super::place::{Place, WEIGHTS};

#[test]
fn many_lost_connections_are_an_error_that_keeps_the_part() {
    let place = Place::new();
    let server = Repository::tiny()
        .serve_but(|r, model| r.path.ends_with(WEIGHTS).then(|| model.file(WEIGHTS).reply(r).cut(10)));
    let told = place.complaint(&server, &[]);
    assert!(told.contains("ended after 40 of") && told.contains("4 times; the same command goes on"), "{told}");
    assert_eq!((server.seen(WEIGHTS).len(), fs::read(place.model("model.safetensors.part")).unwrap().len()), (4, 40));
    assert!(!place.model(WEIGHTS).exists() && place.model("config.json").exists());
}

#[test]
fn a_wrong_hash_is_an_error_and_keeps_what_was_there() {
    let place = Place::new();
    let right = Repository::tiny();
    let mut other = right.file(WEIGHTS).clone();
    other.content[200] ^= 1;
    let (wanted, got) = (right.file(WEIGHTS).sum(), other.sum());
    let server = right.serve_but(move |request, _| request.path.ends_with(WEIGHTS).then(|| other.reply(request)));
    fs::create_dir_all(place.at("tiny")).unwrap();
    fs::write(place.model(WEIGHTS), "an older one").unwrap();
    let told = place.complaint(&server, &[]);
    assert!(told.contains(&wanted) && told.contains(&got), "{told}");
    assert!(!place.model("model.safetensors.part").exists());
    assert_eq!(fs::read(place.model(WEIGHTS)).unwrap(), b"an older one");

    // A small file, by git's sum.
    let server = Repository::tiny().serve_but(|request, model| {
        let mut file = model.file("config.json").clone();
        file.content[0] = b' ';
        request.path.ends_with("config.json").then(|| file.reply(request))
    });
    let told = Place::new().complaint(&server, &[]);
    assert!(told.contains("config.json: blob: is "), "{told}");
}

#[test]
fn a_wrong_size_is_an_error_and_nothing_beyond_it_is_written() {
    let listed = Repository::tiny().file(WEIGHTS).content.len();
    let wrong = |size: usize, chunked: bool, start: usize| {
        let server = Repository::tiny().serve_but(move |request, model| {
            let mut file = model.file(WEIGHTS).clone();
            file.content.resize(size, 1);
            request.path.ends_with(WEIGHTS).then(|| Reply { chunked, ..file.reply(request) })
        });
        let place = Place::new();
        place.part(&Repository::tiny().file(WEIGHTS).content[..start]);
        let told = place.complaint(&server, &[]);
        let left = fs::metadata(place.model("model.safetensors.part")).unwrap().len();
        assert!(!place.model(WEIGHTS).exists() && server.seen(WEIGHTS).len() == 1 && left <= start as u64, "{told}");
        told
    };
    for size in [listed + 1, listed - 1, 0] {
        let told = wrong(size, false, 0);
        assert!(told.contains(&format!("is {size} bytes, and {listed} are listed")), "{told}");
    }
    assert!(wrong(listed + 1, false, 1000).contains("are listed"));
    assert!(wrong(listed + 1, true, 0).contains(&format!("more comes than the {listed} bytes")));
}

#[test]
fn hostile_names_are_refused() {
    for name in ["../model.safetensors", "/tmp/x", "a/../../x", "..\\x", "C:\\x", "c:x", "a\0b", "a/./b", "", "x/"] {
        let mut model = Repository::tiny();
        model.files.push(File::new(name, "x"));
        let (place, server) = (Place::new(), model.serve());
        let told = place.complaint(&server, &[]);
        assert!(told.contains("nothing of this model was fetched"), "{name:?}: {told}");
        assert_eq!((fs::read_dir(place.at("")).unwrap().count(), server.seen("").len()), (0, 1), "{name:?}");
    }
}

#[test]
fn what_cannot_be_had_says_why() {
    let place = Place::new();
    for status in [401, 403] {
        let server = Server::start(move |_| Reply::new(status, "{\"error\":\"gated\"}"));
        let told = place.complaint(&server, &[]);
        let page = format!("(HTTP {status}): accept its licence at {}/somebody/tiny; set HF_TOKEN", server.address);
        assert!(told.contains(&page), "{told}");
        let told = place.complaint(&server, &[("HF_TOKEN", "hf_x")]);
        assert!(told.contains("the token that was sent does not open it"), "{told}");
    }
    let server = Server::start(|_| Reply::new(404, "{}"));
    let ran = place.run(&server, &["somebody/none", "--revision", "v2"], &[]);
    let want = format!("somebody/none with revision v2 is not at {} (HTTP 404)", server.address);
    assert!(ran.code == Some(2) && ran.told.contains(&want), "{}", ran.told);
    // A file whose licence is asked for only when it is fetched.
    let server = Repository::tiny().serve_but(|r, _| r.path.contains("/resolve/").then(|| Reply::new(403, "")));
    assert!(place.complaint(&server, &[]).contains("accept its licence"));
    for arguments in [&["a/b/c"][..], &["../tiny"], &["https://x/y"], &["a/.."], &["a/b", "--revision", "../../x"]] {
        let ran = place.run(&server, arguments, &[]);
        assert!(ran.code == Some(2) && ran.told.contains("is no "), "{arguments:?}: {}", ran.told);
    }
    assert!(place.complaint(&server, &[("HF_ENDPOINT", "nonsense")]).contains("HF_ENDPOINT is \"nonsense\""));
}

#[test]
fn listings_beyond_all_bounds_are_refused() {
    let listed = |body: String| {
        let server = Server::start(move |_| Reply::new(200, body.clone()));
        Place::new().complaint(&server, &[])
    };
    let mut many = Repository::tiny();
    many.files.extend((0..10_001).map(|i| File::new(&format!("{i}.txt"), "")));
    assert!(listed(many.listing().to_string()).contains("more than 10000"));
    let long = Repository::tiny().listing().to_string() + &" ".repeat(16 << 20);
    assert!(listed(long).contains("more than 16777216 bytes"));
    assert!(listed("<html>".into()).contains("is no list of files"));
    let unnamed = Repository::tiny().listing().to_string().replace(COMMIT, "../../x");
    assert!(listed(unnamed).contains("is no commit"));
    let mut unsummed = Repository::tiny().listing();
    unsummed["siblings"].as_array_mut().unwrap().iter_mut().for_each(|file| file["blobId"] = "../x".into());
    assert!(listed(unsummed.to_string()).contains("no sum"));
}

#[test]
fn pickles_are_refused_with_a_recipe() {
    let model = Repository::new(vec![File::new("config.json", "{}"), File::new("pytorch_model.bin", "x")]);
    let server = model.serve();
    let told = Place::new().complaint(&server, &[]);
    assert!(told.contains("torch.load(p, map_location='cpu', weights_only=True)"), "{told}");
    assert!(told.contains("p = 'pytorch_model.bin'") && told.contains("--revision refs/pr/NUMBER"), "{told}");
    assert_eq!(server.seen("").len(), 1);
}

#[test]
fn two_runs_do_not_write_the_same_part() {
    let place = Place::new();
    let part = fs::File::options().write(true).open(place.part(b"")).unwrap();
    part.lock().unwrap();
    let told = place.complaint(&Repository::tiny().serve(), &[]);
    assert!(told.contains("another run is writing it"), "{told}");
}
