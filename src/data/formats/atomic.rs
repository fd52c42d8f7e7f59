//! Files that are either whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::{Error, Result};

/// Writes `path` through `fill` so that a crash leaves the old file or the new one, never a part of it.
///
/// The bytes go to a fresh temporary file in the same folder, which is flushed to the disk and then renamed over `path`;
/// at last the folder is flushed, so that the new name survives a power cut too. The temporary file is removed when
/// anything fails.
///
/// # Errors
/// [`Error::Io`] naming `path`: when the folder is missing or not writable, the disk is full, or `fill` fails.
pub fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    replace(path, |_, file| {
        let mut writer = BufWriter::new(file);
        fill(&mut writer)?;
        // Closed before the rename: Windows refuses to rename an open file.
        writer.into_inner().map_err(|e| e.into_error())?.sync_all()
    })
}

/// As [`write()`], where `fill` hands the temporary file's path to another program.
///
/// # Errors
/// As [`write()`].
pub fn write_by(path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    replace(path, |temporary, file| {
        drop(file);
        fill(temporary)?;
        OpenOptions::new().write(true).open(temporary)?.sync_all()
    })
}

/// Writes a JSON value a line to `path`, as [`write()`] does.
pub(crate) fn write_lines<T: Serialize>(path: &Path, rows: impl IntoIterator<Item = T>) -> Result<()> {
    write(path, |file| {
        rows.into_iter().try_for_each(|row| {
            serde_json::to_writer(&mut *file, &row)?;
            file.write_all(b"\n")
        })
    })
}

/// Has `fill` write, flush and close a temporary file, which then takes the place of `path`.
fn replace(path: &Path, fill: impl FnOnce(&Path, File) -> io::Result<()>) -> Result<()> {
    let (temporary, file) = create_beside(path).map_err(|e| Error::io("create a temporary file for", path, e))?;
    let written = fill(&temporary, file)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(path))
        .map_err(|e| Error::io("write", path, e));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A new file whose name no other writer uses, in the folder of `path`.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    loop {
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let temporary = path.with_file_name(hidden);
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            // Left over from a crashed process of the same id: take the next number.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            opened => return opened.map(|file| (temporary, file)),
        }
    }
}

#[cfg(unix)]
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Folders cannot be flushed here; the rename is journalled by the file system.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write(&path, |f| f.write_all(b"old")).unwrap();
        write(&path, |f| f.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let failed = write(&path, |f| {
            f.write_all(b"half")?;
            Err(io::Error::other("disk on fire"))
        });
        assert!(matches!(failed, Err(Error::Io { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_and_a_path_without_a_name_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(write(&folder.path().join("no/such/a"), |_| Ok(())), Err(Error::Io { .. })));
        assert!(matches!(write(Path::new("/"), |_| Ok(())), Err(Error::Io { .. })));
    }
}
