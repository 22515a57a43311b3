//! The data directory: whose it is, and who the node is.
//!
//! Owns the lock on the directory (two processes never share one), the identity file, and the count
//! of starts. Called once by `node` before anything else. Key and Raft log share a fate: the identity
//! names the random id of the log, and where the log is missing or another one, the node is somebody
//! new, because a voter that forgot its votes must not vote again.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use libp2p::identity::{Keypair, ed25519};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::{
    durable,
    error::disk_cure,
    ids::{Incarnation, NodeId},
};

const LOCK_FILE: &str = "lock";
const IDENTITY_FILE: &str = "identity.json";
const RETIRED_FILE: &str = "identity.retired.json";
/// Written by a started node; read here only to say who holds a locked directory.
const NODE_FILE: &str = "node.json";
/// Slots that are tried with `DATA_SLOTS=on`.
const MAX_SLOTS: usize = 256;
/// The form of the identity file.
const FORMAT: u32 = 1;

/// Whether the data directory is the node's own, or is shared by several that each take a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Slots {
    /// The directory itself.
    #[default]
    Off,
    /// The first free `slot-N` in it, from `slot-0`.
    On,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("the data directory {} is locked by another process{}; stop it or choose another DATA_DIR", dir.display(), pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// Which directory.
        dir: PathBuf,
        /// Who, as far as its `node.json` tells.
        pid: Option<u32>,
    },
    /// All slots are taken.
    #[error("all {MAX_SLOTS} slots of the data directory {} are locked by other processes", dir.display())]
    NoSlot {
        /// Which directory.
        dir: PathBuf,
    },
    /// The identity cannot be read.
    #[error("the identity file {} is damaged ({reason}); restore it from a copy, or remove it: the node then joins as a new one", file.display())]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it; never its content.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {reason}: {}", path.display(), disk_cure(reason))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DataDirError + 'a {
    move |reason| DataDirError::Io { action, path: path.to_owned(), reason }
}

/// Who this node is.
#[derive(Clone)]
pub struct Identity {
    /// The key that proves it.
    pub keypair: Keypair,
    /// The id made from it.
    pub node_id: NodeId,
    /// The random id of the Raft log that belongs to it.
    pub log_id: u128,
    /// The count of starts under this identity, this one included.
    pub incarnation: Incarnation,
    /// Whether it was made just now. If so, the caller makes the log anew, under [`log_id`](Self::log_id).
    pub fresh: bool,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node_id", &self.node_id)
            .field("incarnation", &self.incarnation)
            .field("fresh", &self.fresh)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    peer_id: NodeId,
    secret_key: String,
    log_id: String,
    incarnation: u64,
}

/// A data directory that this process holds, until the value is dropped or the process ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be (0700) and locks it.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] if another process, or another node of this one, holds it.
    pub fn open(path: &Path, slots: Slots) -> Result<Self, DataDirError> {
        if slots == Slots::Off {
            return Self::lock(path)?.ok_or_else(|| DataDirError::Locked { dir: path.to_owned(), pid: holder(path) });
        }
        for slot in 0..MAX_SLOTS {
            if let Some(dir) = Self::lock(&path.join(format!("slot-{slot}")))? {
                return Ok(dir);
            }
        }
        Err(DataDirError::NoSlot { dir: path.to_owned() })
    }

    fn lock(path: &Path) -> Result<Option<Self>, DataDirError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))?;
        let file = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&file)
            .map_err(failed("open", &file))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed("lock", &file)(error.into())),
        }
    }

    /// Where it is: with slots, the slot.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes nothing: locks a directory that is there.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] while a node runs on it, [`DataDirError::Io`] where there is none.
    pub fn open_existing(path: &Path) -> Result<Self, DataDirError> {
        fs::metadata(path.join(IDENTITY_FILE)).map_err(failed("find the identity of a node in", path))?;
        Self::open(path, Slots::Off)
    }

    /// Who the node is that was started here last, and the id of its log. Counts no start and makes nothing.
    ///
    /// # Errors
    /// [`DataDirError::Damaged`], [`DataDirError::Io`].
    pub fn last_identity(&self) -> Result<(NodeId, u128), DataDirError> {
        let file = self.path.join(IDENTITY_FILE);
        let bytes = fs::read(&file).map_err(failed("read", &file))?;
        let (keypair, log_id, _) =
            read_identity(&bytes).map_err(|reason| DataDirError::Damaged { file: file.clone(), reason })?;
        Ok((NodeId::from_public_key(&keypair.public()), log_id))
    }

    /// Who the node is, given the id of the Raft log that was found. Counts one start, durably,
    /// before it returns. A new identity is made where there is none, or where the log is not the one
    /// that belongs to it; the old one is kept beside it for people to look at.
    ///
    /// # Errors
    /// [`DataDirError::Damaged`] and [`DataDirError::Io`]; nothing is replaced then.
    pub fn identity(&self, existing_log: Option<u128>) -> Result<Identity, DataDirError> {
        let file = self.path.join(IDENTITY_FILE);
        let found = durable::read(&file).map_err(failed("read", &file))?;
        let found = found.map(|bytes| read_identity(&bytes)).transpose();
        let found = found.map_err(|reason| DataDirError::Damaged { file: file.clone(), reason })?;
        let (keypair, log_id, incarnation, fresh) = match found {
            Some((keypair, log_id, starts)) if existing_log == Some(log_id) => (keypair, log_id, starts + 1, false),
            found => {
                if found.is_some() {
                    tracing::warn!(
                        file = %file.display(),
                        "the Raft log of this identity is gone or another one: the node takes a new identity"
                    );
                    let retired = self.path.join(RETIRED_FILE);
                    fs::rename(&file, &retired).map_err(failed("rename", &file))?;
                }
                (ed25519::Keypair::generate(), rand::random(), 1, true)
            }
        };
        let node_id = NodeId::from_public_key(&keypair.public());
        let secret = keypair.secret();
        let content = IdentityFile {
            format: FORMAT,
            peer_id: node_id,
            secret_key: secret.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            log_id: format!("{log_id:032x}"),
            incarnation,
        };
        let json = serde_json::to_vec_pretty(&content).expect("a struct of strings and numbers is JSON");
        durable::replace(&file, &json).map_err(failed("write", &file))?;
        Ok(Identity { keypair: keypair.into(), node_id, log_id, incarnation: Incarnation(incarnation), fresh })
    }
}

fn read_identity(bytes: &[u8]) -> Result<(ed25519::Keypair, u128, u64), String> {
    // serde_json's own message would quote the value at fault, which may be the key.
    let file: IdentityFile =
        serde_json::from_slice(bytes).map_err(|e| format!("line {}, column {}", e.line(), e.column()))?;
    if file.format != FORMAT {
        return Err(format!("its format is {}, this version knows {FORMAT}", file.format));
    }
    let mut secret = unhex(&file.secret_key).ok_or("secret_key is not 64 hexadecimal digits")?;
    let secret = ed25519::SecretKey::try_from_bytes(&mut secret).map_err(|_| "secret_key is no key")?;
    let keypair = ed25519::Keypair::from(secret);
    if NodeId::from_public_key(&keypair.public()) != file.peer_id {
        return Err("peer_id does not belong to secret_key".to_owned());
    }
    let log_id = u128::from_str_radix(&file.log_id, 16).map_err(|_| "log_id is not hexadecimal")?;
    Ok((keypair, log_id, file.incarnation))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// The process that `node.json` names.
fn holder(dir: &Path) -> Option<u32> {
    let node: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(NODE_FILE)).ok()?).ok()?;
    node.get("pid")?.as_u64()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_is_made_private_and_is_held_by_one_only() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("new/data");
        let held = DataDir::open(&path, Slots::Off).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::write(path.join(NODE_FILE), br#"{"pid":4711}"#).unwrap();
        let error = DataDir::open(&path, Slots::Off).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("pid 4711"), "{error}");
        drop(held);
        DataDir::open(&path, Slots::Off).unwrap();
    }

    #[test]
    fn each_node_takes_the_first_free_slot() {
        let root = tempfile::tempdir().unwrap();
        let slot = || DataDir::open(root.path(), Slots::On).unwrap();
        let (zero, one, two) = (slot(), slot(), slot());
        assert!(zero.path().ends_with("slot-0") && one.path().ends_with("slot-1") && two.path().ends_with("slot-2"));
        drop(one);
        assert!(slot().path().ends_with("slot-1"));
    }

    #[test]
    fn an_identity_lasts_as_long_as_its_log_and_counts_its_starts() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), Slots::Off).unwrap();
        let first = dir.identity(None).unwrap();
        assert!(first.fresh);
        assert_eq!(mode(&root.path().join(IDENTITY_FILE)), 0o600);
        let again = dir.identity(Some(first.log_id)).unwrap();
        assert_eq!((again.node_id, again.log_id, again.fresh), (first.node_id, first.log_id, false));
        assert_eq!((first.incarnation, again.incarnation), (Incarnation(1), Incarnation(2)));
    }

    #[test]
    fn where_the_log_is_gone_or_another_one_the_node_is_somebody_new() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), Slots::Off).unwrap();
        let first = dir.identity(None).unwrap();
        for log in [None, Some(first.log_id ^ 1)] {
            let before = fs::read(root.path().join(IDENTITY_FILE)).unwrap();
            let other = dir.identity(log).unwrap();
            assert!(other.fresh && other.node_id != first.node_id && other.log_id != first.log_id);
            assert_eq!(fs::read(root.path().join(RETIRED_FILE)).unwrap(), before, "the old one is kept");
        }
    }

    #[test]
    fn a_damaged_identity_is_an_error_that_names_the_file_and_not_the_key() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), Slots::Off).unwrap();
        let first = dir.identity(None).unwrap();
        let file = root.path().join(IDENTITY_FILE);
        let good = fs::read_to_string(&file).unwrap();
        let key = &good[good.find("secret_key").unwrap() + 14..][..64];
        let damaged =
            [good[..good.len() / 2].to_owned(), good.replace(key, &"0".repeat(64)), good.replace(&key[..1], "x")];
        for content in damaged {
            fs::write(&file, &content).unwrap();
            let error = dir.identity(Some(first.log_id)).unwrap_err().to_string();
            assert!(error.contains(IDENTITY_FILE) && !error.contains(&key[..16]), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), content, "nothing is replaced");
        }
    }
}
