//! Backups of the replicated state: taken from the leader in parts, and put back in parts.
//!
//! [`Node::backup`] has the leader freeze what it has ([`exports`]) and fetches that, part by part; so a backup is of one
//! moment, and everything that was acknowledged before it was asked for is in it. [`Node::restore`] takes the bytes of a
//! backup as they come and hands the leader one part after the other. Nothing changes before the last one.

pub(crate) mod exports;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

use super::{
    Node,
    gateway::Gateway,
    wire::{BackupAsk, ClientAsk, ClientReply},
};
pub use crate::machine::backup::{
    BackupHeader, Onto, Restored,
    file::{Damage, Piece, Reader},
};
use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::RequestId,
    machine::{
        backup::{RestoreAnswer, RestoreStep, file::Writer},
        control::ChangeBody,
    },
};

/// How long the leader may take to freeze its state, or to look a part up.
const WAIT: Duration = Duration::from_secs(50);

/// A backup on its way out.
#[derive(Debug)]
pub struct Backup {
    gateway: Gateway,
    id: u64,
    parts: u32,
    next: u32,
    start: Option<Bytes>,
    writer: Option<Writer>,
}

impl Backup {
    /// The next bytes of the file; `None`: these were all.
    ///
    /// # Errors
    /// `unavailable` where the leader that froze it is none any more: begin anew. `no-quorum`.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(start) = self.start.take() {
            return Ok(Some(start));
        }
        if self.next == self.parts {
            // Nobody asks for it any more; should this be lost, it is forgotten after a while.
            return Ok(self.writer.take().map(Writer::end));
        }
        let ask = ClientAsk::Backup(BackupAsk::Part { id: self.id, number: self.next });
        let records = match self.gateway.ask(ask, WAIT).await? {
            ClientReply::BackupPart(records) => records,
            reply => return Err(strange(&reply)),
        };
        self.next += 1;
        Ok(self.writer.as_mut().map(|writer| writer.part(&records)))
    }
}

/// A backup on its way back.
#[derive(Debug)]
pub struct Restoration {
    gateway: Gateway,
    onto: Onto,
    reader: Reader,
    begun: Option<RequestId>,
}

impl Restoration {
    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// `bad-request` for a backup that is damaged; `conflict` where the cluster has sessions or locks, and it was not said
    /// that they may be given up, or where another restore was begun meanwhile; `no-quorum`, `unavailable`. Nothing was
    /// changed.
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.reader.push(bytes);
        while let Some(piece) = self.reader.next_piece().map_err(|damage| damaged(&damage))? {
            match piece {
                Piece::Header(header) => self.begin(header).await?,
                Piece::Part(number, records) => {
                    let restore = self.begun.ok_or_else(superseded)?;
                    self.step(RestoreStep::Part { restore, number, records }).await?;
                }
            }
        }
        Ok(())
    }

    /// All bytes were fed: what the backup holds takes the place of the sessions and locks that there are.
    ///
    /// # Errors
    /// As [`Restoration::feed`]; with `unavailable` and the outcome unknown, it may have been done.
    pub async fn finish(&mut self) -> Result<Restored, Error> {
        self.reader.finish().map_err(|damage| damaged(&damage))?;
        let restore = self.begun.ok_or_else(superseded)?;
        match self.step(RestoreStep::Finish { restore, onto: self.onto }).await? {
            RestoreAnswer::Restored(restored) => Ok(restored),
            answer => Err(Error::internal(format!("the leader gave an answer to something else: {answer:?}"))),
        }
    }

    /// It is given up: what was handed over is forgotten. Forgotten after ten minutes also where this fails.
    pub async fn cancel(self) {
        if let Some(restore) = self.begun {
            _ = self.step(RestoreStep::Cancel { restore }).await;
        }
    }

    async fn begin(&mut self, header: Box<BackupHeader>) -> Result<(), Error> {
        let request = self.gateway.begin();
        let body = ChangeBody::Restore(RestoreStep::Begin { header, onto: self.onto });
        judged(self.gateway.change(&request, None, body, WAIT).await?)?;
        self.begun = Some(request.id());
        Ok(())
    }

    async fn step(&self, step: RestoreStep) -> Result<RestoreAnswer, Error> {
        let request = self.gateway.begin();
        judged(self.gateway.change(&request, None, ChangeBody::Restore(step), WAIT).await?)
    }
}

fn judged(reply: ClientReply) -> Result<RestoreAnswer, Error> {
    match reply {
        ClientReply::Restore(RestoreAnswer::Occupied(counts)) => Err(Error::new(
            ErrorCode::Conflict,
            format!(
                "this cluster has {} sessions that hold {} locks, and {} locks that are held back: a restore would end all of \
                 them. Nothing was changed. To give them up, say so: `syncmesh snapshot restore --yes`, or ?force=true",
                counts.sessions, counts.holds, counts.delays
            ),
        )),
        ClientReply::Restore(RestoreAnswer::Superseded) => Err(superseded()),
        ClientReply::Restore(RestoreAnswer::Bad(why)) => Err(Error::bad_request(
            "body",
            format!("the backup contradicts itself: {why}. Nothing was changed; use another one"),
        )),
        ClientReply::Restore(answer) => Ok(answer),
        reply => Err(strange(&reply)),
    }
}

fn superseded() -> Error {
    Error::new(
        ErrorCode::Conflict,
        "this restore was given up: another one was begun meanwhile, or it lay still for ten minutes. Nothing was changed by \
         it; look what became of the other one before you repeat it",
    )
}

fn damaged(damage: &Damage) -> Error {
    Error::bad_request("body", damage.to_string())
}

fn strange(reply: &ClientReply) -> Error {
    Error::internal(format!("the leader gave an answer to something else: {reply:?}"))
}

impl Node {
    /// Begins a backup: of everything that was acknowledged before.
    ///
    /// # Errors
    /// `no-quorum`; `unavailable`, also where others are being taken.
    pub async fn backup(&self) -> Result<Backup, Error> {
        let gateway = self.running.gateway.clone();
        match gateway.ask(ClientAsk::Backup(BackupAsk::Begin), WAIT).await? {
            ClientReply::BackupBegun { id, header } => {
                let (writer, start) = Writer::begin(&header);
                let (parts, start, writer) = (header.parts, Some(start), Some(writer));
                Ok(Backup { gateway, id, parts, next: 0, start, writer })
            }
            reply => Err(strange(&reply)),
        }
    }

    /// Begins to put a backup back.
    pub fn restore(&self, onto: Onto) -> Restoration {
        Restoration { gateway: self.running.gateway.clone(), onto, reader: Reader::default(), begun: None }
    }
}

/// What a leader answers that does not have this backup.
pub(super) fn unknown_backup() -> Error {
    Error::unavailable(
        Outcome::NotApplied,
        "the leader that began this backup leads no more, or has waited for a minute: begin it anew",
    )
}
