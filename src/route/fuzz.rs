//! Bodies of the fuzz targets, shared by `tests/fuzz` and the seeded stand-in in `cargo test`. Not part of the API.

pub use super::body::fuzz::body_paths;
use super::error::CompileError;
use super::{parse, words};

/// Feeds `input` to the reader of routes and to that of conditions. What is read must survive printing and reading; what
/// is refused must say where, within the text. Returns how many readers took it.
///
/// # Panics
/// When a promise of the language does not hold.
pub fn route_text(input: &[u8]) -> usize {
    let text = String::from_utf8_lossy(input);
    usize::from(route(&text)) + usize::from(condition(&text))
}

fn route(text: &str) -> bool {
    let mut route = match parse::route(text) {
        Ok(route) => route,
        Err(e) => return refused(text, &e),
    };
    let said = words(text).expect("a route that is read has words");
    let mut again = parse::route(&said.plain).expect("the plain form is a route");
    assert_eq!(again.to_string(), said.plain, "the plain form is its own plain form");
    route.forget_places();
    again.forget_places();
    assert_eq!(again, route, "{}", said.plain);
    true
}

fn condition(text: &str) -> bool {
    let mut condition = match parse::condition(text) {
        Ok(condition) => condition,
        Err(e) => return refused(text, &e),
    };
    let plain = condition.to_string();
    let mut again = parse::condition(&plain).expect("the plain form is a condition");
    assert_eq!(again.to_string(), plain, "the plain form is its own plain form");
    condition.forget_places();
    again.forget_places();
    assert_eq!(again, condition, "{plain}");
    true
}

fn refused(text: &str, error: &CompileError) -> bool {
    let span = error.span.clone();
    assert!(text.get(span).is_some(), "the place is in the text: {error:?}");
    assert!(error.column(text) <= text.chars().count() + 1);
    assert!(error.render(text).ends_with(&error.one_line()));
    assert!(!error.what.is_empty() && !error.todo.is_empty());
    false
}

#[cfg(test)]
mod tests {
    use super::route_text;
    use crate::mqtt::fuzz::mutations;

    const SEEDS: [&[u8]; 14] = [
        b"FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream",
        b"SELECT * FROM /messages/modules/m1/outputs/o1 INTO BrokeredEndpoint(\"/modules/m2/inputs/i\")",
        b"FROM /* INTO $upstream /* all */",
        b"FROM /twinChangeNotifications/* WHERE twin_change_includes(properties.reported.x) INTO $upstream",
        b"FROM /messages/* WHERE $body.a[1].b >= -1.5e-3 AND {$to} <> '\\u00e9\\'\\\\' INTO $upstream",
        b"a = 'x' OR NOT b != \"y\" AND (c < 0x1F ?? undefined) = null",
        b"- - 5 * -(3 + x) / 2 % 7 || concat('a', b, lower(c)) - 1e999",
        b"(((a ?? b) ?? c) ?? (d ?? e)) = true AND (false OR (f AND g))",
        b"substring(a, 1, length(a) - 1) = 'x' /* c */ AND is_null($body.x)",
        b"'a'b = \"\\u0007\" AND $ = $body AND !x AND a||b AND a&&b",
        b"FROM / * WHERE a = '*/' INTO $upstream",
        b"\xe2\x80\x9c$upstream\xe2\x80\x9d \xc2\xa0 \xe2\x80\x8b level IN ('a', 'b') LIKE IS NOT NULL BETWEEN",
        b"FORM /messages/* WEHRE a == 'b' && !(c) INOT $upsteam; == <=> => =< ! = { } [0] a[0]",
        b"NOT NOT NOT ((((((((true))))))))",
    ];

    #[test]
    fn twenty_five_thousand_mutated_texts() {
        let mut taken = 0;
        mutations(&SEEDS, 0x5eed_0003, 25_000, |input| taken += route_text(input));
        assert!(taken > 2_500, "the mutations still reach the readers: {taken}");
    }
}
