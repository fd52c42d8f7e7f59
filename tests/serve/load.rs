//! Many requests at once, and the end.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Reply, Request, connect, read_all};
use crate::server::{PATIENCE, Server, list, sentences, text};

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
