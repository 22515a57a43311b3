//! The coherent cache, as pure state machines: MESI, MOSI and MOESI between nodes that crash, pause and lose messages.
//!
//! A read returns the latest acknowledged write, or a miss, and never an older value. [`rules`] names what that rests on
//! (R1 to R16), with a switch each that tests turn off; docs/verification.md says what goes wrong then.
//!
//! # Who is who
//!
//! * Keys are divided into 256 slots ([`SlotId`]); each has a *home*, a node in one epoch of the slot.
//! * [`Home`] ([`directory`]) is what a node does as a home: the directory of its slots, which orders everything that
//!   happens to a key. A node may run several, each for a group of its slots ([`HomeId::group`]).
//! * [`Lines`] ([`mod@line`]) is what a node does as a cache: its lines towards all homes, its own included.
//! * [`protocol`] is the three protocols as tables, in which both look up what to do.
//! * [`residency`] bounds what a node keeps.
//!
//! # How a service drives them
//!
//! One task owns a [`Lines`] and one a [`Home`] for each group; each has the form `step(now, input, &mut effects)` with
//! `deadline()`, and its effects are done in their order.
//!
//! * **The clock** is read (`CLOCK_BOOTTIME`) right before each `step`, after the input was taken from its channel: a
//!   store is made only inside the session, so a `now` from before a pause would be a lie (R12).
//! * **Calls.** [`Effect::AskHome`], [`Effect::AskOwner`] and [`HomeEffect::Ask`] are questions of an exchange
//!   (`net/deferred`), whose bodies are the encoded [`ToHome`], [`Fetch`] and [`FromHome`]; the answer, or `None` where
//!   none comes, goes back in under the same `call`. What comes from a peer goes in with a `call` that the service
//!   makes up, and is answered by the effect with that `call`: every call is, at once or later (then the exchange is
//!   deferred). [`HomeRequest::ends_a_wait`] says what takes the lane of its own; so does everything that a home asks,
//!   and every Fetch. A question of the exchange that is still open may be dropped after a few [`Settings::retry_ms`]:
//!   the machine has asked anew by then. [`Effect::TellHome`] is a question whose answer nobody reads.
//! * **Gossip.** The service gathers [`HomeEffect::Broadcast`] for a millisecond or 64 KiB into an [`InvBatch`]. The
//!   receiver gives each of it to [`Lines`] as [`Input::Gossip`], and [`Input::GossipGap`] where a number is missing.
//!   Nothing depends on it: who is silent is told by unicast.
//! * **Who may say what** the service checks before: that the sender is a member and, of [`FromHome`], the node of its
//!   home by the newest view; a message that names a newer epoch waits for that view.
//! * **Hits without this task.** [`Effect::Install`], [`Effect::Drop`] and [`Effect::Session`] keep a table that many
//!   threads read: a reader takes the line out of the table *first*, then the session's term, then reads the clock; it
//!   is a hit if the line's session is the home's and the clock is before the term, and the value has not expired. A
//!   drop is done before the acknowledgement that follows it leaves, so no reader sees what was given up. Everything
//!   else (a miss, every write) goes through the task; a store into E or M is one step there and no message. A read
//!   that forwards another node's read is its own operation: such reads are never put together (R3b).
//! * **Room.** [`residency`] is told of installs, hits and drops and names the victim, which goes in as
//!   [`Input::Evict`]; a line that is busy goes as soon as it can. [`Lines::len`] counts what is in flight and buffered.
//! * **Placement.** Caches are told of each epoch of each slot ([`Input::Placed`]); homes begin
//!   ([`HomeInput::Begin`]) and end ([`HomeInput::End`]). A planned move: [`HomeInput::Stop`] at the old home, its
//!   [`HomeEffect::Stopped`] to the new one, then the new epoch is committed, then [`HomeInput::Begin`] there with
//!   [`Start::Handed`]. Without that: [`Start::Fresh`].
//! * **The home's lease** ([`HomeInput::Lease`]) is that of the node as a member: it is given only after the views that
//!   its giver named are installed.

mod directory;
mod line;
mod messages;
#[cfg(test)]
mod model;
mod protocol;
mod residency;
mod rules;
#[cfg(test)]
mod tests;
mod types;
#[cfg(test)]
mod world;

pub use self::{directory::*, line::*, messages::*, protocol::*, residency::*, types::*};
