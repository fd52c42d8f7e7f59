//! HTML's character references: by the names of HTML5, and by number.

/// What the numbers 0x80 to 0x9f stand for, which are no characters: those of Windows-1252, as far as it has them.
const WINDOWS: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Longest name that is looked for, without its semicolon.
const LONGEST: usize = 32;

/// The character of Windows-1252 for a C1 control; others stay.
pub(super) fn windows(c: char) -> char {
    (c as u32).checked_sub(0x80).and_then(|at| WINDOWS.get(at as usize)).copied().unwrap_or(c)
}

/// The byte of a character in Windows-1252, or in Latin-1 where that has none.
pub(super) fn windows_byte(c: char) -> Option<u8> {
    let of_table = || WINDOWS.iter().zip(0x80..).find(|(known, _)| **known == c).map(|(_, byte)| byte);
    u8::try_from(c).ok().or_else(of_table)
}

/// Replaces HTML's references once, as browsers do: some names need no semicolon.
pub(super) fn unescape(text: &str) -> String {
    replaced(text, |rest| if rest.starts_with('#') { number(rest) } else { name(rest) })
}

/// Replaces the references that end in a semicolon, once; names of Latin letters may be in capitals.
pub(super) fn unescape_whole(text: &str) -> String {
    replaced(text, |rest| {
        let end =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '#').filter(|&at| rest[at..].starts_with(';'))?;
        match rest.starts_with('#') {
            true => number(rest).filter(|(_, length)| *length == end + 1),
            false => entity(&rest[..=end]).or_else(|| capitals(&rest[..=end])).map(|found| (found, end + 1)),
        }
    })
}

/// `text` with what `find` makes of the text behind each `&`: characters, and the length of what they stand for.
fn replaced(text: &str, find: impl Fn(&str) -> Option<(String, usize)>) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match find(rest) {
            Some((characters, length)) => {
                plain.push_str(&characters);
                rest = &rest[length..];
            }
            None => plain.push('&'),
        }
    }
    plain.push_str(rest);
    plain
}

/// What `name`, with its semicolon if it has one, stands for.
fn entity(name: &str) -> Option<String> {
    let found = htmlize::ENTITIES.get(format!("&{name}").as_bytes())?;
    std::str::from_utf8(found).ok().map(str::to_owned)
}

/// The capital of what `name` in small letters stands for: `EACUTE;`.
fn capitals(name: &str) -> Option<String> {
    if name.contains(|c: char| c.is_ascii_lowercase()) || name_of_its_own(name) {
        return None;
    }
    entity(&name.to_lowercase()).map(|found| found.to_uppercase())
}

/// Whether HTML reads the start of `name` as another one: `AMPX;`.
fn name_of_its_own(name: &str) -> bool {
    self::name(name).is_some()
}

/// The longest name at the start of `rest`, and its length there.
fn name(rest: &str) -> Option<(String, usize)> {
    let end = rest.find(|c: char| "\t\n\u{c} <&#;".contains(c)).unwrap_or(rest.len());
    let end = rest.char_indices().nth(LONGEST).map_or(end, |(at, _)| at.min(end));
    let with_semicolon = end + usize::from(rest[end..].starts_with(';'));
    let mut lengths = std::iter::once(with_semicolon).chain((2..=end).rev());
    lengths.find_map(|length| Some((entity(rest.get(..length)?)?, length)))
}

/// The character of `#65;` or `#x41;` at the start of `rest`, and the reference's length there.
fn number(rest: &str) -> Option<(String, usize)> {
    let number = rest.strip_prefix('#')?;
    let hex = number.strip_prefix(['x', 'X']);
    let (radix, digits) = hex.map_or((10, number), |digits| (16, digits));
    let length = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    if length == 0 {
        return None;
    }
    let code = u32::from_str_radix(&digits[..length], radix).unwrap_or(u32::MAX);
    let semicolon = usize::from(digits[length..].starts_with(';'));
    Some((character(code), 1 + usize::from(hex.is_some()) + length + semicolon))
}

/// What a number stands for: nothing, where it is a control or no character.
fn character(code: u32) -> String {
    let no_character = code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code);
    match char::from_u32(code) {
        None | Some('\0') => char::REPLACEMENT_CHARACTER.into(),
        Some('\u{1}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}') => String::new(),
        Some(_) if no_character => String::new(),
        Some(c) => windows(c).into(),
    }
}
