//! The lock service as a pure state machine (DESIGN.md, section 4).

mod types;

pub use types::{
    Acquire, Bound, Grant, Granted, HolderView, LockAnswer, LockEffect, LockEvent, LockEventKind, LockRequest,
    LockTimer, LockView, Mode, NewSession, Refusal, SessionView, WaiterView, Want,
};

/// Most holders that a refusal names.
pub const MAX_HOLDERS_TOLD: usize = 16;
