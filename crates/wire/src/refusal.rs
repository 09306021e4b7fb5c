//! How Polder says no to a client, whatever the protocol.

/// Error types of RFC 9209 §2.3 that Polder uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// `http_request_denied`: the access rules say no.
    Denied,
    /// `destination_ip_prohibited`: no site registered that target.
    Prohibited,
    /// `destination_unavailable`: no path to the site answered.
    Unavailable,
    /// `connection_refused`: a path was there, and the site itself takes no connection. No other path helps.
    Refused,
    /// `connection_timeout`: a path answered too late.
    Timeout,
    /// `connection_terminated`: the path broke.
    Terminated,
    /// `http_request_error`: the client's request is malformed.
    Malformed,
    /// `connection_limit_reached`: a limit of this proxy or of the user.
    Limit,
    /// `proxy_loop_detected`.
    Loop,
    /// `proxy_internal_error`: our bug.
    Internal,
}

impl ProxyError {
    /// The token in `Proxy-Status`.
    pub const fn token(self) -> &'static str {
        match self {
            ProxyError::Denied => "http_request_denied",
            ProxyError::Prohibited => "destination_ip_prohibited",
            ProxyError::Unavailable => "destination_unavailable",
            ProxyError::Refused => "connection_refused",
            ProxyError::Timeout => "connection_timeout",
            ProxyError::Terminated => "connection_terminated",
            ProxyError::Malformed => "http_request_error",
            ProxyError::Limit => "connection_limit_reached",
            ProxyError::Loop => "proxy_loop_detected",
            ProxyError::Internal => "proxy_internal_error",
        }
    }

    /// The error whose token is `token`.
    pub fn from_token(token: &str) -> Option<ProxyError> {
        use ProxyError::{Denied, Internal, Limit, Loop, Malformed, Prohibited, Refused, Terminated, Timeout, Unavailable};
        let all = [Denied, Prohibited, Unavailable, Refused, Timeout, Terminated, Malformed, Limit, Loop, Internal];
        all.into_iter().find(|error| error.token() == token)
    }

    /// Whether another path, or the same one later, may work.
    pub const fn retry(self) -> bool {
        matches!(
            self,
            ProxyError::Unavailable | ProxyError::Refused | ProxyError::Timeout | ProxyError::Terminated | ProxyError::Limit
        )
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            ProxyError::Denied | ProxyError::Prohibited => 403,
            ProxyError::Unavailable | ProxyError::Refused | ProxyError::Terminated => 502,
            ProxyError::Timeout => 504,
            ProxyError::Malformed => 400,
            ProxyError::Limit => 429,
            ProxyError::Loop => 508,
            ProxyError::Internal => 500,
        }
    }
}

/// A refusal: the RFC 9209 error and a sentence for people that names no node and no role.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// What kind.
    pub error: ProxyError,
    /// Whose fault it is, whether a retry helps and what to do, in one sentence.
    pub detail: std::borrow::Cow<'static, str>,
}

impl Refusal {
    /// A refusal with a fixed sentence.
    pub const fn new(error: ProxyError, detail: &'static str) -> Self {
        Refusal { error, detail: std::borrow::Cow::Borrowed(detail) }
    }
}
