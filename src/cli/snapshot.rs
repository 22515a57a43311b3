//! `snapshot`: a backup into a file, and back.
//!
//! A file is written beside its name and checked as it comes; it gets its name once it is whole and on disk. One that is
//! put back is checked as a whole before a byte of it is sent.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::StreamExt;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{Context, Failure, OnInterrupt, remote::Remote};
use crate::{
    node::backup::{BackupHeader, Damage, Onto, Piece, Reader},
    time::rfc3339,
};

/// Bytes that are read from a file at a time.
const CHUNK: usize = 64 << 10;
const SAVING: &str = "saving: part {pos} of {len} {wide_bar} {elapsed}";
const RESTORING: &str = "restoring: {bytes}/{total_bytes} {wide_bar} {elapsed}";

/// What to do with backups.
#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Save a backup of locks and sessions into FILE.
    ///
    /// It is of one moment, and has everything in it that was acknowledged before. FILE appears when it is whole and on
    /// disk; it is readable by its owner only.
    Save(Save),
    /// Put the backup in FILE back, into this cluster or another one.
    ///
    /// Its sessions have their full terms again and hold what they held, under the same tokens; new tokens are above all
    /// that were ever granted. Sessions that the cluster has now are ended: where there are any, nothing is done
    /// without --yes.
    Restore(Restore),
    /// Check FILE, and show what is in it. No node is asked.
    Show(Show),
}

/// The arguments of `snapshot save`.
#[derive(Debug, Args)]
pub(super) struct Save {
    /// Where to.
    #[arg(value_name = "FILE", value_parser = named_file)]
    file: PathBuf,
    /// Replace FILE if it is there.
    #[arg(long)]
    overwrite: bool,
}

/// The arguments of `snapshot restore`.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Where from.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Give up the sessions and locks that the cluster has now.
    #[arg(long)]
    yes: bool,
}

/// The arguments of `snapshot show`.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// Which.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl SnapshotCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Save(save) => save.run(context),
            Self::Restore(restore) => restore.run(context),
            Self::Show(Show { file }) => {
                let (header, bytes) = checked(&file)?;
                context.output.result(&document(&header, bytes), || text(&header, bytes))
            }
        }
    }
}

/// A backup appears as a whole, under its name.
fn named_file(text: &str) -> Result<PathBuf, &'static str> {
    match text {
        "-" => Err("a backup is written to a file, which appears when it is whole and on disk: name one"),
        text => Ok(text.into()),
    }
}

impl Save {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        if self.file.exists() && !self.overwrite {
            return Err(exists(&self.file));
        }
        let mut unfinished = Unfinished::create(&self.file)?;
        let (header, bytes) = context
            .block_on(OnInterrupt::Fail, async { fetch(&remote, &mut unfinished).await.map(Some) })?
            .ok_or(Failure::Interrupted)?;
        if self.file.exists() && !self.overwrite {
            return Err(exists(&self.file));
        }
        unfinished.finish(&self.file)?;
        let shown = |header: &BackupHeader| format!("saved {}\n{}", self.file.display(), text(header, bytes));
        context.output.result(&document(&header, bytes), || shown(&header))
    }
}

fn exists(file: &Path) -> Failure {
    let file = file.display();
    Failure::Other(anyhow::anyhow!("{file} is there already: name another file, or say --overwrite"))
}

async fn fetch(remote: &Remote, into: &mut Unfinished) -> Result<(BackupHeader, u64), Failure> {
    let mut backup = remote.client.backup().await?;
    let (mut reader, mut header, mut length) = (Reader::default(), None, 0);
    let mut bar = ProgressBar::hidden();
    while let Some(bytes) = backup.next().await? {
        length += bytes.len() as u64;
        into.write(&bytes)?;
        reader.push(&bytes);
        while let Some(piece) = reader.next_piece().map_err(arrived_damaged)? {
            match piece {
                Piece::Header(read) => {
                    bar = remote.output.bar(u64::from(read.parts), SAVING);
                    header = Some(*read);
                }
                Piece::Part(number, _) => bar.set_position(u64::from(number) + 1),
            }
        }
    }
    bar.finish_and_clear();
    reader.finish().map_err(arrived_damaged)?;
    header.map(|header| (header, length)).ok_or_else(|| arrived_damaged(Damage::NoBackup))
}

/// What the node sent is not what it made: the file that was begun is removed.
fn arrived_damaged(damage: Damage) -> Failure {
    Failure::Other(anyhow::anyhow!("the backup did not arrive whole, no file was written: {damage}"))
}

impl Restore {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        let (header, length) = checked(&self.file)?;
        let onto = if self.yes { Onto::AnyState } else { Onto::EmptyState };
        let bar = remote.output.bar(length, RESTORING);
        let restored = context.block_on(OnInterrupt::Fail, async {
            let bytes = chunks(&self.file, bar.clone())?;
            Ok(remote.client.restore(length, bytes, onto).await?)
        });
        bar.finish_and_clear();
        restored?;
        let shown = || format!("restored {}\n{}", self.file.display(), text(&header, length));
        context.output.result(&document(&header, length), shown)
    }
}

/// The file in pieces, as they are sent.
fn chunks(
    path: &Path,
    bar: ProgressBar,
) -> Result<impl futures::Stream<Item = io::Result<Bytes>> + Send + Sync + use<>, Failure> {
    let file = open(path)?;
    Ok(futures::stream::iter(Chunks { file }).map(move |chunk| chunk.inspect(|bytes| bar.inc(bytes.len() as u64))))
}

struct Chunks {
    file: File,
}

impl Iterator for Chunks {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        let mut chunk = vec![0; CHUNK];
        match self.file.read(&mut chunk) {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some(Ok(chunk.into()))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    Ok(File::open(path).with_context(|| format!("{} cannot be read", path.display()))?)
}

/// Reads a file to its end, checks all of it, and gives its header and its length.
fn checked(path: &Path) -> Result<(BackupHeader, u64), Failure> {
    let damaged = |damage: Damage| Failure::Other(anyhow::anyhow!("{}: {damage}", path.display()));
    let (mut reader, mut header, mut length) = (Reader::default(), None, 0);
    for chunk in (Chunks { file: open(path)? }) {
        let chunk = chunk.with_context(|| format!("{} cannot be read", path.display()))?;
        length += chunk.len() as u64;
        reader.push(&chunk);
        while let Some(piece) = reader.next_piece().map_err(damaged)? {
            if let Piece::Header(read) = piece {
                header = Some(*read);
            }
        }
    }
    reader.finish().map_err(damaged)?;
    header.map(|header| (header, length)).ok_or_else(|| damaged(Damage::NoBackup))
}

/// A file that has no name yet: it is removed unless it is finished.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Unfinished {
    fn create(for_file: &Path) -> Result<Self, Failure> {
        let mut name = for_file.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { path, file, finished: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.file.write_all(bytes).with_context(|| format!("{} cannot be written", self.path.display()))?)
    }

    fn finish(mut self, file: &Path) -> Result<(), Failure> {
        let renamed = self.file.sync_all().and_then(|()| fs::rename(&self.path, file)).and_then(|()| {
            let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
            File::open(dir.unwrap_or_else(|| Path::new(".")))?.sync_all()
        });
        renamed.with_context(|| format!("{} cannot be written", file.display()))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed is replaced by the next one.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn document(header: &BackupHeader, bytes: u64) -> Value {
    json!({
        "cluster_id": header.cluster_id.to_string(),
        "cluster_name": header.cluster_name,
        "version": header.version,
        "created_at": rfc3339(header.created_at),
        "term": header.term.0,
        "applied_index": header.applied_index,
        "fencing_token": header.token,
        "sessions": header.counts.sessions,
        "locks_held": header.counts.holds,
        "locks_held_back": header.counts.delays,
        "bytes": bytes,
    })
}

fn text(header: &BackupHeader, bytes: u64) -> String {
    format!(
        "cluster   {} ({})\nmade      {} by syncmesh {}, at entry {} of term {}\nholds     {} sessions, {} holds of locks, {} \
         locks held back\ntoken     {}\nsize      {bytes} bytes\n",
        header.cluster_name,
        header.cluster_id,
        rfc3339(header.created_at),
        header.version,
        header.applied_index,
        header.term.0,
        header.counts.sessions,
        header.counts.holds,
        header.counts.delays,
        header.token,
    )
}
