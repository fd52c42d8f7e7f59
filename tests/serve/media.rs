//! Videos and pictures of them, which come from files, and no other files.

use std::fs;

use crate::http::Request;
use crate::server::Server;

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
