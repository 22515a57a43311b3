//! Time in a simulation: one true time for the whole run, and a clock per machine that strays.
//!
//! [`WorldTime`] is moved by the [`World`](super::world::World) alone. A [`SimClock`] is a function of
//! it, so a lease deadline on any machine's clock can be placed on the true time line when a history
//! is checked.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use rand::{Rng, RngExt};

use crate::{clock::Clock, ids::Tick};

/// Most that one clock's rate strays from true time, in parts per million: two clocks then stray from
/// each other by less than the ε (1 %) that leases allow for.
pub const MAX_DRIFT_PPM: i64 = 4_900;

/// Most that wall clocks are off at first, unless a run says otherwise, in milliseconds.
pub const MAX_WALL_OFFSET_MS: i64 = 5_000;

/// The wall clock at the beginning of every run, in Unix milliseconds (January 2027).
pub const WALL_BASE_MS: u64 = 1_800_000_000_000;

const MILLION: u128 = 1_000_000;

/// True time since the beginning of the run, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct WorldTime(Arc<AtomicU64>);

impl WorldTime {
    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Moves time on by a millisecond.
    pub fn tick(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// The clocks of one machine. They outlive its processes.
#[derive(Debug)]
pub struct SimClock {
    time: WorldTime,
    rate_ppm: u64,
    boot_ms: u64,
    wall_offset_ms: AtomicI64,
}

impl SimClock {
    /// A clock that runs `drift_ppm` too fast, showed `boot_ms` when the run began, and whose wall
    /// clock is `wall_offset_ms` ahead.
    pub fn new(time: WorldTime, drift_ppm: i64, boot_ms: u64, wall_offset_ms: i64) -> Self {
        assert!(drift_ppm.abs() <= MAX_DRIFT_PPM, "a drift of {drift_ppm} ppm is more than leases allow for");
        let rate_ppm = (1_000_000 + drift_ppm) as u64;
        Self { time, rate_ppm, boot_ms, wall_offset_ms: AtomicI64::new(wall_offset_ms) }
    }

    /// A clock with a drift, boot time and wall offset (up to `wall_ms`) by the dice.
    pub fn draw(time: WorldTime, wall_ms: i64, dice: &mut impl Rng) -> Self {
        let drift = dice.random_range(-MAX_DRIFT_PPM..=MAX_DRIFT_PPM);
        Self::new(time, drift, dice.random_range(0..100_000_000), dice.random_range(-wall_ms..=wall_ms))
    }

    /// Sets the wall clock forward or back. The other clock does not care.
    pub fn jump_wall(&self, ms: i64) {
        self.wall_offset_ms.fetch_add(ms, Relaxed);
    }

    /// What this clock shows at a moment of true time.
    pub fn at(&self, true_ms: u64) -> Tick {
        Tick(self.boot_ms + (u128::from(true_ms) * u128::from(self.rate_ppm) / MILLION) as u64)
    }

    /// The first moment of true time at which this clock shows `tick` or more.
    pub fn true_ms(&self, tick: Tick) -> u64 {
        let since_boot = u128::from(tick.0.saturating_sub(self.boot_ms));
        (since_boot * MILLION).div_ceil(u128::from(self.rate_ppm)) as u64
    }
}

impl Clock for SimClock {
    fn now(&self) -> Tick {
        self.at(self.time.now_ms())
    }

    fn wall(&self) -> Tick {
        let wall = (WALL_BASE_MS + self.time.now_ms()).saturating_add_signed(self.wall_offset_ms.load(Relaxed));
        Tick(wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_stray_within_their_rate_and_can_be_mapped_back_to_true_time() {
        for drift in [-MAX_DRIFT_PPM, -17, 0, 333, MAX_DRIFT_PPM] {
            let time = WorldTime::default();
            let clock = SimClock::new(time.clone(), drift, 1_234, 0);
            for ms in 0..30_000 {
                let shown = clock.now();
                assert_eq!(shown, clock.at(ms));
                let back = clock.true_ms(shown);
                assert!(back <= ms && clock.at(back) >= shown, "drift {drift}, {ms} ms");
                assert!(back == 0 || clock.at(back - 1) < shown, "drift {drift}, {ms} ms: not the first");
                time.tick();
            }
            let strayed = (clock.now().0 - 1_234) as i64 - 30_000;
            assert!((strayed - drift * 30_000 / 1_000_000).abs() <= 1, "drift {drift} strayed {strayed} ms");
        }
    }

    #[test]
    fn two_clocks_stray_from_each_other_by_less_than_one_per_cent() {
        let [slow, fast] = [-MAX_DRIFT_PPM, MAX_DRIFT_PPM].map(|drift| 1_000_000 + drift);
        assert!(slow * 100 > fast * 99);
    }

    #[test]
    fn a_jump_of_the_wall_clock_leaves_the_other_alone() {
        let clock = SimClock::new(WorldTime::default(), 0, 50, 10);
        clock.jump_wall(-3_600_000);
        assert_eq!(clock.now(), Tick(50));
        assert_eq!(clock.wall(), Tick(WALL_BASE_MS + 10 - 3_600_000));
    }
}
