//! Handshakes that fail again and again: all that shows of a peer with another cluster key.
//!
//! The swarm task notes here what becomes of connections, in and out. Nothing is decided by it: it is for
//! the messages that say why a node is alone.

use std::time::Duration;

use libp2p::swarm::DialError;
use tokio::time::Instant;

/// So many in a row are no accident.
const SUSPICIOUS: u32 = 3;
/// After so long without another they are forgotten: several times the longest pause between two dials.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// The handshakes that have failed since the last that did not.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    failed: u32,
    last: Option<Instant>,
}

impl Handshakes {
    pub(super) fn failed(&mut self, now: Instant) {
        if !self.is_recent(now) {
            self.failed = 0;
        }
        self.failed = self.failed.saturating_add(1);
        self.last = Some(now);
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Whether they fail again and again.
    pub(super) fn are_suspicious(&self, now: Instant) -> bool {
        self.failed >= SUSPICIOUS && self.is_recent(now)
    }

    fn is_recent(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.duration_since(last) < FORGOTTEN_AFTER)
    }
}

/// Whether somebody took the connection, and the handshake came to nothing. The errors of the layers are
/// told apart by their texts only.
pub(super) fn is_of_handshake(error: &DialError) -> bool {
    let text = error.to_string().to_lowercase();
    let signs = ["handshake failed", "timeout", "connection reset", "broken pipe", "end of file"];
    matches!(error, DialError::Transport(_)) && signs.iter().any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use std::io;

    use libp2p::core::transport::TransportError;

    use super::*;

    fn dial_error(kind: io::ErrorKind) -> DialError {
        let addr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        DialError::Transport(vec![(addr, TransportError::Other(io::Error::from(kind)))])
    }

    #[test]
    fn a_connection_that_is_taken_and_reset_is_told_from_one_that_is_refused() {
        assert!(is_of_handshake(&dial_error(io::ErrorKind::ConnectionReset)));
        assert!(!is_of_handshake(&dial_error(io::ErrorKind::ConnectionRefused)));
        assert!(!is_of_handshake(&DialError::Aborted));
    }

    #[test]
    fn handshakes_are_suspicious_when_they_fail_again_and_again() {
        let (mut handshakes, mut now) = (Handshakes::default(), Instant::now());
        for nth in 1..=SUSPICIOUS {
            assert!(!handshakes.are_suspicious(now), "{nth}");
            now += Duration::from_secs(5);
            handshakes.failed(now);
        }
        assert!(handshakes.are_suspicious(now));
        assert!(!handshakes.are_suspicious(now + FORGOTTEN_AFTER));
        handshakes.succeeded();
        assert!(!handshakes.are_suspicious(now));
        for late in 1..=2 * SUSPICIOUS {
            handshakes.failed(now + FORGOTTEN_AFTER * late);
        }
        assert!(!handshakes.are_suspicious(now + FORGOTTEN_AFTER * 2 * SUSPICIOUS), "each alone");
    }
}
