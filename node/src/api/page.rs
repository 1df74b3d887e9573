//! `/`: a page for people: who I am, whom I know, messages, calls.
//!
//! The page holds no data; its script asks the API for it, on TCP with the token its user
//! typed. The content security policy allows nothing from elsewhere and nothing inline.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::ApiState;

/// What is served without a token.
pub(super) const PATHS: &[&str] = &["/", "/style.css", "/page.js"];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn router() -> Router<ApiState> {
    Router::new()
        .route("/", get(async || part("text/html", include_str!("web/index.html"))))
        .route("/style.css", get(async || part("text/css", include_str!("web/style.css"))))
        .route("/page.js", get(async || part("text/javascript", include_str!("web/page.js"))))
}

fn part(media_type: &'static str, text: &'static str) -> impl IntoResponse {
    const CONTENT_SECURITY_POLICY: HeaderName = header::CONTENT_SECURITY_POLICY;
    let content_type = format!("{media_type}; charset=utf-8");
    let policy = HeaderValue::from_static(POLICY);
    ([(header::CONTENT_TYPE, content_type)], [(CONTENT_SECURITY_POLICY, policy)], text)
}
