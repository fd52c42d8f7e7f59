//! Sixteen sentences at a time in an index of 10,000 clips: by the library, and by as many clients of the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reelgrad::Gpu;
use reelgrad::models::text_image::OpenOptions;
use reelgrad::random::Random;
use reelgrad::retrieval::index::{ClipPlan, Index, IndexModel, IndexWriter, PlainModel, Video, VideoVectors};
use reelgrad::retrieval::search::{Query, SearchOptions, Searcher};
use reelgrad::tensor::DType;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/clip-tiny-hf");
const CLIENTS: usize = 16;
const VIDEOS: usize = 500;
/// Of each video, for 20 clips.
const FRAMES: usize = 84;

fn sentence(number: usize) -> String {
    format!("a dog and {number} cats")
}

/// An index of random vectors.
fn index(model: &dyn IndexModel, folder: &Path) {
    let (width, mut random) = (model.width(), Random::new(1, 0));
    let mut writer = IndexWriter::create(folder, model.spec(ClipPlan::default(), DType::F16, false)).expect("an index");
    let times: Vec<f64> = (0..FRAMES).map(|at| at as f64).collect();
    let clips = ClipPlan::default().clips(&times, FRAMES as f64, &[]);
    for number in 0..VIDEOS {
        let mut vectors = |count: usize| -> Vec<f32> { (0..count * width).map(|_| random.normal()).collect() };
        let (mut coarse, frames) = (vectors(clips.len()), vectors(FRAMES));
        for row in coarse.chunks_exact_mut(width) {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= length);
        }
        let id = format!("/videos/{number:05}.mp4");
        let (size, modified, duration) = (1, 1, FRAMES as f64);
        let video = Video { id, path: None, size, modified, duration, offset: 0.0, notes: Vec::new() };
        let (clips, times, patches, thumbnails) = (clips.clone(), times.clone(), Vec::new(), Vec::new());
        writer.add(VideoVectors { video, clips, coarse, frames, times, patches, thumbnails }).expect("a video");
    }
    writer.commit().expect("a commit");
}

/// The server, which ends with the value.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(index: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelgrad"));
        command.arg("serve").arg(index).args(["--model", MODEL, "--port", "0"]).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it tells")).lines().map_while(Result::ok);
        let address =
            lines.find_map(|line| line.strip_prefix("serving  http://").map(String::from)).expect("it serves");
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks on an open connection, and reads the whole answer.
fn ask(stream: &mut TcpStream, number: usize) {
    let body = format!(r#"{{"queries":[{{"text":"{}"}}]}}"#, sentence(number));
    let head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:";
    write!(stream, "{head} {}\r\n\r\n{body}", body.len()).expect("it listens");
    let (mut reader, mut line, mut length) = (BufReader::new(&*stream), String::new(), 0);
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("it answers");
        if let Some(told) = line.strip_prefix("content-length: ") {
            length = told.trim().parse().expect("a length");
        }
    }
    let mut answer = vec![0; length];
    reader.read_exact(&mut answer).expect("a whole answer");
    assert!(answer.starts_with(b"{\"answers\""), "{}", String::from_utf8_lossy(&answer));
}

/// What `rounds` questions of each client take.
fn clients(server: &Server, rounds: u64) -> Duration {
    let mut streams: Vec<TcpStream> =
        (0..CLIENTS).map(|_| TcpStream::connect(&server.address).expect("it listens")).collect();
    let started = Instant::now();
    thread::scope(|scope| {
        for (number, stream) in streams.iter_mut().enumerate() {
            scope.spawn(move || (0..rounds).for_each(|_| ask(stream, number)));
        }
    });
    started.elapsed()
}

fn serve(c: &mut Criterion) {
    let gpu = Gpu::new().expect("an adapter");
    let model = PlainModel::open(&gpu, MODEL, OpenOptions::default()).expect("the tests' model");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("index");
    index(&model, &path);
    let opened = Index::open(&path).expect("the index");
    let mut group = c.benchmark_group(format!("{CLIENTS} sentences, {} clips", opened.len()));
    group.sample_size(10).throughput(Throughput::Elements(CLIENTS as u64));
    let searcher = Searcher::new(&gpu, Box::new(model), opened, 1 << 30).expect("a searcher");
    let queries: Vec<Query> = (0..CLIENTS).map(|number| Query::Text(sentence(number))).collect();
    group.bench_function("library, together", |bencher| {
        bencher.iter(|| searcher.search(&queries, &SearchOptions::default()).expect("answers"));
    });
    let server = Server::start(&path);
    group.bench_function("server, 16 clients", |bencher| bencher.iter_custom(|rounds| clients(&server, rounds)));
}

criterion_group!(benches, serve);
criterion_main!(benches);
