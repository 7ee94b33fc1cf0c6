//! Who is speaking: device and module ids, a claim, and the authenticated [`Identity`].
//!
//! Invariant: an [`Identity`] is made only by `auth` (after the credential was checked) or read back from a record
//! that was stored under one ([`crate::message`]); the architecture test holds every other module to that.
//! Must not know: how a claim is proved.

use std::fmt;
use std::sync::Arc;

/// Longest id that IoT Hub accepts for a device or a module, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("the id is empty")]
    Empty,
    /// More than [`ID_BYTES_MAX`] bytes.
    #[error("the id has {0} bytes; IoT Hub allows {ID_BYTES_MAX}")]
    TooLong(usize),
    /// A character outside IoT Hub's alphabet.
    #[error(
        "the id contains {0:?}; IoT Hub allows ASCII letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '"
    )]
    Character(char),
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong(text.len()));
    }
    match text.bytes().position(|b| !ALLOWED[usize::from(b)]) {
        // What is before it is ASCII, so a character begins there.
        Some(at) => Err(IdError::Character(text[at..].chars().next().unwrap_or_default())),
        None => Ok(()),
    }
}

/// IoT Hub's alphabet: every record that is read back is checked against it.
const ALLOWED: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        allowed[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-:.+%_#*?!(),=@;$'";
    let mut at = 0;
    while at < others.len() {
        allowed[others[at] as usize] = true;
        at += 1;
    }
    allowed
};

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length (1..=128 bytes) and alphabet (IoT Hub's identity registry rules).
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The id as registered.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(
    /// A device's id in IoT Hub's registry. Case-sensitive.
    DeviceId
);
id_type!(
    /// A module's id below its device. Case-sensitive.
    ModuleId
);

/// The name of a device or of a module: what a client says it is (a claim) and what the registry calls it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientName {
    /// A device.
    Device(DeviceId),
    /// A module of a device.
    Module(DeviceId, ModuleId),
}

impl ClientName {
    /// The device, or the device that the module belongs to.
    pub fn device(&self) -> &DeviceId {
        match self {
            Self::Device(d) | Self::Module(d, _) => d,
        }
    }

    /// The module, when it is one.
    pub fn module(&self) -> Option<&ModuleId> {
        match self {
            Self::Device(_) => None,
            Self::Module(_, m) => Some(m),
        }
    }
}

/// `device` or `device/module`: the MQTT client id of IoT Hub.
impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(d) => f.write_str(d.as_str()),
            Self::Module(d, m) => write!(f, "{d}/{m}"),
        }
    }
}

/// An authenticated principal. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(ClientName);

impl Identity {
    /// Vouches for `name`. For `auth` alone (and for records read back from the store).
    pub(crate) fn vouched(name: ClientName) -> Self {
        Self(name)
    }

    /// The registered name.
    pub fn name(&self) -> &ClientName {
        &self.0
    }

    /// The device, or the device that the module belongs to.
    pub fn device(&self) -> &DeviceId {
        self.0.device()
    }

    /// The module, when it is one.
    pub fn module(&self) -> Option<&ModuleId> {
        self.0.module()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_registry_rules() {
        let sphere = "0123456789abcdef".repeat(8);
        for good in ["dev1", "$edgeHub", "a:b.c+d%e_f#g*h?i!j(k)l,m=n@o;p'q-", sphere.as_str()] {
            assert_eq!(DeviceId::parse(good).map(|d| d.to_string()), Ok(good.to_owned()));
        }
        assert_eq!(DeviceId::parse(""), Err(IdError::Empty));
        assert_eq!(DeviceId::parse(&"x".repeat(129)), Err(IdError::TooLong(129)));
        assert_eq!(DeviceId::parse("a/b"), Err(IdError::Character('/')));
        assert_eq!(DeviceId::parse("größe"), Err(IdError::Character('ö')));
    }
}
