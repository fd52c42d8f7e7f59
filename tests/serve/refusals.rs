//! What cannot be answered is refused, and how.

use image::ImageFormat;
use serde_json::json;

use crate::http::{JSON, Request};
use crate::server::{Server, entries, list, sentences, text};
use crate::world::{NAME, base64, picture, png};

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
    assert_eq!(query.json()["schema"], "reelgrad.service/1");
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
