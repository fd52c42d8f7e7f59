//! The metrics of a run as a table that grows.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::data::formats::text::Entries;
use crate::{Error, Result};

/// The name that the step itself has in the files.
const STEP: &str = "step";

/// All metrics logged so far. Columns stand in the order in which they first appeared, and never move.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    columns: Vec<String>,
    records: Vec<Record>,
}

/// What was logged at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Steps that were complete.
    pub step: u64,
    /// Column index and value; NaN where the value was not finite.
    pub values: Vec<(usize, f64)>,
}

impl History {
    /// The names of the columns, without the step.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The records in the order of logging.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Step and value of every record that has a value in `column`.
    pub fn series(&self, column: usize) -> impl Iterator<Item = (u64, f64)> {
        self.records.iter().flat_map(move |record| {
            let value = record.values.iter().find(|(c, _)| *c == column);
            value.map(|&(_, value)| (record.step, value))
        })
    }

    /// Adds a record. Returns whether it brought new columns.
    ///
    /// # Errors
    /// [`Error::Argument`] for a step before the last one, a name used twice, and a name that is empty or `step`.
    pub(super) fn push(&mut self, step: u64, values: &[(&str, f64)]) -> Result<bool> {
        let fail = |argument, why| Err(Error::Argument { op: "log", argument, why });
        if let Some(last) = self.records.last().filter(|last| last.step > step) {
            return fail("step", format!("{step} is before the last one, {}", last.step));
        }
        let mut seen = BTreeSet::new();
        if let Some((name, _)) = values.iter().find(|(name, _)| name.is_empty() || *name == STEP || !seen.insert(*name))
        {
            return fail("name", format!("{name:?} is empty, reserved or there twice"));
        }
        let known = self.columns.len();
        let mut record = Record { step, values: Vec::with_capacity(values.len()) };
        for &(name, value) in values {
            let column = self.columns.iter().position(|c| c == name).unwrap_or_else(|| {
                self.columns.push(name.to_string());
                self.columns.len() - 1
            });
            record.values.push((column, if value.is_finite() { value } else { f64::NAN }));
        }
        self.records.push(record);
        Ok(self.columns.len() > known)
    }

    /// The last record as a line of JSON. A value that is not finite is null: JSON knows no NaN.
    pub(super) fn last_json(&self) -> String {
        let Some(record) = self.records.last() else { return String::new() };
        let mut line = format!("{{\"{STEP}\":{}", record.step);
        for &(column, value) in &record.values {
            line.push_str(&format!(",{}:{}", Value::from(self.columns[column].as_str()), Value::from(value)));
        }
        line.push_str("}\n");
        line
    }

    /// The last record as a line of CSV.
    pub(super) fn last_csv(&self) -> String {
        self.records.last().map(|record| self.csv_line(record)).unwrap_or_default()
    }

    /// The whole table as CSV.
    pub(super) fn to_csv(&self) -> String {
        let mut text = STEP.to_string();
        for name in &self.columns {
            text.push(',');
            if name.contains([',', '"', '\n', '\r']) {
                text.push_str(&format!("\"{}\"", name.replace('"', "\"\"")));
            } else {
                text.push_str(name);
            }
        }
        text.push('\n');
        self.records.iter().for_each(|record| text.push_str(&self.csv_line(record)));
        text
    }

    fn csv_line(&self, record: &Record) -> String {
        let mut cells = vec![String::new(); self.columns.len()];
        for &(column, value) in &record.values {
            // As in the JSON, to the digit.
            cells[column] = if value.is_nan() { "NaN".into() } else { Value::from(value).to_string() };
        }
        let mut line = record.step.to_string();
        cells.iter().for_each(|cell| line.extend([",", cell]));
        line.push('\n');
        line
    }

    /// Reads lines of JSON up to and with `step`. Returns the table and the bytes that it takes of `text`.
    ///
    /// A last line without an end was cut off by a crash and is left out.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the number of a line that this crate did not write.
    pub(super) fn parse(path: &Path, text: &[u8], step: u64) -> Result<(Self, u64)> {
        let (mut history, mut taken) = (Self::default(), 0);
        for (index, line) in text.split_inclusive(|&b| b == b'\n').enumerate() {
            if !line.ends_with(b"\n") {
                break;
            }
            let bad = |problem: String| Error::malformed(path, format_args!("line {}", index + 1), problem);
            let (found, values) = parse_line(line).map_err(bad)?;
            if found > step {
                break;
            }
            let values: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            history.push(found, &values).map_err(|e| bad(e.to_string()))?;
            taken += line.len() as u64;
        }
        Ok((history, taken))
    }
}

/// Step, and names with values in the order of the line.
fn parse_line(line: &[u8]) -> Result<(u64, Vec<(String, f64)>), String> {
    let Entries(entries) = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let (mut step, mut values) = (None, Vec::new());
    for (name, value) in entries {
        match value {
            Value::Number(number) if name == STEP => step = number.as_u64(),
            Value::Number(number) => values.push((name, number.as_f64().unwrap_or(f64::NAN))),
            Value::Null => values.push((name, f64::NAN)),
            other => return Err(format!("{name:?} is {other}, not a number")),
        }
    }
    Ok((step.ok_or("no step")?, values))
}
