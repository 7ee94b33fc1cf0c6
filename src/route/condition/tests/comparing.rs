//! What comparisons come to.

use super::*;

#[test]
fn comparing_numbers_texts_and_truth_values() {
    check_truths(
        &sample(),
        &[
            ("1 = 1", 'T'),
            ("1 != 1", 'F'),
            ("1 <> 2", 'T'),
            ("1 < 2", 'T'),
            ("2 < 1", 'F'),
            ("1 < 1", 'F'),
            ("1 <= 1", 'T'),
            ("2 <= 1", 'F'),
            ("2 > 1", 'T'),
            ("1 > 1", 'F'),
            ("1 >= 1", 'T'),
            ("1 >= 2", 'F'),
            ("0 = - 0", 'T'),
            ("0 < - 0", 'F'),
            ("10 > 9", 'T'),
            ("1e400 = 1e400", 'T'),
            ("1e400 > 1e300", 'T'),
            ("-1e400 < 0", 'T'),
            ("0 / 0 = 0 / 0", 'U'),
            ("0 / 0 != 1", 'U'),
            ("as_number(level) < 1", 'U'),
            ("as_number(n) > 21", 'T'),
            ("as_number(inf) > 1e300", 'T'),
            ("level = 'high'", 'T'),
            ("level = 'HIGH'", 'F'),
            ("'a' < 'b'", 'T'),
            ("'B' < 'a'", 'T'),
            ("'10' < '9'", 'T'),
            ("'' < 'a'", 'T'),
            ("'a' < 'ab'", 'T'),
            ("'é' > 'z'", 'T'),
            ("'\\uFF5E' > '\\uD83D\\uDE00'", 'T'),
            ("level >= 'high'", 'T'),
            ("level <= 'high'", 'T'),
            ("empty = ''", 'T'),
            ("empty < level", 'T'),
            ("missing = 'x'", 'U'),
            ("missing <> 'x'", 'U'),
            ("missing < 'x'", 'U'),
            ("missing = missing", 'U'),
            ("none = ''", 'U'),
            ("none = none", 'U'),
            ("none != 'x'", 'U'),
            ("'x' > none", 'U'),
            ("true = true", 'T'),
            ("true = false", 'F'),
            ("false < true", 'T'),
            ("true <= false", 'F'),
            ("true >= true", 'T'),
            ("true != (missing = 'x')", 'U'),
            ("true = true = false", 'F'),
            ("NOT true = false", 'T'),
            ("undefined = undefined", 'U'),
            ("undefined <> undefined", 'U'),
            ("$a[0] = undefined", 'U'),
            ("null = null", 'T'),
            ("null != null", 'F'),
            ("null <= null", 'T'),
            ("null >= null", 'T'),
            ("null < null", 'F'),
            ("null > null", 'F'),
        ],
    );
}

#[test]
fn comparing_body_values_of_different_kinds_goes_by_kind() {
    // Rising: truth values, numbers, text, null.
    let kinds = ["$body.f", "$body.t", "$body.m", "$body.n", "$body.s", "$body.null"];
    let literals = ["false", "true", "-2.5", "3", "'text'", "null"];
    for (i, left) in kinds.iter().enumerate() {
        for (j, right) in kinds.iter().enumerate() {
            for (left, right) in [(left, right), (&literals[i], right), (left, &literals[j])] {
                let check = |operator: &str, holds: bool| {
                    let text = format!("{left} {operator} {right}");
                    assert_eq!(truth(&text, &sample()), if holds { 'T' } else { 'F' }, "{text}");
                };
                check("=", i == j);
                check("!=", i != j);
                check("<>", i != j);
                check("<", i < j);
                check("<=", i <= j);
                check(">", i > j);
                check(">=", i >= j);
            }
        }
    }
    check_truths(
        &sample(),
        &[
            ("$body.missing = null", 'T'),
            ("$body.missing <> '100'", 'T'),
            ("$body.missing = $body.null", 'T'),
            ("$body.num = 12", 'F'),
            ("$body.num = '12'", 'T'),
            ("as_number($body.num) = 12", 'T'),
            ("$body.o = null", 'U'),
            ("$body.a <> 'x'", 'U'),
            ("$body.o = $body.o", 'U'),
            ("$body.hidden = 'shade'", 'T'),
            ("$body.hollow = ''", 'F'),
            ("$body.hollow < ''", 'T'),
            ("$body.hollow <> 'x'", 'T'),
            ("$body.hollow = 5", 'F'),
            ("$body.hollow > 5", 'T'),
            ("$body.hollow = null", 'F'),
            ("$body.hollow < null", 'T'),
            ("none = $body.hollow", 'T'),
            ("none < $body.s", 'T'),
            ("$body.s > none", 'T'),
            ("none = $body.missing", 'F'),
            ("none > $body.n", 'T'),
            ("none = $body.o", 'U'),
            ("none <> 'x'", 'U'),
            ("$body.s = level", 'F'),
            ("$body.s = missing", 'U'),
            ("$body.date = '2024-01-01T00:00:00Z'", 'T'),
            ("$body.n = as_number(missing)", 'U'),
        ],
    );
}
