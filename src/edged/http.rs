//! One request to the daemon and its answer: HTTP/1.1 over a socket of its own.
//!
//! Owns: the connection while it lasts, and the largest answer. A connection per request, because there are few (a signature
//! in six minutes) and the daemon counts connections.
//! Must not know: what is asked, tries and time limits.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{Address, WorkloadError};

/// A trust bundle of 256 certificates of 4 KiB; a certificate with its chain takes 10 KiB.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// What is asked.
pub(super) struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Bytes,
    expected: StatusCode,
}

impl<'a> Call<'a> {
    pub(super) fn get(path: &'a str, expected: StatusCode) -> Self {
        Self { method: Method::GET, path, body: Bytes::new(), expected }
    }

    pub(super) fn post(path: &'a str, body: Vec<u8>, expected: StatusCode) -> Self {
        Self { method: Method::POST, path, body: body.into(), expected }
    }
}

/// The body of the expected answer.
pub(super) async fn exchange(address: &Address, call: &Call<'_>) -> Result<Bytes, WorkloadError> {
    let unreachable = |source: io::Error| match source.kind() {
        // A unix socket whose queue is full: the daemon is there and busy.
        io::ErrorKind::WouldBlock => WorkloadError::Failed("its socket is busy".to_owned()),
        _ => WorkloadError::Unreachable { address: address.clone(), source },
    };
    match address {
        Address::Unix(path) => {
            let socket = UnixStream::connect(path).await.map_err(unreachable)?;
            over(socket, "workload", call).await
        }
        Address::Http { host, port } => {
            let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
            over(socket, &format!("{host}:{port}"), call).await
        }
    }
}

async fn over<S>(socket: S, host: &str, call: &Call<'_>) -> Result<Bytes, WorkloadError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::builder()
        .method(call.method.clone())
        .uri(call.path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(call.body.clone()))
        .map_err(|_| WorkloadError::Malformed("its address makes no request"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(closed)?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(closed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| WorkloadError::Failed(format!("its answer broke off: {e}")))?;
        Ok((status, body.to_bytes()))
    };
    let mut answered = pin!(answered);
    // The connection is worked while the answer is awaited. When it ends first, the rest of the answer is there already.
    let (status, body) = tokio::select! {
        answer = &mut answered => answer,
        _ = connection => answered.await,
    }?;
    match status == call.expected {
        true => Ok(body),
        false => Err(WorkloadError::refused(call.path, status, &body)),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn closed(error: hyper::Error) -> WorkloadError {
    WorkloadError::Failed(format!("no answer: {error}"))
}
