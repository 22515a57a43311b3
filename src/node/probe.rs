//! Asks a peer what it says of itself, without being a node.

use std::time::Duration;

use libp2p::{Multiaddr, pnet::PreSharedKey};

use super::{
    status::NodeInfo,
    wire::{ControlCall, ControlReply},
};
use crate::{
    codec::{decode, encode},
    net::probe::{ProbeError, probe},
};

/// How long connecting and answering may take together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a peer said nothing of itself.
#[derive(Debug, thiserror::Error)]
pub enum PeerInfoError {
    /// It was not reached, or did not answer.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// It answered something else.
    #[error("the peer answered something that this version cannot read: is it a Syncmesh node of another version?")]
    Unreadable,
}

/// Dials a peer with a throw-away identity and asks what it says of itself.
///
/// # Errors
/// [`PeerInfoError`] names what failed, and the cure.
pub async fn peer_info(addr: &Multiaddr, key: Option<PreSharedKey>) -> Result<NodeInfo, PeerInfoError> {
    let probed = probe(addr, key, encode(&ControlCall::Info), PATIENCE).await?;
    match decode::<ControlReply>(&probed.answer) {
        Ok(ControlReply::Info(json)) => serde_json::from_str(&json).map_err(|_| PeerInfoError::Unreadable),
        _ => Err(PeerInfoError::Unreadable),
    }
}
