//! Rows of CSV files with a header.

use std::path::Path;

use crate::data::formats::text::{MAX_LINE_BYTES, read_file, refuse_wide, without_mark};
use crate::{Error, Result};

/// Calls `take` with the place and the named columns of every row. A row that is damaged, over 1 MiB or not UTF-8 is
/// handed over as its error, and left behind if `take` lets it pass; one whose quotes do not match is left behind up to the
/// end of its first line.
pub fn for_each_record<const N: usize>(
    path: &Path,
    columns: [&str; N],
    mut take: impl FnMut(String, Result<[&str; N]>) -> Result<()>,
) -> Result<()> {
    let text = read_file(path)?;
    refuse_wide(path, &text)?;
    let mut rest = Rest { text: without_mark(&text), line: 1 };
    let (place, header) = rest.next().ok_or_else(|| Error::malformed(path, "line 1", "no header"))?;
    let header = header.map_err(|problem| Error::malformed(path, place, problem))?;
    let mut at = [0; N];
    for (index, name) in at.iter_mut().zip(columns) {
        let found = header.iter().position(|column| column.trim() == name);
        *index = found.ok_or_else(|| Error::malformed(path, "line 1", format_args!("no column {name:?}")))?;
    }
    while let Some((place, record)) = rest.next() {
        let row = record.and_then(|record| match record.len() == header.len() {
            true => Ok(record),
            false => Err(format!("{} columns, the header has {}", record.len(), header.len())),
        });
        match row {
            Ok(record) => take(place, Ok(at.map(|index| record.get(index).unwrap_or_default())))?,
            Err(problem) => take(place.clone(), Err(Error::malformed(path, place, problem)))?,
        }
    }
    Ok(())
}

/// What is left of a CSV file.
struct Rest<'a> {
    text: &'a [u8],
    /// The number of the line at its start.
    line: usize,
}

/// A row's place, and its fields or what is wrong with it.
type Row = (String, std::result::Result<csv::StringRecord, String>);

impl Rest<'_> {
    /// The next row that is not empty.
    fn next(&mut self) -> Option<Row> {
        while let Some(empty) = line_end(self.text) {
            self.pass(empty);
        }
        if self.text.is_empty() {
            return None;
        }
        let place = format!("line {}", self.line);
        let (length, problem) = match record_length(self.text) {
            Ok(length) if length as u64 > MAX_LINE_BYTES => (length, Some(format!("over {MAX_LINE_BYTES} bytes long"))),
            Ok(length) => (length, None),
            Err(problem) => {
                let line = self.text.iter().position(|b| b"\r\n".contains(b));
                (line.unwrap_or(self.text.len()), Some(problem.to_owned()))
            }
        };
        let record = problem.map_or_else(|| fields(&self.text[..length]), Err);
        self.pass(length);
        Some((place, record))
    }

    /// Goes on behind `length` bytes.
    fn pass(&mut self, length: usize) {
        let (passed, rest) = self.text.split_at(length);
        // A CR counts where no LF follows.
        let ends = |(i, b): (usize, &u8)| *b == b'\n' || (*b == b'\r' && self.text.get(i + 1) != Some(&b'\n'));
        self.line += passed.iter().enumerate().filter(|&at| ends(at)).count();
        self.text = rest;
    }
}

/// The length of the line end that `text` begins with.
fn line_end(text: &[u8]) -> Option<usize> {
    match text {
        [b'\r', b'\n', ..] => Some(2),
        [b'\r' | b'\n', ..] => Some(1),
        _ => None,
    }
}

/// The length of the record at the start of `text`, without its line end. A quote within a field is a letter, one at its
/// start opens it, and the one that closes it must end it.
fn record_length(text: &[u8]) -> std::result::Result<usize, &'static str> {
    let mut at = 0;
    loop {
        if text.get(at) == Some(&b'"') {
            at = closing_quote(text, at + 1).ok_or("a quote is never closed")? + 1;
            if !matches!(text.get(at), None | Some(b',' | b'\r' | b'\n')) {
                return Err("a closing quote is not at the end of its column; is the one that opens it meant?");
            }
        }
        at += text[at..].iter().position(|b| b",\r\n".contains(b)).unwrap_or(text.len() - at);
        if text.get(at) != Some(&b',') {
            return Ok(at);
        }
        at += 1;
    }
}

/// Where the next quote is from `at` on that is not one of a pair.
fn closing_quote(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += text.get(at..)?.iter().position(|&b| b == b'"')?;
        if text.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

/// The fields of one record.
fn fields(text: &[u8]) -> std::result::Result<csv::StringRecord, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).buffer_capacity(text.len().max(1)).from_reader(text);
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(true) => Ok(record),
        Ok(false) => Err("is empty".into()),
        Err(e) => Err(match e.kind() {
            csv::ErrorKind::Utf8 { err, .. } => format!("not UTF-8: {err}"),
            _ => e.to_string(),
        }),
    }
}
