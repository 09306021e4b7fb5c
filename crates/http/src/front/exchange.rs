//! A plain-HTTP exchange through the overlay: finds or opens a tunnel, and tries again where that can do no harm.

use super::client::Client;
use super::origin::{Body, Fault, Spoken, converse};
use super::out::Out;
use super::pool::{Conn, Pool};
use super::request::Request;
use crate::tunnel::Source;
use polder_wire::http1::HttpError;
use polder_wire::{ProxyError, Refusal};

/// Tunnels tried for one request.
const ATTEMPTS: usize = 3;

/// What became of a request.
pub(crate) enum Ended {
    /// Answered by the origin. `body_read`: nothing of the request is left on the client's connection.
    Answered { body_read: bool },
    /// Nothing has been sent to the client: it is to be told this.
    Refused(Refusal),
    /// The answer had begun and broke, or the client is gone.
    Cut,
    /// The origin switched protocols: the rest is bytes.
    Switched(Box<Conn>),
}

/// Carries out one exchange.
pub(crate) async fn exchange(client: &Client, pool: &Pool, request: &Request, mut body: Body<'_>, out: &mut Out<'_>) -> Ended {
    if let Err(refusal) = client.admit(&request.target) {
        return Ended::Refused(refusal);
    }
    let keeps = out.keeps();
    for attempt in 1..=ATTEMPTS {
        let connected = tokio::select! {
            connected = connect(client, pool, request) => connected,
            () = out.gone() => return Ended::Cut,
        };
        let mut conn = match connected {
            Ok(conn) => conn,
            Err(refusal) => return Ended::Refused(refusal),
        };
        let fault = match converse(client, &mut conn, request, &mut body, out).await {
            Ok(Spoken::Wholly { again }) => {
                if again && client.ctx.pressure().is_high() {
                    client.ctx.counters.shed_idle.up();
                } else if again {
                    pool.give(&request.target, conn);
                }
                return Ended::Answered { body_read: body.is_read() };
            }
            Ok(Spoken::Switched) => return Ended::Switched(Box::new(conn)),
            Err(fault) => fault,
        };
        if out.begun() {
            return Ended::Cut;
        }
        // RFC 9110 §9.2.2: only what may be said twice is said again, and only while nothing of an answer has left.
        let broke = matches!(fault, Fault::NoAnswer | Fault::Origin(HttpError::Truncated));
        if broke && request.replayable && attempt < ATTEMPTS {
            client.ctx.counters.retried.up();
            out.forget(keeps);
            continue;
        }
        return refusal(client, &fault);
    }
    Ended::Cut
}

/// A tunnel on which the request's head is on its way.
async fn connect(client: &Client, pool: &Pool, request: &Request) -> Result<Conn, Refusal> {
    // A tunnel that waited may end the moment it is used; what cannot be said twice gets a new one, which costs no handshake.
    if request.replayable {
        while let Some(mut conn) = pool.take(&request.target) {
            if conn.sink.send(request.head.clone()).await.is_ok() {
                client.ctx.counters.reused.up();
                return Ok(conn);
            }
        }
    }
    let mut early = Source::held(request.head.clone());
    let (tunnel, permit) = client.open(&request.target, &mut early, request.trace).await?;
    let mut conn = Conn::new(tunnel, permit);
    while let Some(rest) = early.take_front() {
        conn.sink.send(rest).await.map_err(|_| BROKE)?;
    }
    Ok(conn)
}

const BROKE: Refusal = Refusal::new(ProxyError::Terminated, "The connection to the site broke before it answered.");

fn refusal(client: &Client, fault: &Fault) -> Ended {
    Ended::Refused(match fault {
        Fault::NoAnswer | Fault::Origin(HttpError::Truncated) => BROKE,
        Fault::Origin(error) => {
            Refusal { error: ProxyError::Terminated, detail: format!("The site's answer cannot be understood: {error}.").into() }
        }
        Fault::Late => Refusal::new(ProxyError::Timeout, "The site has not answered in time."),
        Fault::Request(error) => super::client::malformed(*error),
        Fault::Slow => {
            client.ctx.counters.over_body_rate.up();
            Refusal::new(ProxyError::Malformed, "The body of the request came too slowly.")
        }
        Fault::Client => return Ended::Cut,
    })
}
