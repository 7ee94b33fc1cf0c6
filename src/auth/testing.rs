//! What the tests of `auth`, `iothub::sas` and `front::tls` share: a time, a clock that stands, PEM to DER.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Admission, Credential, x509};
use crate::certs::{Authority, Window};
use crate::clock::{Clock, SystemClock, UnixMillis};
use crate::identity::{ClientName, DeviceId, Identity};

/// 2027-01-15T08:00:00Z.
pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// A validity relative to [`NOW`], in seconds.
pub(crate) fn window(from: i64, to: i64) -> Window {
    let at = |offset: i64| UnixMillis(NOW.0.saturating_add_signed(offset * 1000));
    Window { not_before: at(from), not_after: at(to) }
}

/// A day around [`NOW`].
pub(crate) fn valid() -> Window {
    window(-43_200, 43_200)
}

/// The certificates of a PEM text.
pub(crate) fn ders(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.unwrap()).collect()
}

/// A list of `ca` that revokes these, in PEM; from the day before [`NOW`] on, due to be followed by another after a day.
pub(crate) fn revoking(ca: &Authority, revoked: &[&CertificateDer<'_>]) -> String {
    let serial = |der: &&CertificateDer<'_>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        certificate.raw_serial().to_vec()
    };
    let serials: Vec<Vec<u8>> = revoked.iter().map(serial).collect();
    let serials: Vec<&[u8]> = serials.iter().map(Vec::as_slice).collect();
    let list = x509::testing::revocation_list(ca, &serials, window(-86_400, 86_400));
    x509::testing::pem("X509 CRL", &list)
}

/// A device that was let in, by a token that does not end.
pub(crate) fn admitted(id: &str) -> Admission {
    Admission {
        identity: Identity::vouched(ClientName::Device(DeviceId::parse(id).unwrap())),
        credential: Credential::Token {
            expires_secs: u64::MAX,
            key_sha256: [0; 32],
            by_device: false,
        },
        since: NOW,
    }
}

/// A clock whose wall time moves only when told to.
pub(crate) struct StillClock {
    wall_ms: AtomicU64,
    passed_ms: AtomicU64,
}

impl StillClock {
    pub(crate) fn at(now: UnixMillis) -> Arc<Self> {
        Arc::new(Self { wall_ms: AtomicU64::new(now.0), passed_ms: AtomicU64::new(0) })
    }

    /// Sets the wall clock, as a person may.
    pub(crate) fn set(&self, now: UnixMillis) {
        self.wall_ms.store(now.0, Ordering::SeqCst);
    }

    /// Time passes, on both clocks.
    pub(crate) fn pass(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap();
        self.wall_ms.fetch_add(time, Ordering::SeqCst);
        self.passed_ms.fetch_add(time, Ordering::SeqCst);
    }
}

impl Clock for StillClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.wall_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic() + Duration::from_millis(self.passed_ms.load(Ordering::SeqCst))
    }
}
