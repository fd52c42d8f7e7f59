//! Pictures and videos of clips.

use std::path::PathBuf;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use reelgrad::retrieval::index::Video;
use tower_http::services::ServeFile;

use super::refusal::{Code, Refusal};
use super::{Server, Shared};

/// GET /v1/clips/{clip}/thumbnail
pub async fn thumbnail(State(server): Shared, Path(clip): Path<usize>) -> Result<Response, Refusal> {
    let searcher = server.searcher.clone();
    let jpeg = blocking(move || Ok(searcher.index().thumbnail(clip)?)).await?;
    match jpeg.is_empty() {
        true => Err(Refusal::new(Code::NotFound, format!("clip {clip} has no picture"))),
        // The number of a clip means another one when videos come or go.
        false => {
            Ok(([(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "no-cache")], jpeg).into_response())
        }
    }
}

/// GET /v1/clips/{clip}/media
pub async fn media(State(server): Shared, Path(clip): Path<usize>, request: Request) -> Result<Response, Refusal> {
    let path = blocking(move || {
        let video = server.searcher.index().clip(clip)?.video;
        let hidden = "cannot be played: it is gone, or in no folder that --media-root names";
        server.playable(video).ok_or_else(|| Refusal::new(Code::NotFound, format!("the video of clip {clip} {hidden}")))
    });
    let served = ServeFile::new(path.await?).try_call(request).await;
    let response = served.map_err(|e| Refusal::new(Code::NotFound, format!("the video cannot be read: {e}")))?;
    let mut response = response.map(Body::new);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

impl Server {
    /// The file of a video, links followed, if it is there and in a folder whose videos may be played.
    pub(super) fn playable(&self, video: &Video) -> Option<PathBuf> {
        let path =
            PathBuf::from(video.path.as_deref().filter(|_| !self.media_roots.is_empty())?).canonicalize().ok()?;
        (path.is_file() && self.media_roots.iter().any(|root| path.starts_with(root))).then_some(path)
    }
}

/// Does what waits for a disk on a thread that may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let failed = |e| {
        log::error!("{e}");
        Refusal::new(Code::Internal, "the server failed; its log says why")
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
