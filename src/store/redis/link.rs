//! The link to Redis: two connections (one for the journals' commands, one for the heartbeat), kept by one task. It
//! notices within [`SILENT`] that Redis is away, connects again by itself, and looks each time whether the journal's
//! id is still there.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, aio::MultiplexedConnection,
    cmd,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{keys::Keys, server::Server};
use crate::{
    ids::{JournalId, PartitionId},
    store::{JournalError, JournalHealth, health::Board, marks::Marks, writer::Fault},
};

/// How often Redis is asked whether it is there.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// A heartbeat that is not answered for so long says that Redis is away.
pub(super) const SILENT: Duration = Duration::from_millis(350);
/// After so long without an answer the connections are given up.
const GIVE_UP: Duration = Duration::from_millis(1500);
/// The first and the longest pause between two attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// How long one attempt may take.
const CONNECT: Duration = Duration::from_millis(500);
/// The longest that one command may take: a large one on a slow disk.
const COMMAND: Duration = Duration::from_secs(30);
/// The server is asked again for what decides over durability after so many heartbeats: about every ten seconds.
const ASK_AGAIN: u64 = 100;
/// How long an operation waits for the link before it says that Redis is away.
const PATIENCE: Duration = Duration::from_millis(100);

/// The connections of one attempt.
struct Lines {
    heart: MultiplexedConnection,
    data: MultiplexedConnection,
}

#[derive(Clone)]
enum State {
    Down(String),
    Up(u64, MultiplexedConnection),
}

/// What is known to have been lost.
#[derive(Debug, Default)]
struct Loss {
    why: Option<String>,
    /// Whose journals have not been looked at, or written anew, since.
    unsettled: BTreeSet<PartitionId>,
}

/// The link of one store.
pub(super) struct Link {
    client: Client,
    /// Where Redis is, without user and password.
    pub(super) shown: String,
    pub(super) keys: Keys,
    id: JournalId,
    state: watch::Sender<State>,
    /// Grows with each connection and each loss: the journals look then whether theirs is whole.
    pulse: watch::Sender<u64>,
    /// The last connection that failed.
    broken: watch::Sender<u64>,
    loss: Mutex<Loss>,
    board: Arc<Board>,
    marks: Arc<Marks>,
    server: watch::Sender<Server>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("redis", &self.shown).finish_non_exhaustive()
    }
}

/// Why a command was not done, or not known to be.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Redis answered with an error.
    Refused(String),
    /// There is no answer: it may have been done.
    Silent(String),
}

impl Trouble {
    /// Whether Redis has later entries than the one that it was to append.
    pub(super) fn is_old_id(&self) -> bool {
        matches!(self, Self::Refused(why) if why.contains("equal or smaller"))
    }
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(why) | Trouble::Silent(why) => Self::Away(why),
        }
    }
}

impl From<Trouble> for JournalError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(why) | Trouble::Silent(why) => Self::Away(why),
        }
    }
}

/// What can be asked of Redis: a command, or several.
pub(super) trait Question {
    fn ask<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<T, RedisError>> + Send;
}

impl Question for Cmd {
    async fn ask<T: FromRedisValue>(&self, connection: &mut MultiplexedConnection) -> Result<T, RedisError> {
        self.query_async(connection).await
    }
}

impl Question for Pipeline {
    async fn ask<T: FromRedisValue>(&self, connection: &mut MultiplexedConnection) -> Result<T, RedisError> {
        self.query_async(connection).await
    }
}

/// A connection for commands, as long as it lasts.
pub(super) struct Line {
    link: Arc<Link>,
    /// Which connection it is.
    pub(super) generation: u64,
    connection: MultiplexedConnection,
    state: watch::Receiver<State>,
}

impl Line {
    /// Asks, and gives up when the connection is given up.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, question: &impl Question) -> Result<T, Trouble> {
        let generation = self.generation;
        tokio::select! {
            answer = question.ask(&mut self.connection) => answer.map_err(|error| self.trouble(&error)),
            why = gone(&mut self.state, generation) => Err(Trouble::Silent(why)),
        }
    }

    fn trouble(&self, error: &RedisError) -> Trouble {
        if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
            return Trouble::Refused(format!("Redis at {} refuses: {error}", self.link.shown));
        }
        self.link.broken.send_replace(self.generation);
        Trouble::Silent(self.link.away(error))
    }
}

async fn gone(state: &mut watch::Receiver<State>, generation: u64) -> String {
    let is_gone = |state: &State| !matches!(state, State::Up(now, _) if *now == generation);
    match state.wait_for(is_gone).await.as_deref() {
        Ok(State::Down(why)) => why.clone(),
        _ => "the connection to Redis was made anew".to_owned(),
    }
}

impl Link {
    /// Where a URL leads, without user and password.
    pub(super) fn shown(client: &Client) -> String {
        let info = client.get_connection_info();
        format!("{}/{}", info.addr(), info.redis_settings().db())
    }

    pub(super) fn away(&self, why: impl fmt::Display) -> String {
        format!("Redis at {} cannot be reached: {why}; this node goes on by itself when it can be", self.shown)
    }

    /// Opens a connection, which gives up waiting for an answer after so long.
    pub(super) async fn connect(client: &Client, answer: Duration) -> Result<MultiplexedConnection, String> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(answer));
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| error.to_string())
    }

    /// Takes over a server that answers, and starts the task that keeps the link.
    pub(super) async fn start(
        client: Client,
        keys: Keys,
        id: JournalId,
        (board, marks): (Arc<Board>, Arc<Marks>),
        server: Server,
    ) -> Result<(Arc<Self>, tokio::task::AbortHandle), JournalError> {
        let shown = Self::shown(&client);
        let link = Arc::new(Self {
            client,
            shown,
            keys,
            id,
            state: watch::Sender::new(State::Down("it was not connected yet".to_owned())),
            pulse: watch::Sender::new(0),
            broken: watch::Sender::new(0),
            loss: Mutex::default(),
            board,
            marks,
            server: watch::Sender::new(server),
        });
        let lines = link.lines().await.map_err(|why| JournalError::Away(link.away(why)))?;
        link.up(&lines, 1);
        let keeper = tokio::spawn(keep(Arc::clone(&link), lines)).abort_handle();
        Ok((link, keeper))
    }

    /// What the server says of itself.
    pub(super) fn server(&self) -> Server {
        self.server.borrow().clone()
    }

    /// Told when a journal should look whether it is whole.
    pub(super) fn pulse(&self) -> watch::Receiver<u64> {
        self.pulse.subscribe()
    }

    /// The connection, waited for a moment.
    pub(super) async fn line(self: &Arc<Self>) -> Result<Line, Trouble> {
        let mut state = self.state.subscribe();
        let up = timeout(PATIENCE, state.wait_for(|state| matches!(state, State::Up(..)))).await;
        if let Ok(Ok(now)) = up
            && let State::Up(generation, connection) = &*now
        {
            let (generation, connection) = (*generation, connection.clone());
            return Ok(Line { link: Arc::clone(self), generation, connection, state: self.state.subscribe() });
        }
        match &*self.state.borrow() {
            State::Down(why) => Err(Trouble::Silent(why.clone())),
            State::Up(..) => Err(Trouble::Silent("Redis is only just back".to_owned())),
        }
    }

    async fn lines(&self) -> Result<Lines, String> {
        let heart = Self::connect(&self.client, COMMAND).await?;
        let data = Self::connect(&self.client, COMMAND).await?;
        Ok(Lines { heart, data })
    }

    fn up(&self, lines: &Lines, generation: u64) {
        self.state.send_replace(State::Up(generation, lines.data.clone()));
        self.pulse.send_modify(|pulse| *pulse += 1);
    }

    fn down(&self, why: &str) {
        let why = self.away(why);
        self.state.send_if_modified(|state| {
            let changed = !matches!(state, State::Down(now) if *now == why);
            *state = State::Down(why.clone());
            changed
        });
        self.board.set(None, JournalHealth::Away(why));
    }

    fn loss(&self) -> MutexGuard<'_, Loss> {
        self.loss.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This journal is whole, or was written anew.
    pub(super) fn settled(&self, partition: PartitionId) {
        self.loss().unsettled.remove(&partition);
    }

    /// What a heartbeat brought: the id of the journal, if it is there.
    async fn beat(&self, heart: &mut MultiplexedConnection, found: Option<String>) -> Result<(), RedisError> {
        let id = self.id.to_string();
        if found.as_ref() == Some(&id) {
            *self.loss() = Loss::default();
            self.board.set(None, JournalHealth::Well);
            return Ok(());
        }
        let mend = {
            let mut loss = self.loss();
            if loss.why.is_none() {
                let why = match found {
                    None => "its id is gone: it was emptied, or an older backup was put back".to_owned(),
                    Some(other) => format!("its id is {other}, not {id}: other data were put there"),
                };
                tracing::error!("Redis at {} has lost the journal of this node: {why}", self.shown);
                loss.why = Some(why);
                loss.unsettled.extend(self.marks.known());
                self.pulse.send_modify(|pulse| *pulse += 1);
            }
            let why = loss.why.clone().unwrap_or_default();
            self.board.set(None, JournalHealth::Shortened(why));
            loss.unsettled.is_empty()
        };
        if mend {
            cmd("SET").arg(self.keys.id()).arg(&id).query_async::<()>(heart).await?;
            tracing::info!("the journal in Redis at {} is whole again", self.shown);
        }
        Ok(())
    }

    /// Asks again and again whether Redis is there, and tells why it is not any more.
    async fn watch(&self, lines: &mut Lines, generation: u64) -> String {
        let mut broken = self.broken.subscribe();
        for beats in 1u64.. {
            tokio::select! {
                () = sleep(HEARTBEAT) => {}
                _ = broken.wait_for(|broken| *broken == generation) => return "its connection broke".to_owned(),
            }
            let question = cmd("GET").arg(self.keys.id()).to_owned();
            let mut answer = Box::pin(question.query_async::<Option<String>>(&mut lines.heart));
            let answered = match timeout(SILENT, &mut answer).await {
                Ok(answered) => Ok(answered),
                Err(_) => {
                    let why = self.away(format_args!("it has not answered for {} ms", SILENT.as_millis()));
                    self.board.set(None, JournalHealth::Away(why));
                    timeout(GIVE_UP, &mut answer).await
                }
            };
            drop(answer);
            let done = match answered {
                Ok(Ok(found)) => self.beat(&mut lines.heart, found).await,
                Ok(Err(error)) => Err(error),
                Err(_) => return format!("it has not answered for {} ms", (SILENT + GIVE_UP).as_millis()),
            };
            if let Err(error) = done {
                return error.to_string();
            }
            if beats.is_multiple_of(ASK_AGAIN) {
                self.ask_again(&mut lines.heart).await;
            }
        }
        unreachable!("a heart does not beat 2^64 times")
    }

    async fn ask_again(&self, heart: &mut MultiplexedConnection) {
        // Who does not answer says nothing of itself: the next heartbeat notices.
        let Ok(Ok(server)) = timeout(GIVE_UP, Server::ask(heart)).await else { return };
        let before = self.server();
        if let Some(why) = server.not_durable().filter(|why| before.not_durable().as_ref() != Some(why)) {
            tracing::warn!("Redis at {} can now lose what it has acknowledged: {why}", self.shown);
        }
        self.server.send_replace(server);
    }
}

/// Keeps the link for as long as its store lives.
async fn keep(link: Arc<Link>, mut lines: Lines) {
    for generation in 1.. {
        let mut why = link.watch(&mut lines, generation).await;
        tracing::warn!("{}", link.away(&why));
        let mut pause = RECONNECT.0;
        lines = loop {
            link.down(&why);
            sleep(pause).await;
            pause = (pause * 2).min(RECONNECT.1);
            match link.lines().await {
                Ok(lines) => break lines,
                Err(error) => why = error,
            }
        };
        tracing::info!("Redis at {} is back", link.shown);
        link.ask_again(&mut lines.heart).await;
        link.up(&lines, generation + 1);
    }
}
