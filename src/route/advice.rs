//! What somebody who wrote something else may have meant.
//!
//! Owns: the texts that say what to write instead. Must not know: the grammar's state, types.

#[cfg(test)]
mod tests;

use super::error::CompileError;
use super::functions;
use super::syntax::{Ast, Node, Operator};

/// The words round a place in the text; empty where there is none.
#[derive(Clone, Copy)]
pub(super) struct Around<'t> {
    pub(super) before: &'t str,
    /// Whether `before` is a name.
    pub(super) name_before: bool,
    pub(super) found: &'t str,
    pub(super) after: &'t str,
}

/// Runs of ID characters that somebody may take for operators, longer ones first, and what to write.
const OPERATORS: [(&str, &str); 10] = [
    ("&&", "AND"),
    ("||", "||"),
    ("&", "AND"),
    ("|", "OR"),
    ("!", "NOT"),
    ("+", "+"),
    ("*", "*"),
    ("%", "%"),
    ("^", "power(a, b)"),
    ("-", "-"),
];

/// Functions whose value is true or false (`edgehub.md` 4.6).
const TRUTH_FUNCTIONS: [&str; 9] = [
    "is_bool",
    "is_defined",
    "is_null",
    "is_number",
    "is_string",
    "starts_with",
    "ends_with",
    "contains",
    "twin_change_includes",
];

/// "write WHERE instead of `WEHRE`", if `word` is a slip of one of the candidates or means it elsewhere.
pub(super) fn keyword(word: &str, candidates: &[&'static str]) -> Option<String> {
    let synonym = match &word.to_ascii_uppercase()[..] {
        "TO" | "SINK" => "INTO",
        "IF" | "WHEN" | "HAVING" | "FILTER" => "WHERE",
        _ => "",
    };
    let near = || nearest(word, candidates.iter().copied());
    let meant = candidates.iter().copied().find(|c| *c == synonym).or_else(near)?;
    Some(format!("write {meant} instead of `{word}`"))
}

/// `INTO$upstream` is one name.
pub(super) fn glued_into(word: &str) -> Option<String> {
    let (into, sink) = word.split_at_checked(4)?;
    let is_sink = sink.starts_with('$') || sink.eq_ignore_ascii_case("BrokeredEndpoint");
    (into.eq_ignore_ascii_case("INTO") && is_sink)
        .then(|| format!("put a blank after {into}: {into} {sink}"))
}

/// Comments of other languages, and one that is not closed. `before` and `found` are words that follow one another.
pub(super) fn comment(before: &str, found: &str) -> Option<&'static str> {
    if before == "/" && found == "*" {
        return Some("the comment is not closed: write */ at its end");
    }
    let other = found.starts_with("--") || found.starts_with('#') || (before, found) == ("/", "/");
    other.then_some("write a comment as /* .. */, or take it out")
}

/// `$body['a'].b[0]` -> `$body.a.b[0]`. The word is without `$`; `None` = it asks for no name in brackets.
pub(super) fn body_with_dots(word: &str) -> Option<String> {
    let mut rest =
        word.split_at_checked(4).filter(|(body, _)| body.eq_ignore_ascii_case("body"))?.1;
    if !rest.starts_with('[') {
        return None;
    }
    let mut path = "$body".to_owned();
    while let Some((before, after)) = rest.split_once('[') {
        let (inner, next) = after.split_once(']')?;
        path.push_str(before);
        match inner.trim_matches(['\'', '"']) {
            "" => return None,
            index if index.bytes().all(|b| b.is_ascii_digit()) => {
                path.push_str(&format!("[{index}]"))
            }
            name => path.push_str(&format!(".{name}")),
        }
        rest = next;
    }
    path.push_str(rest);
    path.starts_with("$body.").then_some(path)
}

/// For an endpoint that is none: a name, or a text in quotes.
pub(super) fn endpoint(word: &str) -> String {
    let plain = word.trim_matches(|c: char| is_quote(c) || c == '\'' || c == '`');
    if plain.eq_ignore_ascii_case("$upstream") {
        return "write $upstream without quotes".into();
    }
    if let Some(meant) = nearest(plain, ["upstream", "$upstream", "iothub", "BrokeredEndpoint"]) {
        let meant = if meant == "BrokeredEndpoint" { meant } else { "$upstream" };
        return format!("write {meant} instead of `{word}`");
    }
    if plain.starts_with('/') || plain.contains("modules") {
        return "write BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")".into();
    }
    "write $upstream or BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")".into()
}

/// For a character that no token begins with.
pub(super) fn stray(c: char) -> &'static str {
    match c {
        ';' => "take it out: a route needs no semicolon",
        '\\' => "write / between the names of a path; in a string write \\\\",
        '?' => {
            "write a ?? b for \"a, or b if a is not defined\"; there is no other operator with `?`"
        }
        _ => "take it out, or put text in quotes",
    }
}

/// For a name with brackets.
pub(super) fn brackets(word: &str) -> String {
    let name: String = word.chars().take_while(|c| !"[]".contains(*c)).collect();
    match name.get(..5).filter(|start| start.eq_ignore_ascii_case("body.")) {
        Some(_) => format!("write ${word} for a value of the body"),
        None if name.is_empty() => {
            "an index follows its name at once, as in $body.values[0]".into()
        }
        None => "an index is possible in the body only, as in $body.values[0]".into(),
    }
}

/// Where an operator should be: the SQL that this language has not, slips, missing blanks.
pub(super) fn for_no_operator(around: &Around<'_>) -> Option<String> {
    let &Around { before, name_before, found, after } = around;
    let sink = ["$upstream", "BrokeredEndpoint"].iter().any(|s| s.eq_ignore_ascii_case(found));
    if sink {
        return Some(format!("write INTO in front of {found}"));
    }
    if let Some(advice) = glued_into(found).or_else(|| comment("", found).map(str::to_owned)) {
        return Some(advice);
    }
    if let Some(advice) = sql(around).or_else(|| keyword(found, &["INTO", "AND", "OR"])) {
        return Some(advice);
    }
    let names_value = found.starts_with(|c: char| is_plain(c) || "$'\"".contains(c));
    if names_value && functions::find(before).is_some() {
        return Some(format!(
            "write {before}({found}): what a function takes stands in parentheses"
        ));
    }
    if found == "!" && after == "=" {
        return Some("write != without a blank".into());
    }
    if before == "!" {
        return Some("write NOT instead of `!`".into());
    }
    if nearest(before, ["NOT"]).is_some() {
        return Some(format!("write NOT instead of `{before}`"));
    }
    if let Some(advice) = suspicious_name(before).filter(|_| name_before) {
        return Some(advice);
    }
    if found == "(" {
        return Some("put an operator between the value and `(`".into());
    }
    let glued = |&(sign, _): &(&str, &str)| sign != "!" && found != sign && found.starts_with(sign);
    let (sign, meant) = OPERATORS.into_iter().find(glued)?;
    Some(format!("put a blank after `{sign}`: {meant} {}", &found[sign.len()..]))
}

/// Operators of SQL and of programming languages.
fn sql(&Around { before, found, after, .. }: &Around<'_>) -> Option<String> {
    let name = if !before.is_empty() && before.chars().all(|c| is_plain(c) || c == '$') {
        before
    } else {
        "name"
    };
    let (is, other) = (found.to_ascii_uppercase(), after.to_ascii_uppercase());
    let (not, word) = if is == "NOT" { (true, &other) } else { (false, &is) };
    let put = if not { "NOT " } else { "" };
    Some(match &word[..] {
        "IN" if not => format!("there is no NOT IN: write {name} != 'a' AND {name} != 'b'"),
        "IN" => format!("there is no IN: write {name} = 'a' OR {name} = 'b'"),
        "LIKE" | "MATCHES" | "REGEXP" | "RLIKE" | "CONTAINS" => format!(
            "there is no {word} between values: write {put}starts_with({name}, 'a'), {put}ends_with({name}, 'a') or \
             {put}contains({name}, 'a')"
        ),
        "BETWEEN" if not => format!("there is no BETWEEN: write {name} < 1 OR {name} > 9"),
        "BETWEEN" => format!("there is no BETWEEN: write {name} >= 1 AND {name} <= 9"),
        "IS" if other == "NOT" || other == "DEFINED" => {
            format!(
                "write is_defined({name}); for a value of the body that is not null, write {name} != null"
            )
        }
        "IS" if other == "TRUE" || other == "FALSE" => {
            format!("write {name} = {}", other.to_ascii_lowercase())
        }
        "IS" => format!(
            "write NOT is_defined({name}) for a property that is not there; for a value of the body that is null or \
             not there, write {name} = null"
        ),
        "&&" | "&" => format!("write AND instead of {found}"),
        "|" => "write OR between conditions, || between texts".into(),
        "**" => "write power(a, b)".into(),
        "XOR" | "^" => "write != between conditions in parentheses".into(),
        "EQ" | "EQUALS" | "IS_EQUAL" => format!("write = instead of {found}"),
        "NE" | "NEQ" => format!("write != instead of {found}"),
        "LT" => format!("write < instead of {found}"),
        "LE" | "LTE" => format!("write <= instead of {found}"),
        "GT" => format!("write > instead of {found}"),
        "GE" | "GTE" => format!("write >= instead of {found}"),
        "\u{2013}" | "\u{2014}" | "\u{2212}" => "write a plain -".into(),
        "\u{2260}" => "write !=".into(),
        "\u{2264}" => "write <=".into(),
        "\u{2265}" => "write >=".into(),
        "MOD" => format!("write % instead of {found}"),
        "DIV" => format!("write / instead of {found}"),
        _ => return None,
    })
}

/// For a call of what can be no function's name: what is wrong, what to do.
pub(super) fn no_function(name: &str) -> Option<(String, String)> {
    let what = format!("there is no function `{name}`");
    let todo = if name == "!" {
        "write NOT (...) instead of !(...)".into()
    } else if let Some(negated) = name.strip_prefix('!') {
        format!("write NOT {negated}(...) instead of `!`")
    } else if ["IN", "LIKE", "BETWEEN"].iter().any(|word| word.eq_ignore_ascii_case(name)) {
        sql(&Around { before: "", name_before: false, found: name, after: "" })?
    } else if name.chars().all(|c| is_plain(c) && c != '-') {
        return None;
    } else {
        let minus = || name.split_once('-').map(|(a, b)| format!("{a} - {b}"));
        spaced(name).or_else(minus).map_or_else(
            || "names of functions have letters and _ only".to_owned(),
            |spaced| format!("operators need a space on both sides: {spaced}(...)"),
        )
    };
    Some((what, todo))
}

/// For a `||` that stands between conditions: what is wrong, what to do. Only where no types make it right.
pub(super) fn or_instead(
    operator: Operator,
    left: &Ast,
    right: &Ast,
) -> Option<(&'static str, &'static str)> {
    let between_conditions = operator == Operator::Concat && (is_truth(left) || is_truth(right));
    // `a = 'x' || b = 'y'` is `(a = ('x' || b)) = 'y'`: a truth value is compared with text.
    let in_a_comparison = is_comparison(operator)
        && is_text_or_number(right)
        && matches!(&left.node, Node::Binary { operator, right, .. } if is_comparison(*operator)
            && matches!(right.node, Node::Binary { operator: Operator::Concat, .. }));
    (between_conditions || in_a_comparison)
        .then_some(("`||` joins texts, not conditions", "write OR between conditions"))
}

const fn is_comparison(operator: Operator) -> bool {
    matches!(operator.level(), 3 | 4)
}

/// It has a truth value, whatever the message.
fn is_truth(ast: &Ast) -> bool {
    match &ast.node {
        Node::Bool(_) | Node::Not(_) | Node::Or(_) | Node::And(_) => true,
        Node::Binary { operator, .. } => is_comparison(*operator),
        Node::Call { name, .. } => TRUTH_FUNCTIONS.iter().any(|f| f.eq_ignore_ascii_case(name)),
        _ => false,
    }
}

/// It is text or a number, whatever the message.
fn is_text_or_number(ast: &Ast) -> bool {
    matches!(&ast.node, Node::Text(_) | Node::Number(_) | Node::Property(_))
}

/// Why the name of a property can hardly be meant as one, and what to write: it holds quotes, operators or characters that
/// nobody sees, or it is a literal in the wrong case. It is legal all the same.
pub(super) fn suspicious_name(name: &str) -> Option<String> {
    let kind =
        if name.starts_with("$body.") { "a path of the body" } else { "the name of a property" };
    let read = format!("`{name}` is read as {kind}");
    let opening = |c: char| is_quote(c) || c == '`';
    let inner = name.trim_matches(opening);
    if name.contains(is_quote) || name.contains('`') {
        return Some(match inner {
            _ if inner.starts_with('$') => format!("{read}: write {inner} without quotes"),
            _ if !name.starts_with(opening) || !name.ends_with(opening) => {
                format!("{read}: it holds a typographic quote, plain ones are ' and \"")
            }
            _ => format!(
                "{read}: write '{inner}' with plain quotes for text, {inner} without for a property"
            ),
        });
    }
    if let Some(c) = name.chars().find(|c| is_invisible(*c)) {
        return Some(format!(
            "{read}, with the invisible character U+{:04X} in it: take that out",
            u32::from(c)
        ));
    }
    if let Some(dash) = name.chars().find(|c| "\u{2013}\u{2014}\u{2212}".contains(*c)) {
        return Some(format!("{read}, with a typographic {dash}: write - with blanks for minus"));
    }
    if ["true", "false", "null", "undefined"].iter().any(|w| w.eq_ignore_ascii_case(name)) {
        return Some(format!("{read}: write {} in lower case", name.to_ascii_lowercase()));
    }
    if let Some(rest) =
        name.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(_, rest)| rest)
    {
        let text = &name[..name.len() - rest.len()];
        let keyword = ["AND", "OR", "INTO"].iter().any(|word| word.eq_ignore_ascii_case(rest));
        if rest.starts_with(char::is_alphanumeric) && !keyword {
            let whole = name.strip_suffix('\'').filter(|name| name.len() > text.len());
            let inner = whole.map_or("..", |whole| &whole[1..]);
            let escaped = inner.replace('\'', "\\'");
            return Some(match whole {
                Some(_) => format!("{read}: write \"{inner}\" in double quotes, or '{escaped}'"),
                None => format!("{read}: put text with a ' in double quotes, or write \\' for it"),
            });
        }
        return Some(format!("{read}: put a blank after the closing quote, {text} {rest}"));
    }
    if name.contains('\'') {
        return Some(format!(
            "{read}: operators need a space on both sides, and text begins with its quote"
        ));
    }
    if let Some(bare) = name.strip_suffix('!').filter(|bare| !bare.is_empty()) {
        return Some(format!("{read}: for a comparison put a blank in front of !=, {bare} != ..."));
    }
    if let Some(spaced) = spaced(name) {
        return Some(format!("{read}: for an operator write {spaced}"));
    }
    let number = name.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit());
    number.then(|| format!("{read}, not as a number: write numbers as 5, -5, 0.5, 1e3 or 0x1F"))
}

/// `a||b` -> `a || b`, `x&&y` -> `x AND y`, `!x` -> `NOT x`; a `-` only where a number or nothing stands beside it, as names
/// like `my-key` are common.
fn spaced(name: &str) -> Option<String> {
    let hit = |&(at, _): &(usize, char)| {
        OPERATORS.into_iter().find(|(sign, _)| name[at..].starts_with(sign)).map(|op| (at, op))
    };
    let (at, (sign, meant)) = name.char_indices().find_map(|place| {
        let (at, (sign, meant)) = hit(&place)?;
        let (before, after) = (&name[..at], &name[at + sign.len()..]);
        let number = |part: &str| part.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        let minus = before.is_empty() || after.is_empty() || number(after);
        (sign != "-" || minus).then_some((at, (sign, meant)))
    })?;
    let (before, after) = (&name[..at], &name[at + sign.len()..]);
    // `+5`, `-0x1F` and signs alone are no operation.
    let digits = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    if (before.is_empty() && digits(after)) || (before.is_empty() && after.is_empty()) {
        return None;
    }
    let mut spaced = String::new();
    for part in [before, meant, after] {
        if !part.is_empty() && !spaced.is_empty() {
            spaced.push(' ');
        }
        spaced.push_str(part);
    }
    Some(spaced)
}

/// Adds what is wrong with text that was pasted from a web page or a document: the likeliest reason for any error in it.
/// Inside strings in plain quotes such characters are fine, but there they are rarely alone.
pub(super) fn with_pasted(text: &str, mut error: CompileError) -> CompileError {
    let bare = outside_strings(text);
    if bare.contains(is_quote) && !error.todo.contains("without quotes") {
        error.todo.push_str("; the text has typographic quotes: replace them by \" or '");
    }
    if let Some(c) = bare.chars().find(|c| is_invisible(*c)) {
        let hint =
            format!("; the text has the invisible character U+{:04X}: take it out", u32::from(c));
        error.todo.push_str(&hint);
    }
    error
}

/// The text without what stands in plain quotes, roughly.
fn outside_strings(text: &str) -> String {
    let mut quote = None;
    let mut bare = String::new();
    for c in text.chars() {
        match quote {
            Some(open) if open == c => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None => bare.push(c),
        }
    }
    // One that is not closed says nothing about what is inside.
    if quote.is_some() { text.to_owned() } else { bare }
}

fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || "_-.".contains(c)
}

/// Quotes that word processors and web pages make of plain ones.
fn is_quote(c: char) -> bool {
    matches!(
        c,
        '\u{2018}'
            ..='\u{201f}' | '\u{2032}' | '\u{2033}' | '«' | '»' | '´' | '\u{ff02}' | '\u{ff07}'
    )
}

/// Takes no place on a screen, and is no white space.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The candidate that is nearest to `word` without regard to ASCII case, if one is near enough to be a slip of the finger.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = word.to_ascii_lowercase();
    let near =
        |candidate: &&'c str| (distance(&word, &candidate.to_ascii_lowercase()), candidate.len());
    // Two slips in a long word, one in a short one.
    let slips_max = if word.chars().count() > 5 { 2 } else { 1 };
    candidates.into_iter().min_by_key(near).filter(|candidate| near(candidate).0 <= slips_max)
}

/// How many characters must be added, taken out, replaced or swapped with their neighbour to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(ca != cb);
            let mut least = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
