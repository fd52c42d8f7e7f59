//! A hub on this machine: a small HTTP server, and repositories for it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request as it came, header names in lower case.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What follows the last byte that is sent.
#[cfg_attr(not(unix), allow(dead_code))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum After {
    End,
    /// Nothing for a minute.
    Silence,
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Without a length before the bytes.
    pub chunked: bool,
    /// Only so many bytes are sent.
    pub sent: usize,
    pub after: After,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), chunked: false, sent: usize::MAX, after: After::End }
    }

    pub fn redirect(location: String) -> Self {
        Self { headers: vec![("Location".into(), location)], ..Self::new(302, "") }
    }

    pub fn cut(self, sent: usize) -> Self {
        Self { sent, ..self }
    }

    fn write(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", self.status);
        self.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        match self.chunked {
            true => head += "Transfer-Encoding: chunked\r\n\r\n",
            false => head += &format!("Content-Length: {}\r\n\r\n", self.body.len()),
        }
        stream.write_all(head.as_bytes())?;
        let body = &self.body[..self.body.len().min(self.sent)];
        match self.chunked {
            true => {
                for chunk in body.chunks(10_000) {
                    stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                    stream.write_all(chunk)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")
            }
            false => stream.write_all(body),
        }
    }
}

/// A server that answers until the test ends, and what was asked of it.
pub struct Server {
    pub address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (answer.clone(), log.clone());
                thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Self { address, seen }
    }

    /// Requests whose path ends so.
    pub fn seen(&self, end: &str) -> Vec<Request> {
        self.seen.lock().unwrap().iter().filter(|request| request.path.ends_with(end)).cloned().collect()
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Request) -> Reply, log: &Mutex<Vec<Request>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ').map(String::from);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = lines.take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_string()))
    });
    let request = Request { method, path, headers: headers.collect() };
    log.lock().unwrap().push(request.clone());
    let reply = answer(&request);
    // Who asked may be gone.
    let _ = reply.write(&mut stream);
    if reply.after == After::Silence {
        thread::sleep(Duration::from_secs(60));
    }
}

/// A file, and whether it is one of the large ones.
#[derive(Clone)]
pub struct File {
    pub name: String,
    pub content: Vec<u8>,
    pub large: bool,
}

impl File {
    pub fn new(name: &str, content: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), content: content.into(), large: name.contains(".safetensors") }
    }

    /// Its sum, as the hub has it.
    pub fn sum(&self) -> String {
        match self.large {
            true => format!("{:x}", Sha256::digest(&self.content)),
            false => {
                let head = format!("blob {}\0", self.content.len());
                format!("{:x}", Sha1::new_with_prefix(head).chain_update(&self.content).finalize())
            }
        }
    }

    /// Its reply, from the byte on that is asked for.
    pub fn reply(&self, request: &Request) -> Reply {
        let length = self.content.len();
        match request.start() {
            None => Reply::new(200, &*self.content),
            Some(start) if start >= length => Reply::new(416, ""),
            Some(start) => {
                let range = format!("bytes {start}-{}/{length}", length - 1);
                let headers = vec![("Content-Range".into(), range)];
                Reply { headers, ..Reply::new(206, &self.content[start..]) }
            }
        }
    }
}

/// A model as a hub has it.
#[derive(Clone)]
pub struct Repository {
    pub name: &'static str,
    pub files: Vec<File>,
}

impl Repository {
    pub fn new(files: Vec<File>) -> Self {
        Self { name: "somebody/tiny", files }
    }

    /// A small CLIP, with files that nobody needs here.
    pub fn tiny() -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/clip-tiny-hf");
        let needless = ["README.md", "pytorch_model.bin", "open_clip_model.safetensors", "onnx/config.json"];
        let mut files: Vec<File> = needless.iter().map(|name| File::new(name, "nothing")).collect();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            files.push(File::new(path.file_name().unwrap().to_str().unwrap(), fs::read(&path).unwrap()));
        }
        Self::new(files)
    }

    pub fn file(&self, name: &str) -> &File {
        self.files.iter().find(|file| file.name == name).unwrap()
    }

    pub fn listing(&self) -> Value {
        let sibling = |file: &File| {
            let bytes = file.content.len();
            match file.large {
                true => json!({
                    "rfilename": file.name, "size": bytes, "blobId": "f".repeat(40),
                    "lfs": { "sha256": file.sum(), "size": bytes, "pointerSize": 134 },
                }),
                false => json!({ "rfilename": file.name, "size": bytes, "blobId": file.sum() }),
            }
        };
        let siblings: Vec<Value> = self.files.iter().map(sibling).collect();
        json!({ "id": self.name, "sha": COMMIT, "gated": false, "siblings": siblings })
    }

    /// What an honest hub answers, at the revision `main`.
    pub fn answer(&self, request: &Request) -> Reply {
        let Self { name, .. } = self;
        if request.path == format!("/api/models/{name}/revision/main?blobs=true") {
            return Reply::new(200, self.listing().to_string());
        }
        let file = request.path.strip_prefix(&format!("/{name}/resolve/{COMMIT}/"));
        match file.and_then(|wanted| self.files.iter().find(|file| file.name == wanted)) {
            Some(file) => file.reply(request),
            None => Reply::new(404, "{\"error\":\"not found\"}"),
        }
    }

    /// A hub that has this model and nothing else.
    pub fn serve(self) -> Server {
        Server::start(move |request| self.answer(request))
    }

    /// The same, where `special` may answer in its place.
    pub fn serve_but(self, special: impl Fn(&Request, &Self) -> Option<Reply> + Send + Sync + 'static) -> Server {
        Server::start(move |request| special(request, &self).unwrap_or_else(|| self.answer(request)))
    }

    /// Puts files into a cache, as Hugging Face's libraries do.
    #[cfg(unix)]
    pub fn cache(&self, home: &Path, names: &[&str]) {
        let root = home.join(format!("hub/models--{}", self.name.replace('/', "--")));
        let snapshot = root.join("snapshots").join(COMMIT);
        for folder in [&root.join("blobs"), &root.join("refs"), &snapshot] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(root.join("refs/main"), COMMIT).unwrap();
        for file in names.iter().map(|name| self.file(name)) {
            fs::write(root.join("blobs").join(file.sum()), &file.content).unwrap();
            std::os::unix::fs::symlink(Path::new("../../blobs").join(file.sum()), snapshot.join(&file.name)).unwrap();
        }
    }
}
