//! The routes below /v1.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reelgrad::data::media::frames::{Reading, image_of_bytes};
use reelgrad::retrieval::search::{Answers, Found, MAX_TEXT, Query, SearchOptions};
use reelgrad::{Error, Result as Outcome};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Value, json};

use super::media::blocking;
use super::refusal::{Code, Refusal};
use super::{Server, Shared, body};
use crate::search::{result_json, stages_json};

/// Queries of a request, sentences or pictures to be encoded: at most so many.
const MOST_QUERIES: usize = 64;
const MOST_CANDIDATES: usize = 100_000;
const MOST_MOMENTS: usize = 100;

type Answer = Result<Json<Value>, Refusal>;

enum QueryBody {
    Text(String),
    Image(String),
    Clip(usize),
}

/// An object of one field, whose name says what it is.
impl<'de> Deserialize<'de> for QueryBody {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(OneField)
    }
}

struct OneField;

impl<'de> Visitor<'de> for OneField {
    type Value = QueryBody;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of one field: text, image or clip")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<QueryBody, A::Error> {
        let query = match map.next_key::<String>()?.as_deref() {
            Some("text") => QueryBody::Text(map.next_value()?),
            Some("image") => QueryBody::Image(map.next_value()?),
            Some("clip") => QueryBody::Clip(map.next_value()?),
            Some(other) => return Err(A::Error::unknown_field(other, &["text", "image", "clip"])),
            None => return Err(A::Error::invalid_length(0, &self)),
        };
        match map.next_key::<String>()? {
            None => Ok(query),
            Some(_) => Err(A::Error::invalid_length(2, &self)),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchBody {
    queries: Vec<QueryBody>,
    #[serde(default, deserialize_with = "given")]
    top: Option<usize>,
    #[serde(default = "one")]
    per_video: usize,
    #[serde(default = "candidates")]
    candidates: usize,
    #[serde(default)]
    times: bool,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct MomentsBody {
    query: QueryBody,
    video_id: String,
    #[serde(default = "five")]
    top: usize,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TextsBody {
    texts: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ImagesBody {
    images: Vec<String>,
}

/// A field that may be left out, and is not null.
fn given<'a, D: Deserializer<'a>>(value: D) -> Result<Option<usize>, D::Error> {
    usize::deserialize(value).map(Some)
}

fn one() -> usize {
    1
}

fn five() -> usize {
    5
}

fn candidates() -> usize {
    SearchOptions::default().candidates
}

fn within(name: &str, value: usize, most: usize) -> Result<(), Refusal> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(Refusal::new(Code::BadRequest, format!("{name} is {value}; it must be from 1 to {most}"))),
    }
}

/// What a query is called in answers, and what it asks. Pictures are decoded here.
fn query(server: &Server, body: QueryBody, number: usize) -> Result<(String, Query), Refusal> {
    Ok(match body {
        QueryBody::Clip(clip) => (format!("clip {clip}"), Query::Clip(clip)),
        QueryBody::Image(image) => (format!("image {number}"), Query::Pixels(picture(server, &image, number)?)),
        QueryBody::Text(text) => (text.clone(), Query::Text(text)),
    })
}

fn picture(server: &Server, base64: &str, number: usize) -> Result<Vec<u8>, Refusal> {
    let no_base64 = |e| Refusal::new(Code::BadRequest, format!("image {number} is no base64: {e}"));
    let (pixels, _) = pixels(server, &BASE64_STANDARD.decode(base64).map_err(no_base64)?, &format!("image {number}"))?;
    Ok(pixels)
}

/// A picture that was sent as the model takes it, and its height and width. A large one is large here alone.
pub fn pixels(server: &Server, bytes: &[u8], name: &str) -> Result<(Vec<u8>, [usize; 2]), Refusal> {
    let bad = |error: Error| Refusal::of_input(&error);
    let image = image_of_bytes(bytes, name, &Reading::OWN).map_err(bad)?;
    let pixels = server.searcher.model().processor().preprocess.pixels(&image).map_err(bad)?;
    Ok((pixels, [image.height(), image.width()]))
}

/// GET /v1/info
pub async fn info(State(server): Shared) -> Json<Value> {
    let index = server.searcher.index();
    Json(json!({
        "schema": "reelgrad.service/1",
        "model": index.spec().model,
        "width": index.spec().width,
        "videos": index.videos().count(),
        "clips": index.len(),
        "seconds": index.videos().map(|video| video.duration).sum::<f64>(),
        "version": env!("CARGO_PKG_VERSION"),
        "limits": {
            "body_bytes": server.max_body,
            "text_bytes": MAX_TEXT,
            "top": server.max_top,
            "queries": MOST_QUERIES,
        },
        "media": !server.media_roots.is_empty(),
    }))
}

/// POST /v1/search
pub async fn search(State(server): Shared, request: Request) -> Answer {
    let body: SearchBody = body::json(request, server.max_body).await?;
    within("the number of queries", body.queries.len(), MOST_QUERIES)?;
    within("top", body.top.unwrap_or(1), server.max_top)?;
    within("per_video", body.per_video, usize::MAX)?;
    within("candidates", body.candidates, MOST_CANDIDATES)?;
    let clips = server.searcher.index().len();
    let asked = body.queries;
    let queries = server.decode(move |server| {
        let numbered = asked.into_iter().zip(1..);
        numbered.map(|(asked, number)| query(server, asked, number)).collect::<Result<Vec<_>, Refusal>>()
    });
    let (names, queries): (Vec<String>, Vec<Query>) = queries.await?.into_iter().unzip();
    // An index of nothing answers with nothing.
    let top = (clips > 0).then(|| body.top.unwrap_or(10).min(server.max_top).min(clips));
    let SearchBody { per_video, candidates, times: timed, .. } = body;
    // So many in all: one request must not keep the others waiting for minutes.
    let candidates = candidates.min(MOST_CANDIDATES / queries.len());
    let options = SearchOptions { top, per_video, candidates, timed, ..SearchOptions::default() };
    let answers = server.worker.search(queries, options).await?;
    blocking(move || Ok(Json(answers_json(&server, &names, &answers)?))).await
}

fn answers_json(server: &Server, names: &[String], answers: &Answers) -> Outcome<Value> {
    let index = server.searcher.index();
    let result = |(rank, found): (usize, &Found)| -> Outcome<Value> {
        let video = index.clip(found.clip)?.video;
        let mut result = result_json(rank + 1, found, video);
        let at = format!("/v1/clips/{}", found.clip);
        result["duration"] = json!(video.duration);
        result["thumbnail"] = json!((!index.thumbnail(found.clip)?.is_empty()).then(|| format!("{at}/thumbnail")));
        result["media"] = json!(server.playable(video).map(|_| format!("{at}/media")));
        Ok(result)
    };
    let answer = |(number, (name, found)): (usize, (&String, &Vec<Found>))| -> Outcome<Value> {
        let results = found.iter().enumerate().map(result).collect::<Outcome<Vec<Value>>>()?;
        Ok(json!({ "query": name, "cut": answers.cut.contains(&number), "results": results }))
    };
    Ok(json!({
        "schema": "reelgrad.search/1",
        "model": index.spec().model,
        "index": { "videos": index.videos().count(), "clips": index.len() },
        "stages": answers.times.map(stages_json),
        "answers": names.iter().zip(&answers.found).enumerate().map(answer).collect::<Outcome<Vec<Value>>>()?,
    }))
}

/// POST /v1/moments
pub async fn moments(State(server): Shared, request: Request) -> Answer {
    let MomentsBody { query: asked, video_id, top } = body::json(request, server.max_body).await?;
    within("top", top, MOST_MOMENTS)?;
    let (_, query) = server.decode(move |server| query(server, asked, 1)).await?;
    let id = video_id.clone();
    let (found, cut) = server.worker.call(move |searcher| searcher.moments(&query, &id, top)).await?;
    let index = server.searcher.index();
    let video = index.clip(index.clips_of(&video_id)?.start)?.video;
    let moment = |found: &Found| {
        let Found { clip, score, moment, .. } = found;
        json!({ "start": moment.start, "end": moment.end, "peak": moment.peak, "score": score, "clip": clip })
    };
    Ok(Json(json!({
        "schema": "reelgrad.moments/1",
        "video_id": video_id,
        "duration": video.duration,
        "offset": video.offset,
        "cut": cut,
        "moments": found.iter().map(moment).collect::<Vec<_>>(),
    })))
}

/// POST /v1/encode/text
pub async fn encode_text(State(server): Shared, request: Request) -> Answer {
    let TextsBody { texts } = body::json(request, server.max_body).await?;
    within("the number of texts", texts.len(), MOST_QUERIES)?;
    let (vectors, cut) = text_vectors(&server, texts).await?;
    let mut answer = vectors_json(&server, &vectors);
    answer["cut"] = json!(cut);
    Ok(Json(answer))
}

/// POST /v1/encode/image
pub async fn encode_image(State(server): Shared, request: Request) -> Answer {
    let ImagesBody { images } = body::json(request, server.max_body).await?;
    within("the number of images", images.len(), MOST_QUERIES)?;
    let decode = move |server: &Server| {
        images.iter().zip(1..).map(|(image, number)| picture(server, image, number)).collect::<Result<_, Refusal>>()
    };
    let vectors = image_vectors(&server, server.decode(decode).await?).await?;
    Ok(Json(vectors_json(&server, &vectors)))
}

/// Sentences as vectors of unit length, and which of them were cut.
pub async fn text_vectors(server: &Arc<Server>, texts: Vec<String>) -> Result<(Vec<Vec<f32>>, Vec<usize>), Refusal> {
    let encode = move |searcher: &reelgrad::retrieval::search::Searcher| {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (vectors, cut) = searcher.encode_texts(&texts)?;
        Ok((vectors.into_iter().map(|vectors| vectors.frame).collect(), cut))
    };
    server.worker.call(encode).await
}

/// Pictures, by their pixels, as vectors of unit length.
pub async fn image_vectors(server: &Arc<Server>, images: Vec<Vec<u8>>) -> Result<Vec<Vec<f32>>, Refusal> {
    let encode = move |searcher: &reelgrad::retrieval::search::Searcher| {
        images.iter().map(|image| Ok(searcher.model().picture(image)?.frame)).collect()
    };
    server.worker.call(encode).await
}

fn vectors_json(server: &Server, vectors: &[Vec<f32>]) -> Value {
    let spec = server.searcher.index().spec();
    json!({ "schema": "reelgrad.vectors/1", "model": spec.model, "width": spec.width, "vectors": vectors })
}
