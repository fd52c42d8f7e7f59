//! Folders that one process at a time may change.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::{Error, Result};

/// Takes the lock `path` of a folder that is a `what`, and leaves the process id in the file, for the message that the
/// next one gets. The lock is held as long as the file is open.
///
/// # Errors
/// [`Error::Io`] while another process holds it.
pub(crate) fn exclusive(path: &Path, what: &str) -> Result<File> {
    let open = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path);
    let mut file = open.map_err(|e| Error::io("open", path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Unreadable on systems where a lock keeps readers out as well.
            let _ = (&mut file).take(32).read_to_string(&mut holder);
            let message = format!("another process uses this {what} (process {})", holder.trim());
            return Err(Error::io("lock", path, io::Error::new(io::ErrorKind::WouldBlock, message)));
        }
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
            log::warn!("{}: this file system has no locks; let no second process change this {what}", path.display());
        }
        Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, e)),
    }
    let write = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    write.map_err(|e| Error::io("write", path, e))?;
    Ok(file)
}
