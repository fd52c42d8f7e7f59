//! Text files of annotations, read within bounds: lines, JSON lines and whole JSON files.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::{Error, Result};

/// Longest line that is read.
pub(crate) const MAX_LINE_BYTES: u64 = 1 << 20;

/// Largest JSON or CSV file that is read whole.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Calls `take` with the number (from 1) and the text of every line that is not blank; without byte order mark and line
/// end. A line that is over 1 MiB or not UTF-8 is handed over as its error, and left behind if `take` lets it pass.
pub(crate) fn for_each_line(path: &Path, mut take: impl FnMut(usize, Result<&str>) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(File::open(path).map_err(|e| Error::io("open", path, e))?);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = (&mut reader).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
        if read.map_err(|e| Error::io("read", path, e))? == 0 {
            break;
        }
        let bad = |problem: &dyn fmt::Display| Error::malformed(path, format_args!("line {number}"), problem);
        if bytes.len() as u64 > MAX_LINE_BYTES {
            take(number, Err(bad(&format_args!("over {MAX_LINE_BYTES} bytes long"))))?;
            if bytes.last() != Some(&b'\n') {
                reader.skip_until(b'\n').map_err(|e| Error::io("read", path, e))?;
            }
            continue;
        }
        let text = if number == 1 { without_mark(&bytes) } else { &bytes };
        match std::str::from_utf8(text).map(str::trim) {
            Ok("") => {}
            Ok(line) => take(number, Ok(line))?,
            Err(e) => take(number, Err(bad(&format_args!("not UTF-8: {e}"))))?,
        }
    }
    Ok(())
}

/// The JSON value of line `number`.
///
/// # Errors
/// [`Error::Malformed`] naming line and column.
pub(crate) fn parse_line<T: DeserializeOwned>(path: &Path, number: usize, line: &str) -> Result<T> {
    serde_json::from_str(line)
        .map_err(|e| Error::malformed(path, format_args!("line {number}, column {}", e.column()), json_problem(&e)))
}

/// A JSON file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] naming line and column.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse_json(path, &read_file(path)?)
}

/// The JSON value that `text`, the content of `path`, holds.
///
/// # Errors
/// [`Error::Malformed`] naming line and column.
pub(crate) fn parse_json<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    serde_json::from_slice(without_mark(text))
        .map_err(|e| Error::malformed(path, format_args!("line {}, column {}", e.line(), e.column()), json_problem(&e)))
}

/// The message without the position that it ends in: the error names it already.
pub(crate) fn json_problem(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.clone(), |(problem, _)| problem.to_owned())
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

/// A JSON object as a list, because a map would hide repeated keys and lose the order.
pub(crate) struct Entries<T>(pub(crate) Vec<(String, T)>);

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
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Self(serde_json::from_value(value).map_err(|e| json_problem(&e))))
    }
}
