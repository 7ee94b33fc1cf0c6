//! How symmetric keys lie on disk: sealed under one random data key, which is itself kept sealed.
//!
//! ```text
//!  keys of all devices --ChaCha20-Poly1305, data key--> `sealed` in scope.json
//!  data key (32 random bytes) --[`Seal`]--> scope.key: by the IoT Edge daemon, or by the mode of the file alone
//! ```
//!
//! Owns: the data key, its file and its making anew; what is locked with it. Invariants: the daemon is asked once a start and
//! not once a value (`edgehub.md` 2.4); a daemon that is away changes nothing on disk; a data key that is lost for good is
//! set aside, reported and replaced; no key shows in `Debug`, a log or an error.
//! Must not know: who has keys, when it is tried again.
//!
//! ChaCha20-Poly1305 and not AES: a Raspberry Pi 4 has no instructions for AES. A nonce is 96 random bits: after 2^32 writes
//! (one a second for 136 years) two would be the same with a chance of one in 2^33.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::kept_file;

const KEY_BYTES: usize = 32;
const VECTOR_BYTES: usize = 16;
const CHECK_BYTES: usize = 8;
const VERSION: u32 = 1;

/// A few hundred bytes; a daemon may seal with room to spare.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why something was not sealed or unsealed: words without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SealError(pub String);

/// Seals the data key, so that a disk that is carried away does not give it.
pub trait Seal: Send + Sync + 'static {
    /// `daemon` or `file`: who unseals what is sealed so.
    fn by(&self) -> &'static str;
    /// Seals `plain`; `vector` is another one each time.
    fn seal<'a>(
        &'a self,
        plain: &'a [u8],
        vector: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, SealError>>;
    /// The reverse, with the same vector.
    fn unseal<'a>(
        &'a self,
        sealed: &'a [u8],
        vector: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, SealError>>;
}

/// Without a daemon: the file's mode (owner alone, 0600) is all that protects the data key.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileMode;

const BY_FILE: &str = "file";

impl Seal for FileMode {
    fn by(&self) -> &'static str {
        BY_FILE
    }

    fn seal<'a>(
        &'a self,
        plain: &'a [u8],
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, SealError>> {
        Box::pin(std::future::ready(Ok(plain.to_vec())))
    }

    fn unseal<'a>(
        &'a self,
        sealed: &'a [u8],
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, SealError>> {
        Box::pin(std::future::ready(Ok(sealed.to_vec())))
    }
}

/// The key under which the devices' keys are sealed.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

/// The key stays out of logs.
impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(***)")
    }
}

/// Sealed under a [`DataKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) nonce: [u8; NONCE_LEN],
    pub(super) text: Vec<u8>,
}

impl DataKey {
    pub(super) fn random() -> Self {
        Self(Zeroizing::new(random()))
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|key| Self(Zeroizing::new(key)))
    }

    /// Tells whether it is the key that was sealed. Eight bytes of a hash say nothing about 32 random ones.
    fn check(&self) -> [u8; CHECK_BYTES] {
        let digest = Sha256::new().chain_update(b"scope.key").chain_update(*self.0).finalize();
        digest[..CHECK_BYTES].try_into().expect("a hash is longer")
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.0).expect("it has the length");
        LessSafeKey::new(key)
    }

    /// Seals `plain`, bound to `about`. Under a nonce of its own.
    pub(super) fn lock(&self, about: &[u8], plain: &[u8]) -> Locked {
        let nonce = random();
        // Sealed in place: what was readable is overwritten.
        let mut text = Vec::with_capacity(plain.len() + CHACHA20_POLY1305.tag_len());
        text.extend_from_slice(plain);
        self.cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(about),
                &mut text,
            )
            .expect("less than 256 GiB");
        Locked { nonce, text }
    }

    /// The reverse; `None` when it was sealed under another key, for something else, or is damaged.
    pub(super) fn unlock(&self, about: &[u8], locked: &Locked) -> Option<Zeroizing<Vec<u8>>> {
        let mut text = Zeroizing::new(locked.text.clone());
        let nonce = Nonce::assume_unique_for_key(locked.nonce);
        let length = self.cipher().open_in_place(nonce, Aad::from(about), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// How a data key was come by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The kept one.
    Kept,
    /// There was none.
    Made,
    /// The kept one, which this daemon seals from now on instead of the file's mode.
    TakenOver,
    /// The kept one is lost: what was sealed under it cannot be read any more.
    Remade {
        /// Where the file is now; `None` when it could not be moved and was replaced.
        set_aside: Option<PathBuf>,
        /// What is wrong with it.
        reason: String,
    },
}

/// A data key, and what is to be told about it.
#[derive(Debug)]
pub struct Obtained {
    /// The key.
    pub key: DataKey,
    /// How it was come by.
    pub origin: Origin,
    /// Others than the owner could read the file; its mode has been set right.
    pub was_exposed: bool,
}

/// Why there is no data key now. It is to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum NoDataKey {
    /// Who unseals it does not answer.
    #[error("the key of the stored scope cannot be unsealed now: {0}")]
    Away(SealError),
    /// The disk.
    #[error("{path}: {error}; check the storage folder")]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    version: u32,
    by: String,
    vector: String,
    key: String,
    check: String,
}

/// What the file says.
struct Kept {
    by: String,
    vector: Vec<u8>,
    sealed: Zeroizing<Vec<u8>>,
    check: Vec<u8>,
}

/// The data key of the file at `path`, made if there is none. Blocks on the disk between its waits for `seal`.
///
/// # Errors
/// [`NoDataKey`]: nothing was changed.
pub async fn obtain(path: &Path, seal: &dyn Seal) -> Result<Obtained, NoDataKey> {
    let on_disk = |error| NoDataKey::Disk { path: path.to_owned(), error };
    let lost = match read(path).map_err(on_disk)? {
        None => None,
        Some(Err(reason)) => Some(reason),
        Some(Ok(kept)) => match unseal(&kept, seal).await.map_err(NoDataKey::Away)? {
            Ok(key) => {
                let was_exposed = make_private(path).map_err(on_disk)?;
                let origin = match kept.by == seal.by() {
                    true => Origin::Kept,
                    false => {
                        write(path, &key, seal).await?;
                        Origin::TakenOver
                    }
                };
                return Ok(Obtained { key, origin, was_exposed });
            }
            Err(reason) => Some(reason),
        },
    };
    let key = DataKey::random();
    // Before the lost one is moved: if this fails, nothing has changed.
    let sealed = sealed(&key, seal).await?;
    let origin = match lost {
        None => Origin::Made,
        Some(reason) => Origin::Remade { set_aside: kept_file::set_aside(path), reason },
    };
    kept_file::replace(path, &sealed).map_err(on_disk)?;
    Ok(Obtained { key, origin, was_exposed: false })
}

/// The outer error is one that passes, the inner one says why the key is lost.
async fn unseal(kept: &Kept, seal: &dyn Seal) -> Result<Result<DataKey, String>, SealError> {
    // A file that was made without a daemon can be read with one, too.
    let by: &dyn Seal = if kept.by == BY_FILE { &FileMode } else { seal };
    if kept.by != by.by() {
        return Ok(Err(format!("it was sealed by the {}, which is not configured", kept.by)));
    }
    match by.unseal(&kept.sealed, &kept.vector).await.map(Zeroizing::new) {
        Ok(bytes) => Ok(DataKey::from_bytes(&bytes)
            .filter(|key| bool::from(key.check().ct_eq(&kept.check)))
            .ok_or_else(|| format!("the {} no longer has the key that sealed it", kept.by))),
        // A daemon says the same when it is ill and when it has another key: what it does with a text of now tells which.
        Err(error) => match round_trip(by).await {
            Ok(()) => Ok(Err(format!("the {} does not unseal it: {error}", kept.by))),
            Err(_) => Err(error),
        },
    }
}

async fn round_trip(seal: &dyn Seal) -> Result<(), SealError> {
    let (text, vector): ([u8; KEY_BYTES], [u8; VECTOR_BYTES]) = (random(), random());
    let sealed = seal.seal(&text, &vector).await?;
    let same = seal.unseal(&sealed, &vector).await? == text;
    if same { Ok(()) } else { Err(SealError("it gives back another text".into())) }
}

async fn sealed(key: &DataKey, seal: &dyn Seal) -> Result<Zeroizing<Vec<u8>>, NoDataKey> {
    let vector: [u8; VECTOR_BYTES] = random();
    let sealed = seal.seal(&*key.0, &vector).await.map_err(NoDataKey::Away)?;
    let stored = StoredKey {
        version: VERSION,
        by: seal.by().to_owned(),
        vector: STANDARD.encode(vector),
        key: STANDARD.encode(sealed),
        check: STANDARD.encode(key.check()),
    };
    Ok(Zeroizing::new(serde_json::to_vec(&stored).expect("texts serialize")))
}

async fn write(path: &Path, key: &DataKey, seal: &dyn Seal) -> Result<(), NoDataKey> {
    let sealed = sealed(key, seal).await?;
    kept_file::replace(path, &sealed)
        .map_err(|error| NoDataKey::Disk { path: path.to_owned(), error })
}

/// The file; the inner error says why it is none of ours.
fn read(path: &Path) -> io::Result<Option<Result<Kept, String>>> {
    let Some(read) = kept_file::read(path, FILE_BYTES_MAX)? else { return Ok(None) };
    let parsed = read
        .map_err(|bytes| format!("it has {bytes} bytes"))
        .and_then(|bytes| parse(&Zeroizing::new(bytes)));
    Ok(Some(parsed))
}

/// The parser's own words may quote the key.
fn parse(bytes: &[u8]) -> Result<Kept, String> {
    let not_ours = |_| "it is not a sealed key".to_owned();
    let version = kept_file::version(bytes).map_err(|_| "it is not a sealed key".to_owned())?;
    if version != VERSION {
        return Err(format!("it has version {version}; this program reads version {VERSION}"));
    }
    let stored: StoredKey =
        serde_json::from_slice(bytes).map_err(|_| "it is not a sealed key".to_owned())?;
    let decode = |text: &str| STANDARD.decode(text).map_err(not_ours);
    Ok(Kept {
        vector: decode(&stored.vector)?,
        sealed: Zeroizing::new(decode(&stored.key)?),
        check: decode(&stored.check)?,
        by: stored.by,
    })
}

/// Takes the file's key from others than the owner; whether they had it.
fn make_private(path: &Path) -> io::Result<bool> {
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(false);
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(true)
}

#[cfg(test)]
mod tests;
