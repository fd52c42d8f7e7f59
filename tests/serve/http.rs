//! A small HTTP client.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

pub const JSON: &str = "Content-Type: application/json";

/// What is sent. Without a header that says otherwise, the body's length is told as it is.
#[derive(Clone)]
pub struct Request {
    pub line: String,
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        let headers = ["Host: localhost", "Connection: close"].map(String::from).to_vec();
        Self { line: format!("{method} {path} HTTP/1.1"), headers, body: Vec::new() }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn post(path: &str, body: &Value) -> Self {
        Self::raw(path, body.to_string())
    }

    /// Of content that claims to be JSON.
    pub fn raw(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", path).with(JSON).of(body)
    }

    pub fn with(mut self, header: &str) -> Self {
        self.headers.push(header.into());
        self
    }

    pub fn of(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A form, as Immich's server sends it: fields with their text, and a file.
    pub fn form(path: &str, fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Self {
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
    pub fn chunked(mut self) -> Self {
        let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        self.body = self.body.chunks(10_000).map(chunk).chain([b"0\r\n\r\n".to_vec()]).flatten().collect();
        self.with("Transfer-Encoding: chunked")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut headers = self.headers.clone();
        let told = |header: &String| header.starts_with("Content-Length") || header.starts_with("Transfer-Encoding");
        if (!self.body.is_empty() || self.line.starts_with("POST")) && !headers.iter().any(told) {
            headers.push(format!("Content-Length: {}", self.body.len()));
        }
        [format!("{}\r\n{}\r\n\r\n", self.line, headers.join("\r\n")).as_bytes(), &self.body].concat()
    }
}

/// What came back.
pub struct Reply {
    pub status: u16,
    /// By name, in lower case.
    headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> Self {
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

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// What was asked for, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type").split(';').next(), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// An error of one of these statuses: in JSON, with the code of its status. Returns its message.
    #[track_caller]
    pub fn refusal(&self, statuses: &[u16], about: &str) -> String {
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

pub fn connect(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// What comes until the connection ends.
pub fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() || error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(answer),
    }
}
