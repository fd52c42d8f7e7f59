//! Rows of CSV files with a header.

use std::path::Path;

use crate::data::formats::text::{MAX_LINE_BYTES, read_file, without_mark};
use crate::{Error, Result};

/// Calls `take` with the place and the named columns of every row. A row that is damaged, over 1 MiB or not UTF-8 is
/// handed over as its error, and left behind if `take` lets it pass.
pub fn for_each_record<const N: usize>(
    path: &Path,
    columns: [&str; N],
    mut take: impl FnMut(String, Result<[&str; N]>) -> Result<()>,
) -> Result<()> {
    let text = read_file(path)?;
    let text = without_mark(&text);
    let mut reader = csv::Reader::from_reader(text);
    let mut line = Line { text, offset: 0, number: 1 };
    let header = reader.headers().map_err(|e| Error::malformed(path, line.at(e.position()), e))?.clone();
    let mut at = [0; N];
    for (index, name) in at.iter_mut().zip(columns) {
        let found = header.iter().position(|column| column.trim() == name);
        *index = found.ok_or_else(|| Error::malformed(path, "line 1", format_args!("no column {name:?}")))?;
    }
    let mut record = csv::StringRecord::new();
    loop {
        let read = reader.read_record(&mut record);
        let place = line.at(read.as_ref().map_or_else(|e| e.position(), |_| record.position()));
        let row = match read {
            Ok(false) => return Ok(()),
            Ok(true) if record.as_slice().len() as u64 > MAX_LINE_BYTES => {
                Err(Error::malformed(path, &place, format_args!("over {MAX_LINE_BYTES} bytes long")))
            }
            // Every record has as many fields as the header: the reader sees to that.
            Ok(true) => Ok(at.map(|index| record.get(index).unwrap_or_default())),
            Err(e) => Err(Error::malformed(path, &place, e)),
        };
        take(place, row)?;
    }
}

/// Counts lines. The CSV reader's own count is one too low in files with CRLF: there it places a record before the LF
/// that ends the line above.
struct Line<'a> {
    text: &'a [u8],
    offset: usize,
    number: usize,
}

impl Line<'_> {
    /// "line N" of a record; positions must not decrease.
    fn at(&mut self, position: Option<&csv::Position>) -> String {
        let start = position.and_then(|p| usize::try_from(p.byte()).ok()).unwrap_or(0).min(self.text.len());
        let skip = self.text[start..].iter().take_while(|b| b"\r\n".contains(b)).count();
        let passed = self.text.get(self.offset..start + skip).unwrap_or_default();
        self.number += passed.iter().filter(|&&b| b == b'\n').count();
        self.offset = self.offset.max(start + skip);
        format!("line {}", self.number)
    }
}
