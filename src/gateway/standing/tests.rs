//! The occasions on which those who are connected are judged again.

#![allow(clippy::disallowed_methods, reason = "a test may spawn")]

use super::*;
use crate::auth::testing::{NOW, StillClock};
use crate::auth::{
    Admission, AuthKind, Credential, Scope, ScopeEntry, Status, SymmetricKeys, TrustBundle,
};
use crate::identity::{ClientName, DeviceId, Identity};
use crate::iothub::sas::KeySigner;

const OURS: &str = "ms-azure-iot-edge://edge1-1";

fn name(id: &str) -> ClientName {
    ClientName::Device(DeviceId::parse(id).unwrap())
}

fn key() -> KeySigner {
    KeySigner::from_base64("c2VjcmV0").unwrap()
}

fn entry(id: &str) -> ScopeEntry {
    let keys = SymmetricKeys { primary: Some(key()), secondary: None, is_told: true };
    ScopeEntry {
        name: name(id),
        generation: "1".into(),
        status: Status::Enabled,
        auth: AuthKind::Sas { keys },
        scope: OURS.into(),
        parent_scopes: vec![OURS.into()],
        is_edge: false,
    }
}

/// Let in by a token that ends so many seconds after [`NOW`].
fn admission(id: &str, seconds: i64) -> Arc<Admission> {
    let expires_secs = NOW.as_secs().saturating_add_signed(seconds);
    let credential =
        Credential::Token { expires_secs, key_sha256: key().digest(), by_device: false };
    Arc::new(Admission { identity: Identity::vouched(name(id)), credential, since: NOW })
}

/// A gateway's standing as it runs.
struct Site {
    _folder: tempfile::TempDir,
    authenticator: Arc<Authenticator>,
    roster: Arc<Roster>,
    refreshed: watch::Sender<Option<Instant>>,
    _connected: watch::Sender<bool>,
}

impl Site {
    /// Its stored scope is dated `saved`.
    fn new(saved: UnixMillis) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let edge = DeviceId::parse("edge1").unwrap();
        let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge).0);
        let _ = scope.replace(vec![entry("d1"), entry("d2")], saved);
        let authenticator =
            Authenticator::new(TrustBundle::empty(), scope, StillClock::at(NOW)).not_before(saved);
        let (authenticator, roster) = (Arc::new(authenticator), Roster::new(10));
        let (refreshed, of_scope) = watch::channel(None);
        let (connected, of_hub) = watch::channel(false);
        let standing = Standing {
            authenticator: Arc::clone(&authenticator),
            roster: Arc::clone(&roster),
            metrics: Metrics::new("hub", "edge1"),
        };
        tokio::spawn(standing.run(of_scope, of_hub, CancellationToken::new()));
        Self { _folder: folder, authenticator, roster, refreshed, _connected: connected }
    }
}

#[tokio::test]
async fn a_scope_that_came_shows_that_the_clock_is_right() {
    let site = Site::new(NOW.plus(EVERY));
    assert_eq!(site.authenticator.now(), NOW.plus(EVERY));
    site.refreshed.send_replace(Some(Instant::now()));
    let heard = async {
        while site.authenticator.now() != NOW {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), heard).await.expect("the hub was heard");
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_on_time_however_often_others_come_and_go() {
    for others in [false, true] {
        let site = Site::new(NOW);
        let leave = CancellationToken::new();
        let _seat = site.roster.enter(&admission("d1", -3600), leave.clone()).unwrap();
        let churn = async {
            if !others {
                std::future::pending::<()>().await;
            }
            loop {
                let seat = site.roster.enter(&admission("d2", 3600), CancellationToken::new());
                tokio::time::sleep(LOOK_EVERY / 3).await;
                drop(seat);
                tokio::time::sleep(LOOK_EVERY / 3).await;
            }
        };
        let limit = LOOK_EVERY * 2;
        let left = tokio::time::timeout(limit, async {
            tokio::select! {
                () = leave.cancelled() => {}
                () = churn => {}
            }
        });
        left.await.unwrap_or_else(|_| panic!("it has to leave within {limit:?}, others: {others}"));
    }
}
