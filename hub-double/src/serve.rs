//! What is spoken behind each gate: AMQP and MQTT over TLS, the scope API over TLS, the admin API in the clear.
//!
//! Owns: TLS, and the faults that act before a protocol begins. Must not know: the protocols.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::server::NoClientAuth;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::driver::{self, Connection};
use crate::gate::Serve;
use crate::hub::{Handle, Hub};
use crate::mqtt::certificate::AnyCertificate;
use crate::{Hands, admin as admin_api, amqp, clock, mqtt, scope_api};

/// A handshake may take this long.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// TLS 1.2 and 1.3 with this chain, with or without SNI. With `asking` a client certificate is asked for and not demanded.
pub(crate) fn acceptor(
    chain_pem: &str,
    key_pem: &str,
    asking: bool,
) -> Result<TlsAcceptor, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("the chain: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
    let key = key.map_err(|error| format!("the key: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients: Arc<dyn ClientCertVerifier> = match asking {
        true => Arc::new(AnyCertificate(Arc::clone(&provider))),
        false => Arc::new(NoClientAuth),
    };
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_client_cert_verifier(clients).with_single_cert(chain, key))
        .map_err(|error| error.to_string())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// TCP to TLS, with the faults of that stage; `None` when it comes to nothing.
async fn handshake(hub: &Hub, tls: &TlsAcceptor, tcp: TcpStream) -> Option<TlsStream<TcpStream>> {
    if hub.faults.refuses_connection() {
        return None;
    }
    let mut flags = hub.faults.flags();
    flags.wait_for(|flags| !flags.black_hole).await.ok()?;
    match tokio::time::timeout(HANDSHAKE, tls.accept(tcp)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Serves AMQP.
pub(crate) fn amqp(hub: &Arc<Hub>, tls: &TlsAcceptor) -> Serve {
    clients(hub, tls, "AMQP", |hub, handle, _| amqp::connection::Conn::new(hub, handle))
}

/// Serves MQTT.
pub(crate) fn mqtt(hub: &Arc<Hub>, tls: &TlsAcceptor) -> Serve {
    clients(hub, tls, "MQTT", |hub, handle, chain| {
        mqtt::conn::Conn::new(hub, handle, chain, clock::now())
    })
}

/// How a protocol's connection begins, with the client's certificates, leaf first (none: empty).
type Begin<C> = fn(Arc<Hub>, Arc<Handle>, Vec<CertificateDer<'static>>) -> C;

/// Serves clients that speak one protocol over TLS.
fn clients<C>(hub: &Arc<Hub>, tls: &TlsAcceptor, protocol: &'static str, begin: Begin<C>) -> Serve
where
    C: Connection + Send + 'static,
{
    let (hub, tls) = (Arc::clone(hub), tls.clone());
    Arc::new(move |tcp, peer| {
        let (hub, tls) = (Arc::clone(&hub), tls.clone());
        Box::pin(async move {
            let Some(stream) = handshake(&hub, &tls, tcp).await else {
                return;
            };
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
            let entered = Entered::new(&hub, protocol, peer.to_string());
            hub.log.count(|counts| counts.connections += 1);
            let handle = Arc::clone(&entered.handle);
            let conn = begin(Arc::clone(&hub), Arc::clone(&handle), chain);
            driver::serve(stream, conn, Arc::clone(&hub), handle).await;
        })
    })
}

/// A place in the roster, given back however the connection's task ends.
struct Entered {
    hub: Arc<Hub>,
    handle: Arc<Handle>,
}

impl Entered {
    fn new(hub: &Arc<Hub>, protocol: &'static str, peer: String) -> Self {
        let handle = hub.roster.enter(protocol, peer, hub.clock.wall_ms());
        Self { hub: Arc::clone(hub), handle }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.hub.roster.leave(self.handle.no);
    }
}

/// Serves the scope API.
pub(crate) fn https(hub: &Arc<Hub>, tls: &TlsAcceptor) -> Serve {
    let (hub, tls) = (Arc::clone(hub), tls.clone());
    let router = scope_api::router(Arc::clone(&hub));
    Arc::new(move |tcp, _| {
        let (hub, tls, router) = (Arc::clone(&hub), tls.clone(), router.clone());
        Box::pin(async move {
            if let Some(stream) = handshake(&hub, &tls, tcp).await {
                http(stream, router).await;
            }
        })
    })
}

/// Serves the admin API.
pub(crate) fn admin(hands: &Arc<Hands>) -> Serve {
    let router = admin_api::router(Arc::clone(hands));
    Arc::new(move |tcp, _| Box::pin(http(tcp, router.clone())))
}

async fn http<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}
