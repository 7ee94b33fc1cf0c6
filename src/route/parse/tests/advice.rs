//! What is said of texts that are no route: the place, what is wrong, what to do.

use crate::route::error::CompileError;
use crate::route::parse;

/// Checks the error of each text: the marked place, what is wrong, a piece of the advice.
fn check<T: std::fmt::Display>(
    read: fn(&str) -> Result<T, CompileError>,
    table: &[(&str, &str, &str, &str)],
) {
    for (text, place, what, todo) in table {
        let error = match read(text) {
            Ok(read) => panic!("{text} is read as {read}"),
            Err(error) => error,
        };
        assert_eq!(&text[error.span.clone()], *place, "{text}");
        assert_eq!(error.what, *what, "{text}");
        assert!(error.todo.contains(todo), "{text}: {}", error.todo);
    }
}

#[rustfmt::skip]
#[test]
fn routes() {
    check(parse::route, &[
        ("FORM /messages/* INTO $upstream", "FORM", "expected FROM, found `FORM`", "write FROM instead of `FORM`"),
        ("/messages/* INTO $upstream", "/", "expected FROM, found `/`", "write FROM in front of the source"),
        ("SELECT a FROM /messages/* INTO $upstream", "a", "expected `*` after SELECT, found `a`", "write SELECT *, or leave SELECT out"),
        ("SLECT * FROM /messages/* INTO $upstream", "SLECT", "expected FROM, found `SLECT`", "write SELECT instead of `SLECT`"),
        ("WHERE a FROM /messages/* INTO $upstream", "WHERE", "expected FROM, found `WHERE`", "a route reads: FROM /messages/* WHERE condition INTO $upstream"),
        ("FROM messages/* INTO $upstream", "messages", "expected a source such as /messages/*, found `messages`", "start the source with `/`, as in /messages/*"),
        ("FROM * INTO $upstream", "*", "expected a source such as /messages/*, found `*`", "write /* for everything, or /messages/* for telemetry"),
        ("FROM '/messages/*' INTO $upstream", "'/messages/*'", "expected a source such as /messages/*, found `'/messages/*'`", "write the source without quotes: /messages/*"),
        ("FROM /messages//x INTO $upstream", "/", "expected a name or `*` after `/`, found `/`", "write one `/` between names"),
        ("FROM /messages/modules/'m' INTO $upstream", "'m'", "expected a name or `*` after `/`, found `'m'`", "write the name without quotes"),
        ("FROM /messages/* INTO$upstream", "INTO$upstream", "expected WHERE or INTO, found `INTO$upstream`", "put a blank after INTO: INTO $upstream"),
        ("FROM /messages/* WHERE a = 'x' into$upstream", "into$upstream", "expected an operator or INTO, found `into$upstream`", "put a blank after into: into $upstream"),
        ("FROM /messages/* WHERE a = 'x' INTOBrokeredEndpoint('/modules/m/inputs/i')", "INTOBrokeredEndpoint", "expected an operator or INTO, found `INTOBrokeredEndpoint`", "put a blank after INTO: INTO BrokeredEndpoint"),
        ("FROM /messages/* -- all\nINTO $upstream", "--", "expected WHERE or INTO, found `--`", "write a comment as /* .. */"),
        ("FROM /messages/* INTO $upstream -- all", "--", "expected the end of the route, found `--`", "write a comment as /* .. */"),
        ("FROM /messages/* INTO $upstream // all", "/", "expected the end of the route, found `/`", "write a comment as /* .. */"),
        ("FROM /messages/* INTO $upstream # all", "#", "expected the end of the route, found `#`", "write a comment as /* .. */"),
        ("FROM /messages/* INTO $upstream /* all", "/", "expected the end of the route, found `/`", "the comment is not closed: write */ at its end"),
        ("FROM /messages/* WHERE a = 'x' /* all INTO $upstream", "*", "expected a value, found `*`", "the comment is not closed: write */ at its end"),
        ("FROM /messages/* INTO $upstream \"x\"", "\"x\"", "expected the end of the route, found `\"x\"`", "take out what follows the sink"),
        ("FROM /messages/* WEHRE a = 'x' INTO $upstream", "WEHRE", "expected WHERE or INTO, found `WEHRE`", "write WHERE instead of `WEHRE`"),
        ("FROM /messages/* IF a = 'x' INTO $upstream", "IF", "expected WHERE or INTO, found `IF`", "write WHERE instead of `IF`"),
        ("FROM /messages/*WHERE a = 'x' INTO $upstream", "a", "expected WHERE or INTO, found `a`", "put a blank between `*` and `WHERE`"),
        ("FROM /messages/*INTO $upstream", "$upstream", "expected WHERE or INTO, found `$upstream`", "put a blank between `*` and `INTO`"),
        ("FROM /messages/* INOT $upstream", "INOT", "expected WHERE or INTO, found `INOT`", "write INTO instead of `INOT`"),
        ("FROM /messages/* INTOO $upstream", "INTOO", "expected WHERE or INTO, found `INTOO`", "write INTO instead of `INTOO`"),
        ("FROM /messages/* TO $upstream", "TO", "expected WHERE or INTO, found `TO`", "write INTO instead of `TO`"),
        ("FROM /messages/* $upstream", "$upstream", "expected WHERE or INTO, found `$upstream`", "write INTO in front of $upstream"),
        (r#"FROM /messages/* BrokeredEndpoint("/modules/m/inputs/i")"#, "BrokeredEndpoint", "expected WHERE or INTO, found `BrokeredEndpoint`", "write INTO in front of BrokeredEndpoint"),
        ("FROM /messages/* level = 'x' INTO $upstream", "level", "expected WHERE or INTO, found `level`", "write WHERE in front of the condition"),
        ("FROM /messages/* NOT IS_DEFINED(a) INTO $upstream", "NOT", "expected WHERE or INTO, found `NOT`", "write WHERE in front of the condition"),
        ("FROM /messages/*, /other INTO $upstream", ",", "expected WHERE or INTO, found `,`", "one route has one source: write a route for each"),
        ("FROM /messages/*", "", "expected WHERE or INTO, found the end of the route", r#"end the route with INTO $upstream or INTO BrokeredEndpoint("/modules/<module>/inputs/<input>")"#),
        ("FROM /messages/* WHERE INTO $upstream", "INTO", "expected a value, found `INTO`", "write a condition after WHERE, or take WHERE out: then the route takes all messages of its source"),
        ("FROM /messages/* WHERE a = 'b' $upstream", "$upstream", "expected an operator or INTO, found `$upstream`", "write INTO in front of $upstream"),
        ("FROM /messages/* WHERE a = 'b' INOT $upstream", "INOT", "expected an operator or INTO, found `INOT`", "write INTO instead of `INOT`"),
        ("FROM /messages/* WHERE a = 'b'", "", "expected an operator or INTO, found the end of the route", r#"end the route with INTO $upstream or INTO BrokeredEndpoint("/modules/<module>/inputs/<input>")"#),
        ("FROM /messages/* WHERE a = 'b' WHERE c = 'd' INTO $upstream", "WHERE", "expected an operator or INTO, found `WHERE`", "one WHERE is enough: join conditions with AND or OR"),
        ("FROM /messages/* INTO $upsteam", "$upsteam", "unknown system endpoint `$upsteam`", "write $upstream instead of `$upsteam`"),
        ("FROM /messages/* INTO upstream", "upstream", "unknown endpoint `upstream`", "write $upstream instead of `upstream`"),
        ("FROM /messages/* INTO iothub", "iothub", "unknown endpoint `iothub`", "write $upstream instead of `iothub`"),
        ("FROM /messages/* INTO {$upstream}", "{", "expected a sink, found `{`", "write $upstream without braces"),
        ("FROM /messages/* INTO '$upstream'", "'$upstream'", "expected a sink, found `'$upstream'`", "write $upstream without quotes"),
        ("FROM /messages/* INTO INTO $upstream", "INTO", "expected a sink, found `INTO`", "one INTO is enough"),
        (r#"FROM /messages/* INTO BrokeredEndpont("/modules/m/inputs/i")"#, "BrokeredEndpont", "unknown endpoint `BrokeredEndpont`", "write BrokeredEndpoint instead of `BrokeredEndpont`"),
        ("FROM /messages/* INTO BrokeredEndpoint", "", "expected `(`, found the end of the route", r#"write $upstream or BrokeredEndpoint("/modules/<module>/inputs/<input>")"#),
        ("FROM /messages/* INTO BrokeredEndpoint()", ")", "expected the endpoint in quotes, found `)`", r#"write $upstream or BrokeredEndpoint("/modules/<module>/inputs/<input>")"#),
        ("FROM /messages/* INTO BrokeredEndpoint(/modules/m/inputs/i)", "/", "expected the endpoint in quotes, found `/`", r#"put the address in quotes: BrokeredEndpoint("/modules/<module>/inputs/<input>")"#),
        (r#"FROM /messages/* INTO BrokeredEndpoint("/modules/m/inputs/i", "/modules/n/inputs/i")"#, ",", "expected `)`, found `,`", "BrokeredEndpoint takes one address: write a route for each"),
        (r#"FROM /messages/* INTO BrokeredEndpoint("/modules/m/inputs/i""#, "", "expected `)`, found the end of the route", r#"write $upstream or BrokeredEndpoint("/modules/<module>/inputs/<input>")"#),
        (r#"FROM /messages/* INTO "/modules/m/inputs/i""#, r#""/modules/m/inputs/i""#, r#"expected a sink, found `"/modules/m/inputs/i"`"#, r#"write BrokeredEndpoint("/modules/<module>/inputs/<input>")"#),
        ("FROM /messages/* INTO /modules/m/inputs/i", "/", "expected a sink, found `/`", r#"write BrokeredEndpoint("/modules/<module>/inputs/<input>")"#),
        ("FROM /messages/* INTO $upstream WHERE a = 'b'", "WHERE", "expected the end of the route, found `WHERE`", "move WHERE in front of INTO"),
        (r#"FROM /messages/* INTO $upstream INTO BrokeredEndpoint("/modules/m/inputs/i")"#, "INTO", "expected the end of the route, found `INTO`", "take out what follows the sink"),
        (r#"FROM /messages/* INTO $upstream, BrokeredEndpoint("/modules/m/inputs/i")"#, ",", "expected the end of the route, found `,`", "take out what follows the sink"),
        ("FROM /messages/* INTO $upstream AND a = 'b'", "AND", "expected the end of the route, found `AND`", "move the condition in front of INTO, after WHERE"),
        ("FROM /messages/* INTO $upstream;", ";", "`;` has no meaning in a route", "take it out: a route needs no semicolon"),
        ("FROM /messages/* INTO $upstream)", ")", "expected the end of the route, found `)`", "take it out: no parenthesis is open"),
        ("FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO \u{201c}$upstream\u{201d}", "\u{201c}$upstream\u{201d}", "unknown endpoint `\u{201c}$upstream\u{201d}`", "write $upstream without quotes"),
        ("FROM /messages/* WHERE level = \u{201c}very high\u{201d} INTO $upstream", "high\u{201d}", "expected an operator or INTO, found `high\u{201d}`", r#"the text has typographic quotes: replace them by " or '"#),
        ("FROM /messages/* INTO BrokeredEndpoint(\u{201c}/modules/m/inputs/i\u{201d})", "\u{201c}", "expected the endpoint in quotes, found `\u{201c}`", r#"the text has typographic quotes: replace them by " or '"#),
        ("FROM\u{200b} /messages/* INTO $upstream", "FROM\u{200b}", "expected FROM, found `FROM\u{200b}`", "the text has the invisible character U+200B: take it out"),
        ("FROM /* INTO upstream /* all */", "upstream", "unknown endpoint `upstream`", "write $upstream instead of `upstream`"),
        (r#"FROM /messages/* WHERE a = 'b' BrokeredEndpoint("/modules/m/inputs/i")"#, "BrokeredEndpoint", "expected an operator or INTO, found `BrokeredEndpoint`", "write INTO in front of BrokeredEndpoint"),
        ("FROM /messages/* AND a = 'b' INTO $upstream", "AND", "expected WHERE or INTO, found `AND`", "the condition begins with WHERE"),
        ("FROM /messages/* FROM /x INTO $upstream", "FROM", "expected WHERE or INTO, found `FROM`", "one FROM is enough: write a route for each source"),
        ("FROM /messages/* INTO", "", "expected a sink, found the end of the route", r#"write $upstream or BrokeredEndpoint("/modules/<module>/inputs/<input>")"#),
        (r#"FROM /messages/* INTO BrokeredEndpoint("/modules/m/inputs/i") WHERE a"#, "WHERE", "expected the end of the route, found `WHERE`", "move WHERE in front of INTO"),
    ]);
}

#[rustfmt::skip]
#[test]
fn conditions_in_other_languages() {
    check(parse::condition, &[
        ("NOT IS_DEFINED $connectionModuleId", "$connectionModuleId", "expected an operator or the end of the condition, found `$connectionModuleId`", "write IS_DEFINED($connectionModuleId)"),
        ("NOT is_defined connectionModuleId", "connectionModuleId", "expected an operator or the end of the condition, found `connectionModuleId`", "write is_defined(connectionModuleId)"),
        ("length 'x' > 3", "'x'", "expected an operator or the end of the condition, found `'x'`", "write length('x')"),
        ("length IN (3)", "IN", "expected an operator or the end of the condition, found `IN`", "there is no IN"),
        ("level = 'it's ok'", "ok'", "expected an operator or the end of the condition, found `ok'`", "put text with a ' in double quotes, or write \\' for it"),
        ("$body[\"a\"] = 'x'", "[\"a\"]", "a bracket holds an index, not a name", "write $body.a"),
        ("$body.a[\"b\"] = 'x'", "[\"b\"]", "a bracket holds an index, not a name", "write $body.a.b"),
        ("a = 'x' -- comment", "--", "expected an operator or the end of the condition, found `--`", "write a comment as /* .. */"),
        ("a = 'x' // comment", "/", "expected a value, found `/`", "write a comment as /* .. */"),
        ("a = 'x' # comment", "#", "expected an operator or the end of the condition, found `#`", "write a comment as /* .. */"),
        ("a = 'x' /* unclosed", "*", "expected a value, found `*`", "the comment is not closed: write */ at its end"),
        ("level == 'high'", "=", "expected a value, found `=`", "write one `=` for equality"),
        ("level === 'high'", "=", "expected a value, found `=`", "write one `=` for equality"),
        ("level =< 'high'", "<", "expected a value, found `<`", r#"write <= for "less than or equal""#),
        ("level => 'high'", ">", "expected a value, found `>`", r#"write >= for "greater than or equal""#),
        ("level <=> 'high'", ">", "expected a value, found `>`", r#"write = for "equal", != for "not equal""#),
        ("level < > 'high'", ">", "expected a value, found `>`", "write <> or != without a blank"),
        ("level ! = 'high'", "!", "expected an operator or the end of the condition, found `!`", "write != without a blank"),
        ("level != = 'high'", "=", "expected a value, found `=`", "the comparisons are =, !=, <, <=, > and >="),
        ("level = 'a' && b = 'c'", "&&", "expected an operator or the end of the condition, found `&&`", "write AND instead of &&"),
        ("level = 'a' & b = 'c'", "&", "expected an operator or the end of the condition, found `&`", "write AND instead of &"),
        ("level = 'a' | b = 'c'", "|", "expected an operator or the end of the condition, found `|`", "write OR between conditions, || between texts"),
        ("level = 'a' || b = 'c'", "=", "`||` joins texts, not conditions", "write OR between conditions"),
        ("is_defined(a) || is_defined(b)", "||", "`||` joins texts, not conditions", "write OR between conditions"),
        ("(a = 'x') || (b = 'y')", "||", "`||` joins texts, not conditions", "write OR between conditions"),
        ("!is_defined(a)", "!is_defined", "there is no function `!is_defined`", "write NOT is_defined(...) instead of `!`"),
        ("!(a = 'b')", "!", "there is no function `!`", "write NOT (...) instead of !(...)"),
        ("! a", "a", "expected an operator or the end of the condition, found `a`", "write NOT instead of `!`"),
        ("NTO is_defined(a)", "is_defined", "expected an operator or the end of the condition, found `is_defined`", "write NOT instead of `NTO`"),
        ("level = 'a' adn b = 'c'", "adn", "expected an operator or the end of the condition, found `adn`", "write AND instead of `adn`"),
        ("level = 'a' ro b = 'c'", "ro", "expected an operator or the end of the condition, found `ro`", "write OR instead of `ro`"),
        ("level IN ('a', 'b')", "IN", "expected an operator or the end of the condition, found `IN`", "there is no IN: write level = 'a' OR level = 'b'"),
        ("level NOT IN ('a')", "NOT", "expected an operator or the end of the condition, found `NOT`", "there is no NOT IN: write level != 'a' AND level != 'b'"),
        ("NOT level IN ('a', 'b')", "IN", "expected an operator or the end of the condition, found `IN`", "there is no IN: write level = 'a' OR level = 'b'"),
        ("level LIKE 'a%'", "LIKE", "expected an operator or the end of the condition, found `LIKE`", "there is no LIKE between values: write starts_with(level, 'a'), ends_with(level, 'a') or contains(level, 'a')"),
        ("level NOT LIKE 'a%'", "NOT", "expected an operator or the end of the condition, found `NOT`", "there is no LIKE between values: write NOT starts_with(level, 'a'), NOT ends_with(level, 'a') or NOT contains(level, 'a')"),
        ("level IS NULL", "IS", "expected an operator or the end of the condition, found `IS`", "write NOT is_defined(level) for a property that is not there"),
        ("$body.x IS NOT NULL", "IS", "expected an operator or the end of the condition, found `IS`", "write is_defined($body.x)"),
        ("level BETWEEN 1 AND 5", "BETWEEN", "expected an operator or the end of the condition, found `BETWEEN`", "there is no BETWEEN: write level >= 1 AND level <= 9"),
        ("level NOT BETWEEN 1 AND 5", "NOT", "expected an operator or the end of the condition, found `NOT`", "there is no BETWEEN: write level < 1 OR level > 9"),
        ("level CONTAINS 'x'", "CONTAINS", "expected an operator or the end of the condition, found `CONTAINS`", "there is no CONTAINS between values: write starts_with(level, 'a'), ends_with(level, 'a') or contains(level, 'a')"),
        ("a EQ 'b'", "EQ", "expected an operator or the end of the condition, found `EQ`", "write = instead of EQ"),
        ("a \u{2212} b = 1", "\u{2212}", "expected an operator or the end of the condition, found `\u{2212}`", "write a plain -"),
        ("a \u{2260} b", "\u{2260}", "expected an operator or the end of the condition, found `\u{2260}`", "write !="),
        ("a \u{2264} b", "\u{2264}", "expected an operator or the end of the condition, found `\u{2264}`", "write <="),
    ]);
}

#[rustfmt::skip]
#[test]
fn conditions_that_end_too_early_or_too_late() {
    check(parse::condition, &[
        ("(a = 'b'", "(", "the parenthesis that opens here is not closed", "write `)` at the end of the condition"),
        ("((a = 'b') AND c", "(", "the parenthesis that opens here is not closed", "write `)` at the end of the condition"),
        ("is_defined(a", "(", "the parenthesis that opens here is not closed", "write `)` at the end of the condition"),
        ("is_defined(a b)", "b", "expected an operator, `,` or `)`, found `b`", "put a comma between arguments"),
        ("starts_with(a 'x')", "'x'", "expected an operator, `,` or `)`, found `'x'`", "put a comma between arguments"),
        ("concat(a, b c)", "c", "expected an operator, `,` or `)`, found `c`", "put a comma between arguments"),
        ("starts_with(a, 'x'", "(", "the parenthesis that opens here is not closed", "write `)` at the end of the condition"),
        ("(a b)", "b", "expected an operator or `)`, found `b`", "join conditions with AND or OR"),
        ("a = 'b')", ")", "expected an operator or the end of the condition, found `)`", "take it out: no parenthesis is open"),
        ("a, b", ",", "expected an operator or the end of the condition, found `,`", "join conditions with AND or OR"),
        ("()", ")", "expected a value, found `)`", "write a condition in the parentheses"),
        ("a = ", "", "expected a value, found the end of the condition", "write a value or a condition after =, or take = out"),
        ("a = 'b' AND", "", "expected a value, found the end of the condition", "write a value or a condition after AND, or take AND out"),
        ("a = 'b' AND AND c", "AND", "expected a value, found `AND`", "write a condition in front of AND"),
        ("AND a", "AND", "expected a value, found `AND`", "write a condition in front of AND"),
        ("a = 'b' c = 'd'", "c", "expected an operator or the end of the condition, found `c`", "join conditions with AND or OR"),
        ("5 -3 > 1", "-3", "expected an operator or the end of the condition, found `-3`", "put a blank after `-`: - 3"),
        ("a -b", "-b", "expected an operator or the end of the condition, found `-b`", "put a blank after `-`: - b"),
        ("a- b > 1", "b", "expected an operator or the end of the condition, found `b`", "`a-` is read as the name of a property: for an operator write a -"),
        ("a +b", "+b", "expected an operator or the end of the condition, found `+b`", "put a blank after `+`: + b"),
        ("a ||b", "||b", "expected an operator or the end of the condition, found `||b`", "put a blank after `||`: || b"),
        ("a|| 'x'", "'x'", "expected an operator or the end of the condition, found `'x'`", "`a||` is read as the name of a property: for an operator write a ||"),
        ("-abs(x) > 1", "-abs", "there is no function `-abs`", "operators need a space on both sides: - abs(...)"),
        ("a-abs(x) > 1", "a-abs", "there is no function `a-abs`", "operators need a space on both sides: a - abs(...)"),
        ("a 'x'", "'x'", "expected an operator or the end of the condition, found `'x'`", "put an operator between them, as in a = 'x'"),
        ("'open", "'", "the string that opens here is not closed", "add the closing '"),
        (r#""open"#, r#"""#, "the string that opens here is not closed", r#"add the closing ""#),
        (r"'a\n'", r"\n", "unknown escape in a string", r#"write \" \' \\ or \u and four hex digits"#),
        ("a[0] = 1", "a[0]", "`[` and `]` cannot be in a name", "an index is possible in the body only, as in $body.values[0]"),
        ("body.a[0] = 1", "body.a[0]", "`[` and `]` cannot be in a name", "write $body.a[0] for a value of the body"),
        ("$body.a [0] = 1", "[0]", "`[` and `]` cannot be in a name", "an index follows its name at once, as in $body.values[0]"),
        ("a ? b : c", "?", "`?` has no meaning in a route", r#"write a ?? b for "a, or b if a is not defined""#),
        ("a = b;", ";", "`;` has no meaning in a route", "take it out: a route needs no semicolon"),
        (r"a \ b", r"\", r"`\` has no meaning in a route", "write / between the names of a path"),
        ("{a} = 'b'", "a", "expected a system property, found `a`", "write {$name}"),
        ("{$a = 'b'", "=", "expected `}`, found `=`", "write {$name}"),
        ("{$a", "", "expected `}`, found the end of the condition", "write {$name}"),
        ("'a' (b)", "(", "expected an operator or the end of the condition, found `(`", "put an operator between the value and `(`"),
        ("FROM /messages/* INTO $upstream", "FROM", "expected a condition, found `FROM`", "give the condition alone: what stands between WHERE and INTO"),
        ("a = 'b' INTO $upstream", "INTO", "expected the end of the condition, found `INTO`", "give the condition alone: what stands between WHERE and INTO"),
        ("INTO $upstream", "INTO", "expected a condition, found `INTO`", "give the condition alone: what stands between WHERE and INTO"),
        ("a = 'b' WHERE c = 'd'", "WHERE", "expected the end of the condition, found `WHERE`", "give the condition alone: what stands between WHERE and INTO"),
        ("FROM /messages/* WHERE a = 'b' INTO $upstream", "FROM", "expected a condition, found `FROM`", "give the condition alone: what stands between WHERE and INTO"),
        ("WHERE a = 'b'", "WHERE", "expected a condition, found `WHERE`", "give the condition alone: what stands between WHERE and INTO"),
        ("a := b", ":", "`:` has no meaning in a route", "take it out, or put text in quotes"),
        ("a @ b", "@", "`@` has no meaning in a route", "take it out, or put text in quotes"),
        ("is_defined(a) = true true", "true", "expected an operator or the end of the condition, found `true`", "join conditions with AND or OR"),
        ("NOT", "", "expected a value, found the end of the condition", "write a value or a condition after NOT, or take NOT out"),
        ("-", "", "expected a value, found the end of the condition", "write a value or a condition after -, or take - out"),
        ("a = NOT", "", "expected a value, found the end of the condition", "write a value or a condition after NOT, or take NOT out"),
        ("f(a,)", ")", "expected a value, found `)`", "write an argument after `,`, or take `,` out"),
        ("f(,a)", ",", "expected a value, found `,`", "write a property name, a string in quotes, a number, NOT or a function such as IS_DEFINED(name)"),
        ("a AND (", "", "expected a value, found the end of the condition", "write a property name, a string in quotes, a number, NOT or a function such as IS_DEFINED(name)"),
        ("a = 'x'AND b = 'y'", "b", "expected an operator or the end of the condition, found `b`", "`'x'AND` is read as the name of a property: put a blank after the closing quote, 'x' AND"),
        ("IN ('a')", "IN", "there is no function `IN`", "there is no IN: write name = 'a' OR name = 'b'"),
        ("level = 'it\u{2019}s' AND (b", "(", "the parenthesis that opens here is not closed", "write `)` at the end of the condition"),
        ("a >> b", ">", "expected a value, found `>`", "the comparisons are =, !=, <, <=, > and >="),
        ("a ** b", "**", "expected an operator or the end of the condition, found `**`", "write power(a, b)"),
        ("case when a then b end", "when", "expected an operator or the end of the condition, found `when`", "join conditions with AND or OR"),
        ("$body.flag IS TRUE", "IS", "expected an operator or the end of the condition, found `IS`", "write $body.flag = true"),
        ("a XOR b", "XOR", "expected an operator or the end of the condition, found `XOR`", "write != between conditions in parentheses"),
        ("\u{201c}$body.a[0]\u{201d} = 1", "\u{201c}$body.a[0]\u{201d}", "`[` and `]` cannot be in a name", r#"the text has typographic quotes: replace them by " or '"#),
        ("NOT a LIKE 'x'", "LIKE", "expected an operator or the end of the condition, found `LIKE`", "there is no LIKE between values: write starts_with(a, 'a'), ends_with(a, 'a') or contains(a, 'a')"),
    ]);
}

#[rustfmt::skip]
#[test]
fn sources() {
    let read = |text: &str| parse::source(text).map(|segments| segments.len());
    check(read, &[
        ("", "", "expected a source such as /messages/*, found the end of the source", "start the source with `/`"),
        ("messages", "messages", "expected a source such as /messages/*, found `messages`", "start the source with `/`"),
        ("/messages/* INTO $upstream", "INTO", "expected the end of the source, found `INTO`", "write a path"),
        ("FROM /messages/*", "FROM", "expected a source such as /messages/*, found `FROM`", "start the source with `/`"),
    ]);
    assert_eq!(parse::source(" /messages/* ").map(|segments| segments.len()), Ok(2));
}

#[test]
fn what_is_legal_though_it_looks_odd() {
    let table = [
        ("level='x'", "level = 'x'"),
        ("IS_DEFINED ($x)", "IS_DEFINED($x)"),
        ("a\u{a0}=\u{2003}'x'\u{3000}AND\u{a0}b", "a = 'x' AND b"),
        ("a || b = 'xy'", "a || b = 'xy'"),
        ("a = 'x' || b = $body.c", "a = 'x' || b = $body.c"),
        ("is_defined(a)AND(b)", "is_defined(a) AND b"),
        ("NOT(a)", "NOT a"),
        ("temp+1 = a-b", "temp+1 = a-b"),
        ("level = 'it\u{2019}s'", "level = 'it\u{2019}s'"),
    ];
    for (text, expected) in table {
        let got = parse::condition(text).map_or_else(|e| e.to_string(), |ast| ast.to_string());
        assert_eq!(got, expected, "{text}");
    }
}
