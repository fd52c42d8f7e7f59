//! A file on its way: it is written beside its place, compared with its sum, and put there whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use reelgrad::train::Progress;
use reelgrad::{Error, Result};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::bar::Bar;

const MEGABYTE: u64 = 1_000_000;

/// What a hub says of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sum {
    /// SHA-256 of the content, as large files have it.
    Sha256(String),
    /// SHA-1 of the content behind git's head for it, as small files have it.
    Blob(String),
}

/// A sum while it is made.
enum Running {
    Sha256(Sha256),
    Blob(Sha1),
}

/// A file that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name, without folders.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// What its content must have.
    pub sum: Sum,
}

/// How far all files together are, in megabytes.
pub struct Meter {
    bar: Bar,
    done: u64,
    total: u64,
}

/// The part of a wanted file that is there already. No other run writes it, where the system can see to that.
pub struct Part<'a> {
    wanted: &'a Wanted,
    meter: &'a mut Meter,
    place: PathBuf,
    path: PathBuf,
    file: File,
    running: Running,
    bytes: u64,
}

impl Sum {
    /// The sum that these hexadecimal digits are, by their number.
    pub fn of_digits(digits: &str) -> Option<Self> {
        let digits = digits.to_ascii_lowercase();
        match digits.len() {
            _ if !digits.bytes().all(|b| b.is_ascii_hexdigit()) => None,
            40 => Some(Sum::Blob(digits)),
            64 => Some(Sum::Sha256(digits)),
            _ => None,
        }
    }

    /// The SHA-256 of a file.
    ///
    /// # Errors
    /// The system's.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut running = Running::Sha256(Sha256::new());
        io::copy(&mut File::open(path)?, &mut running)?;
        Ok(Sum::Sha256(running.digits()))
    }

    /// Its kind, by the word that answers have for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Sum::Sha256(_) => "sha256",
            Sum::Blob(_) => "blob",
        }
    }

    pub fn digits(&self) -> &str {
        match self {
            Sum::Sha256(digits) | Sum::Blob(digits) => digits,
        }
    }

    /// The start of this kind of sum, for so many bytes.
    fn begin(&self, bytes: u64) -> Running {
        match self {
            Sum::Sha256(_) => Running::Sha256(Sha256::new()),
            Sum::Blob(_) => Running::Blob(Sha1::new_with_prefix(format!("blob {bytes}\0"))),
        }
    }
}

impl Running {
    /// The sum of what has come so far.
    fn digits(&self) -> String {
        match self {
            Running::Sha256(sum) => format!("{:x}", sum.clone().finalize()),
            Running::Blob(sum) => format!("{:x}", sum.clone().finalize()),
        }
    }
}

impl Write for Running {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Running::Sha256(sum) => sum.update(bytes),
            Running::Blob(sum) => sum.update(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wanted {
    /// Whether `folder` has it, with its size and sum.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read.
    pub fn is_in(&self, folder: &Path) -> Result<bool> {
        let path = folder.join(&self.name);
        if !fs::metadata(&path).is_ok_and(|about| about.is_file() && about.len() == self.bytes) {
            return Ok(false);
        }
        let mut running = self.sum.begin(self.bytes);
        let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut running));
        read.map_err(|e| Error::io("read", &path, e))?;
        Ok(running.digits() == self.sum.digits())
    }

    /// The bytes of it that an earlier run left in `folder`; those of something longer are no use.
    pub fn left_in(&self, folder: &Path) -> u64 {
        let left = fs::symlink_metadata(self.path_of_part(folder)).map_or(0, |about| about.len());
        if left > self.bytes { 0 } else { left }
    }

    fn path_of_part(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.part", self.name))
    }
}

impl Meter {
    /// For `total` bytes, of which `done` are there already.
    pub fn new(done: u64, total: u64) -> Self {
        Self { bar: Bar::new("MB"), done, total }
    }

    /// What is happening, after so many bytes came.
    pub fn show(&mut self, more: u64, message: &str) {
        // Another run may have changed what was there.
        self.done = (self.done + more).min(self.total);
        let total = self.total.div_ceil(MEGABYTE).max(1);
        let done = if self.done == self.total { total } else { self.done / MEGABYTE };
        self.bar.step(done, total, message);
    }
}

impl<'a> Part<'a> {
    /// Opens the part in `folder`, a new one if there is none that could become `wanted`.
    ///
    /// # Errors
    /// [`Error::Io`], also for a part that is no plain file, and for one that another run writes.
    pub fn open(folder: &Path, wanted: &'a Wanted, meter: &'a mut Meter) -> Result<Self> {
        let path = wanted.path_of_part(folder);
        let failed = |e: io::Error| Error::io("write", &path, e);
        if fs::symlink_metadata(&path).is_ok_and(|about| !about.is_file()) {
            return Err(failed(io::Error::other("it is no plain file; delete it")));
        }
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(failed(io::Error::other("another run is writing it; wait for that one")));
        }
        let bytes = wanted.left_in(folder);
        if bytes == 0 {
            file.set_len(0).map_err(failed)?;
        }
        let mut running = wanted.sum.begin(wanted.bytes);
        io::copy(&mut file, &mut running).map_err(|e| Error::io("read", &path, e))?;
        let mut part = Self { wanted, meter, place: folder.join(&wanted.name), path, file, running, bytes };
        if part.is_all() && !part.is_right() {
            part.empty()?;
        }
        Ok(part)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn wanted(&self) -> &Wanted {
        self.wanted
    }

    /// Whether all bytes are there.
    pub fn is_all(&self) -> bool {
        self.bytes == self.wanted.bytes
    }

    fn is_right(&self) -> bool {
        self.running.digits() == self.wanted.sum.digits()
    }

    /// Says what is happening.
    pub fn tell(&mut self, message: &str) {
        self.meter.show(0, message);
    }

    /// Starts anew.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn empty(&mut self) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|e| Error::io("write", &self.path, e))?;
        self.running = self.wanted.sum.begin(self.wanted.bytes);
        self.meter.done = self.meter.done.saturating_sub(self.bytes);
        self.bytes = 0;
        Ok(())
    }

    /// Writes more of it. What would go beyond the file's size empties the part, and is not written.
    ///
    /// # Errors
    /// [`Error::Malformed`] for more than the file's size; [`Error::Io`].
    pub fn append(&mut self, more: &[u8]) -> Result<()> {
        if more.len() as u64 > self.wanted.bytes - self.bytes {
            self.empty()?;
            let problem = format!("more comes than the {} bytes that are listed; none was kept", self.wanted.bytes);
            return Err(Error::malformed(&self.place, "size", problem));
        }
        self.file.write_all(more).map_err(|e| Error::io("write", &self.path, e))?;
        self.running.write_all(more).map_err(|e| Error::io("write", &self.path, e))?;
        self.bytes += more.len() as u64;
        self.meter.show(more.len() as u64, &self.wanted.name);
        Ok(())
    }

    /// Makes it the whole of another file, and says whether that is the wanted one; if not, it is empty.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn copy(&mut self, from: &Path) -> Result<bool> {
        let failed = |e| Error::io("read", from, e);
        self.empty()?;
        let mut source = File::open(from).map_err(failed)?.take(self.wanted.bytes);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match source.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => self.append(&buffer[..n])?,
            }
        }
        let right = self.is_all() && self.is_right();
        if !right {
            self.empty()?;
        }
        Ok(right)
    }

    /// Puts the whole file in its place.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a wrong sum, with which the part is deleted; [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        if !self.is_right() {
            let (got, want) = (self.running.digits(), self.wanted.sum.digits());
            fs::remove_file(&self.path).map_err(|e| Error::io("delete", &self.path, e))?;
            let problem = format!(
                "is {got}, and {want} is listed: what came is another file, or damaged. It was deleted; the same command \
                 starts anew"
            );
            return Err(Error::malformed(&self.place, self.wanted.sum.kind(), problem));
        }
        let Self { place, path, file, .. } = self;
        file.sync_all().map_err(|e| Error::io("write", &path, e))?;
        // Closed before the rename: Windows refuses to rename an open file.
        drop(file);
        fs::rename(&path, &place).map_err(|e| Error::io("write", &place, e))
    }
}
