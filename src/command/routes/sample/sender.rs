//! Who sent a sample: what it says of that, and what a gateway would know of it besides.
//!
//! Owns: sources in words and in parts, which must agree. Must not know: the rest of a message.

use serde_json::Value;

use super::{Fields, Sample, kind};
use crate::identity::{DeviceId, ModuleId};

/// The device of a sample that names none.
const DEVICE_DEFAULT: &str = "sample-device";

pub(super) const DEVICE: &str = "connectionDeviceId";
pub(super) const MODULE: &str = "connectionModuleId";
pub(super) const OUTPUT: &str = "outputName";

/// Where a sample comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    Telemetry { module: Option<String>, output: Option<String> },
    TwinChange,
}

impl Sample {
    /// Fills in the sender.
    pub(super) fn send(&mut self, fields: &mut Fields, edge: &DeviceId) -> Result<(), String> {
        let (mut path, mut device) = (None, fields.text("device")?);
        let (mut module, mut output) = (fields.text("module")?, fields.text("output")?);
        match fields.take("message_source") {
            None => {}
            Some(Value::String(text)) => path = Some(source_path(&text)?),
            Some(Value::Object(parts)) => {
                let mut parts = Fields::plain(parts);
                for (key, slot) in
                    [("device", &mut device), ("module", &mut module), ("output", &mut output)]
                {
                    *slot = agreed(key, slot.take(), parts.text(key)?)?;
                }
                if let Some(other) = parts.rest() {
                    return Err(format!(
                        "{other:?} of source is not known: known are device, module, output"
                    ));
                }
            }
            Some(other) => {
                return Err(format!("source is {}: {SOURCE_FORMS}", kind(&other)));
            }
        }
        match path {
            Some(From::TwinChange) if module.is_some() || output.is_some() => {
                Err("a twin change notification has no module or output: take them out".into())
            }
            Some(From::TwinChange) => self.twin_change(edge),
            Some(From::Telemetry { module: m, output: o }) => {
                let module = agreed("module", module, m)?;
                self.telemetry(device, module, agreed("output", output, o)?, edge)
            }
            None => self.telemetry(device, module, output, edge),
        }
    }

    fn telemetry(
        &mut self,
        device: Option<String>,
        module: Option<String>,
        output: Option<String>,
        edge: &DeviceId,
    ) -> Result<(), String> {
        let named = |sample: &Self, name| sample.system_named(name).map(str::to_owned);
        let module = module.or_else(|| named(self, MODULE));
        if output.is_some() && module.is_none() {
            return Err("an output is given and no module: name the module, too".into());
        }
        let output = output.or_else(|| named(self, OUTPUT).filter(|_| module.is_some()));
        let device = device.or_else(|| named(self, DEVICE)).unwrap_or_else(|| {
            // A module that nothing else is said of is one of this edge device.
            let device = if module.is_some() { edge.as_str() } else { DEVICE_DEFAULT };
            self.notes.push(format!("no device is given: ${DEVICE} is taken to be {device:?}"));
            device.to_owned()
        });
        DeviceId::parse(&device).map_err(|e| format!("the device {device:?} cannot be: {e}"))?;
        if let Some(module) = &module {
            ModuleId::parse(module).map_err(|e| format!("the module {module:?} cannot be: {e}"))?;
        }
        let is_ours = module.is_some() && device == edge.as_str();
        self.set(DEVICE, device, "device")?;
        for (name, value) in [(MODULE, &module), (OUTPUT, &output)] {
            if let Some(value) = value {
                self.set(name, value.clone(), "the source")?;
            }
        }
        self.fill("edgeHubOriginInterface", if is_ours { "internal" } else { "downstream" });
        self.from = From::Telemetry { module, output };
        Ok(())
    }

    /// As edgeHub makes them (`edgehub.md` 4.2).
    fn twin_change(&mut self, edge: &DeviceId) -> Result<(), String> {
        self.fill(DEVICE, edge.as_str());
        self.fill(MODULE, "$edgeHub");
        self.fill("messageType", "twinChangeNotification");
        self.from = From::TwinChange;
        Ok(())
    }
}

/// What is said in two places, which must be the same.
fn agreed(key: &str, a: Option<String>, b: Option<String>) -> Result<Option<String>, String> {
    match (&a, &b) {
        (Some(one), Some(other)) if one != other => {
            Err(format!("the {key} is {one:?}, and {other:?} by the source: leave one"))
        }
        _ => Ok(a.or(b)),
    }
}

const SOURCE_FORMS: &str = "write /messages, /messages/modules/<module>, \
                            /messages/modules/<module>/outputs/<output> or /twinChangeNotifications";

fn source_path(text: &str) -> Result<From, String> {
    // A source of a route does, too: its trailing `*` says nothing.
    let path = text.trim().trim_end_matches('*');
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is = |part: &str, word: &str| part.eq_ignore_ascii_case(word);
    let some = |part: &str| Some(part.to_owned());
    let from = match segments[..] {
        [first] if is(first, "twinChangeNotifications") => From::TwinChange,
        [first] if is(first, "messages") => From::Telemetry { module: None, output: None },
        [first, second, m] if is(first, "messages") && is(second, "modules") => {
            From::Telemetry { module: some(m), output: None }
        }
        [first, second, m, third, o]
            if is(first, "messages") && is(second, "modules") && is(third, "outputs") =>
        {
            From::Telemetry { module: some(m), output: some(o) }
        }
        _ => return Err(format!("no message comes from {text:?}: {SOURCE_FORMS}")),
    };
    Ok(from)
}
