//! How bytes get to a peer: TCP, then the pre-shared key if there is one, Noise, yamux; or QUIC.
//!
//! Owns the stack of transports and the resolution of names in addresses. Names are resolved by the
//! operating system for each dial and never remembered, because a container that is made anew keeps
//! its name and changes its address. QUIC is offered without a pre-shared key only: the handshake
//! that proves the key does not exist for it.

use std::{
    error::Error,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{
            Boxed, DialOpts, ListenerId, TransportError, TransportEvent, timeout::TransportTimeout, upgrade::Version,
        },
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise,
    pnet::{PnetConfig, PreSharedKey},
    quic,
    swarm::DialError,
    tcp, yamux,
};

use super::{NetError, discovery::peer_of, rpc};

/// How long a connection may take to be made, handshakes included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried.
const MAX_RESOLVED: usize = 8;

type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// The whole stack.
pub(super) fn build(keypair: &Keypair, key: Option<PreSharedKey>) -> Result<Connections, NetError> {
    let noise = noise::Config::new(keypair).map_err(|e| NetError::Setup { what: "Noise", reason: e.to_string() })?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(rpc::MAX_SUBSTREAMS);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let direct = match key {
        Some(key) => tcp
            .and_then(move |socket, _| PnetConfig::new(key).handshake(socket))
            .upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(yamux)
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed(),
        None => tcp
            .upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(yamux)
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .or_transport(
                quic::tokio::Transport::new(quic::Config::new(keypair))
                    .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))),
            )
            .map(|either, _| either.into_inner())
            .boxed(),
    };
    Ok(TransportTimeout::new(Resolving { inner: Arc::new(Mutex::new(direct)) }, CONNECT_TIMEOUT).boxed())
}

/// Whether a TCP port is free. libp2p listens with `SO_REUSEPORT`, under which two nodes would share
/// one port without a word, each getting half of the connections.
pub(super) fn check_free(addr: &Multiaddr) -> io::Result<()> {
    match host_and_next(addr) {
        Some((ip, Some(Protocol::Tcp(port)))) if port != 0 => std::net::TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

/// Whether somebody accepts TCP connections at an address.
pub(super) async fn tcp_answers(addr: &Multiaddr) -> bool {
    for resolved in resolve(addr).await.unwrap_or_default() {
        if let Some((ip, Some(Protocol::Tcp(port)))) = host_and_next(&resolved)
            && tokio::net::TcpStream::connect((ip, port)).await.is_ok()
        {
            return true;
        }
    }
    false
}

/// Why a dial failed, in the words of the layers that know: the others say nothing, or the same again.
pub(super) fn reason(error: &DialError) -> String {
    let mut next: Option<&(dyn Error + 'static)> = match error {
        DialError::Transport(tried) => tried.first().map(|(_, error)| error as _),
        error => Some(error),
    };
    let mut reason = String::new();
    while let Some(error) = next {
        let text = error.to_string();
        if !reason.contains(&text) {
            let colon = if reason.is_empty() { "" } else { ": " };
            reason = format!("{reason}{colon}{text}");
        }
        next = error.source();
    }
    reason
}

/// The IP address that an address begins with, and what comes after it.
fn host_and_next(addr: &Multiaddr) -> Option<(IpAddr, Option<Protocol<'_>>)> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    Some((ip, parts.next()))
}

/// A transport that resolves the name in an address before it dials.
struct Resolving {
    inner: Arc<Mutex<Connections>>,
}

impl Resolving {
    fn inner(&self) -> MutexGuard<'_, Connections> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Resolving {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = <Connections as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner().listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner().remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let expected = peer_of(&addr);
        if !named(&addr) {
            let dial = self.inner().dial(addr, opts)?;
            return Ok(Box::pin(async move { only(expected, dial.await?) }));
        }
        let inner = self.inner.clone();
        Ok(Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{addr} has no addresses"));
            for resolved in resolve(&addr).await? {
                let dial = inner.lock().unwrap_or_else(PoisonError::into_inner).dial(resolved, opts);
                let result = match dial {
                    Ok(dial) => dial.await.and_then(|connection| only(expected, connection)),
                    Err(error) => Err(io::Error::other(error)),
                };
                match result {
                    Ok(connection) => return Ok(connection),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }))
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut *self.inner()).poll(cx)
    }
}

/// Passes a connection with the peer that the address names, if it names one. libp2p compares too, but
/// only once one of a peer's addresses has won: a loopback address, behind which somebody else listens
/// here, would then win every time over the one that leads to the peer.
fn only<M>(expected: Option<PeerId>, connection: (PeerId, M)) -> io::Result<(PeerId, M)> {
    match expected {
        Some(peer) if peer != connection.0 => Err(io::Error::other(format!("another peer answers: {}", connection.0))),
        _ => Ok(connection),
    }
}

fn named(addr: &Multiaddr) -> bool {
    matches!(addr.iter().next(), Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)))
}

/// The addresses that the name in the first component stands for.
async fn resolve(addr: &Multiaddr) -> io::Result<Vec<Multiaddr>> {
    let Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) = addr.iter().next() else {
        return Ok(vec![addr.clone()]);
    };
    let wanted = |ip: &IpAddr| match addr.iter().next() {
        Some(Protocol::Dns4(_)) => ip.is_ipv4(),
        Some(Protocol::Dns6(_)) => ip.is_ipv6(),
        _ => true,
    };
    let found = tokio::net::lookup_host((name.as_ref(), 0)).await?;
    let ips = found.map(|socket| socket.ip()).filter(wanted).take(MAX_RESOLVED);
    Ok(ips.filter_map(|ip| addr.replace(0, |_| Some(Protocol::from(ip)))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_stands_for_its_addresses_of_the_family_that_was_asked_for() {
        let addr: Multiaddr = "/dns4/localhost/tcp/4001".parse().unwrap();
        let resolved = resolve(&addr).await.unwrap();
        assert!(resolved.contains(&"/ip4/127.0.0.1/tcp/4001".parse().unwrap()), "{resolved:?}");
        assert!(resolved.iter().all(|a| a.to_string().starts_with("/ip4/")), "{resolved:?}");
    }
}
