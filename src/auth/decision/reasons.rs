//! The closed list of reasons for a refused accept, handshake or CONNECT, and for a session that is ended.
//!
//! Owns: [`REASONS`]: what each label means, what to do, how loud it is. docs/refusals.md is this list, and a test holds the
//! list to the labels in the code. Must not know: how a refusal came about.

use super::Stage;

/// How a refusal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loudness {
    /// A person must mend something: a warning in the log.
    Mend,
    /// It comes and goes (port scans, peers that vanish), or its cause is told elsewhere: at debug level.
    Noise,
    /// A defect of this program: an error in the log.
    Ours,
}

/// One reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// At what.
    pub stage: Stage,
    /// The `reason` label of `sphere_gateway_refused_total`.
    pub label: &'static str,
    /// What the client is told in a CONNACK; `None`: nothing, the connection just ends.
    pub connack: Option<u8>,
    /// How loud.
    pub loudness: Loudness,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub todo: &'static str,
}

/// A label that the list has not: it is told as it is.
const UNLISTED: Reason = Reason {
    stage: Stage::Connect,
    label: "unlisted",
    connack: None,
    loudness: Loudness::Mend,
    meaning: "a reason that the list does not have",
    todo: "report this as a defect",
};

/// The reason of that label. A session ends for what its CONNECT would be refused for by now: the list is the same.
pub fn reason(stage: Stage, label: &str) -> &'static Reason {
    let stage = if stage == Stage::Session { Stage::Connect } else { stage };
    REASONS.iter().find(|r| r.stage == stage && r.label == label).unwrap_or(&UNLISTED)
}

const fn at(
    stage: Stage,
    label: &'static str,
    connack: Option<u8>,
    loudness: Loudness,
    meaning: &'static str,
    todo: &'static str,
) -> Reason {
    Reason { stage, label, connack, loudness, meaning, todo }
}

const fn accept(
    label: &'static str,
    loudness: Loudness,
    meaning: &'static str,
    todo: &'static str,
) -> Reason {
    at(Stage::Accept, label, None, loudness, meaning, todo)
}

const fn tls(
    label: &'static str,
    loudness: Loudness,
    meaning: &'static str,
    todo: &'static str,
) -> Reason {
    at(Stage::Tls, label, None, loudness, meaning, todo)
}

/// Refused with a code that says "never like this" (5).
const fn no(label: &'static str, meaning: &'static str, todo: &'static str) -> Reason {
    at(Stage::Connect, label, Some(5), Loudness::Mend, meaning, todo)
}

/// Refused with "come back later" (3).
const fn later(
    label: &'static str,
    loudness: Loudness,
    meaning: &'static str,
    todo: &'static str,
) -> Reason {
    at(Stage::Connect, label, Some(3), loudness, meaning, todo)
}

/// Closed without a word.
const fn closed(
    label: &'static str,
    loudness: Loudness,
    meaning: &'static str,
    todo: &'static str,
) -> Reason {
    at(Stage::Connect, label, None, loudness, meaning, todo)
}

/// What came in place of a CONNECT is no MQTT.
const fn garbage(label: &'static str, meaning: &'static str) -> Reason {
    at(
        Stage::Connect,
        label,
        None,
        Loudness::Noise,
        meaning,
        "If it is a device of yours: its client does not speak MQTT 3.1.1; look for another program on that address",
    )
}

use Loudness::{Mend, Noise, Ours};

const LOOK: &str =
    "Nothing, unless a device of yours cannot connect: then look at its network and its own log";
const DEFECT: &str = "Report this as a defect, with the log";
const REGISTER: &str = "Write the user name as IoT Hub wants it: {host}/{device}/?api-version=2021-04-12, with /{module} behind the device for a module";
const CHAIN: &str =
    "Have the device's certificate issued again by its CA; `openssl x509 -text` shows what it says";
const TOKEN: &str = "Let the device make its token as IoT Hub documents it, with the key of the connection string that the hub shows for it";

/// All of them, by stage.
#[rustfmt::skip]
pub const REASONS: &[Reason] = &[
    accept("connections_max", Mend, "as many connections are open as may be", "Raise mqttSettings__ConnectionsMax (and the limit of open files), or find out who opens so many"),
    accept("address_banned", Mend, "the gateway is pressed, and nothing but failures came from its address: some of it is turned away for a while", "Find out who it is and mend what fails (the refusals before this one tell); the first log-in that succeeds ends it. mqttSettings__BanMaxSecs, mqttSettings__FailedConnectsPerMin"),
    accept("address_slowed", Mend, "the gateway is pressed, and more fails than succeeds from its address, which has clients that are connected or were", "Find out which device of that site fails (the refusals before this one tell); mqttSettings__FailedConnectsPerMin"),
    accept("os_error", Mend, "the system could not accept a connection", "Raise the limit of open files (ulimit -n) or look at the kernel's log"),

    tls("silent", Noise, "it connected and said nothing", LOOK),
    tls("crowded_out", Noise, "all connections were taken, and it was the oldest of the largest crowd that had not logged in", "If devices of yours are in that crowd: raise mqttSettings__ConnectionsMax, or find out who opens so many"),
    tls("timeout", Mend, "the handshake was not finished in time", "Look at the peer's network; a device that is only slow needs a higher mqttSettings__HandshakeTimeoutSecs"),
    tls("closed", Noise, "the peer closed within the handshake: a port check, or it does not trust our certificate", "If devices do this: check that they hold the root of the server's certificate and call the gateway by a name in it (`sphere-gateway check`)"),
    tls("io", Noise, "the network failed within the handshake", LOOK),
    tls("alert_received", Mend, "the peer refused our certificate, or our parameters", "Check that it holds the root of the server's certificate, that its clock is right, and that it calls the gateway by a name in the certificate (`sphere-gateway check`)"),
    tls("incompatible", Mend, "no TLS version, cipher suite or curve is common to both", "Let the device speak TLS 1.2 or 1.3 with ECDHE and AES-GCM or ChaCha20-Poly1305"),
    tls("not_tls", Noise, "what came is not TLS", "If it is a device of yours: let it speak MQTT over TLS; plain MQTT is not served"),
    tls("handshake_too_large", Mend, "more bytes came before its handshake was over than one may have", "If it is a device of yours: let it present its certificate and the intermediates alone; else somebody tries to use up memory"),
    tls("protocol", Noise, "the peer broke the rules of TLS", LOOK),
    tls("chain_too_long", Mend, "it presented more certificates, or more bytes of them, than are taken", "Let the device present its certificate and the intermediates alone: at most 8 certificates, 16 KiB"),
    tls("malformed_certificate", Mend, "the certificate that it presented cannot be read", CHAIN),
    tls("possession", Mend, "it presented a certificate, but does not hold its private key", "Give the device the key that belongs to its certificate; if it has the right one, somebody else presents its certificate"),

    closed("connect_timeout", Mend, "TLS was fine, but no CONNECT came in time", "Look at the peer: it holds a connection without using it; a slow device needs a higher mqttSettings__ConnectArrivalTimeout"),
    closed("crowded_out", Noise, "all connections were taken, and it was the oldest of the largest crowd that had not logged in", "If devices of yours are in that crowd: raise mqttSettings__ConnectionsMax, or find out who opens so many"),
    closed("connect_missing", Noise, "its first packet was no CONNECT", "If it is a device of yours: its client does not speak MQTT 3.1.1"),
    later("authentication_timeout", Mend, "it could not be authenticated in time", "Look at the load of this machine; the device comes back by itself"),
    closed("eof", Noise, "it closed before its CONNECT was answered", LOOK),
    closed("read", Noise, "the connection broke before its CONNECT was answered", LOOK),
    closed("write", Noise, "the connection broke while its CONNECT was answered", LOOK),
    closed("write_timeout", Noise, "it did not take the answer to its CONNECT", LOOK),
    closed("packet_overdue", Noise, "the rest of a large packet did not come for ten seconds, and others waited for its room", "Look at the network of that client; one that is only slow sends smaller packets"),
    closed("shutdown", Noise, "the gateway stops", "Nothing: devices come back by themselves"),
    closed("read_past_stop", Ours, "packets were taken that should have waited", DEFECT),
    closed("encode", Ours, "a packet of ours could not be written", DEFECT),
    closed("no_reason", Ours, "the connection ended without a reason", DEFECT),

    later("user_name_missing", Mend, "the CONNECT has no user name", REGISTER),
    later("user_name_blank", Mend, "the user name is blank", REGISTER),
    later("user_name_form", Mend, "the user name has none of the known forms", REGISTER),
    later("user_name_device_id", Mend, "the device in the user name is no device id", REGISTER),
    later("user_name_module_id", Mend, "the module in the user name is no module id", REGISTER),
    later("user_name_api_version", Mend, "the user name has no api-version", REGISTER),
    no("client_id", "the client id is not the device (or device/module) of the user name", "Let the client use its device id, or device/module, as client id: in the same case as in the user name"),
    no("will_topic", "the will is not telemetry of the client itself", "Let the will go to devices/{device}/messages/events/, or take it out"),
    no("bag_too_many_properties", "the will's topic has too many properties", "Put them into the will's body: a topic takes 512 properties"),
    no("bag_too_long", "the will's topic has too long properties", "Put them into the will's body: a topic takes 65,535 bytes of properties"),

    later("scope_unknown", Noise, "the list of devices has not come from IoT Hub yet", "Let the gateway reach the hub once: its log says what is in the way (`sphere-gateway check`)"),
    later("clock_not_set", Mend, "the certificate cannot be judged: this machine's clock is behind what was stored", "Set this machine's clock, or let it reach a time server"),
    later("clients_max", Mend, "as many clients are connected as may be", "Raise MaxConnectedClients"),
    later("displaced", Noise, "a newer connection of the same identity took over, or it was removed meanwhile", "If it goes on: two devices use one identity, give each its own"),
    later("identity_fight", Mend, "two clients take one identity from each other again and again: the one that is in stays in for a while", "Find both (the detail has the addresses) and give each its own identity"),
    later("log_in_rate", Mend, "this identity logs in again and again", "Look at why the device does not stay connected; mqttSettings__LogInsPerMin"),
    no("not_in_scope", "it is not registered as a child of this edge device", "Register it in IoT Hub and set its parent device; the id is compared without regard to case"),
    no("disabled", "it is disabled in IoT Hub", "Enable it in IoT Hub, if it should connect"),
    no("not_our_child", "it is known, but its parent is another edge device, or is disabled", "Set its parent device to this edge device in IoT Hub"),
    no("own_identity", "it says that it is this gateway itself", "Give the client an identity of its own; if nobody should hold $edgeHub's key, make a new one"),
    no("no_credentials", "neither a certificate nor a token came", "Give the device a certificate (X.509 CA signed) or a key, as it is registered"),
    no("module_by_certificate", "a module presented a certificate, which IoT Hub does not support", "Let the module log in by a token"),
    no("not_a_certificate_device", "it presented a certificate, but is registered with another kind of authentication", "Register it with the authentication type X.509 CA signed (or self-signed, with its thumbprints), or let it send a token"),
    no("certificates_off", "it presented a certificate, and certificates are switched off", "Let it log in by a token, or set ClientCertAuthEnabled to true"),
    no("common_name", "the certificate's common name is not the device id", "Issue the certificate for the id that the device is registered under, or register the device under that name"),
    no("thumbprint", "the certificate is none of those registered for the device", "Register its thumbprint (SHA-1 or SHA-256) in IoT Hub"),

    no("no_certificate", "no certificate came", "Give the device its certificate"),
    no("chain_too_long", "it presented more than 8 certificates, or more than 6 intermediates", "Let the device present its certificate and the intermediates alone"),
    no("malformed_certificate", "the certificate cannot be read", CHAIN),
    no("no_common_name", "the certificate has no readable common name", "Have it issued with the device id as common name"),
    no("unknown_ca", "no CA of the trust bundle signed the certificate", "Put the CA's certificate into the trust bundle; after a rotation of the tenant CA, the new one beside the old"),
    no("bad_signature", "a CA of that name is in the bundle, but it did not sign this certificate", "If the CA was renewed, put the new certificate into the bundle beside the old; else somebody made a certificate in its name"),
    no("expired", "the certificate's time is over", "Let the device fetch a new one (Azure Sphere does that each day, with Internet); check this machine's clock"),
    no("not_yet_valid", "the certificate's time has not come", "Check this machine's clock, then that of the issuer"),
    no("intermediate_not_valid", "a CA of its chain is outside its validity", "Have the intermediate CA renewed, and let the device present the new one"),
    no("ca_not_valid", "its CA in the trust bundle is outside its validity", "Put the CA's successor into the bundle; if that date is not over, this machine's clock is wrong"),
    no("ca_as_leaf", "a CA's certificate came in place of a device's", "Give the device a certificate of its own"),
    no("leaf_as_ca", "the chain runs through a certificate that is no CA's", "Have the certificate issued by a CA"),
    no("key_usage", "the certificate is not made for client authentication", "Have it issued with the extended key usage clientAuth and the key usage digitalSignature, or with neither"),
    no("ca_key_usage", "a CA of the chain may not sign certificates (keyUsage)", "Have it issued by a CA whose key usage has keyCertSign"),
    no("path_length", "the chain is longer than one of its CAs allows", "Have the certificate issued by a CA that may have such a chain below it"),
    no("name_constraint", "a CA of the chain may not vouch for this name", "Have it issued by a CA that may"),
    no("policy", "the chain demands certificate policies, which this gateway does not evaluate", "Have it issued by a CA that does not demand them"),
    no("revoked", "its issuer has revoked the certificate", "Give the device a new certificate; if it was revoked on purpose, disable the device in IoT Hub"),
    no("ca_revoked", "a CA of the chain was revoked by the one above it", "Have the device's certificate issued by another CA"),
    no("algorithm", "a key or signature of the chain is of a kind that is not taken", "Use P-256, P-384 or RSA of 2048 bits and more, with SHA-256 and more"),
    no("critical_extension", "a certificate has a critical extension that this gateway does not understand", "Have it issued without"),
    no("too_complex", "the chain is too complex to be checked", "Let the device present its certificate and the intermediates alone"),
    no("chain", "the chain does not hold for another reason, which the detail tells", CHAIN),

    no("not_a_token_device", "it sent a token, but is registered for certificates", "Let it present its certificate and no password, or register it with the authentication type symmetric key"),
    later("keys_unknown", Mend, "the keys that it is registered with are not known here (yet)", "Let the gateway reach the hub, or its daemon, once: its log says what is in the way"),
    no("sas_policy", "the token was made with a key of the hub (skn), not of the device", "Let the device sign with its own key, without skn"),
    no("key_replaced", "the key that signed its token is no longer registered", "Give the device its new key"),
    no("sas_not_a_token", "the password is no SAS token", TOKEN),
    no("sas_malformed", "a part of the token is missing, there twice, or cannot be read", TOKEN),
    no("sas_signature", "the token was not signed with a key of this identity", TOKEN),
    no("sas_identity", "the token is for another identity", "Make the token for {hub}/devices/{device}, with /modules/{module} for a module"),
    no("sas_audience", "the token is for another host than this hub or this gateway", "Make the token for the hub's host name (or the gateway's EdgeDeviceHostName)"),
    no("sas_expired", "the token's time is over", "Let the device make a new token; check its clock and this machine's"),

    at(Stage::Connect, "protocol_level", Some(1), Mend, "it speaks another version than MQTT 3.1.1", "Configure the client for MQTT 3.1.1 (protocol level 4), not 5"),
    garbage("protocol_name", "the CONNECT does not name MQTT"),
    garbage("packet_type", "a packet of no known type"),
    garbage("fixed_header_flags", "reserved bits in a packet's first byte"),
    garbage("remaining_length", "a packet whose length cannot be read"),
    closed("packet_too_large", Mend, "a packet before or in place of the CONNECT that is larger than may be (65,536 bytes)", "Make the will smaller; a client that is none of yours may be trying to use up memory"),
    garbage("packet_length", "a packet with a length that its type does not have"),
    garbage("packet_short", "a packet that ends inside a field"),
    garbage("packet_trailing_bytes", "a packet with bytes behind its last field"),
    garbage("text", "a text that is no UTF-8, or has a character that MQTT forbids"),
    garbage("packet_id_zero", "a packet with the id 0"),
    garbage("qos_3", "a packet with QoS 3"),
    garbage("dup_with_qos_0", "a QoS 0 packet with the DUP flag"),
    garbage("topic_empty", "an empty topic"),
    garbage("topic_wildcard", "a topic with a wildcard"),
    garbage("connect_flags", "a CONNECT with its reserved flag set"),
    garbage("will_flags", "a CONNECT whose will flags contradict each other"),
    garbage("password_without_user_name", "a CONNECT with a password and no user name"),
    garbage("no_filters", "a SUBSCRIBE or UNSUBSCRIBE without a filter"),
    garbage("too_many_filters", "a SUBSCRIBE or UNSUBSCRIBE with more than 256 filters"),
    garbage("topic_filter", "a malformed topic filter"),
    garbage("requested_qos", "a SUBSCRIBE with reserved bits in its QoS"),
    garbage("connack_flags", "a CONNACK with reserved flags"),
    garbage("return_code", "a reserved return code"),
];
