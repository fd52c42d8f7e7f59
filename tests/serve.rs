//! The server `reelgrad serve`, as pages and programs talk to it.

// It is stopped by signals, and videos are hidden behind symbolic links.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Barrier, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::{ImageFormat, RgbImage};
use reelgrad::data::media::pixels::Image;
use reelgrad::data::media::video::Ffmpeg;
use reelgrad::random::Random;
use serde_json::{Value, json};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/clip-tiny-hf");
const NAME: &str = "clip-tiny-hf";
const JSON: &str = "Content-Type: application/json";
/// How long an answer may take. The tests share their processors.
const PATIENCE: Duration = Duration::from_secs(60);

/// Videos, and an index of them. One is outside the folder whose videos are played, one hides behind a link to there, and
/// one is gone.
struct World {
    root: tempfile::TempDir,
}

impl World {
    /// Made once for the tests that run at a time, and removed after the last.
    fn shared() -> Arc<Self> {
        static WORLD: Mutex<Weak<World>> = Mutex::new(Weak::new());
        let mut world = WORLD.lock().unwrap();
        world.upgrade().unwrap_or_else(|| {
            let made = Arc::new(Self::make());
            *world = Arc::downgrade(&made);
            made
        })
    }

    fn make() -> Self {
        let world = Self { root: tempfile::tempdir().unwrap() };
        for (name, shots) in [
            ("open/one.mp4", &[(1, 12)][..]),
            ("open/two.mp4", &[(2, 5), (3, 5)]),
            ("open/gone.mp4", &[(4, 3)]),
            ("open/link.mp4", &[(5, 3)]),
            ("closed/three.mp4", &[(6, 9)]),
        ] {
            video(&world.film(name), shots);
        }
        fs::write(world.picture(), png(3)).unwrap();
        let films = world.path("films");
        let made = reelgrad(&["index", &films, "--model", MODEL, "--out", &world.path("index")]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::remove_file(world.film("open/gone.mp4")).unwrap();
        fs::remove_file(world.film("open/link.mp4")).unwrap();
        symlink(world.film("closed/three.mp4"), world.film("open/link.mp4")).unwrap();
        world
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).to_str().unwrap().to_string()
    }

    fn film(&self, name: &str) -> PathBuf {
        self.root.path().join("films").join(name)
    }

    /// What a second of one video looks like, in a file.
    fn picture(&self) -> String {
        self.path("picture.png")
    }
}

fn reelgrad(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reelgrad")).args(arguments).output().unwrap()
}

/// Large random squares: picture `number`, of 64 by 48 pixels.
fn squares(number: u64) -> Vec<u8> {
    let mut random = Random::new(number, 1);
    let colours: Vec<[u8; 3]> = (0..16).map(|_| std::array::from_fn(|_| (random.uniform() * 255.0) as u8)).collect();
    (0..64 * 48).flat_map(|i| colours[i % 64 / 16 + i / 64 / 12 * 4]).collect()
}

/// A video of two frames a second that shows each picture for so many seconds.
fn video(path: &Path, shots: &[(u64, usize)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let picture = |number| Image::new(64, 48, squares(number)).unwrap();
    let frames: Vec<Image> = shots.iter().flat_map(|&(n, seconds)| vec![picture(n); 2 * seconds]).collect();
    Ffmpeg::find().unwrap().encode(path, &frames, 2).unwrap();
}

fn picture(number: u64, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    RgbImage::from_raw(64, 48, squares(number)).unwrap().write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn png(number: u64) -> Vec<u8> {
    picture(number, ImageFormat::Png)
}

fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// What is sent. Without a header that says otherwise, the body's length is told as it is.
#[derive(Clone)]
struct Request {
    line: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Request {
    fn new(method: &str, path: &str) -> Self {
        let headers = ["Host: localhost", "Connection: close"].map(String::from).to_vec();
        Self { line: format!("{method} {path} HTTP/1.1"), headers, body: Vec::new() }
    }

    fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    fn post(path: &str, body: &Value) -> Self {
        Self::raw(path, body.to_string())
    }

    /// Of content that claims to be JSON.
    fn raw(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", path).with(JSON).of(body)
    }

    fn with(mut self, header: &str) -> Self {
        self.headers.push(header.into());
        self
    }

    fn of(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A form, as Immich's server sends it: fields with their text, and a file.
    fn form(path: &str, fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Self {
        const EDGE: &str = "----formdata-undici-042934";
        let mut body = Vec::new();
        for (name, text) in fields {
            let part = format!("--{EDGE}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n");
            body.extend(part.into_bytes());
        }
        if let Some((name, bytes)) = file {
            let about = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"blob\"");
            body.extend(format!("--{EDGE}\r\n{about}\r\nContent-Type: application/octet-stream\r\n\r\n").into_bytes());
            body.extend(bytes);
            body.extend(b"\r\n");
        }
        body.extend(format!("--{EDGE}--\r\n").into_bytes());
        Self::new("POST", path).with(&format!("Content-Type: multipart/form-data; boundary={EDGE}")).of(body)
    }

    /// In chunks, so that its length is not told before.
    fn chunked(mut self) -> Self {
        let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        self.body = self.body.chunks(10_000).map(chunk).chain([b"0\r\n\r\n".to_vec()]).flatten().collect();
        self.with("Transfer-Encoding: chunked")
    }

    fn bytes(&self) -> Vec<u8> {
        let mut headers = self.headers.clone();
        let told = |header: &String| header.starts_with("Content-Length") || header.starts_with("Transfer-Encoding");
        if (!self.body.is_empty() || self.line.starts_with("POST")) && !headers.iter().any(told) {
            headers.push(format!("Content-Length: {}", self.body.len()));
        }
        [format!("{}\r\n{}\r\n\r\n", self.line, headers.join("\r\n")).as_bytes(), &self.body].concat()
    }
}

/// What came back.
struct Reply {
    status: u16,
    /// By name, in lower case.
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let (head, rest) = split(bytes, b"\r\n\r\n").expect("an answer has a head");
        let mut lines = str::from_utf8(head).unwrap().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
        let pair = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_string())
        };
        let headers: BTreeMap<String, String> = lines.map(pair).collect();
        let body = match headers.get("transfer-encoding") {
            Some(encoding) => {
                assert_eq!(encoding, "chunked");
                joined(rest)
            }
            None => {
                let length: usize = headers["content-length"].parse().unwrap();
                assert_eq!(rest.len(), length, "a body is as long as its header says");
                rest.to_vec()
            }
        };
        Self { status, headers, body }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// What was asked for, as JSON.
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type").split(';').next(), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// An error of one of these statuses: in JSON, with the code of its status. Returns its message.
    #[track_caller]
    fn refusal(&self, statuses: &[u16], about: &str) -> String {
        let shown: String = String::from_utf8_lossy(&self.body).chars().take(300).collect();
        assert!(statuses.contains(&self.status), "{about}: {} {shown}", self.status);
        assert_eq!(self.header("content-type").split(';').next(), Some("application/json"), "{about}");
        let told: Value = serde_json::from_slice(&self.body).unwrap();
        let code = match self.status {
            400 => "bad_request",
            401 => "unauthorized",
            404 => "not_found",
            405 => "method_not_allowed",
            413 => "too_large",
            415 => "unsupported_media_type",
            422 => "unprocessable",
            429 => "busy",
            503 => "unavailable",
            status => panic!("{about}: {status} {shown}"),
        };
        assert_eq!(told["error"]["code"], code, "{about}: {shown}");
        let message = told["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "{about}: {shown}");
        message.to_string()
    }
}

/// What comes before and after the first `mark`.
fn split<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    Some((&bytes[..at], &bytes[at + mark.len()..]))
}

/// The chunks of a body, joined.
fn joined(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let (length, rest) = split(bytes, b"\r\n").expect("a chunk begins with its length");
        let length = str::from_utf8(length).unwrap().split(';').next().unwrap().trim();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend(&rest[..length]);
        bytes = rest[length..].strip_prefix(b"\r\n").expect("a chunk ends with a line");
    }
}

fn connect(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// What comes until the connection ends.
fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() || error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(answer),
    }
}

struct Server {
    child: Child,
    address: String,
    world: Arc<World>,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        Self::of(World::shared(), flags)
    }

    /// Plays the videos of the open folder.
    fn playing(flags: &[&str]) -> Self {
        let world = World::shared();
        let open = world.film("open");
        Self::of(world, &[&["--media-root", open.to_str().unwrap()], flags].concat())
    }

    fn of(world: Arc<World>, flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_reelgrad"))
            .args(["serve", &world.path("index"), "--model", MODEL, "--port", "0"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut heard = String::new();
        let address = loop {
            let before = heard.len();
            assert!(told.read_line(&mut heard).unwrap() > 0, "the server does not start: {heard}");
            if let Some(address) = heard[before..].strip_prefix("serving  http://") {
                break address.trim_end().to_string();
            }
        };
        // A pipe that nobody reads would hold it up.
        thread::spawn(move || io::copy(&mut told, &mut io::sink()));
        Self { child, address, world }
    }

    fn ask(&self, request: &Request) -> Reply {
        let mut stream = connect(&self.address, PATIENCE).unwrap();
        // Who refuses a request need not read all of it.
        let _ = stream.write_all(&request.bytes());
        Reply::parse(&read_all(&mut stream).unwrap())
    }

    fn get(&self, path: &str) -> Reply {
        self.ask(&Request::get(path))
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask(&Request::post(path, body)).json()
    }

    #[track_caller]
    fn search(&self, body: &Value) -> Value {
        self.post("/v1/search", body)
    }

    /// The first clip of each video, as results show it.
    fn clips(&self) -> BTreeMap<String, Value> {
        let found = self.search(&json!({ "queries": [{ "text": "all" }], "top": 200, "per_video": 200 }));
        let mut clips = BTreeMap::new();
        for result in found["answers"][0]["results"].as_array().unwrap() {
            let name = result["video_id"].as_str().unwrap().rsplit('/').next().unwrap();
            let first: &mut Value = clips.entry(name.to_string()).or_insert_with(|| result.clone());
            if result["clip"].as_u64() < first["clip"].as_u64() {
                *first = result.clone();
            }
        }
        clips
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// How it ended, if it did in time.
    fn ended(&mut self) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(text: &str) -> Value {
    json!({ "text": text })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

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
    assert_eq!((&info["schema"], &info["model"]["name"]), (&"reelgrad.info/1".into(), &NAME.into()));
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

/// What Immich asks for: `kind` is textual or visual.
fn entries(kind: &str, model: &str) -> String {
    json!({ "clip": { kind: { "modelName": model, "options": { "language": "en" } } } }).to_string()
}

/// The vector of an answer, which comes as a string.
fn predicted(answer: &Value) -> Vec<f32> {
    serde_json::from_str(answer["clip"].as_str().unwrap()).unwrap()
}

fn encoded(answer: &Value) -> Vec<f32> {
    serde_json::from_value(answer["vectors"][0].clone()).unwrap()
}

#[test]
fn immich_is_answered_in_its_own_protocol() {
    let server = Server::start(&[]);
    let (textual, visual) = (entries("textual", NAME), entries("visual", NAME));
    let ask =
        |fields: &[(&str, &str)], file: Option<(&str, &[u8])>| server.ask(&Request::form("/predict", fields, file));
    let answer = ask(&[("entries", &textual), ("text", "a dog")], None).json();
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    assert_eq!(predicted(&answer), encoded(&server.post("/v1/encode/text", &json!({ "texts": ["a dog"] }))));
    let answer = ask(&[("entries", &visual)], Some(("image", &png(2)))).json();
    assert_eq!((&answer["imageHeight"], &answer["imageWidth"]), (&48.into(), &64.into()));
    assert_eq!(predicted(&answer), encoded(&server.post("/v1/encode/image", &json!({ "images": [base64(&png(2))] }))));

    let other = ask(&[("entries", &entries("textual", "ViT-B-32__openai")), ("text", "a dog")], None);
    assert!(other.refusal(&[422], "another model").contains(NAME));
    let stage = json!({ "modelName": "buffalo_l", "options": { "minScore": 0.7 } });
    for task in ["facial-recognition", "ocr"] {
        let wanted = json!({ task: { "detection": stage, "recognition": stage } }).to_string();
        ask(&[("entries", &wanted)], Some(("image", &png(2)))).refusal(&[422], task);
    }
    for bad in ["", "{", "null", "[]", "{}", r#"{"clip":1}"#, r#"{"clip":{}}"#, r#"{"clip":{"textual":{}}}"#] {
        ask(&[("entries", bad), ("text", "a dog")], None).refusal(&[422], bad);
    }
    ask(&[("text", "a dog")], None).refusal(&[422], "no entries");
    ask(&[("entries", &textual)], None).refusal(&[400], "neither");
    ask(&[("entries", &visual)], None).refusal(&[400], "neither");
    ask(&[("entries", &textual), ("text", "  ")], None).refusal(&[400], "a blank text");
    ask(&[("entries", &visual)], Some(("image", b"no picture"))).refusal(&[400], "no picture");
    ask(&[("entries", &visual)], Some(("image", b""))).refusal(&[400], "an empty picture");
    server.ask(&Request::post("/predict", &json!({}))).refusal(&[415], "JSON");
    let edgeless = Request::new("POST", "/predict").with("Content-Type: multipart/form-data").of("x");
    server.ask(&edgeless).refusal(&[400, 415], "a form without a boundary");
}

#[test]
fn immich_may_know_the_model_by_another_name() {
    let server = Server::start(&["--immich-model", "ViT-B-32__openai"]);
    let ask = |model| {
        let entries = entries("textual", model);
        server.ask(&Request::form("/predict", &[("entries", &entries), ("text", "a dog")], None))
    };
    assert!(!predicted(&ask("ViT-B-32__openai").json()).is_empty());
    assert!(ask(NAME).refusal(&[422], NAME).contains("ViT-B-32__openai"));
}

#[test]
fn videos_are_played_whole_and_in_parts() {
    let server = Server::playing(&[]);
    assert_eq!(server.get("/v1/info").json()["media"], true);
    let clips = server.clips();
    let media = clips["one.mp4"]["media"].as_str().unwrap();
    assert_eq!(media, format!("/v1/clips/{}/media", clips["one.mp4"]["clip"]));
    let file = fs::read(server.world.film("open/one.mp4")).unwrap();
    let whole = server.get(media);
    assert_eq!((whole.status, whole.header("content-type")), (200, "video/mp4"));
    assert!(whole.body == file, "not the file");
    let length = file.len();
    let part = |range: &str| server.ask(&Request::get(media).with(&format!("Range: {range}")));
    for (range, from, to) in [
        ("bytes=0-99".to_string(), 0, 100),
        ("bytes=100-199".to_string(), 100, 200),
        (format!("bytes={}-", length - 7), length - 7, length),
        ("bytes=-10".to_string(), length - 10, length),
        (format!("bytes=5-{}", length * 3), 5, length),
    ] {
        let reply = part(&range);
        assert_eq!((reply.status, reply.header("content-type")), (206, "video/mp4"), "{range}");
        assert_eq!(reply.header("content-range"), format!("bytes {from}-{}/{length}", to - 1), "{range}");
        assert!(reply.body == file[from..to], "{range}");
    }
    let beyond = part(&format!("bytes={length}-"));
    assert_eq!((beyond.status, beyond.header("content-range")), (416, &*format!("bytes */{length}")));
    // What is no range does not count.
    for range in ["bytes=", "bytes=x-y", "bytes=9-5", "seconds=0-1", "bytes=18446744073709551616-"] {
        let reply = part(range);
        assert!(matches!(reply.status, 200 | 400 | 416), "{range}: {}", reply.status);
    }
}

#[test]
fn nothing_else_is_played() {
    let server = Server::playing(&[]);
    let clips = server.clips();
    for name in ["three.mp4", "link.mp4", "gone.mp4"] {
        let path = format!("/v1/clips/{}/media", clips[name]["clip"]);
        server.get(&path).refusal(&[404], name);
        server.ask(&Request::get(&path).with("Range: bytes=0-99")).refusal(&[404], name);
    }
    let clip = &clips["three.mp4"]["clip"];
    let thumbnail = server.get(&format!("/v1/clips/{clip}/thumbnail"));
    assert_eq!((thumbnail.status, thumbnail.header("content-type")), (200, "image/jpeg"));
    assert!(thumbnail.body.starts_with(&[0xff, 0xd8]) && image::load_from_memory(&thumbnail.body).is_ok());
    for clip in
        ["9999", "-1", "1.5", "x", "", "%00", "4294967296", "99999999999999999999999", "0/..", "..%2f..%2fetc%2fpasswd"]
    {
        for what in ["media", "thumbnail"] {
            server.get(&format!("/v1/clips/{clip}/{what}")).refusal(&[400, 404], clip);
        }
    }
    let root = server.world.root.path().to_str().unwrap();
    for path in [
        "/../etc/passwd",
        "/../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/v1/clips/0/media/../../../../etc/passwd",
        "/v1/clips/0/media/..%5c..%5cetc",
        &format!("/v1/clips/{root}/films/closed/three.mp4/media"),
        &format!("/v1/clips/{}/media", root.replace('/', "%2f")),
    ] {
        server.get(path).refusal(&[400, 404], path);
    }
    // Where no folder is named, nothing is.
    let quiet = Server::start(&[]);
    quiet.get(&format!("/v1/clips/{}/media", clips["one.mp4"]["clip"])).refusal(&[404], "no --media-root");
}

/// `count` sentences.
fn sentences(count: usize) -> Vec<Value> {
    (0..count).map(|i| text(&format!("sentence {i}"))).collect()
}

#[test]
fn searches_that_cannot_be_are_refused() {
    let server = Server::start(&[]);
    let refused = |body: String, statuses: &[u16]| {
        let about: String = body.chars().take(80).collect();
        server.ask(&Request::raw("/v1/search", body)).refusal(statuses, &about)
    };
    let with = |more: &str| format!(r#"{{"queries":[{{"text":"a dog"}}],{more}}}"#);
    for bad in [r#""top":0"#, r#""top":201"#, r#""per_video":0"#, r#""candidates":0"#, r#""candidates":100001"#] {
        refused(with(bad), &[400]);
    }
    for wrong in [
        r#""more":1"#,
        r#""top":"5""#,
        r#""top":-1"#,
        r#""top":1.5"#,
        r#""top":null"#,
        r#""top":18446744073709551616"#,
        r#""per_video":[]"#,
        r#""candidates":{}"#,
        r#""times":1"#,
        r#""Queries":[]"#,
    ] {
        refused(with(wrong), &[422]);
    }
    let of = |query: &str| format!(r#"{{"queries":[{query}]}}"#);
    for wrong in [
        "{}",
        "1",
        "null",
        "\"a dog\"",
        "[]",
        r#"{"text":1}"#,
        r#"{"text":null}"#,
        r#"{"text":"a","clip":0}"#,
        r#"{"text":"a","more":0}"#,
        r#"{"clip":"0"}"#,
        r#"{"clip":-1}"#,
        r#"{"clip":0.5}"#,
        r#"{"image":[]}"#,
        r#"{"video":"a"}"#,
    ] {
        refused(of(wrong), &[422]);
    }
    for wrong in ["{}", "[]", "null", "7", "\"\"", r#"{"queries":{}}"#, r#"{"queries":null}"#, r#"{"top":1}"#] {
        refused(wrong.into(), &[422]);
    }
    // An array is no object, even if it holds the same in the same order.
    refused(r#"[[{"text":"a dog"}],1,1,200,false]"#.into(), &[422]);
    for blank in ["", " ", "\\n\\t ", "\\u3000"] {
        refused(of(&format!(r#"{{"text":"{blank}"}}"#)), &[400]);
    }
    refused(of(""), &[400]);
    refused(json!({ "queries": sentences(65) }).to_string(), &[400]);
    refused(of(&text(&"x".repeat(16385)).to_string()), &[400]);
    refused(of(&text(&"x".repeat(1_000_000)).to_string()), &[400, 413]);
    refused(of(r#"{"clip":9999}"#), &[404]);
    refused(of(r#"{"clip":18446744073709551615}"#), &[404]);
    assert_eq!(list(&server.search(&json!({ "queries": sentences(64), "top": 1 }))["answers"]).len(), 64);
}

#[test]
fn what_is_no_json_is_refused() {
    let server = Server::start(&[]);
    let refused = |body: &[u8], statuses: &[u16]| {
        let about = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        server.ask(&Request::raw("/v1/search", body)).refusal(statuses, &about)
    };
    for broken in [
        &b""[..],
        b" ",
        b"{",
        b"{\"queries\":",
        b"{\"queries\":[{\"text\":\"a dog\"}]} x",
        b"{\"queries\":[{\"text\":\"a dog\"}],}",
        b"{'queries':[]}",
        b"{\"queries\":[{\"text\":\"\xff\xfe\"}]}",
        b"{\"queries\":[{\"text\":\"\\ud800\"}]}",
        b"{\"queries\":[{\"text\":\"a\nb\"}]}",
        b"\xef\xbb\xbf{\"queries\":[{\"text\":\"a dog\"}]}",
        b"{\"queries\":[{\"text\":\"a dog\"}],\"top\":NaN}",
        b"{\"queries\":[{\"text\":\"a dog\"}],\"top\":Infinity}",
        b"{\"queries\":[{\"text\":\"a dog\"}],\"top\":01}",
    ] {
        refused(broken, &[400]);
    }
    for number in ["1e999", "-1e999", "1e308", "99999999999999999999999999"] {
        refused(format!(r#"{{"queries":[{{"text":"a dog"}}],"top":{number}}}"#).as_bytes(), &[400, 422]);
        refused(format!(r#"{{"queries":[{{"clip":{number}}}]}}"#).as_bytes(), &[400, 422]);
    }
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    for body in [deep("[", "]"), deep("[", ""), deep("{\"a\":", ""), deep("{\"queries\":[", "]}")] {
        refused(body.as_bytes(), &[400, 422]);
    }
    refused(format!(r#"{{"queries":[{{"text":"a dog"}}],"more":{}}}"#, deep("[", "]")).as_bytes(), &[400, 422]);
    server.search(&json!({ "queries": [text("a dog")] }));
}

#[test]
fn pictures_that_cannot_be_read_are_refused() {
    let server = Server::start(&[]);
    let good = png(1);
    let mut vast = picture(1, ImageFormat::Bmp);
    // Its width and its height: 60,000 each.
    vast[18..26].copy_from_slice(&[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]);
    let images = [
        ("no base64", "no base64!".to_string()),
        ("nothing", String::new()),
        ("one letter", "A".to_string()),
        ("another alphabet", "_-_-".to_string()),
        ("a text", base64(b"no picture at all")),
        ("a part", base64(&good[..good.len() / 2])),
        ("a head", base64(&good[..8])),
        ("a vast one", base64(&vast)),
        ("vector graphics", base64(b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
    ];
    for (about, image) in images {
        let query = json!({ "image": image });
        server.ask(&Request::post("/v1/search", &json!({ "queries": [query] }))).refusal(&[400], about);
        let encode = Request::post("/v1/encode/image", &json!({ "images": [base64(&good), image] }));
        server.ask(&encode).refusal(&[400], about);
    }
}

#[test]
fn the_other_routes_refuse_as_well() {
    let server = Server::start(&[]);
    let one = server.clips()["one.mp4"]["video_id"].clone();
    let dog = text("a dog");
    for (path, body, status) in [
        ("/v1/moments", json!({ "query": dog, "video_id": "/none.mp4" }), 404),
        ("/v1/moments", json!({ "query": dog, "video_id": "" }), 404),
        ("/v1/moments", json!({ "query": { "clip": 9999 }, "video_id": one }), 404),
        ("/v1/moments", json!({ "query": dog, "video_id": one, "top": 0 }), 400),
        ("/v1/moments", json!({ "query": dog, "video_id": one, "top": 101 }), 400),
        ("/v1/moments", json!({ "query": text(" "), "video_id": one }), 400),
        ("/v1/moments", json!({ "query": dog }), 422),
        ("/v1/moments", json!({ "video_id": one }), 422),
        ("/v1/moments", json!({ "query": dog, "video_id": 1 }), 422),
        ("/v1/moments", json!({ "query": [dog], "video_id": one }), 422),
        ("/v1/moments", json!({ "query": dog, "video_id": one, "times": true }), 422),
        ("/v1/encode/text", json!({ "texts": [] }), 400),
        ("/v1/encode/text", json!({ "texts": vec!["a"; 65] }), 400),
        ("/v1/encode/text", json!({ "texts": ["a dog", " "] }), 400),
        ("/v1/encode/text", json!({ "texts": "a dog" }), 422),
        ("/v1/encode/text", json!({ "texts": [1] }), 422),
        ("/v1/encode/text", json!({ "text": ["a dog"] }), 422),
        ("/v1/encode/image", json!({ "images": [] }), 400),
        ("/v1/encode/image", json!({ "images": vec![base64(&png(1)); 65] }), 400),
        ("/v1/encode/image", json!({ "images": [null] }), 422),
        ("/v1/encode/image", json!({ "texts": ["a dog"] }), 422),
    ] {
        server.ask(&Request::post(path, &body)).refusal(&[status], &format!("{path} {body}"));
    }
}

#[test]
fn routes_methods_and_content_types_are_told_apart() {
    let server = Server::start(&[]);
    for path in
        ["/nowhere", "/v1", "/v1/", "/v1/search/", "/v2/search", "/V1/search", "/v1/clips/0", "/v1/clips/0/frames"]
    {
        server.get(path).refusal(&[404], path);
        server.ask(&Request::post(path, &json!({}))).refusal(&[404], path);
    }
    for (method, path, allowed) in [
        ("GET", "/v1/search", "POST"),
        ("PUT", "/v1/search", "POST"),
        ("GET", "/v1/moments", "POST"),
        ("DELETE", "/v1/encode/text", "POST"),
        ("PATCH", "/v1/encode/image", "POST"),
        ("GET", "/predict", "POST"),
        ("DELETE", "/v1/info", "GET"),
        ("POST", "/v1/clips/0/thumbnail", "GET"),
        ("PUT", "/v1/clips/0/media", "GET"),
        ("POST", "/healthz", "GET"),
        ("POST", "/metrics", "GET"),
        ("POST", "/", "GET"),
    ] {
        let reply = server.ask(&Request::new(method, path));
        reply.refusal(&[405], &format!("{method} {path}"));
        assert!(reply.header("allow").split(',').any(|method| method.trim() == allowed), "{method} {path}");
    }
    let body = json!({ "queries": [text("a dog")] }).to_string();
    let typed = |header: &str| server.ask(&Request::new("POST", "/v1/search").with(header).of(&*body));
    for wrong in
        ["X-None: 1", "Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded", "Content-Type: x"]
    {
        typed(wrong).refusal(&[415], wrong);
    }
    for right in [JSON, "content-type:Application/JSON", "Content-Type: application/json; charset=utf-8"] {
        typed(right).json();
    }
    let query = server.ask(&Request::get("/v1/info?x=1"));
    assert_eq!(query.json()["schema"], "reelgrad.info/1");
}

#[test]
fn bodies_have_a_limit() {
    let server = Server::start(&["--max-body", "1"]);
    assert_eq!(server.get("/v1/info").json()["limits"]["body_bytes"], 1 << 20);
    let search = json!({ "queries": [text("a dog")] }).to_string();
    // Blanks around JSON do not count, but as bytes.
    let padded = |length: usize| Request::raw("/v1/search", search.clone() + &" ".repeat(length - search.len()));
    server.ask(&padded(1 << 20)).json();
    server.ask(&padded(1 << 20).chunked()).json();
    server.ask(&padded((1 << 20) + 1)).refusal(&[413], "a byte too many");
    server.ask(&padded((1 << 20) + 1).chunked()).refusal(&[413], "a byte too many, in chunks");
    server.ask(&padded(5 << 20)).refusal(&[413], "far too many");
    // Told at once, before the body comes.
    let ahead = Request::new("POST", "/v1/search").with(JSON).with("Content-Length: 99999999999");
    server.ask(&ahead).refusal(&[413], "a length above the limit");
    let textual = entries("textual", NAME);
    let long = " ".repeat(2 << 20);
    let form = Request::form("/predict", &[("entries", &textual), ("text", &long)], None);
    server.ask(&form).refusal(&[413], "a form");
    server.search(&json!({ "queries": [text("a dog")] }));
}

#[test]
fn elsewhere_than_at_home_it_needs_a_token() {
    let world = World::shared();
    for host in ["0.0.0.0", "::"] {
        let refused = reelgrad(&["serve", &world.path("index"), "--model", MODEL, "--port", "0", "--host", host]);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{told}");
        assert!(told.contains("error: ") && told.contains("--token"), "{told}");
    }
}

#[test]
fn with_a_token_it_must_be_told() {
    let server = Server::playing(&["--token", "s3cret"]);
    let bearer = "Authorization: Bearer s3cret";
    let cookie = "Cookie: theme=dark; reelgrad_token=s3cret";
    let search = Request::post("/v1/search", &json!({ "queries": [text("a dog")] }));
    let form = Request::form("/predict", &[("entries", &entries("textual", NAME)), ("text", "a dog")], None);
    let [thumbnail, media] = ["/v1/clips/0/thumbnail", "/v1/clips/0/media"].map(Request::get);
    let plain = [search, form, Request::get("/v1/info"), Request::get("/metrics"), Request::get("/openapi.json")];
    let wrong = [
        "X-None: 1",
        "Authorization: Bearer other",
        "Authorization: Bearer s3cre",
        "Authorization: Bearer s3crett",
        "Authorization: Bearer ",
        "Authorization: Basic s3cret",
        "Authorization: s3cret",
        "Cookie: reelgrad_token=other",
        "Cookie: token=s3cret",
    ];
    for request in plain.iter().chain([&thumbnail, &media]) {
        for header in wrong {
            let about = format!("{} {header}", request.line);
            server.ask(&request.clone().with(header)).refusal(&[401], &about);
        }
        let reply = server.ask(&request.clone().with(bearer));
        assert!(reply.status == 200 || (reply.status == 404 && request.line.contains("media")), "{}", request.line);
    }
    // Only what a page loads without headers takes the cookie: other sites can make a browser send it.
    assert_eq!(server.ask(&thumbnail.with(cookie)).status, 200);
    assert_ne!(server.ask(&media.with(cookie)).status, 401);
    for request in plain {
        server.ask(&request.with(cookie)).refusal(&[401], "a cookie");
    }
    for path in ["/healthz", "/readyz", "/ping", "/"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
}

#[test]
fn who_comes_when_the_queue_is_full_is_told_to_wait() {
    const CLIENTS: usize = 32;
    let server = Server::start(&["--queue", "1"]);
    let request = Request::post("/v1/search", &json!({ "queries": [text(&"a dog and a cat ".repeat(20))] }));
    let alone = server.ask(&request).json();
    let start = Instant::now();
    let (mut answered, mut busy) = (0, 0);
    while answered == 0 || busy == 0 {
        assert!(start.elapsed() < PATIENCE, "{answered} were answered, {busy} were not");
        let barrier = Barrier::new(CLIENTS);
        let one = || {
            barrier.wait();
            server.ask(&request)
        };
        let replies: Vec<Reply> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        for reply in replies {
            if reply.status == 200 {
                assert_eq!(reply.json(), alone);
                answered += 1;
            } else {
                reply.refusal(&[429], "many at once");
                assert_eq!(reply.header("retry-after"), "1");
                busy += 1;
            }
        }
    }
    assert_eq!(server.ask(&request).json(), alone);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn those_who_wait_are_answered_together() {
    const CLIENTS: usize = 16;
    let server = Server::start(&["--queue", "1000"]);
    let requests: Vec<Request> = (0..CLIENTS)
        .map(|i| Request::post("/v1/search", &json!({ "queries": sentences(i + 1), "top": i + 1, "per_video": 2 })))
        .collect();
    let alone: Vec<Value> = requests.iter().map(|request| server.ask(request).json()).collect();
    let together: Vec<Value> = thread::scope(|scope| {
        let clients: Vec<_> = requests.iter().map(|request| scope.spawn(|| server.ask(request).json())).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn a_signal_ends_it_when_all_are_answered() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start(&["--queue", "1000"]);
        let request = Request::post("/v1/search", &json!({ "queries": sentences(64), "top": 5 })).bytes();
        // A connection without a request must not hold it up.
        let idle = connect(&server.address, PATIENCE).unwrap();
        let mut streams: Vec<TcpStream> = (0..8).map(|_| connect(&server.address, PATIENCE).unwrap()).collect();
        streams.iter_mut().for_each(|stream| stream.write_all(&request).unwrap());
        // Time to arrive.
        thread::sleep(Duration::from_millis(300));
        server.signal(signal);
        for stream in &mut streams {
            let found = Reply::parse(&read_all(stream).unwrap()).json();
            assert_eq!(list(&found["answers"]).len(), 64);
        }
        let status = server.ended().expect("it ends");
        assert_eq!(status.code(), Some(0), "{signal}: {status}");
        assert!(TcpStream::connect(&server.address).is_err());
        drop(idle);
    }
}

/// Requests that are as they should be.
fn sound(video: &Value, media: &str) -> Vec<Request> {
    let (textual, visual) = (entries("textual", NAME), entries("visual", NAME));
    vec![
        Request::post("/v1/search", &json!({ "queries": [text("a dog"), { "clip": 0 }] })),
        Request::post("/v1/search", &json!({ "queries": [text("a")], "top": 3, "per_video": 2, "times": true })),
        Request::post("/v1/search", &json!({ "queries": [{ "image": base64(&png(1)) }], "candidates": 10 })),
        Request::post("/v1/moments", &json!({ "query": text("a dog"), "video_id": video, "top": 2 })),
        Request::post("/v1/encode/text", &json!({ "texts": ["a dog", "ein Hund"] })),
        Request::post("/v1/encode/image", &json!({ "images": [base64(&png(2))] })),
        Request::form("/predict", &[("entries", &textual), ("text", "a dog")], None),
        Request::form("/predict", &[("entries", &visual)], Some(("image", &png(3)))),
        Request::get(media).with("Range: bytes=0-99"),
        Request::get("/v1/clips/0/thumbnail").with("Cookie: reelgrad_token=x"),
        Request::get("/v1/info").with("Authorization: Bearer x"),
        Request::get("/metrics").with("Accept: text/plain"),
    ]
}

/// Stands in for another value.
const MARK: &str = "\"@@\"";

/// JSON, or nearly, of a kind that is not expected.
fn strange(random: &mut Random) -> String {
    const VALUES: &str = r#"null true -1 0 1.5 1e999 -1e999 1e308 -0 NaN 18446744073709551615 18446744073709551616
        99999999999999999999999999999999999999 "" "\u0000" "\ud800" "é💥" [] {} [[[[[]]]]] {"text":1}
        {"text":"a","clip":0} {"":{}} " [ '"#;
    let values: Vec<&str> = VALUES.split_ascii_whitespace().collect();
    match random.below(values.len() + 3) {
        0 => "[".repeat(1 + random.below(20_000)),
        1 => "9".repeat(1 + random.below(2_000)),
        2 => format!("\"{}\"", "é".repeat(random.below(20_000))),
        value => values[value - 3].to_string(),
    }
}

/// Where the parts of a value are, itself included.
fn places(value: &Value) -> Vec<String> {
    let below = |key: String, part: &Value| places(part).into_iter().map(move |place| format!("/{key}{place}"));
    let parts: Vec<String> = match value {
        Value::Array(parts) => parts.iter().enumerate().flat_map(|(i, part)| below(i.to_string(), part)).collect(),
        Value::Object(parts) => parts.iter().flat_map(|(key, part)| below(key.clone(), part)).collect(),
        _ => Vec::new(),
    };
    [vec![String::new()], parts].concat()
}

/// The body with something else in a random place, if it is JSON; otherwise bytes.
fn misshapen(random: &mut Random, body: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return noise(random, 200) };
    let all = places(&value);
    let place = value.pointer_mut(&all[random.below(all.len())]).unwrap();
    match place {
        Value::Object(fields) if random.below(2) == 0 => drop(fields.insert("more".into(), "@@".into())),
        Value::Array(parts) if random.below(2) == 0 => parts.resize(1 + random.below(80), "@@".into()),
        _ => *place = "@@".into(),
    }
    value.to_string().replace(MARK, &strange(random)).into_bytes()
}

fn noise(random: &mut Random, most: usize) -> Vec<u8> {
    (0..random.below(most)).map(|_| random.u32() as u8).collect()
}

fn letters(random: &mut Random, most: usize) -> String {
    (0..random.below(most)).filter_map(|_| char::from_u32(random.u32() >> (11 + random.below(14)))).collect()
}

/// Bytes that are changed, put in, taken out, or cut off.
fn disturb(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.splice(at..at, noise(random, 20))),
            2 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
            _ if random.below(4) == 0 => bytes.truncate(at),
            _ => (),
        }
    }
}

fn broken_header(random: &mut Random, headers: &mut Vec<String>) {
    let at = random.below(headers.len());
    let letters = letters(random, 50);
    match random.below(9) {
        0 => headers[at] = headers[at].replace(':', ""),
        1 => headers[at] += &letters,
        2 => headers[at].insert(0, ' '),
        3 => headers.push(format!("X-Long: {}", "x".repeat(random.below(200_000)))),
        4 => headers.extend((0..random.below(500)).map(|i| format!("X-{i}: {i}"))),
        5 => headers.push(headers[at].clone()),
        6 => headers.push(format!("Range: bytes={letters}")),
        7 => headers.push(format!("X-Null: \0{letters}\x01")),
        _ => drop(headers.remove(at)),
    }
}

/// Lengths that are not the body's.
fn broken_length(random: &mut Random, request: &mut Request) {
    let length = request.body.len();
    let told = match random.below(8) {
        0 => random.below(length + 1).to_string(),
        1 => (length + 1 + random.below(1000)).to_string(),
        2 => "-1".into(),
        3 => "18446744073709551616".into(),
        4 => format!("{length}, {}", length + 1),
        5 => letters(random, 10),
        6 => format!("+{length}"),
        _ => format!("{length}\r\nTransfer-Encoding: chunked"),
    };
    request.headers.push(format!("Content-Length: {told}"));
    if random.below(4) == 0 {
        *request = request.clone().chunked();
        disturb(random, &mut request.body);
    }
}

fn broken_line(random: &mut Random, line: &mut String) {
    let letters = letters(random, 30);
    *line = match random.below(8) {
        0 => line.replace("HTTP/1.1", "HTTP/9.9"),
        1 => line.replace("HTTP/1.1", "HTTP/1.0"),
        2 => line.replace(" HTTP/1.1", ""),
        3 => line.replace(' ', ""),
        4 => line.replacen(' ', &format!(" /{letters}"), 1),
        5 => format!("{letters} / HTTP/1.1"),
        6 => line.replacen(' ', &format!(" /{}", "x".repeat(random.below(100_000))), 1),
        _ => line.replacen(' ', " http://[::1%\u{0}]:99999", 1),
    };
}

/// What somebody sends by mistake or in bad faith, and whether it is a whole request, which must be answered.
fn damaged(random: &mut Random, sound: &[Request]) -> (Vec<u8>, bool) {
    let mut request = sound[random.below(sound.len())].clone();
    let kind = random.below(10);
    match kind {
        0..=2 => request.body = misshapen(random, &request.body),
        3 => request.body = letters(random, 300).into_bytes(),
        4 | 5 => disturb(random, &mut request.body),
        6 => broken_header(random, &mut request.headers),
        7 => broken_length(random, &mut request),
        8 => broken_line(random, &mut request.line),
        _ => (),
    }
    let mut bytes = request.bytes();
    if kind == 9 {
        disturb(random, &mut bytes);
    }
    (bytes, kind < 6)
}

/// Sends it, and is done with sending. What comes back, if anything does.
fn inflict(address: &str, bytes: &[u8], whole: bool) -> io::Result<Vec<u8>> {
    let mut stream = connect(address, Duration::from_secs(10))?;
    let sent = stream.write_all(bytes);
    if !whole {
        let _ = sent.and_then(|()| stream.shutdown(Shutdown::Write));
    }
    match read_all(&mut stream) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !whole => Ok(Vec::new()),
        answer => answer,
    }
}

/// The statuses of all answers in it.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let status = |line: &[u8]| str::from_utf8(line.strip_prefix(b"HTTP/1.1 ")?).ok()?.parse().ok();
    answer.windows(12).filter_map(status).collect()
}

/// Many damaged requests, and now and then a sound one.
fn storm(server: &Server, stream: u64, sound: &[Request]) {
    let mut random = Random::new(7, stream);
    for count in 1..=2_500 {
        let (bytes, whole) = damaged(&mut random, sound);
        let about = || format!("{stream}/{count}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(1_000)]));
        let answer = inflict(&server.address, &bytes, whole).unwrap_or_else(|error| panic!("{error}: {}", about()));
        let statuses = statuses(&answer);
        assert!(statuses.iter().all(|&status| status < 500 || status == 503), "{statuses:?}: {}", about());
        if whole {
            let reply = Reply::parse(&answer);
            if !matches!(reply.status, 200 | 206 | 416) {
                reply.refusal(&[400, 404, 413, 415, 422, 429, 503], &about());
            }
        }
        if count % 500 == 0 {
            let request = &sound[count / 500 % 6];
            assert_eq!(server.ask(request).status, 200, "after {count}: {}", request.line);
        }
    }
}

#[test]
fn ten_thousand_malformed_requests_do_no_harm() {
    let mut server = Server::playing(&[]);
    let one = server.clips()["one.mp4"].clone();
    let sound = sound(&one["video_id"], one["media"].as_str().unwrap());
    sound.iter().for_each(|request| assert!(server.ask(request).status < 300, "{}", request.line));
    let pid = server.child.id();
    let (shared, all) = (&server, &sound);
    thread::scope(|scope| {
        for stream in 0..4 {
            scope.spawn(move || storm(shared, stream, all));
        }
    });
    let health = server.get("/healthz");
    assert_eq!((health.status, health.text().trim_end()), (200, "ok"));
    assert_eq!((server.child.try_wait().unwrap(), server.child.id()), (None, pid));
}
