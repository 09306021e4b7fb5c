//! What a client sees when Polder says no: problem+json (RFC 9457), or a page for a person.

use crate::{ProxyError, Refusal};
use std::fmt::Write;

/// An answer that Polder itself gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// `Proxy-Status` value: a fixed name and a token of RFC 9209, nothing about nodes or roles.
    pub proxy_status: String,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Seconds for `Retry-After`; on 429 and 503 only.
    pub retry_after: Option<u32>,
    /// Body.
    pub body: String,
}

impl Problem {
    /// Words a refusal for a client whose `Accept` is `accept`. `retry_after` (seconds, jittered by the caller) is told on
    /// 429 and 503 only.
    pub fn new(refusal: &Refusal, accept: Option<&[u8]>, retry_after: u32) -> Problem {
        let status = refusal.error.status();
        let html = accept.is_some_and(prefers_html);
        let retry_after = matches!(status, 429 | 503).then_some(retry_after);
        Problem {
            status,
            proxy_status: proxy_status(refusal.error),
            content_type: if html { "text/html; charset=utf-8" } else { "application/problem+json" },
            retry_after,
            body: if html { page(refusal, retry_after) } else { json(refusal) },
        }
    }
}

/// The value of `Proxy-Status`.
pub fn proxy_status(error: ProxyError) -> String {
    format!("polder; error={}", error.token())
}

/// The error that a `Proxy-Status` field names, if Polder knows it: how a forwarder learns why an access point refused.
pub fn parse_proxy_status(value: &[u8]) -> Option<ProxyError> {
    let value = std::str::from_utf8(value).ok()?;
    // The last member is the proxy nearest to us (RFC 9209 §2).
    let member = value.rsplit(',').next()?;
    let token = member.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("error="))?;
    ProxyError::from_token(token.trim())
}

/// Whether `text/html` (or `text/*`) is wanted at least as much as JSON. `*/*` is what programs send.
fn prefers_html(accept: &[u8]) -> bool {
    let accept = String::from_utf8_lossy(accept);
    let quality = |types: &[&str]| {
        accept
            .split(',')
            .filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                types.contains(&parts.next()?).then_some(())?;
                let q = parts.find_map(|p| p.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok())?;
                Some(q)
            })
            .fold(0.0, f32::max)
    };
    let html = quality(&["text/html", "text/*", "application/xhtml+xml"]);
    html > 0.0 && html >= quality(&["application/problem+json", "application/json"])
}

fn json(refusal: &Refusal) -> String {
    let error = refusal.error;
    let mut body = String::from("{\"type\":\"about:blank\",\"title\":");
    quote(&mut body, title(error));
    // Writing to a String cannot fail.
    let _ = write!(body, ",\"status\":{},\"detail\":", error.status());
    quote(&mut body, &refusal.detail);
    let _ = write!(body, ",\"error\":\"{}\",\"retry\":{},\"advice\":", error.token(), error.retry());
    quote(&mut body, advice(error));
    body.push_str("}\n");
    body
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A page that needs nothing from elsewhere: no script, no image, readable with a screen reader and in the dark.
fn page(refusal: &Refusal, retry_after: Option<u32>) -> String {
    let wait = retry_after.map(|s| format!("<p>Try again in {s} seconds.</p>\n")).unwrap_or_default();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>:root{{color-scheme:light dark}}\
         body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:12vh auto;padding:0 1rem}}\
         h1{{font-size:1.5rem}}small{{opacity:.75}}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<p>{detail}</p>\n\
         <h2>What you can do</h2>\n<p>{advice}</p>\n{wait}<p><small>Answered by Polder, not by the site. Code \
         <code>{token}</code>, status {status}.</small></p>\n</main>\n</body>\n</html>\n",
        title = escape(title(refusal.error)),
        detail = escape(&refusal.detail),
        advice = escape(advice(refusal.error)),
        token = refusal.error.token(),
        status = refusal.error.status(),
    )
}

fn title(error: ProxyError) -> &'static str {
    match error {
        ProxyError::Denied => "You may not read this site",
        ProxyError::Prohibited => "Not a site of this overlay",
        ProxyError::Unavailable => "The site cannot be reached",
        ProxyError::Refused => "The site is down",
        ProxyError::Timeout => "The site takes too long",
        ProxyError::Terminated => "The connection broke",
        ProxyError::Malformed => "The request is malformed",
        ProxyError::Limit => "Too much at once",
        ProxyError::Loop => "The request goes in circles",
        ProxyError::Internal => "Something went wrong in Polder",
    }
}

fn advice(error: ProxyError) -> &'static str {
    match error {
        ProxyError::Denied => "Ask the owner of the site to let you in. Trying again will not help before that.",
        ProxyError::Prohibited => {
            "Check the address. If it is right, the site is not registered here: reach it without Polder, or ask its owner to register it."
        }
        ProxyError::Refused => {
            "Try again later. If it stays so, tell the owner of the site: its web server takes no connections."
        }
        ProxyError::Unavailable | ProxyError::Terminated => {
            "Try again in a moment. If it keeps failing, the site itself may be down: tell its owner."
        }
        ProxyError::Timeout => "Try again in a moment. The site may be busy.",
        ProxyError::Malformed => {
            "The program that sent the request has a fault. Another browser, or a newer version, may do better."
        }
        ProxyError::Limit => "Wait a little, close what you do not need, then try again.",
        ProxyError::Loop => "Tell the operator of the overlay: this is an error in its set-up.",
        ProxyError::Internal => "Try again. If it happens again, tell the operator of the overlay when it happened.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ProxyError; 10] = [
        ProxyError::Denied,
        ProxyError::Prohibited,
        ProxyError::Unavailable,
        ProxyError::Refused,
        ProxyError::Timeout,
        ProxyError::Terminated,
        ProxyError::Malformed,
        ProxyError::Limit,
        ProxyError::Loop,
        ProxyError::Internal,
    ];

    #[test]
    fn every_error_survives_the_way_to_the_forwarder() {
        for error in ALL {
            assert_eq!(parse_proxy_status(proxy_status(error).as_bytes()), Some(error));
        }
        assert_eq!(
            parse_proxy_status(b"origin; error=dns_timeout, polder ; error=connection_limit_reached; x=1"),
            Some(ProxyError::Limit)
        );
        for foreign in ["", "polder", "polder; error=unheard_of", "polder; error=", "\u{ff}"] {
            assert_eq!(parse_proxy_status(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn people_get_a_page_and_programs_get_json() {
        let refusal = Refusal::new(ProxyError::Limit, "You <b>have</b> \"512\" tunnels\n.");
        let browser = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8".as_slice();
        for (accept, html) in [
            (None, false),
            (Some(b"*/*".as_slice()), false),
            (Some(browser), true),
            (Some(b"application/json, text/html;q=0.5".as_slice()), false),
            (Some(b"text/html;q=0, */*".as_slice()), false),
            (Some(b"\xff;q=x,,;".as_slice()), false),
        ] {
            let problem = Problem::new(&refusal, accept, 7);
            assert_eq!(problem.content_type.starts_with("text/html"), html, "{accept:?}");
            assert_eq!((problem.status, problem.retry_after), (429, Some(7)));
            if html {
                assert!(problem.body.contains("You &lt;b&gt;have&lt;/b&gt; &quot;512&quot; tunnels"));
                assert!(problem.body.contains("Try again in 7 seconds"));
            } else {
                assert!(problem.body.contains(r#""detail":"You <b>have</b> \"512\" tunnels\u000a.""#), "{}", problem.body);
                assert!(problem.body.contains(r#""error":"connection_limit_reached","retry":true"#));
            }
        }
    }

    #[test]
    fn retry_after_is_told_only_where_waiting_helps() {
        for error in ALL {
            let problem = Problem::new(&Refusal::new(error, "x"), None, 3);
            assert_eq!(problem.retry_after.is_some(), problem.status == 429, "{error:?}");
        }
    }
}
