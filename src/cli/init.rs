//! `init`: makes the bootstrap bundle, which every node of a cluster is given.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use libp2p::pnet::PreSharedKey;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use super::{Context, Failure};
use crate::config::key;

/// What is written into a new list of peers.
const EMPTY_PEERS: &str = "";

/// Make the bootstrap bundle: a cluster key and an empty list of peers.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// Where to put it; made if it is not there. An existing key is never overwritten.
    #[arg(value_name = "DIR", default_value = "bootstrap")]
    directory: PathBuf,
}

impl Init {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let key_path = self.directory.join("cluster.key");
        let peers_path = self.directory.join("peers");
        fs::create_dir_all(&self.directory).with_context(|| cannot("create", &self.directory))?;
        let key = key::generate().context("the system gives no random numbers")?;
        write_key(&key_path, &key)?;
        match OpenOptions::new().write(true).create_new(true).open(&peers_path) {
            Ok(mut file) => file.write_all(EMPTY_PEERS.as_bytes()).with_context(|| cannot("write", &peers_path))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(anyhow!(error).context(cannot("create", &peers_path)).into()),
        }
        let (key_path, peers_path) = (key_path.display().to_string(), peers_path.display().to_string());
        let fingerprint = key.fingerprint().to_string();
        let document = json!({ "cluster_key": key_path, "peers": peers_path, "fingerprint": fingerprint });
        context.output.result(&document, || {
            format!(
                "{key_path}  the cluster's key (fingerprint {fingerprint}): give it to every node, and to nobody else\n\
                 {peers_path}  where the cluster is found: an address a line\n"
            )
        })
    }
}

/// Whole or not at all, and never in place of another: a key that was handed out must not change.
pub(super) fn write_key(path: &Path, key: &PreSharedKey) -> anyhow::Result<()> {
    let draft = path.with_extension(format!("key.{}", key.fingerprint()));
    let written = write_new(&draft, key.to_key_file().as_bytes())
        .with_context(|| cannot("write", &draft))
        .and_then(|()| match renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => Err(anyhow!(
                "{} exists and is left as it is: nodes may be using that key. Name another directory, or remove it first",
                path.display()
            )),
            Err(error) => Err(anyhow!(error).context(cannot("create", path))),
        });
    if written.is_err() {
        // The error that is reported is the first one.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}
