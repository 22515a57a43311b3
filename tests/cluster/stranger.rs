//! A peer that speaks libp2p rightly and everything above it as it likes.

use std::{collections::HashMap, io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, StreamProtocol, SwarmBuilder,
    identity::Keypair,
    noise,
    request_response::{Behaviour, Codec, Config, Event, Message, OutboundRequestId, ProtocolSupport},
    swarm::SwarmEvent,
    tcp, yamux,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// The protocols of calls.
pub(crate) const PROTOCOLS: [&str; 5] = [
    "/syncmesh/raft/1",
    "/syncmesh/replication/1",
    "/syncmesh/coherence/1",
    "/syncmesh/control/1",
    "/syncmesh/client/1",
];
/// How long a call may take, whatever the node's own deadline is.
const CALL: Duration = Duration::from_secs(20);

/// Bytes as they are.
#[derive(Clone, Default)]
struct Raw;

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

impl Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&request).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&response).await
    }
}

/// What it answers to the greeting of a node.
#[derive(Clone, Debug)]
pub(crate) enum Manners {
    /// These bytes.
    Says(Vec<u8>),
    /// The greeting itself, as if it were of the same cluster and just like the node, with one text in
    /// it replaced by another of the same length.
    Parrots(String, String),
}

impl Manners {
    /// As if it were one of them.
    pub(crate) fn good() -> Self {
        Self::Parrots(String::new(), String::new())
    }

    fn answer(&self, greeting: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Says(bytes) => bytes.clone(),
            Self::Parrots(from, to) if from.is_empty() || from.len() != to.len() => greeting,
            Self::Parrots(from, to) => {
                let mut said = greeting;
                while let Some(at) = said.windows(from.len()).position(|bytes| bytes == from.as_bytes()) {
                    said[at..at + to.len()].copy_from_slice(to.as_bytes());
                }
                said
            }
        }
    }
}

type Call = (Vec<u8>, oneshot::Sender<Result<Vec<u8>, String>>);

/// One connection to a node, for calls under one protocol. Ends with the value.
#[derive(Debug)]
pub(crate) struct Stranger {
    calls: mpsc::Sender<Call>,
    ended: oneshot::Receiver<String>,
}

impl Stranger {
    /// Connects without a cluster key.
    pub(crate) async fn dial(addr: &str, keypair: Keypair, protocol: &'static str, manners: Manners) -> Self {
        let config = Config::default().with_request_timeout(CALL).with_max_concurrent_streams(100_000);
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| {
                let names = PROTOCOLS.iter().filter(|name| **name == protocol || name.contains("control"));
                let names: Vec<_> = names.map(|name| (StreamProtocol::new(name), support(name, protocol))).collect();
                Behaviour::with_codec(Raw, names, config)
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(CALL))
            .build();
        swarm.dial(addr.parse::<Multiaddr>().unwrap()).unwrap();
        let peer = loop {
            match timeout(CALL, swarm.select_next_some()).await.expect("a connection") {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => break peer_id,
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("no connection to {addr}: {error}"),
                _ => {}
            }
        };
        let (calls, mut asked) = mpsc::channel::<Call>(16_384);
        let (end, ended) = oneshot::channel();
        tokio::spawn(async move {
            let mut open: HashMap<OutboundRequestId, oneshot::Sender<Result<Vec<u8>, String>>> = HashMap::new();
            let cause = loop {
                let event = tokio::select! {
                    call = asked.recv() => match call {
                        Some((body, answer)) => {
                            open.insert(swarm.behaviour_mut().send_request(&peer, body), answer);
                            continue;
                        }
                        None => return,
                    },
                    event = swarm.select_next_some() => event,
                };
                match event {
                    SwarmEvent::Behaviour(Event::Message { message, .. }) => match message {
                        Message::Response { request_id, response } => {
                            open.remove(&request_id).map(|answer| answer.send(Ok(response)));
                        }
                        Message::Request { request, channel, .. } => {
                            let _ = swarm.behaviour_mut().send_response(channel, manners.answer(request));
                        }
                    },
                    SwarmEvent::Behaviour(Event::OutboundFailure { request_id, error, .. }) => {
                        open.remove(&request_id).map(|answer| answer.send(Err(error.to_string())));
                    }
                    SwarmEvent::ConnectionClosed { cause, .. } => {
                        break cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
                    }
                    _ => {}
                }
            };
            // Nobody may wait for it.
            let _ = end.send(cause);
        });
        Self { calls, ended }
    }

    /// What the node answers: nothing, if it refuses; the error, if it does not answer at all.
    pub(crate) async fn call(&self, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let (answer, answered) = oneshot::channel();
        self.calls.send((body, answer)).await.map_err(|_| "the connection is closed".to_owned())?;
        answered.await.unwrap_or_else(|_| Err("the connection is closed".to_owned()))
    }

    /// Waits until the node has closed the connection.
    pub(crate) async fn sent_away(self) -> String {
        timeout(CALL, self.ended).await.expect("the node hangs up").unwrap()
    }
}

/// It calls under one protocol only, and hears greetings.
fn support(name: &str, protocol: &str) -> ProtocolSupport {
    match (name == protocol, name.contains("control")) {
        (true, true) => ProtocolSupport::Full,
        (true, false) => ProtocolSupport::Outbound,
        _ => ProtocolSupport::Inbound,
    }
}
