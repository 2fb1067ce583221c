//! Who may call: the Host header (DNS rebinding), the Origin of foreign pages, API keys.
//!
//! The threat is a web page of somebody else in the user's browser. It can send requests to loopback; it cannot read the
//! answers without CORS headers, unless its own name resolves to this machine (rebinding), and then its Host gives it away:
//!
//! | bound to | the Host may be |
//! |---|---|
//! | loopback | a loopback address, `localhost` |
//! | the network | any address, a name that nobody can register: without a dot, or in a private zone such as `.local` |
//! | the network, with API keys | anything: a foreign page has no key |
//!
//! and always what `--allow-host` allows.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};

use super::error::{ApiError, Dialect};
use super::{AppState, ServerOptions};

/// Zones that are not part of the public name system: RFC 6761, RFC 6762, RFC 8375, `internal` by ICANN's resolution of
/// 2024, and what routers call their networks.
const PRIVATE_ZONES: [&str; 6] = ["localhost", "local", "home.arpa", "internal", "lan", "home"];

/// Everything passes here: checks, preflight answers, and headers that all responses carry.
pub async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let dialect = Dialect::of(request.uri().path());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed_origin = origin.filter(|origin| is_allowed(&state, origin));
    let response = match check(&state, &request, allowed_origin.is_some()) {
        Err(error) => error.into_response(),
        Ok(Some(response)) => response,
        Ok(None) => next.run(request).await,
    };
    finish(response, dialect, allowed_origin)
}

/// API keys, for the routes that need one.
pub async fn require_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let keys = &state.options().api_keys;
    if keys.is_empty() {
        return next.run(request).await;
    }
    match presented_key(request.headers()) {
        None => ApiError::unauthorized("this server needs an API key").into_response(),
        // All keys are compared: the time says nothing about which one is close.
        Some(given) if bool::from(is_any(keys, given)) => next.run(request).await,
        Some(_) => ApiError::unauthorized("this API key is not valid here").into_response(),
    }
}

/// An answer that needs no handler, or an error, or neither.
fn check(state: &AppState, request: &Request, origin_is_allowed: bool) -> Result<Option<Response>, ApiError> {
    let headers = request.headers();
    let host = host_of(request.uri(), headers);
    let bound = state.options().local_addr.ip();
    if !is_ours(state.options(), host) {
        let name = host.map(host_name).unwrap_or_default();
        return Err(ApiError::forbidden(
            format!("the Host header `{}` is not this machine", host.unwrap_or_default()),
            format!("open the address that the program printed, or start it with `--allow-host {name}`"),
        ));
    }
    let origin = headers.get(header::ORIGIN);
    let is_preflight =
        request.method() == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let is_foreign = origin.is_some_and(|origin| !is_same_origin(origin, host));
    let changes_state = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if is_preflight {
        // Without the headers that allow something it says no, which browsers tell their developers as what it is.
        return Ok(Some(if is_foreign && !origin_is_allowed {
            StatusCode::OK.into_response()
        } else {
            preflight(headers)
        }));
    }
    if is_foreign && !origin_is_allowed && changes_state {
        return Err(ApiError::forbidden(
            format!(
                "pages from `{}` may not call this server",
                origin.and_then(|origin| origin.to_str().ok()).unwrap_or_default()
            ),
            "allow them with `--cors ORIGIN`",
        ));
    }
    let is_page_view =
        matches!(*request.method(), Method::GET | Method::HEAD) && matches!(request.uri().path(), "/" | "/index.html");
    let reachable_as_127 = bound.is_ipv4() && (bound.is_loopback() || bound.is_unspecified());
    if let Some(host) = host.filter(|_| is_page_view && reachable_as_127)
        && host_name(host).eq_ignore_ascii_case("localhost")
    {
        return Ok(Some(to_127(host, request.uri())));
    }
    Ok(None)
}

/// One origin for one history: browsers keep `localhost` and `127.0.0.1` apart.
fn to_127(host: &str, uri: &Uri) -> Response {
    let port = &host[host_name(host).len()..];
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let target = format!("http://127.0.0.1{port}{path}");
    let Ok(location) = HeaderValue::try_from(target) else {
        return ApiError::invalid(None, "this address cannot be redirected").into_response();
    };
    (
        StatusCode::TEMPORARY_REDIRECT,
        [(header::LOCATION, location), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))],
    )
        .into_response()
}

/// Only asked for origins that may; `finish` adds the origin itself.
fn preflight(request: &HeaderMap) -> Response {
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
    // Client libraries add headers of their own; the list asked for is the list allowed.
    let asked = request
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .cloned()
        .unwrap_or(HeaderValue::from_static("authorization, content-type, x-api-key"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if request.contains_key("access-control-request-private-network") {
        headers
            .insert(HeaderName::from_static("access-control-allow-private-network"), HeaderValue::from_static("true"));
    }
    response
}

fn finish(mut response: Response, dialect: Dialect, allowed_origin: Option<HeaderValue>) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.response(dialect);
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some(origin) = allowed_origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        // There are no cookies here that a page could abuse, and there are pages that send what they have.
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        let ours = HeaderValue::from_static("retry-after, x-reply-state, x-request-id");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ours);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// Origins that a flag allows; the page's own needs no header.
fn is_allowed(state: &AppState, origin: &HeaderValue) -> bool {
    origin.to_str().is_ok_and(|origin| {
        let allowed = &state.options().cors_origins;
        allowed.iter().any(|one| match one.as_str() {
            "*" => true,
            "localhost" => is_of_this_machine(origin),
            one => one.trim_end_matches('/').eq_ignore_ascii_case(origin),
        })
    })
}

/// Whether an origin is a page that this machine serves, on whatever port.
fn is_of_this_machine(origin: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| is_loopback_name(host_name(authority)))
}

fn is_same_origin(origin: &HeaderValue, host: Option<&str>) -> bool {
    let (Ok(origin), Some(host)) = (origin.to_str(), host) else {
        return false;
    };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// The host that the request is for. A request that names two different ones names none.
fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let from_header = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() {
        return None;
    }
    match (uri.authority().map(|authority| authority.as_str()), from_header) {
        (Some(a), Some(b)) if !a.eq_ignore_ascii_case(b) => None,
        (from_uri, from_header) => from_header.or(from_uri),
    }
}

/// Without the port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        // No port, or something that only begins like one: then it is part of a name that nobody has.
        _ => host,
    }
}

/// Whether a request for this host may be meant for this server. The port does not matter: it may be forwarded from another
/// machine, and rebinding needs a name.
fn is_ours(options: &ServerOptions, host: Option<&str>) -> bool {
    let is_on_loopback = options.local_addr.ip().is_loopback();
    let Some(name) = host.map(host_name) else {
        // Browsers name a host.
        return !is_on_loopback;
    };
    let allowed = &options.allowed_hosts;
    if allowed.iter().any(|one| one == "*" || host_name(one).eq_ignore_ascii_case(name)) {
        return true;
    }
    if is_on_loopback { is_loopback_name(name) } else { !options.api_keys.is_empty() || is_private_name(name) }
}

fn is_loopback_name(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || address(name).is_some_and(|ip| ip.is_loopback())
}

/// An address, or a name that no stranger can have.
fn is_private_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_in = |zone: &str| {
        let at = name.len().checked_sub(zone.len() + 1).and_then(|at| name.get(at..));
        at.is_some_and(|end| end.starts_with('.') && end[1..].eq_ignore_ascii_case(zone))
    };
    let is_single = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    address(name).is_some() || is_single || PRIVATE_ZONES.iter().any(|zone| is_in(zone))
}

/// An IP address as a URL writes it, perhaps with the name of an interface.
fn address(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.split('%').next()?.parse().ok(),
        None => name.parse().ok(),
    }
}

fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())
}

fn is_any(keys: &[String], given: &str) -> Choice {
    keys.iter().fold(Choice::from(0), |found, key| found | key.as_bytes().ct_eq(given.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_this_machine() {
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.1.2.3"] {
            assert!(is_loopback_name(host_name(host)), "{host}");
        }
        for host in [
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "0.0.0.0",
            "",
            ":8080",
            "[",
            "192.168.1.2",
            "evil.example#localhost",
            "127.0.0.1:8080:evil",
            "127.0.0.1:8080.evil.example",
            "[::1].evil.example",
        ] {
            assert!(!is_loopback_name(host_name(host)), "{host}");
        }
    }

    #[test]
    fn names_that_nobody_can_register_are_private() {
        for host in [
            "192.168.1.2:8080",
            "8.8.8.8",
            "[fe80::1%25eth0]:8080",
            "gemma2",
            "my-box:8080",
            "MyBox.local",
            "box.lan.",
            "a.b.home.arpa",
            "x.localhost:1",
        ] {
            assert!(is_private_name(host_name(host)), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example.",
            "192.168.1.2.evil.example",
            "local.evil.example",
            "evillocal.example",
            "notlan.com:8080",
            "",
            ".",
            "[evil.example]",
            "evil.example#lan",
            "é.com",
        ] {
            assert!(!is_private_name(host_name(host)), "{host}");
        }
    }

    #[test]
    fn keys_are_equal_only_when_all_bytes_are() {
        let keys = ["secret".to_owned(), "other".to_owned()];
        for right in ["secret", "other"] {
            assert!(bool::from(is_any(&keys, right)), "{right}");
        }
        for wrong in ["", "secre", "secret1", "Secret", "secreu", "secretother"] {
            assert!(!bool::from(is_any(&keys, wrong)), "{wrong}");
        }
    }
}
