//! What is asked for is answered.

use image::ImageFormat;
use serde_json::{Value, json};

use crate::http::Request;
use crate::server::{Server, list, number, text};
use crate::world::{MODEL, NAME, base64, picture, png, reelgrad};

#[test]
fn it_answers_as_the_program_does() {
    let server = Server::start(&[]);
    let world = &server.world;
    let asked = ["search", &world.path("index"), "--model", MODEL, "--json", "--top", "5", "a red square", "two dogs"];
    let printed = reelgrad(&[&asked[..], &["--image", &world.picture(), "--like", "0"]].concat());
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let picture = json!({ "image": base64(&png(3)) });
    let queries = json!([text("a red square"), text("two dogs"), picture, { "clip": 0 }]);
    let found = server.search(&json!({ "queries": queries, "top": 5, "times": true }));

    assert_eq!((&found["schema"], &found["model"]), (&"reelgrad.search/1".into(), &printed["model"]));
    assert_eq!(found["index"], json!({ "videos": 5, "clips": printed["index"]["clips"] }));
    let stages: Vec<&Value> = list(&found["stages"]).iter().map(|stage| &stage["name"]).collect();
    assert_eq!(stages, ["queries", "clips", "frames", "moments"]);
    let names: Vec<&str> = list(&found["answers"]).iter().map(|answer| answer["query"].as_str().unwrap()).collect();
    assert_eq!((&names[..2], names[3]), (&["a red square", "two dogs"][..], "clip 0"));
    assert!(names[2].starts_with("image "), "{names:?}");

    for (ours, theirs) in list(&found["answers"]).iter().zip(list(&printed["answers"])) {
        let (ours, theirs) = (list(&ours["results"]), list(&theirs["results"]));
        assert!(!ours.is_empty() && ours.len() == theirs.len(), "{ours:?}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            for field in ["rank", "video_id", "start", "end", "peak", "offset", "score", "stage_scores", "clip"] {
                assert_eq!(ours[field], theirs[field], "{field}: {ours}");
            }
            assert!(number(&ours["end"]) <= number(&ours["duration"]) + 1e-6, "{ours}");
            assert_eq!(ours["thumbnail"], format!("/v1/clips/{}/thumbnail", ours["clip"]));
            assert_eq!(ours["media"], Value::Null, "without a folder no video is played");
        }
    }
    let best = &found["answers"][2]["results"][0];
    assert!(best["video_id"].as_str().unwrap().ends_with("two.mp4") && number(&best["score"]) > 0.99, "{best}");
}

#[test]
fn options_of_a_search_have_defaults_and_limits() {
    let server = Server::start(&["--max-top", "3"]);
    let found = server.search(&json!({ "queries": [text("a dog")], "top": 3, "per_video": 9, "candidates": 1 }));
    assert_eq!((list(&found["answers"][0]["results"]).len(), &found["stages"]), (3, &Value::Null));
    let long = server.search(&json!({ "queries": [text(&"word ".repeat(500)), text("a dog")], "top": 2 }));
    let cut: Vec<&Value> = list(&long["answers"]).iter().map(|answer| &answer["cut"]).collect();
    assert_eq!(cut, [true, false]);
    let above = Request::post("/v1/search", &json!({ "queries": [text("a dog")], "top": 4 }));
    server.ask(&above).refusal(&[400], "top above --max-top");
    // Without `top`, no more than the limit.
    let found = server.search(&json!({ "queries": [text("a dog")] }));
    assert!(list(&found["answers"][0]["results"]).len() <= 3);
    assert_eq!(server.get("/v1/info").json()["limits"]["top"], 3);
}

#[test]
fn moments_of_a_video_are_found() {
    let server = Server::start(&[]);
    let two = server.clips()["two.mp4"]["video_id"].clone();
    let ask =
        |query: Value, top: usize| server.post("/v1/moments", &json!({ "query": query, "video_id": two, "top": top }));
    let found = ask(json!({ "image": base64(&png(3)) }), 5);
    assert_eq!(
        (&found["schema"], &found["video_id"], &found["cut"]),
        (&"reelgrad.moments/1".into(), &two, &false.into())
    );
    assert_eq!((number(&found["duration"]), number(&found["offset"])), (10.0, 0.0));
    let moments = list(&found["moments"]);
    assert!((1..=5).contains(&moments.len()), "{found}");
    // The second half of the video shows the picture.
    assert!(number(&moments[0]["peak"]) >= 5.0 && number(&moments[0]["score"]) > 0.99, "{found}");
    for (at, moment) in moments.iter().enumerate() {
        let [start, end, peak] = ["start", "end", "peak"].map(|field| number(&moment[field]));
        assert!(0.0 <= start && start <= peak && peak <= end && start < end && end <= 10.0, "{moment}");
        for earlier in &moments[..at] {
            assert!(number(&earlier["score"]) >= number(&moment["score"]), "{found}");
            assert!(end <= number(&earlier["start"]) || start >= number(&earlier["end"]), "{found}");
        }
    }
    assert_eq!(list(&ask(text("a dog"), 1)["moments"]).len(), 1);
    assert!(!list(&ask(json!({ "clip": 0 }), 100)["moments"]).is_empty());
}

#[test]
fn sentences_and_pictures_become_vectors() {
    let server = Server::start(&[]);
    let info = server.get("/v1/info").json();
    let texts = server.post("/v1/encode/text", &json!({ "texts": ["a dog", "word ".repeat(500), "a cat", "a dog"] }));
    let files =
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff];
    let images: Vec<String> = files.iter().map(|&format| base64(&picture(1, format))).collect();
    let images = server.post("/v1/encode/image", &json!({ "images": images }));
    for (answer, count) in [(&texts, 4), (&images, 6)] {
        assert_eq!((&answer["schema"], &answer["model"]), (&"reelgrad.vectors/1".into(), &info["model"]));
        assert_eq!((&answer["width"], list(&answer["vectors"]).len()), (&info["width"], count));
        for vector in list(&answer["vectors"]) {
            assert_eq!(list(vector).len() as u64, info["width"].as_u64().unwrap());
            let length: f64 = list(vector).iter().map(|x| number(x).powi(2)).sum::<f64>().sqrt();
            assert!((length - 1.0).abs() < 1e-5, "{length}");
        }
    }
    assert_eq!((&texts["cut"], images.get("cut")), (&json!([1]), None));
    let vectors = list(&texts["vectors"]);
    assert!(vectors[0] == vectors[3] && vectors[0] != vectors[2]);
}

#[test]
fn it_describes_itself() {
    let server = Server::start(&[]);
    let info = server.get("/v1/info").json();
    assert_eq!((&info["schema"], &info["model"]["name"]), (&"reelgrad.service/1".into(), &NAME.into()));
    assert_eq!((&info["videos"], number(&info["seconds"])), (&5.into(), 12.0 + 10.0 + 3.0 + 3.0 + 9.0));
    let limits = json!({ "body_bytes": 16 << 20, "text_bytes": 16384, "top": 200, "queries": 64 });
    assert_eq!((&info["limits"], &info["media"]), (&limits, &false.into()));
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    for (path, said) in [("/healthz", "ok"), ("/readyz", "ready"), ("/ping", "pong")] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.text().trim_end()), (200, said), "{path}");
        assert!(reply.header("content-type").starts_with("text/plain"), "{path}");
    }
    let described = server.get("/openapi.json").json();
    assert!(described["openapi"].as_str().unwrap().starts_with("3.1."));
    for path in ["/v1/info", "/v1/search", "/v1/moments", "/v1/encode/text", "/v1/encode/image"]
        .iter()
        .chain(&["/v1/clips/{clip}/thumbnail", "/v1/clips/{clip}/media", "/openapi.json", "/healthz", "/readyz"])
        .chain(&["/metrics", "/", "/ping", "/predict"])
    {
        assert!(described["paths"][path].is_object(), "{path} is not described");
    }
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type").split(';').next()), (200, Some("text/html")));
    let policy = page.header("content-security-policy");
    for rule in ["default-src 'none'", "img-src 'self' data: blob:", "media-src 'self'", "connect-src 'self'"] {
        assert!(policy.split(';').any(|part| part.trim() == rule), "{rule} is missing in {policy:?}");
    }
}

/// The sum of a metric's values, whatever their labels.
fn metric(server: &Server, name: &str) -> f64 {
    let reply = server.get("/metrics");
    assert!(reply.status == 200 && reply.header("content-type").starts_with("text/plain"));
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let values: Vec<f64> =
        reply.text().lines().filter(of).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!values.is_empty(), "{name} is missing in {}", reply.text());
    values.iter().sum()
}

#[test]
fn it_counts_what_it_does() {
    let server = Server::start(&[]);
    let ask = || server.search(&json!({ "queries": [text("a dog"), text("a cat")] }));
    ask();
    let names = ["reelgrad_requests_total", "reelgrad_request_seconds_count", "reelgrad_batches_total"];
    let before = names.map(|name| metric(&server, name));
    let queries = metric(&server, "reelgrad_queries_total");
    assert_eq!(queries, 2.0);
    ask();
    server.get("/nowhere");
    for (name, before) in names.iter().zip(before) {
        assert!(metric(&server, name) > before, "{name} stays {before}");
    }
    assert_eq!(metric(&server, "reelgrad_queries_total"), queries + 2.0);
    let info = server.get("/v1/info").json();
    assert_eq!(metric(&server, "reelgrad_index_clips"), number(&info["clips"]));
    assert_eq!((metric(&server, "reelgrad_index_videos"), metric(&server, "reelgrad_queue_length")), (5.0, 0.0));
    let told = server.get("/metrics");
    for part in
        ["# TYPE reelgrad_request_seconds histogram", "le=\"+Inf\"", "reelgrad_request_seconds_sum{", "status=\"404\""]
    {
        assert!(told.text().contains(part), "{part} is missing in {}", told.text());
    }
}
