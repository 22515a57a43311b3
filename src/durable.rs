//! Small files that are read and replaced as a whole: a crash leaves the old content or the new one.
//! And what to do where the disk refuses.
//!
//! A leaf, used by the few that write to disk; `tests/architecture.rs` lists them.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What `file` holds, if it is there.
///
/// # Errors
/// The file system's, where it is there and cannot be read.
pub(crate) fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes `file` hold exactly `content`, readable by its owner only, and durable when this returns: the
/// content is written beside it, synced, renamed over it, and the directory is synced.
///
/// # Errors
/// The file system's. `file` holds the old content then, or the new one if only the directory could
/// not be synced.
pub(crate) fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(file);
    let mut out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    // The mode above counts for a new file only, and one that a crash left may have another.
    out.set_permissions(Permissions::from_mode(0o600))?;
    out.write_all(content)?;
    out.sync_all()?;
    fs::rename(&temporary, file)?;
    // A bare name has the parent "", which is the current directory.
    sync_dir(file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn temporary(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_is_private_whatever_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("record.json");
        assert_eq!(read(&file).unwrap(), None);
        for left in [b"a longer content that a crash left".as_slice(), b""] {
            fs::write(temporary(&file), left).unwrap();
            fs::set_permissions(temporary(&file), Permissions::from_mode(0o644)).unwrap();
            replace(&file, b"new").unwrap();
            assert_eq!(read(&file).unwrap().unwrap(), b"new");
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!temporary(&file).exists());
        }
    }

    #[test]
    fn what_cannot_be_replaced_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("record.json");
        replace(&file, b"old").unwrap();
        fs::create_dir(temporary(&file)).unwrap();
        assert!(replace(&file, b"new").is_err());
        assert_eq!(fs::read(&file).unwrap(), b"old");
    }
}
