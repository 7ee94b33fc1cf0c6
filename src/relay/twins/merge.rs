//! Merge patches (RFC 7396) on objects: applied, put together, taken apart, and found out from two documents.
//!
//! Owns: [`apply`], [`difference`], [`Pending`]. Must not know: versions, limits of the hub but for the size of one patch, I/O.
//!
//! # Why [`Pending`] is two patches
//! Merge patches cannot always be put together into one: `{"a":null}` and then `{"a":{"x":1}}` leaves `a` with `x` alone,
//! while `{"a":{"x":1}}` by itself leaves what else was in `a`. So what is pending is one patch that only deletes, and one
//! that merges, to be pushed in this order. That is enough for any row of patches, and pushing it twice does no harm.

use serde_json::{Map, Value};

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// Applies `patch` to `target`: objects are merged, null removes, all else replaces.
pub(super) fn apply(target: &mut Object, patch: &Object) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(inner) => {
                let entry = target.entry(key.as_str()).or_insert_with(|| Value::Object(Map::new()));
                if !entry.is_object() {
                    *entry = Value::Object(Map::new());
                }
                if let Value::Object(entry) = entry {
                    apply(entry, inner);
                }
            }
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

/// The patch that makes `new` of `old`.
pub(super) fn difference(old: &Object, new: &Object) -> Object {
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match (old.get(key), value) {
            (Some(before), after) if before == after => {}
            (Some(Value::Object(before)), Value::Object(after)) => {
                patch.insert(key.clone(), Value::Object(difference(before, after)));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    patch
}

/// Reported properties that the hub has not taken yet; see [the module](self).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pending {
    /// Deletes what must go before `patch` is merged: holds nothing but objects and nulls.
    pub(super) clear: Object,
    /// Merged after that; nulls kept.
    pub(super) patch: Object,
    /// Something is pending, though it may be an empty patch (it raises the version).
    pub(super) any: bool,
}

impl Pending {
    /// As one patch.
    #[cfg(test)]
    pub(super) fn of(patch: Object) -> Self {
        Self { clear: Object::new(), patch, any: true }
    }

    /// Lays a newer patch on top.
    pub(super) fn lay(&mut self, newer: &Object) {
        self.any = true;
        compose(&mut self.patch, &mut Clear::Under(&mut self.clear), newer);
    }

    /// Lays something newer on top.
    pub(super) fn lay_all(&mut self, newer: &Self) {
        if newer.any {
            self.lay(&newer.clear);
            self.lay(&newer.patch);
        }
    }

    /// Does to `target` what it will do at the hub.
    pub(super) fn apply_to(&self, target: &mut Object) {
        apply(target, &self.clear);
        apply(target, &self.patch);
    }

    /// The patches to push, in order, none of more than `bytes_max` bytes of JSON (if each of its values is smaller).
    pub(super) fn pushes(&self, bytes_max: usize) -> Vec<Object> {
        let mut all = Vec::new();
        for patch in [&self.clear, &self.patch] {
            if !patch.is_empty() {
                split(patch, bytes_max, &mut |part| all.push(part));
            }
        }
        if all.is_empty() && self.any {
            all.push(Object::new());
        }
        all
    }
}

/// What is known of the part of `clear` that belongs to the object at hand.
enum Clear<'c> {
    /// This object begins as nothing: there is nothing to delete in it.
    Whole,
    /// What is deleted in it.
    Under(&'c mut Object),
}

fn compose(older: &mut Object, clear: &mut Clear<'_>, newer: &Object) {
    for (key, value) in newer {
        let Value::Object(inner) = value else {
            older.insert(key.clone(), value.clone());
            if let Clear::Under(clear) = clear {
                clear.remove(key);
            }
            continue;
        };
        if !older.contains_key(key) {
            older.insert(key.clone(), value.clone());
            continue;
        }
        let before = older.get_mut(key).expect("it is there");
        if !before.is_object() {
            // It would be deleted or replaced, and is an object after that: only what comes from now on is in it.
            *before = Value::Object(Map::new());
            if let Clear::Under(clear) = clear {
                clear.insert(key.clone(), Value::Null);
            }
        }
        let Value::Object(before) = before else { continue };
        match clear {
            Clear::Whole => compose(before, &mut Clear::Whole, inner),
            Clear::Under(clear) => compose_under(before, clear, key, inner),
        }
    }
}

fn compose_under(before: &mut Object, clear: &mut Object, key: &str, newer: &Object) {
    match clear.get_mut(key) {
        Some(Value::Object(under)) => compose(before, &mut Clear::Under(under), newer),
        Some(_) => compose(before, &mut Clear::Whole, newer),
        None => {
            let mut under = Object::new();
            compose(before, &mut Clear::Under(&mut under), newer);
            if !under.is_empty() {
                clear.insert(key.to_owned(), Value::Object(under));
            }
        }
    }
}

/// Bytes of `value` as compact JSON.
pub(super) fn bytes_of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) => number.to_string().len(),
        // Escapes at their longest, so that nothing is written twice only to be measured.
        Value::String(text) => text_bytes(text),
        Value::Array(items) => {
            1 + items.iter().map(|item| bytes_of(item) + 1).sum::<usize>().max(1)
        }
        Value::Object(object) => object_bytes(object),
    }
}

/// Bytes of `object` as compact JSON, or some more.
pub(super) fn object_bytes(object: &Object) -> usize {
    let inner: usize =
        object.iter().map(|(key, value)| text_bytes(key) + bytes_of(value) + 2).sum();
    1 + inner.max(1)
}

fn text_bytes(text: &str) -> usize {
    let escaped: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' => 2,
            0..=0x1f => 6,
            _ => 1,
        })
        .sum();
    escaped + 2
}

/// Parts of `patch` that do the same in any order: different keys have nothing to do with each other.
fn split(patch: &Object, bytes_max: usize, give: &mut dyn FnMut(Object)) {
    if patch.is_empty() || object_bytes(patch) <= bytes_max {
        give(patch.clone());
        return;
    }
    let (mut part, mut bytes) = (Object::new(), 2);
    for (key, value) in patch {
        let own = text_bytes(key) + bytes_of(value) + 2;
        if own + 2 > bytes_max
            && let Value::Object(inner) = value
        {
            let room = bytes_max.saturating_sub(text_bytes(key) + 4);
            split(inner, room, &mut |inner| {
                give(Object::from_iter([(key.clone(), Value::Object(inner))]));
            });
            continue;
        }
        if bytes + own > bytes_max && !part.is_empty() {
            give(std::mem::take(&mut part));
            bytes = 2;
        }
        bytes += own;
        part.insert(key.clone(), value.clone());
    }
    if !part.is_empty() {
        give(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn a_merge_patch_does_what_rfc_7396_says() {
        let check = |target: Value, patch: Value, expected: Value| {
            let mut found = object(target);
            apply(&mut found, &object(patch.clone()));
            assert_eq!(Value::Object(found), expected, "{patch}");
        };
        check(json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"}));
        check(json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"}));
        check(json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"}));
        check(json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"}));
        check(json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}}));
        check(json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]}));
        check(json!({"e":1}), json!({"a":{"bb":{"ccc":null}}}), json!({"e":1,"a":{"bb":{}}}));
        check(json!({"a":5}), json!({"a":{"x":1}}), json!({"a":{"x":1}}));
    }

    #[test]
    fn a_difference_is_as_small_as_it_can_be() {
        let check = |old: Value, new: Value, expected: Value| {
            let found = difference(&object(old), &object(new));
            assert_eq!(Value::Object(found), expected);
        };
        check(json!({"a":1}), json!({"a":1}), json!({}));
        check(
            json!({"a":1,"b":{"c":1,"d":2}}),
            json!({"b":{"c":1,"d":3}}),
            json!({"a":null,"b":{"d":3}}),
        );
        check(json!({"a":{"x":1}}), json!({"a":[1]}), json!({"a":[1]}));
        check(json!({"a":1}), json!({"a":{"x":1}}), json!({"a":{"x":1}}));
        check(json!({"a":{"x":1}}), json!({"a":{}}), json!({"a":{"x":null}}));
    }

    #[test]
    fn what_was_deleted_and_made_anew_is_pushed_in_two() {
        let mut pending = Pending::of(object(json!({"a":null,"b":1})));
        pending.lay(&object(json!({"a":{"x":1}})));
        let pushes = pending.pushes(1000);
        assert_eq!(pushes, [object(json!({"a":null})), object(json!({"a":{"x":1},"b":1}))]);
        // Deleted again: one is enough.
        pending.lay(&object(json!({"a":null})));
        assert_eq!(pending.pushes(1000), [object(json!({"a":null,"b":1}))]);
    }

    #[test]
    fn an_empty_patch_is_pushed_as_well() {
        assert_eq!(Pending::default().pushes(100), Vec::<Object>::new());
        assert_eq!(Pending::of(Object::new()).pushes(100), [Object::new()]);
    }

    /// Few keys, so that patches meet; nulls and all kinds of values.
    fn patch() -> impl Strategy<Value = Object> {
        let leaf = prop_oneof![
            2 => Just(Value::Null),
            2 => (0..3_i32).prop_map(Value::from),
            1 => Just(json!([1, 2])),
            1 => "[a-z\"]{0,40}".prop_map(Value::from),
        ];
        let key = prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(str::to_owned);
        let inner = key.clone();
        let value = leaf.prop_recursive(3, 12, 3, move |value| {
            prop::collection::btree_map(inner.clone(), value, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        });
        prop::collection::btree_map(key, value, 0..4).prop_map(|map| map.into_iter().collect())
    }

    /// A document holds no nulls.
    fn document() -> impl Strategy<Value = Object> {
        patch().prop_map(|patch| {
            let mut document = Object::new();
            apply(&mut document, &patch);
            document
        })
    }

    proptest! {
        #[test]
        fn patches_put_together_do_what_they_do_one_by_one(
            base in document(), patches in prop::collection::vec(patch(), 1..6), cut in 0..6_usize, bytes_max in 8..200_usize,
        ) {
            let mut expected = base.clone();
            for patch in &patches {
                apply(&mut expected, patch);
            }
            // In two heaps, laid on each other.
            let (mut older, mut newer) = (Pending::default(), Pending::default());
            for (n, patch) in patches.iter().enumerate() {
                if n < cut { older.lay(patch) } else { newer.lay(patch) }
            }
            older.lay_all(&newer);
            let mut once = base.clone();
            older.apply_to(&mut once);
            prop_assert_eq!(&once, &expected);
            // Pushed twice, in parts, with the first try cut off anywhere.
            let pushes = older.pushes(bytes_max);
            let mut twice = base;
            for push in pushes.iter().take(cut).chain(&pushes) {
                apply(&mut twice, push);
            }
            prop_assert_eq!(&twice, &expected);
        }

        #[test]
        fn a_difference_makes_the_new_of_the_old(old in document(), new in document()) {
            let mut found = old.clone();
            apply(&mut found, &difference(&old, &new));
            prop_assert_eq!(found, new);
        }

        #[test]
        fn parts_are_as_small_as_asked(patch in patch()) {
            let bytes = serde_json::to_vec(&patch).unwrap().len();
            prop_assert!(object_bytes(&patch) >= bytes);
            for part in Pending::of(patch).pushes(120) {
                prop_assert!(serde_json::to_vec(&part).unwrap().len() <= 120, "{part:?}");
            }
        }
    }
}
