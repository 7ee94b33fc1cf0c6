//! Bodies of the fuzz targets, shared by `tests/fuzz` and the seeded stand-in in `cargo test`. Not part of the API.

use super::{authorisation, bag, topics, username};
use crate::identity::{ClientName, DeviceId, ModuleId};

/// Feeds `input` to every parser of this folder; a bag that decodes must survive encode and decode. Returns how many
/// parsers took it.
///
/// # Panics
/// When a promise of the parsers does not hold.
pub fn topics_bags(input: &[u8]) -> usize {
    let text = String::from_utf8_lossy(input);
    let device = DeviceId::parse("dev1").expect("a valid id");
    let name = ClientName::Module(device, ModuleId::parse("$m:1").expect("a valid id"));
    let mut taken = usize::from(username::parse(&text).is_ok());
    taken += usize::from(authorisation::subscribe(&text, &[&name]).is_ok());
    taken += usize::from(bag_survives(&text));
    if let Ok(inbound) = topics::parse_publish(&text) {
        taken += 1;
        if let topics::Inbound::Telemetry(telemetry) = inbound {
            taken += usize::from(telemetry.names(&name));
            taken += usize::from(bag_survives(telemetry.bag));
        }
    }
    taken
}

fn bag_survives(text: &str) -> bool {
    let Ok((mut system, properties)) = bag::decode(text) else {
        return false;
    };
    // What never goes out cannot come back.
    let output = system.get(crate::message::SystemKey::OutputName).map(str::to_owned);
    let mut wire = String::new();
    bag::encode(&system, &properties, None, &mut wire);
    if let Ok((mut again, properties_again)) = bag::decode(&wire) {
        if let Some(output) = output {
            again.set(crate::message::SystemKey::OutputName, output.clone());
            // Setting the last one anew keeps both in one order for the comparison below.
            system.set(crate::message::SystemKey::OutputName, output);
        }
        assert_eq!(properties_again, properties);
        for (key, value) in system.iter() {
            assert_eq!(again.get(key), Some(value));
        }
    } else {
        assert!(
            wire.len() > bag::BAG_BYTES_MAX,
            "only encoding makes a bag longer, and that alone refuses it"
        );
    }
    true
}

#[cfg(test)]
mod tests {
    use super::topics_bags;
    use crate::mqtt::fuzz::mutations;

    const SEEDS: [&[u8]; 12] = [
        b"devices/dev1/messages/events/%24.mid=id-1&%24.cid=cor%201&alert%20level=high%26low%3D%C3%A9&empty=",
        b"devices/dev1/modules/%24m%3a1/messages/events/$.on=out&a/",
        b"devices/dev1/modules/$m:1/messages/events/?a=b",
        b"devices/dev1/modules/$m:1/inputs/#",
        b"$iothub/methods/res/200/?$rid=1f",
        b"$iothub/twin/GET/?$rid=4",
        b"$iothub/twin/PATCH/properties/reported/?$rid=5&$version=12",
        b"$iothub/twin/PATCH/properties/desired/#",
        b"hub.example/dev1/?api-version=2020-09-30&DeviceClientType=x%2f1%20(y)&model-id=dtmi%3ax%3b1",
        b"h/d/m/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003",
        b"$.ctime=2026-01-01T00:00:00Z&iothub-ack=full&nul&x=%ff&%C3=%",
        b"a=1&a=2&a&=&&%24.cdid=x&%24.diagid=y",
    ];

    #[test]
    fn a_hundred_thousand_mutated_texts() {
        let mut taken = 0;
        mutations(&SEEDS, 0x5eed_0002, 100_000, |input| {
            taken += usize::from(topics_bags(input) > 1);
        });
        assert!(taken > 10_000, "the mutations still reach the parsers: {taken}");
    }
}
