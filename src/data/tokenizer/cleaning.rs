//! The clean-up of captions that CLIP's authors put before their tokenizer.

use std::borrow::Cow;

use tokenizers::NormalizedString;

/// What happens to a text before it is split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleaning {
    /// Nothing but what the tokenizer's file asks for, as in Hugging Face's CLIP.
    #[default]
    None,
    /// What the official tokenizer does: mends the text as the Python package ftfy does, replaces HTML's character
    /// references twice, joins white space to single blanks and lower-cases.
    ///
    /// Of ftfy it has: straight quotes for curly ones; full-width ASCII forms and the ideographic blank as ASCII; no
    /// Latin ligatures; no control characters, byte order marks and terminal colours; NFC. It does not guess at text that
    /// was decoded in a wrong encoding. Of HTML's named references it knows those in common use, and the numbered ones.
    Official,
    /// Lower case, as SigLIP's captions were in training.
    Lower,
}

impl Cleaning {
    pub(super) fn apply(self, text: &str) -> Cow<'_, str> {
        match self {
            Cleaning::None => Cow::Borrowed(text),
            Cleaning::Lower => Cow::Owned(text.to_lowercase()),
            Cleaning::Official => {
                let text = unescape(&unescape(&mend(text)));
                Cow::Owned(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase())
            }
        }
    }
}

/// The part of ftfy that is described above.
fn mend(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A terminal's colour: escape, bracket, numbers, m.
            '\u{1b}' if chars.peek() == Some(&'[') => {
                let mut ahead = chars.clone();
                ahead.next();
                while ahead.next_if(|c| c.is_ascii_digit() || *c == ';').is_some() {}
                if ahead.next() == Some('m') {
                    chars = ahead;
                }
            }
            '\u{02bc}' | '\u{2018}'..='\u{201b}' => mended.push('\''),
            '\u{201c}'..='\u{201f}' => mended.push('"'),
            // Full-width forms lie in the order of ASCII.
            '\u{ff01}'..='\u{ff5e}' => mended.push(char::from((c as u32 - 0xff01) as u8 + b'!')),
            '\u{3000}' => mended.push(' '),
            '\u{fb00}' => mended.push_str("ff"),
            '\u{fb01}' => mended.push_str("fi"),
            '\u{fb02}' => mended.push_str("fl"),
            '\u{fb03}' => mended.push_str("ffi"),
            '\u{fb04}' => mended.push_str("ffl"),
            '\u{fb05}' | '\u{fb06}' => mended.push_str("st"),
            '\u{2028}' | '\u{2029}' | '\u{85}' => mended.push('\n'),
            '\t' | '\n' | '\u{c}' | '\r' => mended.push(c),
            '\0'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => {}
            _ => mended.push(c),
        }
    }
    let mut composed = NormalizedString::from(mended);
    composed.nfc();
    composed.get().to_owned()
}

/// Named references; those of the first row are read without a semicolon too.
const NAMES: [(&str, &str); 24] = [
    ("amp", "&"),
    ("lt", "<"),
    ("gt", ">"),
    ("quot", "\""),
    ("nbsp", "\u{a0}"),
    ("apos", "'"),
    ("hellip", "…"),
    ("ndash", "–"),
    ("mdash", "—"),
    ("lsquo", "‘"),
    ("rsquo", "’"),
    ("ldquo", "“"),
    ("rdquo", "”"),
    ("laquo", "«"),
    ("raquo", "»"),
    ("bull", "•"),
    ("middot", "·"),
    ("copy", "©"),
    ("reg", "®"),
    ("trade", "™"),
    ("deg", "°"),
    ("eacute", "é"),
    ("times", "×"),
    ("euro", "€"),
];

/// How many of [`NAMES`] need no semicolon.
const BARE_NAMES: usize = 5;

/// Replaces HTML's character references once.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match reference(rest) {
            Some((character, length)) => {
                plain.push_str(&character);
                rest = &rest[length..];
            }
            None => plain.push('&'),
        }
    }
    plain.push_str(rest);
    plain
}

/// What the reference at the start of `rest`, behind its `&`, stands for, and its length there.
fn reference(rest: &str) -> Option<(String, usize)> {
    let Some(number) = rest.strip_prefix('#') else {
        return NAMES.iter().enumerate().find_map(|(i, (name, character))| {
            let behind = rest.strip_prefix(name)?;
            let semicolon = behind.starts_with(';');
            (semicolon || i < BARE_NAMES).then(|| ((*character).to_owned(), name.len() + usize::from(semicolon)))
        });
    };
    let hex = number.strip_prefix(['x', 'X']);
    let (radix, digits) = hex.map_or((10, number), |digits| (16, digits));
    let length = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    if length == 0 {
        return None;
    }
    let code = u32::from_str_radix(&digits[..length], radix).ok();
    let character = code.filter(|&code| code != 0).and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
    let semicolon = usize::from(digits[length..].starts_with(';'));
    Some((character.into(), 1 + usize::from(hex.is_some()) + length + semicolon))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_mended_as_documented() {
        for (text, wanted) in [
            ("John\u{2019}s \u{201c}Cat\u{201d}", "john's \"cat\""),
            ("&amp;amp; and &amp;lt;b&amp;gt;", "& and <b>"),
            ("AT&T &unknown; & a=1&b=2 &#; &#x;", "at&t &unknown; & a=1&b=2 &#; &#x;"),
            ("&#39;s &#x41;&#X42 &#0;&#1114112;", "'s ab \u{fffd}\u{fffd}"),
            ("&ltp&gt &copy; &copy", "<p> © &copy"),
            ("  many \t\r\n \u{3000} blanks \u{a0}", "many blanks"),
            ("\u{1b}[31mred\u{1b}[0m \u{1b}[x\u{0}\u{7f}\u{feff}", "red [x"),
            ("cafe\u{301} \u{fb01}sh", "café fish"),
            ("", ""),
        ] {
            assert_eq!(Cleaning::Official.apply(text), wanted, "{text:?}");
            assert_eq!(Cleaning::None.apply(text), text);
        }
    }
}
