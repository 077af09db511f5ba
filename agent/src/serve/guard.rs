//! Who is admitted to what: tokens and roles, rates, the audit log, and the headers that each answer bears. Does not know what
//! is answered.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio_rustls::TlsAcceptor;

use super::{
    ServeError,
    audit::{Audit, Entry, shortened},
    problem::Problem,
    rate::{Buckets, Caller},
    tls,
};
use crate::{
    config::{
        Audited, Config,
        tokens::{Role, Tokens},
    },
    model::{
        catalog::steth::{AUDIT_LINES, HTTP_REFUSED},
        snapshot::Series,
    },
};

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

/// Whom a request comes from.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The name of the token; none where none is needed.
    pub name: Option<String>,
    /// What is allowed.
    pub role: Role,
}

impl Asker {
    /// Whether the text of statements is shown.
    pub fn sees_statements(&self) -> bool {
        self.role >= Role::Operator
    }
}

/// What a request is about to change, in words, for the audit log: an extension of it. It is told before it is asked for, so that
/// it is written down also where nobody waits for the answer.
#[derive(Clone, Debug, Default)]
pub struct Changing(Arc<OnceLock<String>>);

impl Changing {
    /// Tells it; the first word counts.
    pub fn tell(&self, what: String) {
        let _ = self.0.set(what);
    }
}

/// Paths that say nothing of this host but that it is well: whoever watches over that needs no token.
const OPEN: &[&str] = &["/-/healthy", "/-/ready"];
/// Paths that are about single statements and their text, single calls and the arguments of commands.
const OF_SINGLE_THINGS: &[&str] = &[
    "/api/v1/postgres/slow",
    "/api/v1/postgres/trace",
    "/api/v1/trace/syscalls",
    "/api/v1/trace/tcp",
    "/api/v1/trace/exec",
];
/// Paths that are about settings.
const OF_SETTINGS: &[&str] = &["/api/v1/settings"];
/// The status in the audit log of what nobody waited for; what nginx writes then, too.
const UNANSWERED: u16 = 499;
/// A token that is none costs as much as so many requests.
const WRONG_TOKEN_COST: f64 = 50.0;
/// What scripts, styles and pictures a page from here may have: its own, and none from elsewhere.
const PAGE: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; \
                    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What changes when the configuration is read again.
struct Rules {
    tokens: Option<Tokens>,
    acceptor: Option<TlsAcceptor>,
    audited: Audited,
    rate: f64,
}

/// Stands before all paths.
pub struct Guard {
    rules: RwLock<Arc<Rules>>,
    buckets: Mutex<Buckets>,
    audit: Audit,
    refused: Refusals,
}

/// Requests that were refused, by reason.
#[derive(Debug, Default)]
struct Refusals {
    token: AtomicU64,
    role: AtomicU64,
    rate: AtomicU64,
    host: AtomicU64,
    tls: AtomicU64,
    crowd: AtomicU64,
}

impl Rules {
    fn read(config: &Config) -> Result<Self, ServeError> {
        let tokens = config.http.tokens.as_deref().map(Tokens::load).transpose().map_err(ServeError::Access)?;
        if tokens.as_ref().is_some_and(|tokens| tokens.count() == 0) {
            tracing::warn!(
                "http.tokens holds no token, so nobody is admitted: steth token new --role viewer makes one"
            );
        }
        let acceptor = tls::acceptor(&config.http).map_err(ServeError::Access)?;
        // The address stays until a restart, whatever else is read again.
        if !config.listen.ip().is_loopback() && (tokens.is_none() || acceptor.is_none()) {
            let why = format!("{} is served only with certificate, key and tokens (in [http])", config.listen);
            return Err(ServeError::Access(why));
        }
        Ok(Self { tokens, acceptor, audited: config.audit.what, rate: config.http.rate as f64 })
    }
}

impl Guard {
    /// Reads tokens and certificates, and begins the audit log.
    ///
    /// # Errors
    /// What cannot be read, and why.
    pub fn start(config: &Config) -> Result<Self, ServeError> {
        let rules = Rules::read(config)?;
        let audit = Audit::start(config.audit.folder.clone(), config.audit.kept_bytes)
            .map_err(|error| ServeError::Access(format!("cannot begin the audit log: {error}")))?;
        Ok(Self { rules: RwLock::new(Arc::new(rules)), buckets: Mutex::default(), audit, refused: Refusals::default() })
    }

    /// Whether what a configuration names can be read.
    ///
    /// # Errors
    /// What cannot be read, and why.
    pub fn examine(config: &Config) -> Result<(), ServeError> {
        Rules::read(config).map(drop)
    }

    /// Reads tokens and certificates again. What cannot be read is said, and what was before stays.
    pub fn reload(&self, config: &Config) {
        match Rules::read(config) {
            Ok(rules) => *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules),
            Err(error) => tracing::error!("{error}; what was read before stays"),
        }
    }

    /// What speaks TLS on new connections; `None` where none is spoken.
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.rules().acceptor.clone()
    }

    /// A connection did not speak TLS as it should.
    pub fn refuse_connection(&self) {
        self.refused.tls.fetch_add(1, Ordering::Relaxed);
    }

    /// A peer has as many connections as it may.
    pub fn refuse_crowd(&self) {
        self.refused.crowd.fetch_add(1, Ordering::Relaxed);
    }

    /// Refusals and the audit log, as figures.
    pub fn series(&self) -> Vec<Series> {
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        let Refusals { token, role, rate, host, tls, crowd } = &self.refused;
        let refused =
            [("token", token), ("role", role), ("rate", rate), ("host", host), ("tls", tls), ("crowd", crowd)];
        let refused = refused.map(|(reason, count)| Series::number(&HTTP_REFUSED, vec![reason.into()], number(count)));
        let counts = self.audit.counts();
        let lines = [("written", &counts.written), ("crowded", &counts.crowded), ("refused", &counts.refused)];
        let lines = lines.map(|(outcome, count)| Series::number(&AUDIT_LINES, vec![outcome.into()], number(count)));
        refused.into_iter().chain(lines).collect()
    }

    /// Answers, or refuses to; writes down what became of it.
    pub async fn answer(&self, mut request: Request, next: Next) -> Response {
        let begun = Instant::now();
        let rules = self.rules();
        let peer = request.extensions().get::<Peer>().copied();
        let mut line = Line {
            audit: &self.audit,
            audited: rules.audited,
            begun,
            changing: Changing::default(),
            entry: Entry {
                at_unix_ms: 0,
                role: None,
                who: None,
                from: peer.map(|peer| peer.address.to_string()).unwrap_or_default(),
                method: shortened(request.method().as_str()),
                path: shortened(request.uri().path()),
                query: shortened(request.uri().query().unwrap_or_default()),
                status: UNANSWERED,
                ms: 0,
                changed: None,
            },
        };
        let admitted = match peer {
            Some(peer) => self.admit(&rules, peer, &request),
            None => Err(refused(None, Problem::internal("a request came from nowhere").into_response())),
        };
        let (asker, refused) = match admitted {
            Ok(asker) => (Some(asker), None),
            Err((asker, refused)) => (asker, Some(*refused)),
        };
        line.entry.role = asker.as_ref().map(|asker| asker.role.name());
        line.entry.who = asker.as_ref().and_then(|asker| asker.name.clone());
        let mut response = match refused {
            Some(refused) => refused,
            None => {
                request.extensions_mut().insert(line.changing.clone());
                asker.into_iter().for_each(|asker| _ = request.extensions_mut().insert(asker));
                next.run(request).await
            }
        };
        dress(&mut response);
        line.entry.status = response.status().as_u16();
        response
    }

    fn admit(&self, rules: &Rules, peer: Peer, request: &Request) -> Result<Asker, Refused> {
        let from = Caller::at(peer.address.ip());
        let needed = needed(request.method(), request.uri().path());
        let Some(tokens) = &rules.tokens else {
            let asker = Asker { name: None, role: Role::Operator };
            self.within_rate(rules, from, 1.0).map_err(|response| (None, response))?;
            // A page in somebody's browser can have its own name stand for 127.0.0.1, but not send another name.
            if !peer.encrypted && !is_of_this_host(request.headers()) {
                self.refused.host.fetch_add(1, Ordering::Relaxed);
                let hint = "ask by address or as localhost; with http.tokens any name may be used";
                let problem = Problem::new(StatusCode::MISDIRECTED_REQUEST, "this is no name of this host", hint);
                return Err(refused(None, problem.into_response()));
            }
            return self.allowed(asker, needed);
        };
        let presented = bearer(request.headers());
        match presented.and_then(|token| tokens.find(token)) {
            Some(token) => {
                let asker = Asker { name: Some(token.name.clone()), role: token.role };
                let caller = Caller::Token(token.name.clone());
                self.within_rate(rules, caller, 1.0).map_err(|response| (Some(asker.clone()), response))?;
                self.allowed(asker, needed)
            }
            None => {
                let cost = if presented.is_some() { WRONG_TOKEN_COST } else { 1.0 };
                self.within_rate(rules, from, cost).map_err(|response| (None, response))?;
                if needed.is_none() {
                    return Ok(Asker { name: None, role: Role::Viewer });
                }
                self.refused.token.fetch_add(1, Ordering::Relaxed);
                let error = match presented {
                    Some(_) => "this token is not known here",
                    None => "a token is needed",
                };
                let hint = "send it as `Authorization: Bearer TOKEN`; `steth token new` makes one";
                let mut response = Problem::new(StatusCode::UNAUTHORIZED, error, hint).into_response();
                let how = HeaderValue::from_static("Bearer realm=\"steth\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
                Err(refused(None, response))
            }
        }
    }

    fn allowed(&self, asker: Asker, needed: Option<Role>) -> Result<Asker, Refused> {
        match needed {
            Some(needed) if asker.role < needed => {
                self.refused.role.fetch_add(1, Ordering::Relaxed);
                let error = format!("this is for the role {}, and you have {}", needed.name(), asker.role.name());
                let hint = match asker.name {
                    Some(_) => "ask with a token of that role: `steth token new` makes one",
                    None => "set http.tokens, and ask with a token of that role: `steth token new` makes one",
                };
                let response = Problem::new(StatusCode::FORBIDDEN, error, hint).into_response();
                Err(refused(Some(asker), response))
            }
            _ => Ok(asker),
        }
    }

    fn within_rate(&self, rules: &Rules, caller: Caller, cost: f64) -> Result<(), Box<Response>> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(wait) = buckets.take(caller, cost, rules.rate, Instant::now()) else { return Ok(()) };
        drop(buckets);
        self.refused.rate.fetch_add(1, Ordering::Relaxed);
        let seconds = wait.as_secs() + 1;
        let hint = format!("ask again in {seconds} s; http.rate says how often one may");
        let mut refused = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many requests", hint).into_response();
        refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        Err(Box::new(refused))
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is written down of a request when it is over: answered, refused, or nobody waits for it any more.
struct Line<'a> {
    audit: &'a Audit,
    audited: Audited,
    begun: Instant,
    changing: Changing,
    entry: Entry,
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let entry = &mut self.entry;
        let is_read = ["GET", "HEAD"].contains(&entry.method.as_str()) && matches!(entry.status, 200..300 | UNANSWERED);
        let is_noted = match self.audited {
            Audited::All => true,
            Audited::Changes => !is_read,
            Audited::None => false,
        };
        if !is_noted {
            return;
        }
        entry.at_unix_ms = SystemTime::UNIX_EPOCH.elapsed().map_or(0, whole_ms);
        entry.ms = whole_ms(self.begun.elapsed());
        entry.changed = match (self.changing.0.get(), entry.status) {
            (Some(what), 200..300) => Some(shortened(what)),
            // It was asked for, and may yet be done.
            (Some(what), UNANSWERED | 500..) => Some(format!("perhaps: {}", shortened(what))),
            _ => None,
        };
        self.audit.note(entry);
    }
}

/// Who was refused, if known, and with what.
type Refused = (Option<Asker>, Box<Response>);

fn refused(asker: Option<Asker>, response: Response) -> Refused {
    (asker, Box::new(response))
}

/// The least role that may do this; `None` for what everybody may.
fn needed(method: &Method, path: &str) -> Option<Role> {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    match path {
        _ if reads && OPEN.contains(&path) => None,
        _ if OF_SETTINGS.contains(&path) => Some(Role::Admin),
        // Who may ask for a profile may end it.
        "/api/v1/flame" => Some(Role::Viewer),
        _ if !reads || OF_SINGLE_THINGS.contains(&path) => Some(Role::Operator),
        // What there is not, too: who has no token learns nothing.
        _ => Some(Role::Viewer),
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Whether it was asked for by an address, as localhost, or by no name at all.
fn is_of_this_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

/// What each answer bears. No HSTS: it would bind all other ports of this host, too.
fn dress(response: &mut Response) {
    let is_page = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        value.starts_with("text/html") || value.starts_with("image/svg")
    };
    let is_page = response.headers().get(header::CONTENT_TYPE).is_some_and(is_page);
    let policy = if is_page { PAGE } else { "default-src 'none'; frame-ancestors 'none'" };
    let headers: [(HeaderName, &'static str); 6] = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

fn whole_ms(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_its_own() {
        for (host, own) in [
            ("localhost", true),
            ("LOCALHOST:9464", true),
            ("steth.localhost:1", true),
            ("127.0.0.1:9464", true),
            ("[::1]:9464", true),
            ("10.1.2.3", true),
            ("evil.example", false),
            ("evil.example:9464", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            assert_eq!(is_of_this_host(&headers), own, "{host}");
        }
        assert!(is_of_this_host(&HeaderMap::new()));
    }

    #[test]
    fn every_path_that_is_not_known_to_be_harmless_needs_a_token() {
        assert_eq!(needed(&Method::GET, "/-/healthy"), None);
        assert_eq!(needed(&Method::POST, "/-/healthy"), Some(Role::Operator));
        assert_eq!(needed(&Method::GET, "/metrics"), Some(Role::Viewer));
        assert_eq!(needed(&Method::GET, "/nothing"), Some(Role::Viewer));
        assert_eq!(needed(&Method::GET, "/api/v1/settings"), Some(Role::Admin));
        assert_eq!(needed(&Method::POST, "/api/v1/alerts"), Some(Role::Operator));
        assert_eq!(needed(&Method::DELETE, "/api/v1/alerts"), Some(Role::Operator));
    }
}
