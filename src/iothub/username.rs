//! The user name of a CONNECT: who the client says it is.
//!
//! Owns: the grammar, legacy forms included (the reference's own, segment by segment):
//!
//! ```text
//! {host}/{device}/?{query}                {host}/{device}/{module}/?{query}
//! {host}/{device}/{query}                 {host}/{device}/{module}/{query}      query contains "api-version="
//! {host}/{device}/{module}/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003
//! ```
//!
//! The host is never compared with anything: SDKs write the hub's name or the gateway's, and both are right.
//! Invariant: `api-version` is there and not empty, its value is not judged. Must not know: how the claim is proved.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::identity::{ClientName, DeviceId, IdError, ModuleId};

/// How an old client of Azure Machine Learning ends its user name: with `/` where `&` belongs. That one, as it is.
const LEGACY_END: &str =
    "/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003";

/// What a user name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserName {
    /// First segment, not checked.
    pub host: Box<str>,
    /// Device or module that the client claims to be.
    pub name: ClientName,
    /// Never empty.
    pub api_version: Box<str>,
    /// `DeviceClientType`: the SDK and its version.
    pub product_info: Option<Box<str>>,
    /// IoT Plug and Play model.
    pub model_id: Option<Box<str>>,
    /// `auth-chain` of a nested gateway.
    pub auth_chain: Option<Box<str>>,
}

/// Why a text is not such a user name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserNameError {
    /// Empty or blank.
    #[error("the user name is blank; it must be {{host}}/{{device}}/?api-version=...")]
    Blank,
    /// Neither of the forms.
    #[error(
        "the user name has {0} segments in no known form; it must be {{host}}/{{device}}/?api-version=..."
    )]
    Form(usize),
    /// The device part is not a device id.
    #[error("the user name's device id: {0}")]
    Device(IdError),
    /// The module part is not a module id.
    #[error("the user name's module id: {0}")]
    Module(IdError),
    /// `api-version` missing or empty.
    #[error("the user name has no api-version; add ?api-version=2021-04-12")]
    ApiVersion,
}

impl UserNameError {
    /// Short label for counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Blank => "user_name_blank",
            Self::Form(_) => "user_name_form",
            Self::Device(_) => "user_name_device_id",
            Self::Module(_) => "user_name_module_id",
            Self::ApiVersion => "user_name_api_version",
        }
    }
}

/// Reads a user name.
pub fn parse(text: &str) -> Result<UserName, UserNameError> {
    if text.trim().is_empty() {
        return Err(UserNameError::Blank);
    }
    let (host, device, module, query) = split(text)?;
    let device = DeviceId::parse(device).map_err(UserNameError::Device)?;
    let name = match module {
        None => ClientName::Device(device),
        Some(module) => {
            ClientName::Module(device, ModuleId::parse(module).map_err(UserNameError::Module)?)
        }
    };
    let query = Query::parse(&query);
    let api_version =
        query.api_version.filter(|v| !v.is_empty()).ok_or(UserNameError::ApiVersion)?;
    Ok(UserName {
        host: host.into(),
        name,
        api_version: api_version.into(),
        product_info: query.product_info.map(Into::into),
        model_id: query.model_id.map(Into::into),
        auth_chain: query.auth_chain.map(Into::into),
    })
}

type Parts<'a> = (&'a str, &'a str, Option<&'a str>, Cow<'a, str>);

fn split(text: &str) -> Result<Parts<'_>, UserNameError> {
    if let Some(head) = text.strip_suffix(LEGACY_END) {
        let mut parts = head.split('/');
        if let (Some(host), Some(device), Some(module), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        {
            let query = LEGACY_END[1..].replacen("/DeviceClientType", "&DeviceClientType", 1);
            return Ok((host, device, Some(module), query.into()));
        }
    }
    // Seven: one more than any form has, so that a name of thousands of slashes costs nothing.
    let parts: Vec<&str> = text.splitn(7, '/').collect();
    let form = Err(UserNameError::Form(parts.len()));
    let (host, device, module, last) = match parts[..] {
        [host, device, last] => (host, device, None, last),
        [host, device, module, last] => (host, device, Some(module), last),
        _ => return form,
    };
    match last.strip_prefix('?') {
        Some(query) => Ok((host, device, module, query.into())),
        None if last.contains("api-version=") => Ok((host, device, module, last.into())),
        None => form,
    }
}

#[derive(Default)]
struct Query<'a> {
    api_version: Option<Cow<'a, str>>,
    product_info: Option<Cow<'a, str>>,
    model_id: Option<Cow<'a, str>>,
    auth_chain: Option<Cow<'a, str>>,
}

impl<'a> Query<'a> {
    /// Names exact, first of duplicates wins, unknown names ignored, values percent-decoded (`+` stays `+`).
    fn parse(text: &'a str) -> Self {
        let mut query = Self::default();
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "api-version" => &mut query.api_version,
                "DeviceClientType" => &mut query.product_info,
                "model-id" => &mut query.model_id,
                "auth-chain" => &mut query.auth_chain,
                _ => continue,
            };
            if slot.is_none() {
                *slot = Some(percent_decode_str(value).decode_utf8_lossy());
            }
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, &str, Option<&str>), &str>) {
        let got = parse(text);
        let got =
            got.as_ref().map(|u| (u.name.to_string(), &*u.api_version, u.product_info.as_deref()));
        let expected = expected.map(|(name, version, product)| (name.to_owned(), version, product));
        assert_eq!(got.map_err(UserNameError::label), expected, "{text}");
    }

    #[test]
    fn captured_from_sdks() {
        check(
            "contoso.azure-devices.net/dev1/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0%283.11.7%3BLinux%29",
            Ok(("dev1", "2019-10-01", Some("azure-iot-device-iothub-py/2.14.0(3.11.7;Linux)"))),
        );
        check(
            "contoso.azure-devices.net/dev1/mod1/?api-version=2019-10-01",
            Ok(("dev1/mod1", "2019-10-01", None)),
        );
        check(
            "contoso.azure-devices.net/dev1/?api-version=2020-09-30&DeviceClientType=iothubclient%2f1.14.0%20(native%3b%20Linux%3b%20x86_64)",
            Ok(("dev1", "2020-09-30", Some("iothubclient/1.14.0 (native; Linux; x86_64)"))),
        );
        let sphere = "0123456789abcdef".repeat(8);
        let text = format!(
            "edgegw.example/{sphere}/?api-version=2020-09-30&DeviceClientType=x&model-id=dtmi%3acom%3aexample%3athermometer%3b1"
        );
        check(&text, Ok((&sphere, "2020-09-30", Some("x"))));
        let model = parse(&text).unwrap().model_id;
        assert_eq!(model.as_deref(), Some("dtmi:com:example:thermometer;1"));
    }

    #[test]
    fn legacy_forms() {
        check("h/d/api-version=2016-11-14", Ok(("d", "2016-11-14", None)));
        check(
            "h/d/m/api-version=2016-11-14&DeviceClientType=a",
            Ok(("d/m", "2016-11-14", Some("a"))),
        );
        check("h/d/DeviceClientType=a&api-version=1", Ok(("d", "1", Some("a"))));
        let legacy = format!("h/d/m{LEGACY_END}");
        let product = "Microsoft.Azure.Devices.Client/1.5.1-preview-003";
        check(&legacy, Ok(("d/m", "2017-06-30", Some(product))));
        check(&format!("h/d{LEGACY_END}"), Err("user_name_form"));
        check(&legacy.replace("003", "004"), Err("user_name_form"));
    }

    #[test]
    fn the_host_is_not_judged_and_the_query_is_read_leniently() {
        check("/d/?api-version=1", Ok(("d", "1", None)));
        check("h/d?x/?api-version=1", Ok(("d?x", "1", None)));
        check("h/d/?api-version=1&api-version=2&other&=&x=y", Ok(("d", "1", None)));
        check("h/d/?api-version=a=b", Ok(("d", "a=b", None)));
        check("h/d/?api-version=1&DeviceClientType=a+b%zz", Ok(("d", "1", Some("a+b%zz"))));
        let chain = parse("h/d/?api-version=1&auth-chain=child%3Bedge").unwrap().auth_chain;
        assert_eq!(chain.as_deref(), Some("child;edge"));
    }

    #[test]
    fn refused() {
        check("", Err("user_name_blank"));
        check("  ", Err("user_name_blank"));
        check("hub/device", Err("user_name_form"));
        check("hub/device/", Err("user_name_form"));
        check("hub/device/x", Err("user_name_form"));
        check("h/d/m/x/?api-version=1", Err("user_name_form"));
        check(&"/".repeat(60_000), Err("user_name_form"));
        check("h//?api-version=1", Err("user_name_device_id"));
        check("h/d//?api-version=1", Err("user_name_module_id"));
        check("h/d e/?api-version=1", Err("user_name_device_id"));
        check("h/d/?", Err("user_name_api_version"));
        check("h/d/?api-version=", Err("user_name_api_version"));
        check("h/d/?api-version", Err("user_name_api_version"));
        check("h/d/?API-VERSION=1", Err("user_name_api_version"));
    }
}
