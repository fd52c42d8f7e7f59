//! Who may ask.

use serde_json::json;

use crate::http::Request;
use crate::server::{Server, entries, text};
use crate::world::{MODEL, NAME, World, reelgrad};

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
fn immich_which_sends_no_token_may_be_let_in() {
    let server = Server::start(&["--token", "s3cret", "--open-predict"]);
    let form = Request::form("/predict", &[("entries", &entries("textual", NAME)), ("text", "a dog")], None);
    assert_eq!(server.ask(&form).status, 200);
    for path in ["/v1/info", "/metrics", "/v1/clips/0/thumbnail"] {
        server.get(path).refusal(&[401], path);
    }
}

#[test]
fn pages_of_other_sites_and_names_are_refused() {
    let server = Server::start(&[]);
    for site in ["cross-site", "same-site"] {
        for path in ["/v1/info", "/v1/clips/0/thumbnail", "/ping"] {
            server.ask(&Request::get(path).with(&format!("Sec-Fetch-Site: {site}"))).refusal(&[400], path);
        }
        // A link to the page may be anywhere.
        assert_eq!(server.ask(&Request::get("/").with(&format!("Sec-Fetch-Site: {site}"))).status, 200);
    }
    for site in ["same-origin", "none"] {
        assert_eq!(server.ask(&Request::get("/v1/info").with(&format!("Sec-Fetch-Site: {site}"))).status, 200);
    }
    // A foreign name that was pointed at this machine.
    for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::2]", ""] {
        let mut request = Request::get("/v1/info");
        request.headers[0] = format!("Host: {host}");
        server.ask(&request).refusal(&[400], host);
    }
    for host in ["127.0.0.1:7430", "LOCALHOST", "[::1]:80", "127.9.9.9"] {
        let mut request = Request::get("/v1/info");
        request.headers[0] = format!("Host: {host}");
        assert_eq!(server.ask(&request).status, 200, "{host}");
    }
}
