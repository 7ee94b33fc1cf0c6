//! Tokens against vectors that were computed with Python's hmac module, and the rules of iothub-protocol.md A4.

use futures_util::FutureExt as _;

use super::*;
use crate::identity::{DeviceId, ModuleId};

const KEY: &str = "MTIzNDU2Nzg5MGFiY2RlZjEyMzQ1Njc4OTBhYmNkZWY=";
const HUB: &str = "contoso.azure-devices.net";
const SE: u64 = 1_700_003_600;
const OWN: &str = "SharedAccessSignature sr=contoso.azure-devices.net%2Fdevices%2Fedge1%2Fmodules%2F%2524edgeHub\
    &sig=EkVTEBzZaj0Wn6O6WP%2FRymbYNruEesJjYR2m9Ew8ocM%3D&se=1700003600";

/// A key in memory signs at once: no runtime is needed.
fn at_once<T>(future: impl Future<Output = Result<T, SignError>>) -> T {
    future.now_or_never().unwrap().unwrap()
}

fn key() -> KeySigner {
    KeySigner::from_base64(KEY).unwrap()
}

fn name(device: &str, module: Option<&str>) -> ClientName {
    let device = DeviceId::parse(device).unwrap();
    match module {
        None => ClientName::Device(device),
        Some(module) => ClientName::Module(device, ModuleId::parse(module).unwrap()),
    }
}

/// Signs `resource` exactly as it stands.
fn token(resource: &str, expiry: &str) -> String {
    let signature = STANDARD.encode(key().sign_now(format!("{resource}\n{expiry}").as_bytes()));
    format!("SharedAccessSignature sr={resource}&sig={}&se={expiry}", url_encode(&signature))
}

#[test]
fn our_own_token_is_the_reference_s() {
    let own = audience(HUB, &name("edge1", Some("$edgeHub")));
    assert_eq!(own, "contoso.azure-devices.net/devices/edge1/modules/%24edgeHub");
    assert_eq!(at_once(build(&key(), &own, SE)), OWN);
    assert_eq!(audience("h", &name("a+b%(c)", None)), "h/devices/a%2Bb%25(c)");
    assert_eq!(url_encode("a b/c~'"), "a+b%2Fc%7E%27");
}

#[test]
fn tokens_of_every_sdk_are_verified_over_their_raw_text() {
    let (dev1, mod1) = (name("dev1", None), name("dev1", Some("mod1")));
    let edge = name("edge1", Some("$edgeHub"));
    let odd = name("a+b%(c)", None);
    let s = |rest: &str| format!("SharedAccessSignature {rest}");
    for (case, text, who) in [
        ("edgeHub", OWN.to_owned(), &edge),
        (
            "C SDK, resource not encoded",
            s(
                "sr=contoso.azure-devices.net/devices/dev1&sig=S%2fC90T9DcOt76PvW34p%2fdjBHdskNlKDIRmeE9CQGA4s%3d&se=1700003600&skn=",
            ),
            &dev1,
        ),
        (
            "Python and Node",
            s(
                "sr=contoso.azure-devices.net%2Fdevices%2Fdev1&sig=hoTtn6ZqTja765Dv0uO0AjAKz%2BeyvTOx7nzKhA7SLvs%3D&se=1700003600",
            ),
            &dev1,
        ),
        (
            "another order, signature not encoded",
            s(
                "se=1700003600&sig=hoTtn6ZqTja765Dv0uO0AjAKz+eyvTOx7nzKhA7SLvs=&sr=contoso.azure-devices.net%2Fdevices%2Fdev1",
            ),
            &dev1,
        ),
        (
            "gateway as host, lower-case hex",
            s(
                "sr=edgegw.example%2fdevices%2fdev1%2fmodules%2fmod1&sig=OxXy4mFHjiUCYC%2bYbyl9kfa89yWlrw1Fqj0H0gMTrV4%3d&se=1700003600",
            ),
            &mod1,
        ),
        (
            "ids without case",
            token("CONTOSO.azure-devices.net%2Fdevices%2FDEV1", "1700003600"),
            &dev1,
        ),
        ("odd id, plain", token("contoso.azure-devices.net/devices/a+b%(c)", "1700003600"), &odd),
        (
            "odd id, encoded once",
            token("contoso.azure-devices.net%2Fdevices%2Fa%2Bb%25%28c%29", "1700003600"),
            &odd,
        ),
        (
            "odd id, encoded twice",
            token("contoso.azure-devices.net%2Fdevices%2Fa%252Bb%2525%2528c%2529", "1700003600"),
            &odd,
        ),
    ] {
        let token = SasToken::parse(&text).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(token.expiry_secs(), SE);
        let hosts = [HUB, "EdgeGW.example"];
        let (key, now) = (key(), UnixMillis(SE * 1000));
        let got = token.verify(&[&key], who, &hosts, now, CLOCK_SKEW_DEFAULT);
        assert_eq!(got, Ok(&key), "{case}");
    }
}

#[test]
fn bad_tokens_are_refused_by_name() {
    let resource = "contoso.azure-devices.net%2Fdevices%2Fdev1";
    let good = token(resource, "1700003600");
    let other = KeySigner::from_base64("b3RoZXI=").unwrap();
    let verify = |text: &str, who: &ClientName, keys: &[&KeySigner], now: u64| {
        let now = UnixMillis(now * 1000);
        SasToken::parse(text)?.verify(keys, who, &[HUB], now, CLOCK_SKEW_DEFAULT).map(drop)
    };
    let (dev1, mine) = (name("dev1", None), key());
    for (case, text, who, keys, now, expected) in [
        ("good", good.clone(), &dev1, vec![&mine], SE, Ok(())),
        ("secondary key", good.clone(), &dev1, vec![&other, &mine], SE, Ok(())),
        ("no key", good.clone(), &dev1, vec![], SE, Err(SasError::Signature)),
        ("wrong key", good.clone(), &dev1, vec![&other], SE, Err(SasError::Signature)),
        (
            "longer life",
            good.replace("se=1700003600", "se=1800000000"),
            &dev1,
            vec![&mine],
            SE,
            Err(SasError::Signature),
        ),
        ("re-encoded", good.replace("%2F", "/"), &dev1, vec![&mine], SE, Err(SasError::Signature)),
        ("within the skew", good.clone(), &dev1, vec![&mine], SE + 300, Ok(())),
        ("expired", good.clone(), &dev1, vec![&mine], SE + 301, Err(SasError::Expired(301))),
        (
            "other device",
            good.clone(),
            &name("dev2", None),
            vec![&mine],
            SE,
            Err(SasError::OtherIdentity("contoso.azure-devices.net/devices/dev1".to_owned())),
        ),
        ("device's for a module", good.clone(), &name("dev1", Some("m")), vec![&mine], SE, Ok(())),
        (
            "device's for a module of another",
            good.clone(),
            &name("dev2", Some("m")),
            vec![&mine],
            SE,
            Err(SasError::OtherIdentity("contoso.azure-devices.net/devices/dev1".to_owned())),
        ),
        (
            "module's for a device",
            token(&format!("{resource}%2Fmodules%2Fm"), "1700003600"),
            &dev1,
            vec![&mine],
            SE,
            Err(SasError::OtherIdentity(
                "contoso.azure-devices.net/devices/dev1/modules/m".to_owned(),
            )),
        ),
        (
            "prefix of a policy",
            token(HUB, "1700003600"),
            &dev1,
            vec![&mine],
            SE,
            Err(SasError::OtherIdentity(HUB.to_owned())),
        ),
        (
            "other hub",
            token("evil.example%2Fdevices%2Fdev1", "1700003600"),
            &dev1,
            vec![&mine],
            SE,
            Err(SasError::OtherHost("evil.example".to_owned())),
        ),
    ] {
        assert_eq!(verify(&text, who, &keys, now), expected, "{case}");
    }
}

#[test]
fn texts_that_are_no_tokens() {
    for (text, expected) in [
        ("", SasError::NotAToken),
        ("secret", SasError::NotAToken),
        ("SharedAccessSignature", SasError::NotAToken),
        ("SharedAccessSignature ", SasError::Missing("sr")),
        ("SharedAccessSignature sr=a&se=1", SasError::Missing("sig")),
        ("SharedAccessSignature sr=a&sig=YQ==&se=", SasError::Missing("se")),
        ("SharedAccessSignature sr=a&sr=b&sig=YQ==&se=1", SasError::Twice("sr")),
        ("SharedAccessSignature sr=a&sig=!&se=1", SasError::Malformed("sig")),
        ("SharedAccessSignature sr=a&sig=YQ==&se=+1", SasError::Malformed("se")),
        ("SharedAccessSignature sr=a&sig=YQ==&se=-1", SasError::Malformed("se")),
        ("SharedAccessSignature sr=a&sig=YQ==&se=99999999999999999999", SasError::Malformed("se")),
    ] {
        assert_eq!(SasToken::parse(text), Err(expected), "{text:?}");
    }
    let long = format!("SharedAccessSignature {}", "x".repeat(TOKEN_BYTES_MAX));
    assert_eq!(SasToken::parse(&long), Err(SasError::TooLong(long.len())));
}

#[test]
fn secrets_show_nowhere() {
    let shown = format!("{:?} {:?}", key(), SasToken::parse(OWN).unwrap());
    assert!(
        !shown.contains("EkVT") && !shown.contains("1234") && !shown.contains("49, 50"),
        "{shown}"
    );
    assert_eq!(KeySigner::from_base64(""), Err(KeyError::Empty));
    assert_eq!(KeySigner::from_base64("not base64!"), Err(KeyError::Base64));
}

const ID: &str = "[-A-Za-z0-9:.+%_#*?!(),=@;$']{1,40}";

proptest::proptest! {
    #[test]
    fn any_id_verifies_in_any_spelling_of_the_resource(
        device in ID, module in proptest::option::of(ID), over in 0_u64..=300,
    ) {
        let who = name(&device, module.as_deref());
        let plain = match &module {
            None => format!("{HUB}/devices/{device}"),
            Some(module) => format!("{HUB}/devices/{device}/modules/{module}"),
        };
        let own = audience(HUB, &who);
        // Plain as the C SDK sends it, encoded once as Python and Node do, twice as edgeHub does.
        for resource in [plain.clone(), url_encode(&plain), url_encode(&own)] {
            // An id with `&` does not exist; one with `%` may be no valid encoding, which is sent as it is.
            let text = token(&resource, "1700003600");
            let mine = key();
            let got = SasToken::parse(&text).unwrap().verify(
                &[&mine], &who, &[HUB], UnixMillis((SE + over) * 1000), CLOCK_SKEW_DEFAULT,
            );
            proptest::prop_assert_eq!(got.map(drop), Ok(()), "{}", text);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}", tail in "(&?(sr|sig|se|skn)=[%a-zA-Z0-9+/=]{0,12}){0,6}") {
        let _ = SasToken::parse(&text);
        let _ = SasToken::parse(&format!("{SCHEME} {tail}"));
    }
}
