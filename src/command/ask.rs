//! One question to a running gateway's administrative listener.
//!
//! Owns: the request, its time limit and the bound of the answer, and what is said when there is none. Must not know: what is
//! asked for.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::{CommandError, Surroundings};

/// How long a gateway may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// About 200 bytes a queue, and a side queue for each of 20,000 senders.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What `--admin` takes.
pub(super) fn host_port(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(port) if port > 0 => Ok(text.to_owned()),
        _ => Err("write a host and a port, for instance 127.0.0.1:9600".to_owned()),
    }
}

/// Whom to ask: what `--admin` says, else where the environment has it.
pub(super) fn address(admin: Option<&String>, here: &Surroundings) -> Result<String, CommandError> {
    let address = admin.cloned().or_else(|| here.admin.map(|address| address.to_string()));
    address.ok_or_else(|| {
        let text = "metrics__listener__port is 0, any free port, so nobody knows where to ask: set it (9600 by default), or \
                    give --admin HOST:PORT";
        CommandError::Usage(text.to_owned())
    })
}

/// What the gateway at `address` says at `path`; the error says in plain words why nothing is known.
pub(crate) fn told<T: DeserializeOwned>(address: &str, path: &str) -> Result<T, String> {
    match get(address, path) {
        Ok((StatusCode::OK, body)) => serde_json::from_slice(&body).map_err(|_| {
            format!("no answer of a gateway at {address}: is another program on its port?")
        }),
        Ok((status, _)) => {
            Err(format!("{address} answered {status}: is it a gateway of this version?"))
        }
        Err(why) => Err(format!("no answer: {why}; is the gateway running?")),
    }
}

/// `GET path` of the listener at `address`; the error says why there is no answer.
pub(super) fn get(address: &str, path: &str) -> Result<(StatusCode, Bytes), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        match tokio::time::timeout(ASK_TIMEOUT, answer(address, path)).await {
            Ok(answered) => answered.map_err(|why| format!("{address}: {why}")),
            Err(_) => Err(format!("{address} did not answer within {ASK_TIMEOUT:?}")),
        }
    })
}

async fn answer(address: &str, path: &str) -> Result<(StatusCode, Bytes), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|e| words(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| words(&e))?;
    let request = Request::get(path).header(header::HOST, address).body(Empty::<Bytes>::new());
    let request = request.map_err(|e| words(&e))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|e| words(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(|body| (status, body.to_bytes())).map_err(|e| words(&e))
    };
    tokio::pin!(answered, connection);
    tokio::select! {
        answer = &mut answered => answer,
        closed = &mut connection => match closed {
            // The connection ends with the answer in hand.
            Ok(()) => answered.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
