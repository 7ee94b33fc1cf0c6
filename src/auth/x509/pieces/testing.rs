//! What tests put into files: `.p7b` by the crate `cms`, revocation lists by rcgen, PEM of any label.

use base64::Engine as _;
use cms::cert::CertificateChoices;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::revocation::{RevocationInfoChoice, RevocationInfoChoices};
use cms::signed_data::{CertificateSet, EncapsulatedContentInfo, SignedData, SignerInfos};
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use x509_cert::der::asn1::{ObjectIdentifier, SetOfVec};
use x509_cert::der::{Any, Decode as _, Encode as _};

use crate::certs::{Authority, Window};
use crate::clock::UnixMillis;

/// A `.p7b` without signers, as `ca-certificate download-chain` gives it (RFC 5652 5.2 calls it degenerate).
pub(crate) fn p7b(certificates: &[&[u8]], lists: &[&[u8]]) -> Vec<u8> {
    let certificates = certificates
        .iter()
        .map(|der| CertificateChoices::Certificate(x509_cert::Certificate::from_der(der).unwrap()));
    let lists = lists.iter().map(|der| {
        RevocationInfoChoice::Crl(x509_cert::crl::CertificateList::from_der(der).unwrap())
    });
    let lists: Vec<_> = lists.collect();
    let signed = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::new(),
        encap_content_info: EncapsulatedContentInfo {
            econtent_type: ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1"),
            econtent: None,
        },
        certificates: Some(CertificateSet::try_from(certificates.collect::<Vec<_>>()).unwrap()),
        crls: (!lists.is_empty()).then(|| RevocationInfoChoices::try_from(lists).unwrap()),
        signer_infos: SignerInfos(SetOfVec::new()),
    };
    let info = ContentInfo {
        content_type: ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2"),
        content: Any::from_der(&signed.to_der().unwrap()).unwrap(),
    };
    info.to_der().unwrap()
}

/// A list of `ca` that revokes `serials`; `window` is from thisUpdate to nextUpdate.
pub(crate) fn revocation_list(ca: &Authority, serials: &[&[u8]], window: Window) -> Vec<u8> {
    let at = |time: UnixMillis| {
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(time.as_secs())
    };
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: at(window.not_before),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: at(window.not_before),
        next_update: at(window.not_after),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let key = KeyPair::from_pem(&ca.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(ca.certificate_pem(), key).unwrap();
    params.signed_by(&issuer).unwrap().der().to_vec()
}

/// `der` in PEM with any label.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
