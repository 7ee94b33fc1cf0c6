//! Tables of cases for the language and the table, written from `edgehub.md` section 4.

use bytes::Bytes;

use super::*;
use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId, Identity, ModuleId};
use crate::message::{Message, Properties, Source, SystemKey, SystemProperties};

const ALL: &str = "FROM /messages/* INTO $upstream";
const LEAVES: &str = "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream";

fn edge() -> DeviceId {
    DeviceId::parse("EDGE").unwrap()
}

fn message(sender: ClientName) -> Message {
    Message {
        source: Source { sender: Identity::vouched(sender) },
        system: SystemProperties::default(),
        properties: Properties::default(),
        body: Bytes::new(),
        received: UnixMillis(0),
    }
}

fn leaf() -> Message {
    message(ClientName::Device(DeviceId::parse("Leaf-1").unwrap()))
}

fn module(name: &str, output: Option<&str>) -> Message {
    let mut m = message(ClientName::Module(edge(), ModuleId::parse(name).unwrap()));
    if let Some(output) = output {
        m.system.set(SystemKey::OutputName, output);
    }
    m
}

fn spec(name: &str, text: &str) -> RouteSpec {
    RouteSpec {
        name: name.into(),
        text: text.into(),
        priority: None,
        ttl_secs: 0,
        live_first: None,
    }
}

/// A time to live for all, and strict order.
fn global(ttl_secs: u32) -> Global {
    Global { ttl_secs, live_first: false }
}

/// A table of one route, or the error as "place: what".
fn compile(text: &str) -> Result<RouteTable, String> {
    let (table, mut refused) = RouteTable::compile(&edge(), &[spec("r", text)], global(7200));
    match refused.pop() {
        None => Ok(table),
        Some(r) => Err(format!("{}: {}", &text[r.error.span.clone()], r.error.what)),
    }
}

fn selects(text: &str, message: &Message) -> bool {
    let table = compile(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let mut out = Vec::new();
    table.evaluate(message, &mut out);
    !out.is_empty()
}

/// The value of a condition: T, F or U, over a device message with some properties.
fn value(condition: &str) -> char {
    let mut m = leaf();
    m.properties.set("Level", Some("high".into()));
    m.properties.set("empty", Some("".into()));
    m.properties.set("none", None);
    m.properties.set("$to", Some("shadow".into()));
    m.system.set(SystemKey::To, "real");
    m.system.set(SystemKey::ContentType, "application/json");
    m.system.set(SystemKey::ContentEncoding, "utf-8");
    m.body = Bytes::from_static(br#"{"temperature":21.5}"#);
    m.system.set(SystemKey::CorrelationId, "c1");
    let yes = |c: &str| selects(&format!("FROM /messages/* WHERE {c} INTO $upstream"), &m);
    match (yes(condition), yes(&format!("NOT ({condition})"))) {
        (true, false) => 'T',
        (false, true) => 'F',
        (false, false) => 'U',
        (true, true) => panic!("{condition} is true and false"),
    }
}

#[test]
fn the_users_two_routes_in_their_variants() {
    let leaves = [
        LEAVES,
        "FROM /messages/* WHERE NOT IS_DEFINED ($connectionModuleId) INTO $upstream",
        "from /messages/* where not is_defined($connectionModuleId) into $UPSTREAM",
        "SELECT * FROM /messages/*\n WHERE NOT (IS_DEFINED($connectionmoduleid))\n INTO $upstream",
        "FROM /messages/* WHERE /* leaves */ NOT IS_DEFINED({$connectionModuleId}) INTO $upstream",
    ];
    for text in leaves {
        assert!(selects(text, &leaf()), "{text}");
        assert!(!selects(text, &module("m", Some("o"))), "{text}");
    }
    assert!(selects(ALL, &leaf()) && selects(ALL, &module("m", None)));
}

#[test]
fn both_routes_together_give_one_copy() {
    let (table, refused) =
        RouteTable::compile(&edge(), &[spec("a", ALL), spec("b", LEAVES)], global(7200));
    assert!(refused.is_empty());
    let mut out = Vec::new();
    table.evaluate(&leaf(), &mut out);
    let target = Target {
        endpoint: Endpoint::Upstream,
        endpoint_id: "iothub".into(),
        priority: PRIORITY_NONE,
        ttl_secs: 7200,
        live_first: false,
    };
    assert_eq!(out, [target]);
}

#[test]
fn sources_match_by_whole_segments_in_any_case() {
    let (leaf, bare) = (leaf(), module("m1", None));
    let (out, other) = (module("m1", Some("o1")), module("m10", Some("o1")));
    let table = [
        ("/messages/*", "lbox"),
        ("/messages/", "lbox"),
        ("/", "error"),
        ("/messages//x", "error"),
        ("/messages", "lbox"),
        ("/MESSAGES/*", "lbox"),
        ("/*", "lbox"),
        ("/messages/modules/*", "box"),
        ("/messages/modules/m1", "bo"),
        ("/messages/Modules/M1/*", "bo"),
        ("/messages/modules/m1/outputs", "o"),
        ("/messages/modules/m1/outputs/*", "o"),
        ("/messages/modules/m1/outputs/O1", "o"),
        ("/messages/modules/m1/outputs/o1/*", "o"),
        ("/messages/modules/m1/outputs/o2", ""),
        ("/messages/modules/m1/outputs/o1/x", ""),
        ("/messages/modules/m*", ""),
        ("/messages/modules/*/outputs/*", ""),
        ("/messages/**", "lbox"),
        ("/messages/modules/m1**", "bo"),
        ("/mess", ""),
        ("/mesages/*", ""),
        ("/messages/*\u{200b}", ""),
        ("/twinChangeNotifications/*", ""),
        ("/deviceLifecycleEvents", ""),
    ];
    for (source, expected) in table {
        let text = format!("FROM {source} INTO $upstream");
        let got = match compile(&text) {
            Err(_) => "error".to_owned(),
            Ok(_) => [('l', &leaf), ('b', &bare), ('o', &out), ('x', &other)]
                .into_iter()
                .filter(|(_, m)| selects(&text, m))
                .map(|(c, _)| c)
                .collect(),
        };
        assert_eq!(got, expected, "{source}");
    }
}

#[test]
fn a_route_that_can_select_nothing_tells() {
    let table = [
        ("/messages/*", "", false),
        ("/*", "WHERE a = 'x'", false),
        ("/messages/*", "WHERE true OR false", false),
        ("/messages/*", "WHERE a = 'x' AND false", true),
        ("/messages/*", "WHERE a", true),
        ("/messages/*", "WHERE undefined = undefined", true),
        ("/mesages/*", "", true),
        ("/devices/*", "WHERE a = 'x'", true),
        ("/messages/modules/*/outputs/*", "", true),
        ("/twinChangeNotifications/*", "", false),
    ];
    for (source, condition, expected) in table {
        let text = format!("FROM {source} {condition} INTO $upstream");
        let table = compile(&text).unwrap();
        let route = &table.routes()[0];
        assert_eq!(route.selects_nothing(), expected, "{text}");
        assert_eq!(!route.warnings().is_empty(), expected, "{text}");
        assert_eq!(route.warnings().len(), table.warnings().len());
    }
}

#[test]
fn an_output_name_of_a_leaf_device_does_not_make_it_a_module() {
    let mut m = leaf();
    m.system.set(SystemKey::OutputName, "o1");
    assert!(!selects("FROM /messages/modules/* INTO $upstream", &m));
}

#[test]
fn conditions_are_three_valued() {
    let table = [
        ("true", 'T'),
        ("false", 'F'),
        ("level = 'high'", 'T'),
        ("LEVEL = \"high\"", 'T'),
        ("level = 'HIGH'", 'F'),
        ("level != 'low'", 'T'),
        ("level <> 'high'", 'F'),
        ("'a' = 'a'", 'T'),
        ("missing = 'x'", 'U'),
        ("missing <> 'x'", 'U'),
        ("missing = missing", 'U'),
        ("empty = ''", 'T'),
        ("none = ''", 'U'),
        ("none = none", 'U'),
        ("is_defined(none)", 'T'),
        ("is_defined(missing)", 'F'),
        ("IS_DEFINED(Level)", 'T'),
        ("is_defined('text')", 'T'),
        ("is_defined(true)", 'T'),
        ("is_defined(missing = 'x')", 'F'),
        ("is_defined(level = 'x')", 'T'),
        ("false AND missing = 'x'", 'F'),
        ("missing = 'x' AND false", 'F'),
        ("true AND missing = 'x'", 'U'),
        ("missing = 'x' AND true", 'U'),
        ("true OR missing = 'x'", 'T'),
        ("missing = 'x' OR true", 'T'),
        ("false OR missing = 'x'", 'U'),
        ("missing = 'x' OR false", 'U'),
        ("true AND true AND false", 'F'),
        ("false OR false OR true", 'T'),
        ("true OR false AND false", 'T'),
        ("(true OR false) AND false", 'F'),
        ("NOT false AND false", 'F'),
        ("NOT NOT true", 'T'),
        ("true = true = false", 'F'),
        ("true <> (missing = 'x')", 'U'),
        ("NOT true = false", 'T'),
        ("$contentType = 'application/json'", 'T'),
        ("$CONTENTTYPE = 'application/json'", 'T'),
        ("$to = 'shadow'", 'T'),
        ("{$to} = 'real'", 'T'),
        ("$cid = 'c1'", 'T'),
        ("is_defined($correlationId)", 'F'),
        ("$connectionDeviceId = 'Leaf-1'", 'T'),
        ("$edgeHubOriginInterface = 'downstream'", 'T'),
        ("is_defined($nonsense)", 'F'),
        ("is_defined($body)", 'F'),
        ("contentType = 'application/json'", 'U'),
        ("$enqueuedTime = 'x'", 'U'),
        ("level < 'i'", 'T'),
        ("length(level) + 1 = 5", 'T'),
        ("(missing ?? 'high') = level", 'T'),
        ("lower(upper(level)) = level", 'T'),
        ("as_number(level) > 3", 'U'),
        ("$body.temperature > 20", 'T'),
        ("$body.temperature > 30 AND level = 'high'", 'F'),
        ("$body.missing > 30", 'T'),
        ("is_number($body.missing) AND $body.missing > 30", 'F'),
        ("null OR level = 'high'", 'T'),
    ];
    for (condition, expected) in table {
        assert_eq!(value(condition), expected, "{condition}");
    }
}

#[test]
fn text_as_the_whole_condition_selects_nothing_and_warns() {
    for condition in ["level", "'x'", "$to", "TRUE"] {
        let text = format!("FROM /messages/* WHERE {condition} INTO $upstream");
        assert!(!selects(&text, &leaf()), "{text}");
        // `TRUE` is told twice: it is text, and a name that looks like a keyword.
        let warnings = 1 + usize::from(condition == "TRUE");
        assert_eq!(compile(&text).unwrap().warnings().len(), warnings, "{text}");
    }
    let star = compile("FROM /messages/modules/*/outputs/* INTO $upstream").unwrap();
    assert!(star.warnings()[0].contains("ordinary character"), "{:?}", star.warnings());
}

#[rustfmt::skip]
#[test]
fn what_does_not_compile_says_where() {
    let table = [
        ("", ": expected FROM, found the end of the route"),
        ("FROM", ": expected a source such as /messages/*, found the end of the route"),
        ("FROM messages INTO $upstream", "messages: expected a source such as /messages/*, found `messages`"),
        ("FROM / INTO $upstream", "INTO: expected a name or `*` after `/`, found `INTO`"),
        ("SELECT a FROM /messages/* INTO $upstream", "a: expected `*` after SELECT, found `a`"),
        ("FROM /messages/*", ": expected WHERE or INTO, found the end of the route"),
        ("FROM /messages/* INTO", ": expected a sink, found the end of the route"),
        ("FROM /messages/* INTO $downstream", "$downstream: unknown system endpoint `$downstream`"),
        ("FROM /messages/* INTO upstream", "upstream: unknown endpoint `upstream`"),
        ("FROM /messages/* INTO $upstream WHERE true", "WHERE: expected the end of the route, found `WHERE`"),
        ("FROM /messages/* INTO $upstream x", "x: expected the end of the route, found `x`"),
        ("FROM /messages/* WHERE a == 'b' INTO $upstream", "=: expected a value, found `=`"),
        ("FROM /messages/* WHERE a='b' AND INTO $upstream", "INTO: expected a value, found `INTO`"),
        ("FROM /messages/* WHERE (true INTO $upstream", "(: the parenthesis that opens here is not closed"),
        ("FROM /messages/* WHERE a b INTO $upstream", "b: expected an operator or INTO, found `b`"),
        ("FROM /messages/* WHERE a < 3 INTO $upstream", "<: `<` cannot compare text with a number"),
        ("FROM /messages/* WHERE a = 3 INTO $upstream", "=: `=` cannot compare text with a number"),
        ("FROM /messages/* WHERE a = null INTO $upstream", "=: `=` cannot compare text with null"),
        ("FROM /messages/* WHERE not key1 INTO $upstream", "key1: NOT takes a truth value, found text"),
        ("FROM /messages/* WHERE NOT a = 'b' INTO $upstream", "a: NOT takes a truth value, found text"),
        ("FROM /messages/* WHERE a AND true INTO $upstream", "a: AND joins truth values, found text"),
        ("FROM /messages/* WHERE true = 'x' INTO $upstream", "=: `=` cannot compare a truth value with text"),
        ("FROM /messages/* WHERE isdefined(a) INTO $upstream", "isdefined: there is no function `isdefined`"),
        ("FROM /messages/* WHERE is_defined() INTO $upstream", "is_defined(): is_defined takes anything, found nothing"),
        ("FROM /messages/* WHERE is_defined(a,b) INTO $upstream", "is_defined(a,b): is_defined takes anything, found 2 arguments"),
        ("FROM /messages/* WHERE twin_change_includes(tags.a) INTO $upstream", "twin_change_includes: `twin_change_includes` is for routes from /twinChangeNotifications/* alone"),
        ("FROM /twinChangeNotifications/x WHERE twin_change_includes(tags.a) INTO $upstream", "twin_change_includes: `twin_change_includes` is for routes from /twinChangeNotifications/* alone"),
        ("FROM /messages/* WHERE {$body.a..b} = 1 INTO $upstream", "..: a name is missing in front of a dot"),
        ("FROM /messages/* INTO $upstream \"x\"", "\"x\": expected the end of the route, found `\"x\"`"),
        ("FROM /* WHERE twin_change_includes(tags.a) INTO $upstream", "twin_change_includes: `twin_change_includes` is for routes from /twinChangeNotifications/* alone"),
        ("FROM /messages/* WHERE {a} = 'x' INTO $upstream", "a: expected a system property, found `a`"),
        ("FROM /messages/* INTO BrokeredEndpoint()", "): expected the endpoint in quotes, found `)`"),
        ("FROM /messages/* INTO BrokeredEndpoint(\"/modules/m/inputs\")", "\"/modules/m/inputs\": the endpoint has 3 parts, not 4"),
        ("FROM /messages/* INTO BrokeredEndpoint(\"/foo/m/bar/i\")", "\"/foo/m/bar/i\": `/foo/m/bar/i` does not name an input of a module"),
        ("FROM /messages/* INTO BrokeredEndpoint(\"/modules/m/bar/i\")", "\"/modules/m/bar/i\": `/modules/m/bar/i` does not name an input of a module"),
        ("FROM /messages/* INTO BrokeredEndpoint(\"/foo/m/inputs/i\")", "\"/foo/m/inputs/i\": `/foo/m/inputs/i` does not name an input of a module"),
        ("FROM /messages/* INTO BrokeredEndpoint(\"/modules/m/inputs/\")", "\"/modules/m/inputs/\": the endpoint has 3 parts, not 4"),
        ("FROM /messages/* INTO BrokeredEndpoint(\"/modules/m/inputs/a+b\")", "\"/modules/m/inputs/a+b\": input `a+b`: no topic holds '+'"),
        ("FROM /messages/* INTO BrokeredEndpoint(\"/modules/ä/inputs/i\")", "\"/modules/ä/inputs/i\": module `ä`: the id contains 'ä'; IoT Hub allows ASCII letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '"),
        ("FROM /messages/* INTO BrokeredEndpoint(\"/modules/m/inputs/i\"", ": expected `)`, found the end of the route"),
    ];
    for (text, expected) in table {
        assert_eq!(compile(text).map(|_| ()).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn a_refused_route_shows_its_place_and_what_to_do() {
    let text = "FROM /messages/* WHERE a == 'b' INTO $upstream";
    let (_, refused) = RouteTable::compile(&edge(), &[spec("mine", text)], global(0));
    assert_eq!(
        refused[0].to_string(),
        "route \"mine\" is set aside, the others run (column 27):\n\
         FROM /messages/* WHERE a == 'b' INTO $upstream\n\
         \x20                         ^ expected a value, found `=`: write one `=` for equality"
    );
}

#[test]
fn a_refused_route_on_one_line_and_with_its_line() {
    let table = [
        ("FROM /messages/* WHERE a == 'b' INTO $upstream", "column 27"),
        ("FROM /messages/*\n  WHERE a ==\r\n 'b' INTO $upstream", "line 2, column 12"),
    ];
    for (text, place) in table {
        let (_, refused) = RouteTable::compile(&edge(), &[spec("a\n1", text)], global(0));
        let expected = "expected a value, found `=`: write one `=` for equality";
        assert_eq!(refused[0].one_line(), format!("route \"a\\n1\", {place}: {expected}"));
        assert!(refused[0].to_string().contains(&format!("the others run ({place}):\n")));
    }
    let text = format!("FROM /messages/* WHERE a {} INTO $upstream", "é".repeat(9000));
    let (_, refused) = RouteTable::compile(&edge(), &[spec("r", &text)], global(0));
    let line = refused[0].one_line();
    assert!(
        line.starts_with("route \"r\", column 26: expected an operator or INTO, found `éé"),
        "{line}"
    );
    assert_eq!(line.chars().count(), 601);
}

#[test]
fn typographic_quotes_get_a_suggestion() {
    let text = "FROM /messages/* INTO BrokeredEndpoint(\u{201c}/modules/m/inputs/i\u{201d})";
    let (_, refused) = RouteTable::compile(&edge(), &[spec("r", text)], global(0));
    assert!(refused[0].error.todo.contains("typographic quotes"), "{}", refused[0]);
}

#[test]
fn one_bad_route_does_not_stop_the_others() {
    let specs = [spec("good", ALL), spec("bad", "FROM nowhere"), spec("also good", LEAVES)];
    let (table, refused) = RouteTable::compile(&edge(), &specs, global(0));
    assert_eq!(
        table.routes().iter().map(CompiledRoute::name).collect::<Vec<_>>(),
        ["good", "also good"]
    );
    assert_eq!(refused.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["bad"]);
}

#[test]
fn one_target_per_endpoint_with_the_first_priority_and_its_ttl() {
    let route = |name: &str, text: &str, priority, ttl_secs| RouteSpec {
        priority,
        ttl_secs,
        ..spec(name, text)
    };
    let brokered = "FROM /messages/* INTO brokeredendpoint('modules/m/inputs/i/')";
    let specs = [
        route("a", ALL, None, 5),
        route("b", ALL, Some(7), 0),
        route("c", ALL, Some(3), 60),
        route("d", "FROM /messages/modules/* INTO $upstream", Some(0), 1),
        route("e", brokered, Some(3), 9),
        route("f", "FROM /messages/* INTO BrokeredEndpoint(\"/MODULES/m/INPUTS/i\")", None, 1),
    ];
    let (table, refused) = RouteTable::compile(&edge(), &specs, global(100));
    assert!(refused.is_empty(), "{refused:?}");
    let mut out = Vec::new();
    let show = |out: &[Target]| -> Vec<(String, u8, u32)> {
        out.iter().map(|t| (t.endpoint_id.to_string(), t.priority, t.ttl_secs)).collect()
    };
    table.evaluate(&leaf(), &mut out);
    assert_eq!(show(&out), [("iothub".to_owned(), 3, 60), ("EDGE/m/i".to_owned(), 3, 9)]);
    table.evaluate(&module("x", None), &mut out);
    assert_eq!(show(&out), [("iothub".to_owned(), 0, 1), ("EDGE/m/i".to_owned(), 3, 9)]);
    let queues = show(&table.targets());
    assert_eq!(queues.len(), 6, "{queues:?}");
    assert!(queues.contains(&("iothub".to_owned(), 10, 5)));
    assert!(queues.contains(&("iothub".to_owned(), 7, 100)));
}

#[test]
fn no_route_no_target() {
    let mut out = vec![];
    RouteTable::default().evaluate(&leaf(), &mut out);
    assert!(out.is_empty() && RouteTable::default().is_empty());
}

#[test]
fn depth_and_length_are_errors_not_crashes() {
    let wrap = |c: String| format!("FROM /messages/* WHERE {c} INTO $upstream");
    let deep = |n: usize| wrap(format!("{}true{}", "(".repeat(n), ")".repeat(n)));
    assert!(compile(&deep(DEPTH_MAX - 1)).is_ok());
    for text in [
        deep(DEPTH_MAX),
        deep(10_000),
        wrap("NOT ".repeat(7000) + "true"),
        wrap(format!("{}true", "is_defined(".repeat(2000))),
        wrap(format!("true{}", " = true".repeat(4000))),
        // Each parenthesis holds a chain that begins with a parenthesis: the tree is deeper than either.
        wrap(format!("{}0{} = 0", "(".repeat(60), " + 1 + 1 + 1 + 1)".repeat(60))),
    ] {
        let error = compile(&text).map(|_| ()).unwrap_err();
        assert!(error.contains("nested more than") || error.contains("in a row"), "{error:.80}");
    }
    assert!(compile(&wrap("x".repeat(100_000))).is_err());
    // A long chain is no deep one.
    assert!(selects(&wrap(format!("true{}", " AND true".repeat(3000))), &leaf()));
}

proptest::proptest! {
    #[test]
    fn compiling_and_evaluating_never_panic(
        words in proptest::collection::vec(
            proptest::sample::select(&[
                "SELECT", "*", "FROM", "/", "/messages/*", "WHERE", "INTO", "$upstream", "NOT", "AND", "OR", "(", ")",
                "=", "!=", "<>", "'x'", "\"", "a", "$to", "{", "}", "is_defined(", "true", "/*", "*/", "é", "\\", "1",
                "BrokeredEndpoint(\"/modules/m/inputs/i\")", "\u{201c}", ",", " ", "\n",
            ][..]),
            0..24,
        )
    ) {
        let text = words.join(" ");
        let (table, refused) = RouteTable::compile(&edge(), &[spec("r", &text)], global(0));
        table.evaluate(&leaf(), &mut Vec::new());
        for r in refused {
            proptest::prop_assert!(!r.to_string().is_empty());
        }
    }

    #[test]
    fn any_text_is_compiled_or_refused(text in ".{0,200}") {
        let (table, refused) = RouteTable::compile(&edge(), &[spec("r", &text)], global(0));
        proptest::prop_assert_eq!(table.len() + refused.len(), 1);
        for r in refused {
            proptest::prop_assert!(!r.to_string().is_empty());
        }
    }
}
