//! Files by HTTP. tower-http reads them; which may be read, [`Files`] says.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tower_http::services::ServeFile;

use crate::files::{FileError, Files};

/// RFC 9530, section 3.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// RFC 9530, section 4.
const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");

pub(super) async fn file(
    State(files): State<Arc<Files>>,
    Path(path): Path<String>,
    request: Request,
) -> Response {
    match answer(&files, &path, request).await {
        Ok(response) => response,
        Err(error) => (status(&error), format!("{error}\n")).into_response(),
    }
}

async fn answer(files: &Files, path: &str, request: Request) -> Result<Response, FileError> {
    let wanted = request.headers().get(WANT_REPR_DIGEST);
    let wants_digest = wanted
        .and_then(|wanted| wanted.to_str().ok())
        .is_some_and(|wanted| wanted.contains("sha-256"));
    let digest = match wants_digest {
        true => repr_digest(&files.open(path, 0).await?.header.sha256),
        false => None,
    };
    let found = files.locate(path).await?;
    let mut response = ServeFile::new(found).try_call(request).await?;
    if let Some(digest) = digest {
        response.headers_mut().insert(REPR_DIGEST, digest);
    }
    Ok(response.into_response())
}

/// A digest in hexadecimal digits, as the header has it.
fn repr_digest(sha256: &str) -> Option<HeaderValue> {
    let digest = base16ct::lower::decode_vec(sha256).ok()?;
    let value = format!("sha-256=:{}:", BASE64_STANDARD.encode(digest));
    HeaderValue::try_from(value).ok()
}

fn status(error: &FileError) -> StatusCode {
    match error {
        FileError::NotFound => StatusCode::NOT_FOUND,
        FileError::Offset => StatusCode::RANGE_NOT_SATISFIABLE,
        FileError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
