//! The clean-up of captions that CLIP's authors put before their tokenizer.

use std::borrow::Cow;

use tokenizers::NormalizedString;

use super::references::{unescape, unescape_whole, windows, windows_byte};

/// How often a text is mended at most: what comes out may be what goes in to another rule.
const PASSES: usize = 16;

/// What happens to a text before it is split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleaning {
    /// Nothing but what the tokenizer's file asks for, as in Hugging Face's CLIP.
    #[default]
    None,
    /// What the official tokenizer does: mends the text as the Python package ftfy does, replaces HTML's character
    /// references twice, joins white space to single blanks and lower-cases.
    ///
    /// Of ftfy it has, until nothing changes or 16 times: HTML's references that end in a semicolon, in lines without `<`
    /// before them; UTF-8 that was read as Windows-1252 or Latin-1, `schÃ¶n`; straight quotes for curly ones; characters
    /// of usual width for full-width and half-width ones; Latin ligatures as their letters; no control characters, byte
    /// order marks and terminal escapes; NFC.
    ///
    /// A wrong encoding is undone where the whole text can be, and comes out as Latin, Greek, Cyrillic or as what takes
    /// three bytes and more. In doubt the text stays: `CAFÉ’s` and `AMANHÃ…` are meant so. ftfy also mends parts of a text,
    /// and other encodings.
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
    let mut plain = true;
    let lines = text.split_inclusive('\n').map(|line| {
        // Text with tags is HTML, where references are meant to stay.
        plain &= !line.contains('<');
        let mut line = line.to_owned();
        for _ in 0..PASSES {
            let mended = mend_once(&line, plain);
            if mended == line {
                break;
            }
            line = mended;
        }
        line
    });
    lines.collect()
}

fn mend_once(text: &str, unescapes: bool) -> String {
    let mut text = if unescapes { unescape_whole(text) } else { text.to_owned() };
    while let Some(decoded) = decoded(&text) {
        text = decoded;
    }
    let mut mended = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match windows(c) {
            '\u{1b}' => {
                if let Some(behind) = behind_escape(chars.as_str()) {
                    chars = behind.chars();
                }
            }
            '\u{02bc}' | '\u{2018}'..='\u{201b}' => mended.push('\''),
            '\u{201c}'..='\u{201f}' => mended.push('"'),
            '\u{3000}' => mended.push(' '),
            c @ '\u{ff01}'..='\u{ffef}' => mended.push_str(&usual_width(c)),
            '\r' | '\u{2028}' | '\u{2029}' => mended.push('\n'),
            c @ ('\t' | '\n' | '\u{c}') => mended.push(c),
            '\0'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => {}
            c => match ligature(c) {
                Some(letters) => mended.push_str(letters),
                None => mended.push(c),
            },
        }
    }
    let mut composed = NormalizedString::from(mended);
    composed.nfc();
    composed.get().to_owned()
}

/// The text behind a terminal's escape, such as a colour: bracket, numbers, letter.
fn behind_escape(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('[')?.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
    rest.strip_prefix(|c: char| c.is_ascii_alphabetic())
}

fn usual_width(c: char) -> String {
    let mut usual = NormalizedString::from(c.to_string());
    usual.nfkc();
    usual.get().to_owned()
}

/// The letters of a Latin ligature or digraph.
fn ligature(c: char) -> Option<&'static str> {
    Some(match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        '\u{fb00}' => "ff",
        '\u{fb01}' => "fi",
        '\u{fb02}' => "fl",
        '\u{fb03}' => "ffi",
        '\u{fb04}' => "ffl",
        '\u{fb05}' => "ſt",
        '\u{fb06}' => "st",
        _ => return None,
    })
}

/// `text` as UTF-8, if it is that, read as Windows-1252 or Latin-1, and comes out as likely characters.
fn decoded(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let bytes: Vec<u8> = text.chars().map(windows_byte).collect::<Option<_>>()?;
    let decoded = String::from_utf8(bytes).ok()?;
    let is_likely = |c: char| matches!(c, '\0'..='\u{17f}' | '\u{370}'..='\u{45f}' | '\u{800}'..);
    // A capital letter before a quote or an ellipsis is no sign of anything.
    let is_sign = |c: char| {
        let last = (c as u32 & 0x3f) as u8 | 0x80;
        c >= '\u{800}' || (!c.is_ascii() && !matches!(last, 0x85 | 0x91..=0x94 | 0x96 | 0x97))
    };
    (decoded.chars().all(is_likely) && decoded.chars().any(is_sign)).then_some(decoded)
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
            ("&ltp&gt &copy; &copy", "<p> © ©"),
            ("  many \t\r\n \u{3000} blanks \u{a0}", "many blanks"),
            ("\u{1b}[31mred\u{1b}[0m \u{1b}[x\u{0}\u{7f}\u{feff}", "red"),
            ("cafe\u{301} \u{fb01}sh", "café fish"),
            ("a\u{85}b\u{93}c", "a…b\"c"),
            ("\u{ff76}\u{ff9e} \u{ff71} \u{ff01}", "ガ ア !"),
            ("", ""),
        ] {
            assert_eq!(Cleaning::Official.apply(text), wanted, "{text:?}");
            assert_eq!(Cleaning::None.apply(text), text);
        }
    }

    // The wanted texts are those of ftfy 6.3.1 and Python's html.unescape.
    #[test]
    fn ligatures_are_written_out() {
        for (text, wanted) in [("ĳs Ǆ \u{fb05}", "ijs dž ſt"), ("ŉ ǈ Ĳ", "'n lj ij"), ("Ǳ ǌ \u{fb06}", "dz nj st")]
        {
            assert_eq!(Cleaning::Official.apply(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_wrong_encoding_is_undone_where_it_is_sure() {
        for (text, wanted) in [
            ("schÃ¶n", "schön"),
            ("donâ€™t", "don't"),
            ("Ã©tÃ© â€œhiâ€\u{9d}", "été \"hi\""),
            ("schÃƒÂ¶n", "schön"),
            ("Â£5 Ã\u{a0} la", "£5 à la"),
            ("ðŸ˜€", "😀"),
            ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "привет"),
            ("ã€€", ""),
            // Meant as they are.
            ("naïve café", "naïve café"),
            ("café – ok", "café – ok"),
            ("Voilà €5", "voilà €5"),
            ("CAFÉ’s", "café's"),
            ("AMANHÃ… É® É´", "amanhã… é® é´"),
            ("“CAFÉ”", "\"café\""),
            ("â Ã", "â ã"),
        ] {
            assert_eq!(Cleaning::Official.apply(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn references_have_all_names_and_are_replaced_until_none_is_left() {
        for (text, wanted) in [
            ("&frac12; &Auml;", "½ ä"),
            ("&NotEqualTilde; &notit; &notin;", "≂\u{338} ¬it; ∉"),
            ("&EACUTE; &SZLIG; &nTILDE;", "é ss &ntilde;"),
            ("&amp;amp;lt;", "<"),
            ("&amp;amp;amp;amp;lt;", "<"),
            // A tag keeps ftfy from it; what comes after it takes away two layers.
            ("a < &amp;amp;amp;lt;", "a < &amp;lt;"),
            ("a < &eacute;", "a < é"),
            ("&#128; &#1;x x&#13;y &#xD800; &#xFFFE;z", "€ x x y \u{fffd} z"),
            ("&ampersand &amp &nbsp", "&ersand &"),
        ] {
            assert_eq!(Cleaning::Official.apply(text), wanted, "{text:?}");
        }
        let deep = format!("&{}lt;", "amp;".repeat(100_000));
        assert!(Cleaning::Official.apply(&deep).starts_with("&amp;"));
    }
}
