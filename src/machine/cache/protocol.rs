//! The three protocols as data: what a cache does with a line, and what a home does with an entry.
//!
//! State names as in Nagarajan, Sorin, Hill and Wood, "A Primer on Memory Consistency and Cache Coherence", 2nd
//! edition, chapter 8. The machines look their moves up here and carry them out; a pair that is in no table cannot
//! happen between nodes that keep the protocol, and is ignored where it comes from one that does not.

use serde::{Deserialize, Serialize};

use super::{Protocol, RecallTo};

/// The state of a line at a cache: stable, waiting for an answer to a request, or on its way out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum LineState {
    /// Invalid.
    I,
    /// Shared: read.
    S,
    /// Exclusive: read, the sole copy, clean.
    E,
    /// Owned: read, and supply readers.
    O,
    /// Modified: read and write, the sole copy.
    M,
    /// Nothing, waiting for the answer to a GetS.
    IS,
    /// Nothing, waiting for the answer to a GetM.
    IM,
    /// Shared, waiting for the answer to an Upgrade.
    SM,
    /// Owned, waiting for the answer to an Upgrade.
    OM,
    /// Nothing; what was Exclusive is in the buffer until its PutAck.
    EI,
    /// Nothing; what was Owned is in the buffer until its PutAck.
    OI,
    /// Nothing; what was Modified is in the buffer until its PutAck.
    MI,
}

impl LineState {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 12] = [
        Self::I,
        Self::S,
        Self::E,
        Self::O,
        Self::M,
        Self::IS,
        Self::IM,
        Self::SM,
        Self::OM,
        Self::EI,
        Self::OI,
        Self::MI,
    ];

    /// Its name in tables, JSON and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::I => "I",
            Self::S => "S",
            Self::E => "E",
            Self::O => "O",
            Self::M => "M",
            Self::IS => "IS",
            Self::IM => "IM",
            Self::SM => "SM",
            Self::OM => "OM",
            Self::EI => "EI",
            Self::OI => "OI",
            Self::MI => "MI",
        }
    }

    /// Whether lines can be in it under this protocol.
    pub fn is_of(self, protocol: Protocol) -> bool {
        match self {
            Self::E | Self::EI => protocol.has_exclusive(),
            Self::O | Self::OM | Self::OI => protocol.has_owned(),
            _ => true,
        }
    }
}

/// What happens to a line at a cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LineEvent {
    /// Somebody here reads.
    Load,
    /// Somebody here writes.
    Store,
    /// It has to make room.
    Evict,
    /// Somebody else writes, under a higher version.
    Inv,
    /// The home wants the value, and lets a shared copy stay.
    RecallShared,
    /// The home wants the line.
    RecallInvalid,
    /// Another cache reads.
    Fetch,
}

impl LineEvent {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 7] =
        [Self::Load, Self::Store, Self::Evict, Self::Inv, Self::RecallShared, Self::RecallInvalid, Self::Fetch];

    /// A recall.
    pub fn recall(to: RecallTo) -> Self {
        match to {
            RecallTo::Shared => Self::RecallShared,
            RecallTo::Invalid => Self::RecallInvalid,
        }
    }
}

/// What a cache does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LineAct {
    /// Serve it from the line.
    Hit,
    /// Ask the home for a readable line.
    GetS,
    /// Ask the home for a writable line.
    GetM,
    /// Ask the home for the right to write the line that is here.
    Upgrade,
    /// Wait for the open request, if it may be joined (R3b).
    Join,
    /// Wait.
    Wait,
    /// Drop it and tell the home so.
    PutS,
    /// Keep it in the buffer and return the ownership, with the value where it is dirty.
    Put,
    /// Acknowledge.
    Ack,
    /// Acknowledge, and take nothing older from the open request (R3).
    AckRaise,
    /// Do nothing: the line is owned (R13).
    Ignore,
    /// Say that this grant is not owned here.
    NotOwner,
    /// Give up ownership, with the value where it is dirty; a dirty value goes to the buffer, too.
    Surrender,
    /// Answer as the first time.
    SurrenderAgain,
    /// Answer when the request that is named has ended.
    Await,
    /// Answer from the buffer.
    FromBuffer,
    /// Give the reader the value.
    Supply,
}

/// What a cache does, and the state after it. `next` is where a dirty line goes; a clean one that is surrendered
/// leaves nothing in the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LineMove {
    /// What it does.
    pub act: LineAct,
    /// The state after it.
    pub next: LineState,
}

/// The state of an entry at its home.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum EntryState {
    /// No cache has it.
    I,
    /// Some share it.
    S,
    /// One owns it, and perhaps some share it: E/M, O.
    Owned,
    /// A transaction is under way.
    Busy,
}

impl EntryState {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::I, Self::S, Self::Owned, Self::Busy];
}

/// What a home is asked about an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryEvent {
    /// To read it.
    GetS,
    /// To write it.
    GetM,
    /// A sharer has dropped it.
    PutS,
    /// Its owner returns it, naming the owner's grant.
    PutByOwner,
    /// Anybody returns it, naming any other grant.
    PutByOther,
}

impl EntryEvent {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 5] = [Self::GetS, Self::GetM, Self::PutS, Self::PutByOwner, Self::PutByOther];
}

/// What a home does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryAct {
    /// Make the reader the owner of a clean line, where there is a value.
    GrantExclusive,
    /// Make the reader a sharer, where there is a value.
    Share,
    /// Make the writer the owner.
    Grant,
    /// Invalidate the sharers, then make the writer the owner.
    Invalidate,
    /// Invalidate the sharers and recall the line from its owner, then make the writer the owner.
    InvalidateAndRecall,
    /// Make the reader a sharer and send it to the owner.
    Redirect,
    /// Recall the line from its owner, who stays a sharer, then share it.
    RecallShared,
    /// Wait for the transaction, in order.
    Defer,
    /// Take the sharer away, if it names the grant that is stored for it.
    Strike,
    /// Nothing.
    Ignore,
    /// Store the value, if there is one; the owner is none any more.
    Take,
    /// As the answer that the transaction waits for.
    CountAsSurrender,
    /// Say that it is stale, and drop what it carries.
    Stale,
}

use LineAct::{
    Ack, AckRaise, Await, FromBuffer, GetM, GetS, Hit, Ignore, Join, NotOwner, Put, PutS, Supply, Surrender,
    SurrenderAgain, Upgrade, Wait,
};
use LineState::{E, EI, I, IM, IS, M, MI, O, OI, OM, S, SM};

type Cell<A, N> = Option<(A, N)>;

/// At the cache, all protocols in one: [`line_move`] takes away what is not of one of them. `Recall → S` is of MESI,
/// Fetch of the two others.
#[rustfmt::skip]
const LINES: [(LineState, [Cell<LineAct, LineState>; 7]); 12] = [
    //    Load              Store               Evict             Inv                 Recall → S                  Recall → I                Fetch
    (I,  [Some((GetS, IS)), Some((GetM, IM)),    None,             Some((Ack, I)),      Some((NotOwner, I)),        Some((NotOwner, I)),      Some((NotOwner, I))]),
    (S,  [Some((Hit, S)),   Some((Upgrade, SM)), Some((PutS, I)),  Some((Ack, I)),      Some((SurrenderAgain, S)),  Some((NotOwner, S)),      Some((NotOwner, S))]),
    (E,  [Some((Hit, E)),   Some((Hit, M)),      Some((Put, EI)),  Some((Ack, I)),      Some((Surrender, S)),       Some((Surrender, I)),     Some((Supply, O))]),
    (O,  [Some((Hit, O)),   Some((Upgrade, OM)), Some((Put, OI)),  Some((Ignore, O)),   None,                       Some((Surrender, OI)),    Some((Supply, O))]),
    (M,  [Some((Hit, M)),   Some((Hit, M)),      Some((Put, MI)),  Some((Ignore, M)),   Some((Surrender, S)),       Some((Surrender, MI)),    Some((Supply, O))]),
    (IS, [Some((Join, IS)), Some((Wait, IS)),    None,             Some((AckRaise, IS)), Some((Await, IS)),         Some((Await, IS)),        Some((Await, IS))]),
    (IM, [Some((Wait, IM)), Some((Wait, IM)),    None,             Some((AckRaise, IM)), Some((Await, IM)),         Some((Await, IM)),        Some((Await, IM))]),
    (SM, [Some((Hit, SM)),  Some((Wait, SM)),    None,             Some((AckRaise, IM)), Some((Await, SM)),         Some((Await, SM)),        Some((Await, SM))]),
    (OM, [Some((Hit, OM)),  Some((Wait, OM)),    None,             Some((Ignore, OM)),  None,                       Some((Await, OM)),        Some((Await, OM))]),
    (EI, [Some((GetS, IS)), Some((Wait, EI)),    None,             Some((Ack, EI)),     Some((FromBuffer, EI)),     Some((FromBuffer, EI)),   Some((FromBuffer, EI))]),
    (OI, [Some((GetS, IS)), Some((Wait, OI)),    None,             Some((Ack, OI)),     None,                       Some((FromBuffer, OI)),   Some((FromBuffer, OI))]),
    (MI, [Some((GetS, IS)), Some((Wait, MI)),    None,             Some((Ack, MI)),     Some((FromBuffer, MI)),     Some((FromBuffer, MI)),   Some((FromBuffer, MI))]),
];

/// At the home: what is done, and the state after it where that does not depend on who is left. What a reader of an
/// unshared line or of an owned one gets depends on the protocol and stands in [`entry_act`].
#[rustfmt::skip]
const ENTRIES: [(EntryState, [Option<EntryAct>; 5]); 4] = [
    //                   GetS                        GetM                                 PutS                      Put, the owner's grant              Put, another
    (EntryState::I,     [Some(EntryAct::Share),      Some(EntryAct::Grant),               Some(EntryAct::Ignore),   None,                              Some(EntryAct::Stale)]),
    (EntryState::S,     [Some(EntryAct::Share),      Some(EntryAct::Invalidate),          Some(EntryAct::Strike),   None,                              Some(EntryAct::Stale)]),
    (EntryState::Owned, [Some(EntryAct::Redirect),   Some(EntryAct::InvalidateAndRecall), Some(EntryAct::Strike),   Some(EntryAct::Take),              Some(EntryAct::Stale)]),
    (EntryState::Busy,  [Some(EntryAct::Defer),      Some(EntryAct::Defer),               Some(EntryAct::Strike),   Some(EntryAct::CountAsSurrender),  Some(EntryAct::Stale)]),
];

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mesi, Self::Mosi, Self::Moesi];

    /// Whether it has E.
    pub fn has_exclusive(self) -> bool {
        matches!(self, Self::Mesi | Self::Moesi)
    }

    /// Whether it has O, and so owners that supply readers.
    pub fn has_owned(self) -> bool {
        matches!(self, Self::Mosi | Self::Moesi)
    }
}

/// What a cache does when that happens to a line in that state. `None`: it cannot happen.
pub fn line_move(protocol: Protocol, state: LineState, event: LineEvent) -> Option<LineMove> {
    let is_of = match event {
        LineEvent::RecallShared => !protocol.has_owned(),
        LineEvent::Fetch => protocol.has_owned(),
        _ => true,
    };
    if !is_of || !state.is_of(protocol) {
        return None;
    }
    let (_, row) = LINES.iter().find(|(of, _)| *of == state)?;
    let column = LineEvent::ALL.iter().position(|of| *of == event)?;
    row[column].map(|(act, next)| LineMove { act, next })
}

/// What a home does when it is asked that of an entry in that state. `None`: it cannot be asked.
pub fn entry_act(protocol: Protocol, state: EntryState, event: EntryEvent) -> Option<EntryAct> {
    let (_, row) = ENTRIES.iter().find(|(of, _)| *of == state)?;
    let column = EntryEvent::ALL.iter().position(|of| *of == event)?;
    let act = row[column]?;
    Some(match (state, act) {
        (EntryState::I, EntryAct::Share) if protocol.has_exclusive() => EntryAct::GrantExclusive,
        (_, EntryAct::Redirect) if !protocol.has_owned() => EntryAct::RecallShared,
        _ => act,
    })
}
