//! `reelgrad serve`: an index over HTTP, with a page to look at it.

mod answers;
mod body;
mod connections;
mod immich;
mod media;
mod metrics;
mod refusal;
mod worker;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::Args;
use reelgrad::retrieval::index::Index;
use reelgrad::retrieval::search::Searcher;
use reelgrad::{Error, Gpu, Result};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use self::connections::Connections;
use self::metrics::Metrics;
use self::refusal::{Code, Refusal};
use self::worker::Worker;
use crate::model::ModelFlags;

pub const EXAMPLE: &str = "\
Example: reelgrad serve videos.index --model clip-vit-base-patch32 --media-root ~/Videos

Then open the address that it prints. GET /openapi.json describes the API. As Immich's machine learning server it answers
GET /ping and POST /predict: give Immich its address, and here the model's name there with --immich-model. From another
machine or container it also takes --host, --token and, as Immich sends no token, --open-predict.";

const PAGE: &str = include_str!("page.html");
const OPENAPI: &str = include_str!("openapi.json");
/// The page needs nothing from elsewhere, and can be made to ask for nothing there.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data: blob:; \
                      media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Requests that may bring something at a time, beside those that wait for the GPU.
const ROOM: usize = 64;

/// How long requests that are under way when it is stopped may take.
const LAST: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Options {
    /// Folder of the index.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
    #[command(flatten)]
    model: ModelFlags,
    /// The address to listen at. Elsewhere than on this machine it needs --token.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port; 0 for any that is free.
    #[arg(long, value_name = "PORT", default_value_t = 7430)]
    port: u16,
    /// What who asks must know: letters, digits and most signs.
    #[arg(long, value_name = "TOKEN", env = "REELGRAD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A folder whose videos the page may play. May be repeated. Without it none is played.
    #[arg(long, value_name = "FOLDER")]
    media_root: Vec<PathBuf>,
    /// Most of a request, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_body: u32,
    /// Most clips that can be asked for.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    max_top: u32,
    /// Requests that may wait for the GPU; further ones are told to come later.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queue: u32,
    /// What Immich calls the model [default: the name of its folder].
    #[arg(long, value_name = "NAME")]
    immich_model: Option<String>,
    /// Answers POST /predict without the token, as Immich sends none.
    #[arg(long, requires = "token")]
    open_predict: bool,
    /// GPU memory for the index, in MiB. What does not fit is read anew for each search.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    budget: u64,
}

/// What all requests share.
struct Server {
    searcher: Arc<Searcher>,
    worker: Worker,
    metrics: Metrics,
    token: Option<String>,
    media_roots: Vec<PathBuf>,
    immich_model: String,
    max_body: usize,
    max_top: usize,
    /// Whether it listens on this machine alone.
    local: bool,
    /// Whether Immich's requests need no token, as it sends none.
    open_predict: bool,
    /// Requests that may bring something at a time, and pictures that may be decoded at a time: both take memory.
    room: Semaphore,
    decoders: Semaphore,
    stopping: AtomicBool,
    under_way: AtomicUsize,
}

type Shared = State<Arc<Server>>;

pub fn serve(options: &Options, open_gpu: impl FnOnce() -> Gpu) -> Result<ExitCode> {
    let bad = |argument, why: &str| Err(Error::Argument { op: "serve", argument, why: why.into() });
    let local = options.host.is_loopback();
    if !local && options.token.is_none() {
        return bad("--host", "is reached from elsewhere: give a --token that others do not know");
    }
    let plain =
        |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !b"\",;\\".contains(&b));
    if options.token.as_deref().is_some_and(|token| !plain(token)) {
        return bad("--token", "must be of letters, digits and signs but \" , ; and \\");
    }
    let root = |root: &PathBuf| root.canonicalize().map_err(|e| Error::io("open", root, e));
    let media_roots = options.media_root.iter().map(root).collect::<Result<_>>()?;
    let index = Index::open(&options.index)?;
    let gpu = open_gpu();
    let model = options.model.open(&gpu)?;
    let immich_model = options.immich_model.clone().unwrap_or_else(|| model.identity().name.clone());
    let searcher = Arc::new(Searcher::new(&gpu, model, index, options.budget << 20)?);
    let metrics = Metrics::new(searcher.index());
    let worker = Worker::start(searcher.clone(), options.queue as usize, &metrics);
    let server = Arc::new(Server {
        searcher,
        worker,
        metrics,
        token: options.token.clone(),
        media_roots,
        immich_model,
        max_body: (options.max_body as usize) << 20,
        max_top: options.max_top as usize,
        local,
        open_predict: options.open_predict,
        room: Semaphore::new(options.queue as usize + ROOM),
        decoders: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
        stopping: AtomicBool::new(false),
        under_way: AtomicUsize::new(0),
    });
    let runtime = tokio::runtime::Runtime::new().map_err(|e| Error::io("start", "the server's threads", e))?;
    runtime.block_on(listen(&server, SocketAddr::new(options.host, options.port)))?;
    // Whoever still listens to a video does not hold it up.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Serves until a signal comes, and then until all that was asked is answered.
async fn listen(server: &Arc<Server>, address: SocketAddr) -> Result<()> {
    let failed = |e| Error::io("listen at", address.to_string(), e);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let app = router(server.clone());
    let serving = axum::serve(Connections::new(listener), app)
        .with_graceful_shutdown(async { stopped.await.unwrap_or_default() });
    let serving = tokio::spawn(async { serving.await });
    let signal = signal()?;
    eprintln!("serving  http://{address}");
    signal.await;
    eprintln!("stopping; what was asked is answered first");
    server.stopping.store(true, Ordering::SeqCst);
    let _ = stop.send(());
    let since = Instant::now();
    // Connections that ask nothing stay open; they are not waited for.
    while !serving.is_finished() && server.under_way.load(Ordering::SeqCst) > 0 && since.elapsed() < LAST {
        sleep(Duration::from_millis(20)).await;
    }
    // Time for the last answers to leave.
    for _ in 0..20 {
        if serving.is_finished() {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Ends with Ctrl-C, or the system's wish to end the program; both are heard from this call on.
fn signal() -> Result<impl Future<Output = ()>> {
    let failed = |e| Error::io("listen to", "signals", e);
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    {
        let mut interrupt = tokio::signal::windows::ctrl_c().map_err(failed)?;
        Ok(async move {
            interrupt.recv().await;
        })
    }
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/v1/info", get(answers::info))
        .route("/v1/search", post(answers::search))
        .route("/v1/moments", post(answers::moments))
        .route("/v1/encode/text", post(answers::encode_text))
        .route("/v1/encode/image", post(answers::encode_image))
        .route("/v1/clips/{clip}/thumbnail", get(media::thumbnail))
        .route("/v1/clips/{clip}/media", get(media::media))
        .route("/openapi.json", get(([(header::CONTENT_TYPE, "application/json")], OPENAPI)))
        .route("/healthz", get("ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::text))
        .route("/ping", get("pong"))
        .route("/predict", post(immich::predict))
        .with_state(server.clone())
        .layer(middleware::from_fn_with_state(server, around))
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE).into_response()
}

async fn ready(State(server): Shared) -> Response {
    let refuse = |why: &str| Refusal::new(Code::Unavailable, why).into_response();
    match (server.stopping.load(Ordering::SeqCst), server.worker.is_alive()) {
        (true, _) => refuse("stopping"),
        (false, false) => refuse("the server cannot search any more; restart it"),
        (false, true) => "ready".into_response(),
    }
}

/// What is done around every request: who asks is looked at, the answer is counted, and an error says so in JSON.
async fn around(State(server): Shared, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_string();
    server.under_way.fetch_add(1, Ordering::SeqCst);
    let leave = Leave(&server.under_way);
    let brings = request.method() == Method::POST;
    let response = match (server.admit(&route, request.headers()), server.room.try_acquire()) {
        (Err(refusal), _) => refusal.into_response(),
        (Ok(()), Err(_)) if brings => {
            Refusal::new(Code::Busy, "too many requests are under way; come again").into_response()
        }
        (Ok(()), room) => {
            let _room = room.ok().filter(|_| brings);
            refusal::in_json(next.run(request).await)
        }
    };
    server.metrics.answered(&route, response.status(), since.elapsed());
    drop(leave);
    response
}

/// Counts a request out, also one whose asker left.
struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    /// Does what takes a processor and memory, when it is its turn.
    async fn decode<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> std::result::Result<T, Refusal> + Send + 'static,
    ) -> std::result::Result<T, Refusal> {
        let closed = |_| Refusal::new(Code::Unavailable, "stopping");
        let _turn = self.decoders.acquire().await.map_err(closed)?;
        let server = self.clone();
        media::blocking(move || work(&server)).await
    }

    /// Whether who asks may.
    fn admit(&self, route: &str, headers: &HeaderMap) -> std::result::Result<(), Refusal> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // A page of another site must not use the server, nor see what it holds, through the browser that shows it.
        let site = text(HeaderName::from_static("sec-fetch-site"));
        if route != "/" && !["", "same-origin", "none"].contains(&site) {
            return Err(Refusal::new(Code::BadRequest, "a page of another site asks; only the server's own page may"));
        }
        let Some(token) = &self.token else {
            // A page of another name that was pointed here, to read what only this machine may.
            return match self.local && !is_own(text(header::HOST)) {
                false => Ok(()),
                true => Err(Refusal::new(Code::BadRequest, "the header Host names another server than this machine")),
            };
        };
        let open = ["/", "/healthz", "/readyz", "/ping"].contains(&route);
        if open || (self.open_predict && route == "/predict") {
            return Ok(());
        }
        // What a page shows is loaded without headers of its own.
        let by_cookie = route.starts_with("/v1/clips/");
        let cookies = text(header::COOKIE).split(';').filter_map(|pair| pair.trim().strip_prefix("reelgrad_token="));
        let given = text(header::AUTHORIZATION).strip_prefix("Bearer ");
        match given.into_iter().chain(cookies.filter(|_| by_cookie)).any(|given| is_same(given, token)) {
            true => Ok(()),
            false => Err(Refusal::new(Code::Unauthorized, "give the token: the header Authorization: Bearer TOKEN")),
        }
    }
}

/// Whether a request's host is this machine by its own names.
fn is_own(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Compares in a time that does not tell how much is right.
fn is_same(given: &str, token: &str) -> bool {
    let differ = given.bytes().zip(token.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == token.len() && differ == 0
}
