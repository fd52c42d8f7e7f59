//! The protocol of Immich's machine learning server, as far as it is about CLIP.

use std::convert::Infallible;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use multer::Multipart;
use serde_json::{Value, json};

use super::answers::{image_vectors, pixels, text_vectors};
use super::refusal::{Code, Refusal};
use super::{Shared, body};

/// What a form brings.
#[derive(Default)]
struct Form {
    entries: Option<String>,
    text: Option<String>,
    image: Option<Vec<u8>>,
}

/// POST /predict
pub async fn predict(State(server): Shared, request: Request) -> Result<Json<Value>, Refusal> {
    let Form { entries, text, image } = form(request, server.max_body).await?;
    let missing = |what: &str| Refusal::new(Code::BadRequest, format!("the form has no field {what}"));
    match wanted(entries.as_deref().unwrap_or_default(), &server.immich_model)? {
        Wanted::Textual => {
            let text = text.ok_or_else(|| missing("text"))?;
            let (vectors, _) = text_vectors(&server, vec![text]).await?;
            Ok(Json(json!({ "clip": written(&vectors) })))
        }
        Wanted::Visual => {
            let bytes = image.ok_or_else(|| missing("image"))?;
            let (pixels, [height, width]) = server.decode(move |server| pixels(server, &bytes, "image")).await?;
            let vectors = image_vectors(&server, vec![pixels]).await?;
            Ok(Json(json!({ "clip": written(&vectors), "imageHeight": height, "imageWidth": width })))
        }
    }
}

/// Immich takes a vector as a string of JSON.
fn written(vectors: &[Vec<f32>]) -> String {
    json!(vectors.first()).to_string()
}

enum Wanted {
    Textual,
    Visual,
}

/// What is asked for, of the model that Immich calls `served`.
fn wanted(entries: &str, served: &str) -> Result<Wanted, Refusal> {
    let refuse = |why: String| Err(Refusal::new(Code::Unprocessable, why));
    let entries: Value = match serde_json::from_str(entries) {
        Ok(entries) => entries,
        Err(error) => return refuse(format!("the field entries is no JSON: {error}")),
    };
    let tasks: Vec<(&String, &Value)> = entries.as_object().into_iter().flatten().collect();
    let kinds = match tasks.as_slice() {
        [(task, kinds)] if *task == "clip" => kinds.as_object(),
        [(task, _)] => return refuse(format!("the task {task:?} is not served here, only clip")),
        _ => return refuse("the field entries must name one task, clip".into()),
    };
    let kinds: Vec<(&String, &Value)> = kinds.into_iter().flatten().collect();
    let (wanted, about) = match kinds.as_slice() {
        [(kind, about)] if *kind == "textual" => (Wanted::Textual, about),
        [(kind, about)] if *kind == "visual" => (Wanted::Visual, about),
        _ => return refuse("clip must be asked as textual or as visual".into()),
    };
    match about["modelName"].as_str() {
        Some(name) if name == served => Ok(wanted),
        Some(name) => refuse(format!(
            "the model {name:?} is not served here, but {served:?} (--immich-model says how it is called)"
        )),
        None => refuse("modelName is missing".into()),
    }
}

async fn form(request: Request, limit: usize) -> Result<Form, Refusal> {
    let (parts, content) = request.into_parts();
    let bytes = body::bytes(&parts.headers, content, limit).await?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let no_form = |e| Refusal::new(Code::UnsupportedMediaType, format!("the body must be multipart/form-data: {e}"));
    let boundary = multer::parse_boundary(kind).map_err(no_form)?;
    let broken = |e| Refusal::new(Code::BadRequest, format!("the form cannot be read: {e}"));
    let whole = futures_util::stream::once(async { Ok::<_, Infallible>(bytes) });
    let (mut multipart, mut form) = (Multipart::new(whole, boundary), Form::default());
    while let Some(field) = multipart.next_field().await.map_err(broken)? {
        match field.name() {
            Some("entries") => form.entries = Some(field.text().await.map_err(broken)?),
            Some("text") => form.text = Some(field.text().await.map_err(broken)?),
            Some("image") => form.image = Some(field.bytes().await.map_err(broken)?.to_vec()),
            // Immich's own fields that are about other things.
            _ => {}
        }
    }
    Ok(form)
}
