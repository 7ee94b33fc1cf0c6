//! Names that stand twice in one object of a JSON text: a copied route that was not renamed is lost without a word.
//!
//! Must not know: what the names mean.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Most that are told; who has more will look for the rest.
const FOUND_MAX: usize = 16;

/// The paths of those names, in the order of the text. `text` is JSON.
pub(super) fn paths(text: &str) -> Vec<String> {
    let mut scan = Scan::default();
    // It has been read before: an error cannot be, and would only leave less found.
    let _ = scan.deserialize(&mut serde_json::Deserializer::from_str(text));
    scan.found
}

#[derive(Default)]
struct Scan {
    path: Vec<String>,
    found: Vec<String>,
}

impl Scan {
    fn at(&mut self, name: String) -> &mut Self {
        self.path.push(name);
        self
    }
}

impl<'de> DeserializeSeed<'de> for &mut Scan {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Scan {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let is_new = seen.insert(name.clone());
            map.next_value_seed(self.at(name))?;
            if !is_new && self.found.len() < FOUND_MAX {
                self.found.push(self.path.join("."));
            }
            self.path.pop();
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self.at("[]".to_owned()))?.is_some() {
            self.path.pop();
        }
        self.path.pop();
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
