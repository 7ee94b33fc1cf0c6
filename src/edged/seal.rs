//! The daemon as the one who seals the scope's data key: with a key that only it has, so that a disk that is carried away gives
//! nothing.
//!
//! Must not know: what the data key is for.

use futures_util::future::BoxFuture;

use super::{Workload, WorkloadError};
use crate::auth::scope::vault::{Seal, SealError};

impl Seal for Workload {
    fn by(&self) -> &'static str {
        "daemon"
    }

    fn seal<'a>(
        &'a self,
        plain: &'a [u8],
        vector: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, SealError>> {
        Box::pin(async move { self.encrypt(plain, vector).await.map_err(in_words) })
    }

    fn unseal<'a>(
        &'a self,
        sealed: &'a [u8],
        vector: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, SealError>> {
        Box::pin(async move { self.decrypt(sealed, vector).await.map_err(in_words) })
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn in_words(error: WorkloadError) -> SealError {
    SealError(error.to_string())
}
