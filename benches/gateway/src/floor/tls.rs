//! Bare rustls: handshakes in memory, and one stream over loopback.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use rustix::time::{ClockId, clock_gettime};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls::{ServerConnection, SideData, Stream};

use crate::pki::{Pki, SERVER};

/// One TLS record's worth.
const CHUNK_BYTES: usize = 16 * 1024;

/// What a server checks of a device's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Possession of the key, and by WebPKI the chain to the tenant's CA.
    Chain,
    /// Possession of the key alone. The difference is the CA's signature, which weighs more than all the rest when the CA
    /// has a P-384 key as Azure Sphere's tenants have (ring is slow at it: 0.5 ms here, where all else takes 0.17 ms).
    Possession,
}

/// A verifier that leaves the chain out.
#[derive(Debug)]
struct PossessionOnly(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for PossessionOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A server that asks for a device certificate. No session storage, no tickets: every handshake is a full one, and nothing
/// else is done.
pub(crate) fn server_config(folder: &Path, check: Check) -> anyhow::Result<Arc<ServerConfig>> {
    let file = |name: &str| folder.join(name);
    let certificates = |name: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let read = CertificateDer::pem_file_iter(file(name)).and_then(Iterator::collect);
        read.with_context(|| format!("cannot read {}", file(name).display()))
    };
    let mut roots = RootCertStore::empty();
    for root in certificates("tenant-ca.pem")? {
        roots.add(root)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain =
        WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build()?;
    let verifier = match check {
        Check::Chain => chain,
        Check::Possession => Arc::new(PossessionOnly(chain)),
    };
    let key = PrivateKeyDer::from_pem_file(file("server.key.pem"))
        .context("cannot read server.key.pem of the run's PKI")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates("server.chain.pem")?, key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn name() -> ServerName<'static> {
    ServerName::try_from(SERVER).expect("a DNS name")
}

fn device(pki: &Pki) -> anyhow::Result<&Arc<ClientConfig>> {
    Ok(&pki.devices.first().context("a PKI without devices: mint one")?.tls)
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What one side has to say, onto the wire.
fn send<S: SideData>(from: &mut ConnectionCommon<S>, wire: &mut Vec<u8>) -> anyhow::Result<()> {
    while from.wants_write() {
        from.write_tls(wire)?;
    }
    Ok(())
}

/// Off the wire, into the other side.
fn hear<S: SideData>(to: &mut ConnectionCommon<S>, wire: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut rest = &wire[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest)?;
        to.process_new_packets()?;
    }
    wire.clear();
    Ok(())
}

/// Server side of full mutual TLS handshakes in memory, the device's chain verified, per CPU second of one core.
pub(crate) fn handshakes_per_core(pki: &Pki, count: usize) -> anyhow::Result<f64> {
    handshakes(server_config(&pki.folder, Check::Chain)?, device(pki)?, count)
}

/// The same with [`Check::Possession`]: what is left when a server knows the certificate already.
pub(crate) fn bare_handshakes_per_core(pki: &Pki, count: usize) -> anyhow::Result<f64> {
    handshakes(server_config(&pki.folder, Check::Possession)?, device(pki)?, count)
}

fn handshakes(
    server: Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    count: usize,
) -> anyhow::Result<f64> {
    let mut wire = Vec::with_capacity(CHUNK_BYTES);
    let mut spent = 0.0;
    for _ in 0..count {
        let mut device = ClientConnection::new(Arc::clone(client), name())?;
        let before = cpu_seconds();
        let mut served = ServerConnection::new(Arc::clone(&server))?;
        spent += cpu_seconds() - before;
        while device.is_handshaking() || served.is_handshaking() {
            send(&mut device, &mut wire)?;
            let before = cpu_seconds();
            hear(&mut served, &mut wire)?;
            send(&mut served, &mut wire)?;
            spent += cpu_seconds() - before;
            hear(&mut device, &mut wire)?;
        }
        ensure!(served.peer_certificates().is_some(), "the handshake was not mutual");
    }
    Ok(count as f64 / spent)
}

/// Bytes per second of one TLS stream over loopback, writer and reader a thread each.
pub(crate) fn tls_bytes_per_second(pki: &Pki, bytes: usize) -> anyhow::Result<f64> {
    stream(server_config(&pki.folder, Check::Chain)?, device(pki)?, bytes)
}

fn stream(
    server: Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    bytes: usize,
) -> anyhow::Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let (to, client) = (listener.local_addr()?, Arc::clone(client));
    std::thread::scope(|threads| {
        let writer = threads.spawn(move || -> anyhow::Result<()> {
            let (mut tcp, mut tls) =
                (TcpStream::connect(to)?, ClientConnection::new(client, name())?);
            let mut stream = Stream::new(&mut tls, &mut tcp);
            let chunk = [b'.'; CHUNK_BYTES];
            let mut left = bytes;
            while left > 0 {
                let part = left.min(CHUNK_BYTES);
                stream.write_all(&chunk[..part])?;
                left -= part;
            }
            stream.conn.send_close_notify();
            stream.flush()?;
            Ok(())
        });
        let (mut tcp, _) = listener.accept()?;
        let mut tls = ServerConnection::new(server)?;
        let read = receive(&mut Stream::new(&mut tls, &mut tcp), bytes);
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        read
    })
}

/// Counts from the first byte, so that the handshake is not in it.
fn receive(
    stream: &mut Stream<'_, ServerConnection, TcpStream>,
    bytes: usize,
) -> anyhow::Result<f64> {
    let mut chunk = [0; CHUNK_BYTES];
    let first = stream.read(&mut chunk)?;
    let (started, mut got) = (Instant::now(), first);
    while got < bytes {
        match stream.read(&mut chunk)? {
            0 => break,
            count => got += count,
        }
    }
    ensure!(got == bytes, "{got} of {bytes} bytes arrived");
    Ok((got - first) as f64 / started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::testing;

    #[test]
    fn handshakes_are_mutual_and_counted() {
        let site = testing::site(1);
        for check in [Check::Chain, Check::Possession] {
            let server = server_config(site.folder(), check).expect("a server");
            let rate = handshakes(server, &site.clients[0], 3).expect("handshakes");
            assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
    }

    #[test]
    fn only_the_chain_is_left_out() {
        let (site, other) = (testing::site(1), testing::site(1));
        // A server that the other site's device trusts, and that knows this site's tenant.
        let tenant = std::fs::read(site.folder().join("tenant-ca.pem")).expect("a file");
        std::fs::write(other.folder().join("tenant-ca.pem"), tenant).expect("a file");
        let server = |check| server_config(other.folder(), check).expect("a server");
        let stranger = &other.clients[0];
        handshakes(server(Check::Chain), stranger, 1).expect_err("a device of another tenant");
        handshakes(server(Check::Possession), stranger, 1).expect("it holds its key");
    }

    #[test]
    fn every_byte_of_the_stream_arrives() {
        let site = testing::site(1);
        let server = server_config(site.folder(), Check::Chain).expect("a server");
        let rate = stream(server, &site.clients[0], 1_000_000).expect("a stream");
        assert!(rate.is_finite() && rate > 0.0, "{rate}");
    }
}
