//! Arrays of a segment as files: numbers as they lie in memory, little-endian, and a sum for every block, so that no read
//! returns what was not written.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use half::f16;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Bytes of a file that have a sum of their own: the least that a read must look at.
const BLOCK: usize = 64 << 10;

/// What numbers an array holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Number {
    I8,
    U8,
    U64,
    F16,
    F32,
    F64,
}

impl Number {
    fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
            Self::U64 | Self::F64 => 8,
        }
    }
}

/// What is known of an array's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArrayInfo {
    number: Number,
    rows: usize,
    /// Numbers in a row.
    width: usize,
    /// The first 16 hexadecimal digits of every block's SHA-256.
    sums: Vec<String>,
}

impl ArrayInfo {
    fn bytes(&self) -> Option<usize> {
        self.rows.checked_mul(self.width)?.checked_mul(self.number.bytes())
    }
}

fn sum(block: &[u8]) -> String {
    Sha256::digest(block).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes an array, flushed to the disk, and says what is known of it.
pub(super) fn write(path: &Path, number: Number, [rows, width]: [usize; 2], bytes: &[u8]) -> Result<ArrayInfo> {
    debug_assert_eq!(bytes.len(), rows * width * number.bytes());
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|e| Error::io("write", path, e))?;
    Ok(ArrayInfo { number, rows, width, sums: bytes.chunks(BLOCK).map(sum).collect() })
}

/// An array on the disk.
pub(super) struct ArrayFile {
    path: PathBuf,
    info: ArrayInfo,
    open: Mutex<Open>,
}

struct Open {
    file: File,
    /// Which blocks were as they must be when they were read first.
    good: Vec<bool>,
}

impl ArrayFile {
    /// Opens what `info` is about.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for a file of another size, and for sums that do not fit it.
    pub fn open(path: PathBuf, info: ArrayInfo) -> Result<Self> {
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let held = file.metadata().map_err(|e| Error::io("inspect", &path, e))?.len();
        let bytes = info.bytes().filter(|bytes| bytes.div_ceil(BLOCK) == info.sums.len());
        match bytes {
            Some(bytes) if bytes as u64 == held => {}
            bytes => {
                let problem = format!("holds {held} bytes and should hold {}", bytes.unwrap_or_default());
                return Err(Error::malformed(path, "size", problem));
            }
        }
        let good = vec![false; info.sums.len()];
        Ok(Self { path, info, open: Mutex::new(Open { file, good }) })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.info.rows
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.info.width
    }

    /// The bytes of `count` rows from `first` on, which are as they were written.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`]; [`Error::Malformed`] for damage, with the place; [`Error::Io`].
    pub fn read(&self, first: usize, count: usize) -> Result<Vec<u8>> {
        let end = first.checked_add(count).filter(|&end| end <= self.info.rows);
        let Some(end) = end else {
            let (index, len) = ((first as u64).saturating_add(count as u64), self.info.rows as u64);
            return Err(Error::IndexOutOfRange { op: "segment", index, len });
        };
        let row = self.info.width * self.info.number.bytes();
        let (from, to) = (first * row, end * row);
        let mut bytes = vec![0; to - from];
        if bytes.is_empty() {
            return Ok(bytes);
        }
        // A panic elsewhere leaves no half-made state behind: every read seeks first.
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let mut block_bytes = Vec::new();
        for block in from / BLOCK..to.div_ceil(BLOCK) {
            let start = block * BLOCK;
            let (here, until) = (from.max(start), to.min(start + BLOCK));
            let wanted = &mut bytes[here - from..until - from];
            if open.good[block] {
                self.fetch(&mut open.file, here, wanted)?;
                continue;
            }
            block_bytes.resize(BLOCK.min(self.info.bytes().unwrap_or_default() - start), 0);
            self.fetch(&mut open.file, start, &mut block_bytes)?;
            if sum(&block_bytes) != self.info.sums[block] {
                let place = format!("bytes {start} to {}", start + block_bytes.len());
                let problem = "are not what was written; the file is damaged";
                return Err(Error::malformed(&self.path, place, problem));
            }
            open.good[block] = true;
            wanted.copy_from_slice(&block_bytes[here - start..until - start]);
        }
        Ok(bytes)
    }

    fn fetch(&self, file: &mut File, at: usize, bytes: &mut [u8]) -> Result<()> {
        let read = file.seek(SeekFrom::Start(at as u64)).and_then(|_| file.read_exact(bytes));
        read.map_err(|e| Error::io("read", &self.path, e))
    }

    /// Rows of floats, as f32.
    ///
    /// # Errors
    /// As [`ArrayFile::read`]; [`Error::Malformed`] where there are no f16 or f32.
    pub fn floats(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        let bytes = self.read(first, count)?;
        match self.info.number {
            Number::F16 => Ok(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            Number::F32 => Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            other => Err(self.unexpected(other, "f16 or f32")),
        }
    }

    /// Rows of f64.
    ///
    /// # Errors
    /// As [`ArrayFile::read`]; [`Error::Malformed`] for other numbers.
    pub fn doubles(&self, first: usize, count: usize) -> Result<Vec<f64>> {
        let bytes = self.read(first, count)?;
        match self.info.number {
            Number::F64 => Ok(eights(&bytes).map(f64::from_le_bytes).collect()),
            other => Err(self.unexpected(other, "f64")),
        }
    }

    /// Rows of u64.
    ///
    /// # Errors
    /// As [`ArrayFile::read`]; [`Error::Malformed`] for other numbers.
    pub fn integers(&self, first: usize, count: usize) -> Result<Vec<u64>> {
        let bytes = self.read(first, count)?;
        match self.info.number {
            Number::U64 => Ok(eights(&bytes).map(u64::from_le_bytes).collect()),
            other => Err(self.unexpected(other, "u64")),
        }
    }

    fn unexpected(&self, number: Number, wanted: &str) -> Error {
        Error::malformed(&self.path, "numbers", format!("are {number:?} and should be {wanted}"))
    }

    /// Reads all of it; returns how many bytes that are.
    ///
    /// # Errors
    /// As [`ArrayFile::read`].
    pub fn verify(&self) -> Result<u64> {
        // Anew, whatever was read before.
        self.open.lock().unwrap_or_else(|e| e.into_inner()).good.fill(false);
        let row = (self.info.width * self.info.number.bytes()).max(1);
        let at_once = ((16 << 20) / row).max(1);
        let mut bytes = 0;
        for first in (0..self.info.rows).step_by(at_once) {
            bytes += self.read(first, at_once.min(self.info.rows - first))?.len() as u64;
        }
        Ok(bytes)
    }
}

fn eights(bytes: &[u8]) -> impl Iterator<Item = [u8; 8]> {
    bytes.chunks_exact(8).map(|b| [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
}

/// Floats as the bytes of f16 or f32.
pub(super) fn float_bytes(number: Number, values: &[f32]) -> Vec<u8> {
    match number {
        Number::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Folder;

    #[test]
    fn rows_come_back_and_every_flipped_bit_is_noticed() {
        let folder = Folder::new();
        let path = folder.path("x.f32");
        let values: Vec<f32> = (0..3 * 20_000).map(|i| i as f32).collect();
        let info = write(&path, Number::F32, [20_000, 3], &float_bytes(Number::F32, &values)).unwrap();
        let open = || ArrayFile::open(path.clone(), info.clone());
        let file = open().unwrap();
        assert_eq!(file.floats(0, 20_000).unwrap(), values);
        assert_eq!(file.floats(5461, 2).unwrap(), &values[3 * 5461..3 * 5463]);
        assert_eq!(file.verify().unwrap(), 240_000);
        assert!(matches!(file.floats(19_999, 2), Err(Error::IndexOutOfRange { index: 20_001, len: 20_000, .. })));
        assert!(matches!(file.doubles(0, 1), Err(Error::Malformed { .. })));
        let whole = std::fs::read(&path).unwrap();
        for byte in [0, 65_535, 65_536, 239_999] {
            let mut damaged = whole.clone();
            damaged[byte] ^= 4;
            std::fs::write(&path, &damaged).unwrap();
            let row = byte / 12;
            let got = open().unwrap().floats(row, 1);
            assert!(matches!(&got, Err(Error::Malformed { place, .. }) if place.starts_with("bytes")), "{got:?}");
            // What lies in other blocks can still be read.
            open().unwrap().floats(if byte < 100_000 { 15_000 } else { 0 }, 1).unwrap();
            assert!(open().unwrap().verify().is_err());
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(open().map(drop), Err(Error::Malformed { place, .. }) if place == "size"));
    }

    #[test]
    fn halves_are_rounded_and_nothing_is_read_of_nothing() {
        let folder = Folder::new();
        let path = folder.path("x.f16");
        let info = write(&path, Number::F16, [1, 2], &float_bytes(Number::F16, &[1.0, 0.1])).unwrap();
        let file = ArrayFile::open(path, info).unwrap();
        assert_eq!(file.floats(0, 1).unwrap(), [1.0, f16::from_f32(0.1).to_f32()]);
        let empty = folder.path("empty");
        let info = write(&empty, Number::U8, [0, 1], &[]).unwrap();
        assert_eq!(ArrayFile::open(empty, info).unwrap().verify().unwrap(), 0);
    }
}
