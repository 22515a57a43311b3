//! Time, as a value that is handed in.
//!
//! [`Clock`] is `CLOCK_BOOTTIME` and the wall clock in production and steerable, one per node, in
//! simulation. Leases are judged by [`Clock::now`], which goes on while the machine is suspended;
//! timers that only wake a task may be tokio's, because whoever wakes reads this clock again.

use std::{fmt, time::SystemTime};

use crate::ids::Tick;

/// A node's two clocks.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Milliseconds since an arbitrary point, monotone, counting time in suspend.
    fn now(&self) -> Tick;

    /// Milliseconds since the Unix epoch; may jump.
    fn wall(&self) -> Tick;
}

/// The clocks of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Tick {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
        Tick(seconds * 1000 + nanos / 1_000_000)
    }

    fn wall(&self) -> Tick {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Tick(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
