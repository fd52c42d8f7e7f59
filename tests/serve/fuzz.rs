//! Requests that somebody sends by mistake or in bad faith, made at random.

use std::io::{self, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use reelgrad::random::Random;
use serde_json::{Value, json};

use crate::http::{Reply, Request, connect, read_all};
use crate::server::{Server, entries, text};
use crate::world::{NAME, base64, png};

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
