//! The journal in Redis: a stream for each partition, in which an entry is a batch.
//!
//! ```text
//! syncmesh:{<cluster id>}:journal:<peer>:id                  names the journal as a whole
//! syncmesh:{<cluster id>}:journal:<peer>:7                   the stream of partition 7
//! syncmesh:{<cluster id>}:journal:<peer>:7:checkpoint:3-12   a state, in pieces, which an entry of the stream names
//! ```
//! Ids of entries are `<open count>-<entry number>`: whoever opens a stream first appends `<open count + 1>-0`, so
//! that Redis itself refuses what an earlier writer still has under way. Batches are durable when Redis answers, as
//! far as it is set to sync (`appendonly yes`, `appendfsync always`, `noeviction`); what it is set to is in
//! [`JournalInfo`]. `DATA_DIR/queues/marks-redis` remembers how far each journal had got.

mod foreign;
mod item;
mod keys;
mod link;
mod log;
mod recover;
mod server;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use redis::{Client, aio::MultiplexedConnection, cmd};
use tokio::{
    sync::watch,
    task::{AbortHandle, spawn_blocking},
};

use self::{
    foreign::Foreign,
    keys::{Keys, Told},
    link::Link,
    server::Server,
};
use crate::{
    ids::{ClusterId, JournalId, NodeId, PartitionId},
    store::{
        JournalError, JournalHealth, JournalInfo, JournalStore, Opened, Trust,
        health::{Board, Health},
        marks::{Marked, Marks},
        slots::Slots,
        writer::{Start, start},
    },
};

/// How long the server has to answer at the start.
const START: Duration = Duration::from_secs(5);

/// So many keys are removed with one command.
const KEYS_AT_ONCE: usize = 1000;

/// The journals of a node, in Redis.
pub struct RedisStore {
    id: JournalId,
    link: Arc<Link>,
    keeper: AbortHandle,
    marks: Arc<Marks>,
    board: Arc<Board>,
    slots: Slots,
    /// Keys that were found at the start: those of states by partition, and those of other clusters.
    stray: Mutex<BTreeMap<PartitionId, Vec<String>>>,
    foreign: Foreign,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("id", &self.id).field("redis", &self.link.shown).finish_non_exhaustive()
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl RedisStore {
    /// Opens the journals of this node in the Redis of this URL, and makes what is missing at the first start. The
    /// marks are kept below this `DATA_DIR`.
    ///
    /// # Errors
    /// [`JournalError::Away`] where Redis does not answer as it should: worth another attempt.
    /// [`JournalError::Unusable`] where `DATA_DIR` or the URL is at fault.
    pub async fn open(url: &str, cluster: ClusterId, node: NodeId, data_dir: &Path) -> Result<Self, JournalError> {
        // The error would repeat the URL's password.
        let client = Client::open(url).map_err(|_| {
            JournalError::Unusable("REDIS_URL is not a URL such as redis://127.0.0.1:6379/0".to_owned())
        })?;
        let shown = Link::shown(&client);
        let away = |why: String| JournalError::Away(format!("Redis at {shown}: {why}"));
        let keys = Keys::new(cluster, node);
        let mut connection = Link::connect(&client, START).await.map_err(away)?;
        let server = Server::ask(&mut connection).await.map_err(|error| away(error.to_string()))?;
        let (id, fresh) =
            take_id(&mut connection, &keys.id()).await.map_err(|error| away(error.to_string()))?.map_err(|other| {
                JournalError::Unusable(format!("Redis at {shown}: {other}, in {}: remove that key", keys.id()))
            })?;
        let (dir, path) = (data_dir.join("queues"), data_dir.join("queues").join("marks-redis"));
        let opened = spawn_blocking(move || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            Marks::open(&path, id, fresh)
        });
        let marks = opened.await.expect("opening does not panic");
        let marks = Arc::new(marks.map_err(|error| {
            JournalError::Unusable(format!("{}: {error}; let the node write there", data_dir.display()))
        })?);

        let board = Board::new();
        let (link, keeper) = Link::start(client, keys, id, (Arc::clone(&board), Arc::clone(&marks)), server).await?;
        let mut store = Self {
            id,
            link,
            keeper,
            marks,
            board,
            slots: Slots::default(),
            stray: Mutex::default(),
            foreign: Foreign::default(),
        };
        store.look_around().await?;
        store.warn();
        Ok(store)
    }

    /// What else is in that Redis.
    async fn look_around(&mut self) -> Result<(), JournalError> {
        let mut line = self.link.line().await?;
        let mut stray = BTreeMap::<_, Vec<_>>::new();
        for key in recover::scan(&mut line, keys::ALL).await? {
            match self.link.keys.tell(&key) {
                Told::Checkpoint(partition) => stray.entry(partition).or_default().push(key),
                Told::AnotherCluster => self.foreign.add(&key),
                Told::Stream(_) | Told::Unknown | Told::AnotherNode => {}
            }
        }
        self.stray = Mutex::new(stray);
        Ok(())
    }

    fn warn(&self) {
        if let Some(why) = self.link.server().not_durable() {
            tracing::warn!(
                "messages that were acknowledged can be lost when the machine of Redis at {} fails: {why}",
                self.link.shown
            );
        }
        if let Some(foreign) = self.foreign.told(&self.link.shown) {
            tracing::warn!("{foreign}");
        }
    }

    fn stray(&self, partition: PartitionId) -> Vec<String> {
        self.stray.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition).unwrap_or_default()
    }

    async fn open_partition(&self, partition: PartitionId) -> Result<Opened, JournalError> {
        let slot = self.slots.take(partition).await?;
        let opened = match self.marks.get(partition) {
            Marked::At(mark) => mark.opened,
            Marked::Never | Marked::Lost => 0,
        };
        let recovered = recover::recover(Arc::clone(&self.link), partition, opened).await?;
        let base = recovered.checkpoint.as_ref().map(|(at, _)| *at).unwrap_or_default();
        let last = recovered.records.last().map_or(base, |record| record.position);
        let trust = match (self.marks.judge(partition, last), self.link.server().not_durable()) {
            (Trust::Verified, Some(why)) => Trust::Unproven(why),
            (trust, _) => trust,
        };
        if !matches!(trust, Trust::Shortened(_)) {
            self.link.settled(partition);
        }
        let log = recovered.log.leaving(self.stray(partition));
        let health = Health::new(Arc::clone(&self.board), partition);
        let marks = Some(Arc::clone(&self.marks));
        let beginning = Start { partition, backend: log, health, slot, marks, opened: recovered.opened };
        let journal = start(beginning, base, &recovered.records);
        Ok(Opened { journal, checkpoint: recovered.checkpoint, records: recovered.records, trust })
    }

    async fn remove_partition(&self, partition: PartitionId) -> Result<(), JournalError> {
        let _slot = self.slots.take(partition).await?;
        let mut line = self.link.line().await?;
        let stream = self.link.keys.stream(partition);
        let mut keys = recover::scan(&mut line, &format!("{stream}:checkpoint:*")).await?;
        keys.push(stream);
        line.ask::<u64>(&cmd("UNLINK").arg(keys).to_owned()).await?;
        self.marks.clear(partition);
        self.link.settled(partition);
        Ok(())
    }
}

/// The id of the journal, made if there is none: whether it was made. The inner error: what is there instead.
async fn take_id(
    connection: &mut MultiplexedConnection,
    key: &str,
) -> Result<Result<(JournalId, bool), String>, redis::RedisError> {
    let fresh = JournalId(rand::random());
    let mut set = cmd("SET");
    set.arg(key).arg(fresh.to_string()).arg("NX");
    if set.query_async::<Option<String>>(connection).await?.is_some() {
        return Ok(Ok((fresh, true)));
    }
    let found: String = cmd("GET").arg(key).query_async(connection).await?;
    Ok(found.try_into().map(|id| (id, false)))
}

impl JournalStore for RedisStore {
    fn id(&self) -> JournalId {
        self.id
    }

    fn info(&self) -> JournalInfo {
        let server = self.link.server();
        let why = server.not_durable();
        let durable = why.is_none();
        let mut detail = match why {
            None => format!("Redis at {}, which syncs what it acknowledges", self.link.shown),
            Some(why) => format!(
                "Redis at {}, which can lose what it has acknowledged when its machine fails: {why}",
                self.link.shown
            ),
        };
        if let Some(foreign) = self.foreign.told(&self.link.shown) {
            detail = format!("{detail}; {foreign}");
        }
        JournalInfo { kind: "redis".to_owned(), durable, detail, shared_fate: server.run_id }
    }

    fn health(&self) -> watch::Receiver<JournalHealth> {
        self.board.worst()
    }

    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>, JournalError>> {
        async move {
            let mut line = self.link.line().await?;
            let keys = recover::scan(&mut line, &self.link.keys.own_pattern()).await?;
            let partition = |key: &String| match self.link.keys.tell(key) {
                Told::Stream(partition) => Some(partition),
                _ => None,
            };
            let mut partitions: Vec<_> = keys.iter().filter_map(partition).collect();
            partitions.sort_unstable();
            Ok(partitions)
        }
        .boxed()
    }

    fn open(&self, partition: PartitionId) -> BoxFuture<'_, Result<Opened, JournalError>> {
        self.open_partition(partition).boxed()
    }

    fn remove(&self, partition: PartitionId) -> BoxFuture<'_, Result<(), JournalError>> {
        self.remove_partition(partition).boxed()
    }

    fn journals_of(&self, node: NodeId) -> BoxFuture<'_, Result<Option<BTreeSet<PartitionId>>, JournalError>> {
        async move {
            let keys = self.link.keys.of(node);
            let mut line = self.link.line().await?;
            let found = recover::scan(&mut line, &keys.own_pattern()).await?;
            let partition = |key: &String| match keys.tell(key) {
                Told::Stream(partition) | Told::Checkpoint(partition) => Some(partition),
                _ => None,
            };
            Ok((!found.is_empty()).then(|| found.iter().filter_map(partition).collect()))
        }
        .boxed()
    }

    fn forget(&self, node: NodeId) -> BoxFuture<'_, Result<usize, JournalError>> {
        async move {
            let keys = self.link.keys.of(node);
            let mut line = self.link.line().await?;
            let mut found = recover::scan(&mut line, &keys.own_pattern()).await?;
            let id = keys.id();
            found.sort_unstable_by_key(|key| *key != id);
            for some in found.chunks(KEYS_AT_ONCE) {
                line.ask::<u64>(&cmd("UNLINK").arg(some).to_owned()).await?;
            }
            Ok(found.iter().filter(|key| matches!(keys.tell(key), Told::Stream(_))).count())
        }
        .boxed()
    }
}
