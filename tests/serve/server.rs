//! A running server, and what it is asked and answers.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Reply, Request, connect, read_all};
use crate::world::{MODEL, World};

/// How long an answer may take. The tests share their processors.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub child: Child,
    pub address: String,
    pub world: Arc<World>,
}

impl Server {
    pub fn start(flags: &[&str]) -> Self {
        Self::of(World::shared(), flags)
    }

    /// Plays the videos of the open folder.
    pub fn playing(flags: &[&str]) -> Self {
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

    pub fn ask(&self, request: &Request) -> Reply {
        let mut stream = connect(&self.address, PATIENCE).unwrap();
        // Who refuses a request need not read all of it.
        let _ = stream.write_all(&request.bytes());
        Reply::parse(&read_all(&mut stream).unwrap())
    }

    pub fn get(&self, path: &str) -> Reply {
        self.ask(&Request::get(path))
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Value {
        self.ask(&Request::post(path, body)).json()
    }

    #[track_caller]
    pub fn search(&self, body: &Value) -> Value {
        self.post("/v1/search", body)
    }

    /// The first clip of each video, as results show it.
    pub fn clips(&self) -> BTreeMap<String, Value> {
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

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// How it ended, if it did in time.
    pub fn ended(&mut self) -> Option<ExitStatus> {
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

pub fn text(text: &str) -> Value {
    json!({ "text": text })
}

/// `count` sentences.
pub fn sentences(count: usize) -> Vec<Value> {
    (0..count).map(|i| text(&format!("sentence {i}"))).collect()
}

/// What Immich asks for: `kind` is textual or visual.
pub fn entries(kind: &str, model: &str) -> String {
    json!({ "clip": { kind: { "modelName": model, "options": { "language": "en" } } } }).to_string()
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}
