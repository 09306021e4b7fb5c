//! A byte stream read as HTTP/1.1 messages.

use crate::tunnel::{Source, Tunnel};
use bytes::{Bytes, BytesMut};
use polder_types::Limits;
use polder_wire::http1::{BodyReader, HttpError, MAX_HEAD, Piece, RequestHead, RequestReader, ResponseHead, ResponseReader};
use std::io;
use std::task::{Context, Poll, Waker};

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Bytes that came and have not been used, and the stream that more come from.
pub(crate) struct Inbox {
    source: Source,
    buffer: BytesMut,
    requests: RequestReader,
    responses: ResponseReader,
}

impl Inbox {
    pub(crate) fn new(source: Source) -> Self {
        Inbox { source, buffer: BytesMut::new(), requests: RequestReader::default(), responses: ResponseReader::default() }
    }

    /// For a client: with the bounds of request heads.
    pub(crate) fn of_client(source: Source, limits: &Limits) -> Self {
        let requests = RequestReader::bounded(limits.head_bytes as usize, limits.head_fields as usize);
        Inbox { requests, ..Inbox::new(source) }
    }

    /// Whether bytes wait.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Waits until bytes are there; false at the end of the stream. Cancel safe.
    pub(crate) async fn wait(&mut self) -> io::Result<bool> {
        if self.buffer.is_empty() { self.fill().await } else { Ok(true) }
    }

    /// The next request head; `None` when the stream ends between messages. Cancel safe.
    pub(crate) async fn request(&mut self) -> Result<Option<RequestHead>, ReadError> {
        loop {
            if let Some(head) = self.requests.next(&mut self.buffer)? {
                return Ok(Some(head));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(HttpError::Truncated.into()) };
            }
        }
    }

    /// The next response head to a request with `method`; `None` when the stream ends before its first byte.
    pub(crate) async fn response(&mut self, method: &http::Method) -> Result<Option<ResponseHead>, ReadError> {
        loop {
            if let Some(head) = self.responses.next(&mut self.buffer, method)? {
                return Ok(Some(head));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(HttpError::Truncated.into()) };
            }
        }
    }

    /// The next piece of a body; `None` at its end. Cancel safe.
    pub(crate) async fn piece(&mut self, body: &mut BodyReader) -> Result<Option<Bytes>, ReadError> {
        loop {
            match body.next(&mut self.buffer)? {
                Piece::Data(data) => return Ok(Some(data)),
                Piece::End => return Ok(None),
                Piece::More => {}
            }
            match self.source.next().await {
                // What is surely content goes on without a copy.
                Some(chunk) => {
                    let mut chunk = chunk?;
                    let direct = if self.buffer.is_empty() { body.direct(&mut chunk) } else { Bytes::new() };
                    self.buffer.extend_from_slice(&chunk);
                    if !direct.is_empty() {
                        return Ok(Some(direct));
                    }
                }
                None if body.complete_at_eof() => return Ok(None),
                None => return Err(HttpError::Truncated.into()),
            }
        }
    }

    /// As [`Inbox::piece`], if it need not wait.
    pub(crate) fn piece_now(&mut self, body: &mut BodyReader) -> Option<Result<Option<Bytes>, ReadError>> {
        let mut piece = std::pin::pin!(self.piece(body));
        match piece.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Waits until the stream has ended or broken; what comes meanwhile is kept, up to a head's length.
    pub(crate) async fn ended(&mut self) {
        while self.buffer.len() < MAX_HEAD {
            if !self.fill().await.unwrap_or(false) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Whether nothing has come and the stream has not ended: an idle connection that can be used again.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.buffer.is_empty() && self.source.poll_next(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// The stream as it goes on behind the messages that were read.
    pub(crate) fn into_source(mut self) -> Source {
        self.source.unread(self.buffer.freeze());
        self.source
    }

    /// Reads on and forgets, for a peer that is still talking when it has been refused: else the kernel resets the
    /// connection and the refusal is lost. At most `most` bytes.
    pub(crate) async fn discard(&mut self, mut most: usize) {
        self.buffer.clear();
        while let Some(Ok(chunk)) = self.source.next().await {
            most = most.saturating_sub(chunk.len());
            if most == 0 {
                return;
            }
        }
    }

    async fn fill(&mut self) -> io::Result<bool> {
        match self.source.next().await {
            Some(chunk) => {
                self.buffer.extend_from_slice(&chunk?);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// A tunnel read as HTTP/1.1.
impl From<Source> for Inbox {
    fn from(source: Source) -> Self {
        Inbox::new(source)
    }
}

/// Joins what is left of an inbox with its sink.
pub(crate) fn tunnel(inbox: Inbox, sink: crate::tunnel::Sink) -> Tunnel {
    Tunnel { source: inbox.into_source(), sink }
}
