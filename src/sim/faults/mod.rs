//! What goes wrong in a run: a schedule drawn from the seed, and its application to a
//! [`World`](super::world::World).
//!
//! Faults overlap. What several of them do to links and weather adds up; at most one of them at a time
//! has a machine's process. Whatever happens, all is well again at the end of the schedule. Those that
//! take a disk or a journal away wait for a moment at which everything that was acknowledged is on another
//! one too.

mod journals;
mod kinds;
mod ordeal;
mod schedule;

pub use self::{
    kinds::FaultKind,
    ordeal::{Ordeal, Window},
    schedule::{Aim, Fault, FaultPlan, Schedule},
};
