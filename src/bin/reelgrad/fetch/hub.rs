//! A hub over HTTP, in Hugging Face's layout.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::thread::sleep;
use std::time::Duration;
use std::{env, fs};

use reelgrad::{Error, Result};
use serde::Deserialize;
use ureq::http::{HeaderMap, HeaderName, Response, Uri, header};
use ureq::{Agent, Body};

use super::choice::{Names, choose, hostile};
use super::part::{Part, Sum, Wanted};
use super::{Listing, Model, cache, is_commit};

/// The hub, unless `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";
/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// Silence after which a connection is lost.
const SILENCE: Duration = Duration::from_secs(60);
/// How long to wait before another try, in seconds. There are as many tries more.
const PAUSES: [u64; 3] = [1, 2, 4];
/// After so many bytes the tries are counted anew.
const PROGRESS: u64 = 1 << 20;
const MAX_REDIRECTS: usize = 10;
const MAX_LISTING_BYTES: u64 = 16 << 20;
const MAX_FILES: usize = 10_000;

pub struct Hub {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<String>,
}

/// Scheme, host and port.
type Origin = (String, String, u16);

/// Why there is no answer.
enum Trouble {
    /// Another try makes no difference.
    Lasting(Error),
    /// Another try may go well; and whether this one brought something.
    Passing(String, bool),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Lasting(error)
    }
}

/// What the hub says of a model.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, with the token of `HF_TOKEN` or of the file that `hf auth login` writes; through the proxy
    /// of `HTTPS_PROXY` and its kin.
    ///
    /// # Errors
    /// [`Error::Argument`] for an endpoint that is no address, and a token that is none.
    pub fn of_environment() -> Result<Self> {
        let given = |name| env::var(name).ok().map(|value| value.trim().to_string()).filter(|value| !value.is_empty());
        let endpoint = given("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/').to_string();
        let Some(origin) = endpoint.parse().ok().as_ref().and_then(origin_of) else {
            let why = format!("is {endpoint:?}, no address such as {ENDPOINT}");
            return Err(Error::Argument { op: "fetch", argument: "HF_ENDPOINT", why });
        };
        let file = || fs::read_to_string(cache::home()?.join("token")).ok().map(|token| token.trim().to_string());
        let token = given("HF_TOKEN").or_else(file).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            let why = "(or the file that stands in for it) has characters that no token has".into();
            return Err(Error::Argument { op: "fetch", argument: "HF_TOKEN", why });
        }
        let config = Agent::config_builder()
            // A redirect by hand: the token stays with its origin, port included.
            .max_redirects(0)
            .http_status_as_error(false)
            .https_only(origin.0 == "https")
            // What is compressed on the way could not go on in the middle.
            .accept_encoding("identity")
            .user_agent(concat!("reelgrad/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE));
        Ok(Self { agent: config.build().new_agent(), endpoint, origin, token })
    }

    /// What the hub has of a model.
    ///
    /// # Errors
    /// [`Error::Argument`] for a model that is not there, not open to everybody, or none; [`Error::Malformed`] for a listing
    /// of another form, beyond its limits, or with names that lead out of a folder; [`Error::Io`] without an answer.
    pub fn list(&self, model: &Model) -> Result<Listing> {
        let Model { name, revision } = model;
        let url = format!("{}/api/models/{name}/revision/{}?blobs=true", self.endpoint, escaped(revision));
        let malformed = |place: &str, problem: String| Error::malformed(&url, place, problem);
        let body = insist(&url, |again| {
            if let Some(why) = again {
                eprintln!("waiting  {why}; trying again");
            }
            let body = self.accepted(self.get(&url, 0)?, model)?.into_body();
            let mut bytes = Vec::new();
            body.into_reader().take(MAX_LISTING_BYTES + 1).read_to_end(&mut bytes).map_err(passing)?;
            Ok(bytes)
        })?;
        if body.len() as u64 > MAX_LISTING_BYTES {
            return Err(malformed("listing", format!("has more than {MAX_LISTING_BYTES} bytes")));
        }
        let Answer { sha, siblings } =
            serde_json::from_slice(&body).map_err(|e| malformed("listing", format!("is no list of files: {e}")))?;
        if siblings.len() > MAX_FILES {
            return Err(malformed("siblings", format!("are {}, more than {MAX_FILES}", siblings.len())));
        }
        if !is_commit(&sha) {
            return Err(malformed("sha", format!("{sha:?} is no commit")));
        }
        if let Some((file, why)) = siblings.iter().find_map(|s| Some((&s.rfilename, hostile(&s.rfilename)?))) {
            return Err(malformed("siblings", format!("{file:?} {why}; nothing of this model was fetched")));
        }
        let siblings: BTreeMap<String, Sibling> = siblings.into_iter().map(|s| (s.rfilename.clone(), s)).collect();
        let names: Names = siblings.keys().cloned().collect();
        let files = choose(&names).map_err(|why| argument(format!("{name} at revision {revision} {why}")))?;
        let files = files.into_iter().map(|file| {
            let wanted = siblings[file].wanted();
            wanted.ok_or_else(|| malformed(file, "has no size, or no sum that is one".into()))
        });
        Ok(Listing { commit: sha, files: files.collect::<Result<_>>()?, names })
    }

    /// Downloads the rest of a file.
    ///
    /// # Errors
    /// As [`Hub::list`]; [`Error::Malformed`] for a file of another size than the listed one; those of [`Part::append`].
    pub fn download(&self, model: &Model, commit: &str, part: &mut Part) -> Result<()> {
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, model.name, part.wanted().name);
        insist(&url, |again| {
            if let Some(why) = again {
                part.tell(&format!("trying again: {why}"));
            }
            if part.is_all() { Ok(()) } else { self.go_on(&url, model, part) }
        })
    }

    /// Reads on in a file for as long as the connection holds.
    fn go_on(&self, url: &str, model: &Model, part: &mut Part) -> Result<(), Trouble> {
        let (asked, listed) = (part.bytes(), part.wanted().bytes);
        let response = self.get(url, asked)?;
        let status = response.status().as_u16();
        if status == 416 && asked > 0 {
            part.empty()?;
            return Err(Trouble::Passing(format!("the hub has no byte {asked} of it"), false));
        }
        let response = self.accepted(response, model)?;
        let (start, total) = match status {
            206 => range(response.headers()),
            _ => (Some(0), text(response.headers(), header::CONTENT_LENGTH).parse().ok()),
        };
        if start != Some(asked) {
            // All of it comes again, or nothing that is of use.
            part.empty()?;
        }
        if start != Some(part.bytes()) {
            return Err(Trouble::Passing(format!("it does not go on from byte {asked}"), false));
        }
        if let Some(total) = total.filter(|total| *total != listed) {
            return Err(Error::malformed(url, "size", format!("is {total} bytes, and {listed} are listed")).into());
        }
        let (mut body, mut buffer, first) = (response.into_body().into_reader(), vec![0; 1 << 16], part.bytes());
        let why = loop {
            match body.read(&mut buffer) {
                Ok(0) if part.is_all() => return Ok(()),
                Ok(0) => break String::new(),
                Ok(n) => part.append(&buffer[..n])?,
                Err(e) => break format!(": {e}"),
            }
        };
        let why = format!("it ended after {} of {listed} bytes{why}", part.bytes());
        Err(Trouble::Passing(why, part.bytes() > first + PROGRESS))
    }

    /// The answer to a request for `url`, from that byte on, after all redirects.
    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, Trouble> {
        let lasting = |why: String| Trouble::Lasting(no_answer(url, why));
        let mut uri: Uri = url.parse().map_err(|e| lasting(format!("this is no address: {e}")))?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&uri);
            if let Some(token) = self.token.as_ref().filter(|_| origin_of(&uri).as_ref() == Some(&self.origin)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| match e {
                // A certificate that is not trusted.
                ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => lasting(e.to_string()),
                ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => passing(e.into_io()),
                other => lasting(other.to_string()),
            })?;
            let location = response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location else { return Ok(response) };
            let target = location.to_str().ok().and_then(|location| joined(&uri, location));
            uri = target.ok_or_else(|| lasting("it is redirected to what is no address".into()))?;
        }
        Err(lasting(format!("it is redirected more than {MAX_REDIRECTS} times")))
    }

    /// A response that brings what was asked for.
    fn accepted(&self, response: Response<Body>, model: &Model) -> Result<Response<Body>, Trouble> {
        let (status, Model { name, revision }) = (response.status().as_u16(), model);
        let why = match status {
            200 | 206 => return Ok(response),
            401 | 403 => {
                let token = match self.token {
                    Some(_) => "the token that was sent does not open it",
                    None => "set HF_TOKEN to a token of your account, or log in by hf auth login",
                };
                format!(
                    "{name} is not open to everybody, or not there (HTTP {status}): accept its licence at {}/{name}; {token}",
                    self.endpoint
                )
            }
            404 => format!(
                "{name} with revision {revision} is not at {} (HTTP 404): look at how both are spelled there",
                self.endpoint
            ),
            408 | 429 | 500.. => return Err(Trouble::Passing(format!("the hub answers HTTP {status}"), false)),
            _ => format!("{name} cannot be had: the hub at {} answers HTTP {status}", self.endpoint),
        };
        Err(argument(why).into())
    }
}

impl Sibling {
    /// Its size and sum, where they have the form of such.
    fn wanted(&self) -> Option<Wanted> {
        let (bytes, digits) = match &self.lfs {
            Some(lfs) => (lfs.size, &lfs.sha256),
            None => (self.size?, self.blob_id.as_ref()?),
        };
        Some(Wanted { name: self.rfilename.clone(), bytes, sum: Sum::of_digits(digits)? })
    }
}

/// Tries again after what may pass, and says why to `attempt`.
fn insist<T>(url: &str, mut attempt: impl FnMut(Option<&str>) -> Result<T, Trouble>) -> Result<T> {
    let (mut pauses, mut trouble) = (PAUSES.iter(), None);
    loop {
        match attempt(trouble.as_deref()) {
            Ok(done) => return Ok(done),
            Err(Trouble::Lasting(error)) => return Err(error),
            Err(Trouble::Passing(why, moved)) => {
                if moved {
                    pauses = PAUSES.iter();
                }
                let Some(seconds) = pauses.next() else {
                    let tries = PAUSES.len() + 1;
                    return Err(no_answer(url, format!("{why}, {tries} times; the same command goes on")));
                };
                log::info!("{url}: {why}; trying again in {seconds} s");
                sleep(Duration::from_secs(*seconds));
                trouble = Some(why);
            }
        }
    }
}

fn passing(error: io::Error) -> Trouble {
    Trouble::Passing(error.to_string(), false)
}

fn no_answer(url: &str, why: String) -> Error {
    Error::io("fetch", url, io::Error::other(why))
}

fn argument(why: String) -> Error {
    Error::Argument { op: "fetch", argument: "model", why }
}

/// A header's value; empty without one.
fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

/// First byte and size of the whole, as a part's `Content-Range` has them: `bytes 5-9/10`.
fn range(headers: &HeaderMap) -> (Option<u64>, Option<u64>) {
    let (bytes, total) = text(headers, header::CONTENT_RANGE).split_once('/').unwrap_or_default();
    let start = bytes.trim().strip_prefix("bytes ").and_then(|range| range.split('-').next());
    (start.and_then(|start| start.trim().parse().ok()), total.trim().parse().ok())
}

fn origin_of(uri: &Uri) -> Option<Origin> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let usual = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    Some((scheme, uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(usual)))
}

/// Where a redirect from `base` leads.
fn joined(base: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let whole = match location {
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => location.to_string(),
    };
    whole.parse().ok().filter(|uri| origin_of(uri).is_some())
}

/// For one part of a path.
fn escaped(text: &str) -> String {
    let one = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(one).collect()
}
