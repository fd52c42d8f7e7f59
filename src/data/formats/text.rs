//! Text files of annotations, read within bounds: lines, JSON lines and whole JSON files.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{Error, Result};

/// Longest line that is read.
pub(crate) const MAX_LINE_BYTES: u64 = 1 << 20;

/// What Python writes for numbers that are none.
const NOT_NUMBERS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];

/// Largest JSON or CSV file that is read whole.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Calls `take` with the number (from 1) and the text of every line that is not blank; without byte order mark and line
/// end. Lines end with LF, CRLF, or a lone CR. A line that is over 1 MiB or not UTF-8 is handed over as its error, and left
/// behind if `take` lets it pass.
pub(crate) fn for_each_line(path: &Path, mut take: impl FnMut(usize, Result<&str>) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(File::open(path).map_err(|e| Error::io("open", path, e))?);
    let (mut bytes, mut number) = (Vec::new(), 0);
    loop {
        bytes.clear();
        let read = (&mut reader).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
        if read.map_err(|e| Error::io("read", path, e))? == 0 {
            return Ok(());
        }
        if number == 0 {
            refuse_wide(path, &bytes)?;
        }
        let bad =
            |number: usize, problem: &dyn fmt::Display| Error::malformed(path, format_args!("line {number}"), problem);
        if bytes.len() as u64 > MAX_LINE_BYTES {
            number += 1;
            take(number, Err(bad(number, &format_args!("over {MAX_LINE_BYTES} bytes long"))))?;
            if bytes.last() != Some(&b'\n') {
                reader.skip_until(b'\n').map_err(|e| Error::io("read", path, e))?;
            }
            continue;
        }
        let text = if number == 0 { without_mark(&bytes) } else { &bytes };
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        for line in text.strip_suffix(b"\r").unwrap_or(text).split(|&b| b == b'\r') {
            number += 1;
            match std::str::from_utf8(line).map(str::trim) {
                Ok("") => {}
                Ok(line) => take(number, Ok(line))?,
                Err(e) => take(number, Err(bad(number, &format_args!("not UTF-8: {e}"))))?,
            }
        }
    }
}

/// As [`for_each_line`], with the JSON object of every line; errors name line and column.
pub(crate) fn for_each_value<T: DeserializeOwned>(
    path: &Path,
    mut take: impl FnMut(usize, Result<T>) -> Result<()>,
) -> Result<()> {
    for_each_line(path, |number, line| {
        let place = |e: &serde_json::Error| format!("line {number}, column {}", e.column());
        let parse = |line: &str| {
            expect_object(line.as_bytes())
                .map_err(|problem| Error::malformed(path, format_args!("line {number}"), problem))?;
            let problem = |e: serde_json::Error| Error::malformed(path, place(&e), problem_in(line.as_bytes(), &e));
            serde_json::from_str(line).map_err(problem)
        };
        take(number, line.and_then(parse))
    })
}

/// A JSON file; errors name line and column.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse_json(path, &read_file(path)?)
}

/// The JSON value that `text`, the content of `path`, holds; errors name line and column.
pub(crate) fn parse_json<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    refuse_wide(path, text)?;
    let text = without_mark(text);
    serde_json::from_slice(text).map_err(|e| {
        Error::malformed(path, format_args!("line {}, column {}", e.line(), e.column()), problem_in(text, &e))
    })
}

/// As [`parse_json`], of a struct, whose fields must have names.
pub(crate) fn parse_object<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    refuse_wide(path, text)?;
    expect_object(without_mark(text)).map_err(|problem| Error::malformed(path, "top level", problem))?;
    parse_json(path, text)
}

/// Refuses an array, which serde would take for the fields of a struct in their order.
fn expect_object(text: &[u8]) -> std::result::Result<(), &'static str> {
    if text.trim_ascii_start().starts_with(b"[") { Err("an object with named fields is expected") } else { Ok(()) }
}

/// Refuses text in UTF-16, by its byte order mark or by the zero beside its first character.
pub(crate) fn refuse_wide(path: &Path, text: &[u8]) -> Result<()> {
    if matches!(text, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=0x7f, ..] | [1..=0x7f, 0, ..]) {
        return Err(Error::malformed(path, "encoding", "is UTF-16; save it as UTF-8"));
    }
    Ok(())
}

/// The message without the position that it ends in: the error names it already.
pub(crate) fn json_problem(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.clone(), |(problem, _)| problem.to_owned())
}

/// As [`json_problem`]; names numbers that Python writes and JSON does not have.
fn problem_in(text: &[u8], error: &serde_json::Error) -> String {
    let line = text.split(|&b| b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let at = error.column().saturating_sub(1).min(line.len());
    // The parser stops at the first letter, or at one behind it.
    let near = [at, at.saturating_sub(1)].map(|at| &line[at..]);
    let named = NOT_NUMBERS.into_iter().find(|name| near.iter().any(|near| near.starts_with(name.as_bytes())));
    named.map_or_else(|| json_problem(error), |name| format!("{name} is no JSON; a number is needed, or null"))
}

/// `text` with null for NaN and infinity, which Python writes and JSON does not have.
pub(crate) fn with_nulls(text: &[u8]) -> Cow<'_, [u8]> {
    let mut changed: Option<Vec<u8>> = None;
    let (mut at, mut in_string) = (0, false);
    while at < text.len() {
        let name = NOT_NUMBERS.into_iter().find(|name| !in_string && text[at..].starts_with(name.as_bytes()));
        if let Some(name) = name {
            changed.get_or_insert_with(|| text[..at].to_vec()).extend_from_slice(b"null");
            at += name.len();
            continue;
        }
        // What a backslash is before does not end a string.
        let length = if in_string && text[at] == b'\\' { 2.min(text.len() - at) } else { 1 };
        in_string ^= text[at] == b'"';
        changed.iter_mut().for_each(|changed| changed.extend_from_slice(&text[at..at + length]));
        at += length;
    }
    changed.map_or(Cow::Borrowed(text), Cow::Owned)
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, MAX_FILE_BYTES)
}

/// A file of at most `limit` bytes.
pub(crate) fn read_at_most(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::malformed(path, "size", format_args!("over {limit} bytes")));
    }
    Ok(bytes)
}

/// `text` without the byte order mark that some editors put in front.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// A JSON object as a list, because a map would hide repeated keys and lose their order.
pub(crate) struct Entries<T>(pub(crate) Vec<(String, T)>);

impl<T: Serialize> Serialize for Entries<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Collect<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Collect<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Collect(std::marker::PhantomData))
    }
}

/// A row of a larger JSON document that is checked by itself: one of the wrong form does not fail the others.
pub(crate) struct Checked<T>(pub(in crate::data) std::result::Result<T, String>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Checked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // Through a general value a key that is there twice would go unnoticed.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(serde_json::from_str(text.get()).map_err(|e| json_problem(&e))))
    }
}

/// What has named fields: an array of their values would be taken, too.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        expect_object(text.get().as_bytes()).map_err(D::Error::custom)?;
        serde_json::from_str(text.get()).map(Self).map_err(|e| D::Error::custom(json_problem(&e)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Folder;

    #[test]
    fn lines_end_in_three_ways() {
        let read = |text: &str| {
            let (folder, mut lines) = (Folder::new(), Vec::new());
            for_each_line(&folder.file("a", text), |number, line| {
                lines.push((number, line?.to_owned()));
                Ok(())
            })
            .unwrap();
            lines
        };
        let wanted = [(1, "a".to_owned()), (3, "b".to_owned())];
        for text in ["a\n\nb\n", "a\r\n\r\nb", "a\r\rb\r", "\u{feff}a\r\rb"] {
            assert_eq!(read(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_json_is_named() {
        let folder = Folder::new();
        let problem = |text: &[u8]| match read_json::<Vec<f64>>(&folder.file("a.json", text)) {
            Err(Error::Malformed { problem, .. }) => problem,
            other => panic!("{other:?}"),
        };
        assert_eq!(problem(b"[1, NaN]"), "NaN is no JSON; a number is needed, or null");
        assert_eq!(problem(b"[1,\n -Infinity]"), "-Infinity is no JSON; a number is needed, or null");
        let wide: Vec<u8> = "\u{feff}[1]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for text in [&wide[..], &wide[2..]] {
            assert_eq!(problem(text), "is UTF-16; save it as UTF-8");
            let lines = for_each_line(&folder.file("a.txt", text), |_, _| Ok(()));
            assert!(lines.unwrap_err().to_string().contains("is UTF-16"));
        }
        let with_mark = read_json::<Vec<f64>>(&folder.file("a.json", "\u{feff}[1]"));
        assert_eq!(with_mark.unwrap(), [1.0]);
    }

    #[test]
    fn numbers_of_python_become_null_outside_of_strings() {
        let text = br#"{"NaN \"NaN": [NaN, -Infinity, Infinity, "Infinity\\"], "a": NaN}"#;
        let wanted = br#"{"NaN \"NaN": [null, null, null, "Infinity\\"], "a": null}"#;
        assert_eq!(with_nulls(text), &wanted[..]);
        assert!(matches!(with_nulls(b"[1]"), Cow::Borrowed(_)));
        assert_eq!(with_nulls(b"\"\\"), &b"\"\\"[..]);
    }
}
