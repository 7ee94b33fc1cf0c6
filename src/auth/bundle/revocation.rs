//! Certificate revocation lists (RFC 5280 section 5) that lie in the folder of the bundle.
//!
//! Owns: [`RevocationLists`]. Must not know: files, chains' names.
