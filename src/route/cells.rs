//! How many cells of a terminal a character takes, so that a caret stands under the right one.
//!
//! Invariant: letters of alphabets take one cell. It is as near as a short table comes: terminals differ in rare
//! characters and in joined emoji. Must not know: routes.

/// East Asian wide and fullwidth characters, and emoji.
const WIDE: [(u32, u32); 38] = [
    (0x1100, 0x115f),
    (0x231a, 0x231b),
    (0x2329, 0x232a),
    (0x23e9, 0x23ec),
    (0x23f0, 0x23f0),
    (0x23f3, 0x23f3),
    (0x25fd, 0x25fe),
    (0x2614, 0x2615),
    (0x2648, 0x2653),
    (0x267f, 0x267f),
    (0x2693, 0x2693),
    (0x26a1, 0x26a1),
    (0x26aa, 0x26ab),
    (0x26bd, 0x26be),
    (0x26c4, 0x26c5),
    (0x26ce, 0x26ce),
    (0x26d4, 0x26d4),
    (0x26ea, 0x26ea),
    (0x26f2, 0x26fd),
    (0x2705, 0x2705),
    (0x270a, 0x270b),
    (0x2728, 0x2728),
    (0x274c, 0x274e),
    (0x2753, 0x2757),
    (0x2795, 0x2797),
    (0x2b1b, 0x2b1c),
    (0x2b50, 0x2b55),
    (0x2e80, 0x303e),
    (0x3041, 0xa4cf),
    (0xa960, 0xa97f),
    (0xac00, 0xd7a3),
    (0xf900, 0xfaff),
    (0xfe30, 0xfe6f),
    (0xff01, 0xff60),
    (0xffe0, 0xffe6),
    (0x1f300, 0x1f6ff),
    (0x1f7e0, 0x1faff),
    (0x20000, 0x3fffd),
];

/// Marks that stand on the character before them.
const COMBINING: [(u32, u32); 25] = [
    (0x300, 0x36f),
    (0x483, 0x489),
    (0x591, 0x5bd),
    (0x5bf, 0x5bf),
    (0x5c1, 0x5c7),
    (0x610, 0x61a),
    (0x64b, 0x65f),
    (0x670, 0x670),
    (0x6d6, 0x6dc),
    (0x6df, 0x6e4),
    (0x6e7, 0x6e8),
    (0x6ea, 0x6ed),
    (0x941, 0x948),
    (0x94d, 0x94d),
    (0xe31, 0xe31),
    (0xe34, 0xe3a),
    (0xe47, 0xe4e),
    (0x1160, 0x11ff),
    (0x1ab0, 0x1aff),
    (0x1dc0, 0x1dff),
    (0x20d0, 0x20ff),
    (0x3099, 0x309a),
    (0xfe00, 0xfe0f),
    (0xfe20, 0xfe2f),
    (0xe0100, 0xe01ef),
];

/// The cells of `c`: 0, 1 or 2.
pub(super) fn of(c: char) -> usize {
    let c = u32::from(c);
    let within = |table: &[(u32, u32)]| table.iter().any(|(from, to)| (*from..=*to).contains(&c));
    match c {
        // What nearly all routes are made of.
        0..0x300 => 1,
        _ if within(&COMBINING) => 0,
        _ if within(&WIDE) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_characters() {
        let table = [
            ("a é ß ж 1 . · … \u{a0}", 1),
            ("温 度 高 あ カ 한 ： Ａ 「 😀 🚀 ⚡ ✅ 𠀀", 2),
            ("\u{301} \u{3099} \u{20d7} \u{fe0f}", 0),
        ];
        for (characters, expected) in table {
            for c in characters.chars().filter(|c| *c != ' ') {
                assert_eq!(of(c), expected, "{c:?}");
            }
        }
        for table in [&WIDE[..], &COMBINING[..]] {
            assert!(table.iter().all(|(from, to)| from <= to));
            assert!(table.windows(2).all(|two| two[0].1 < two[1].0));
        }
    }
}
