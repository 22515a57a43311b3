//! Which faults a run is to have: drawn from its seed.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::FaultKind;

/// One fault of a schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// When it begins, in milliseconds of true time.
    pub at_ms: u64,
    /// How long it lasts, in milliseconds.
    pub lasts_ms: u64,
    /// Whom it hits.
    pub victims: Vec<usize>,
    /// Whether the first victim is replaced by whoever leads when it begins.
    pub aim: Aim,
}

/// How the first victim is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// By the dice, when the schedule is drawn.
    Anyone,
    /// Whoever believes to lead when the fault begins.
    Leader,
}

/// How faults are drawn.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// Kinds and how likely each is, relative to the others.
    pub mix: Vec<(FaultKind, u32)>,
    /// From the beginning of one fault to that of the next, in milliseconds.
    pub gap_ms: RangeInclusive<u64>,
    /// How long one lasts, in milliseconds.
    pub lasts_ms: RangeInclusive<u64>,
    /// Of 100 faults with one main victim, so many aim at the leader.
    pub leader_percent: u32,
    /// Machines from this one on may leave the cluster for good, or lose their disks.
    pub expendable_from: usize,
    /// How far a wall clock jumps, in percent of the fault's duration.
    pub jump_percent: u64,
}

impl Default for FaultPlan {
    fn default() -> Self {
        let mix = vec![
            (FaultKind::Kill, 6),
            (FaultKind::Bounce, 4),
            (FaultKind::KillAll, 1),
            (FaultKind::Stop, 4),
            (FaultKind::Suspend, 2),
            (FaultKind::Retire, 3),
            (FaultKind::Wipe, 1),
            (FaultKind::Coup, 1),
            (FaultKind::Partition, 5),
            (FaultKind::OneWay, 4),
            (FaultKind::Cut, 2),
            (FaultKind::Loss, 2),
            (FaultKind::Slow, 2),
            (FaultKind::Duplicate, 1),
            (FaultKind::WallJump, 1),
        ];
        Self {
            mix,
            gap_ms: 200..=2_500,
            lasts_ms: 250..=4_000,
            leader_percent: 60,
            expendable_from: 0,
            jump_percent: 6_000,
        }
    }
}

/// The faults of one run, in the order in which they begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule(pub Vec<Fault>);

impl Schedule {
    /// Draws the faults between two moments; all of them are over at the second.
    pub fn draw(seed: u64, plan: &FaultPlan, machines: usize, from_ms: u64, until_ms: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed ^ 0x6661_756c_7473);
        let (mut faults, mut at_ms) = (Vec::new(), from_ms);
        loop {
            at_ms += dice.random_range(plan.gap_ms.clone());
            if at_ms >= until_ms {
                return Self(faults);
            }
            let mut kind = weighted(&plan.mix, &mut dice);
            if kind == FaultKind::Wipe && faults.iter().any(|fault: &Fault| fault.kind == FaultKind::Wipe) {
                kind = FaultKind::Kill;
            }
            let mut lasts_ms = dice.random_range(plan.lasts_ms.clone()).min(until_ms - at_ms);
            if lasts_ms < kind.lasts_at_least_ms() {
                lasts_ms = kind.lasts_at_least_ms();
                if at_ms + lasts_ms > until_ms {
                    continue;
                }
            }
            let aim = if dice.random_ratio(plan.leader_percent, 100) { Aim::Leader } else { Aim::Anyone };
            faults.push(Fault { kind, at_ms, lasts_ms, victims: victims(kind, machines, &mut dice), aim });
        }
    }

    /// How many of each kind.
    pub fn kinds(&self) -> BTreeMap<FaultKind, usize> {
        let mut kinds = BTreeMap::new();
        for fault in &self.0 {
            *kinds.entry(fault.kind).or_default() += 1;
        }
        kinds
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            let Fault { kind, at_ms, lasts_ms, victims, aim } = fault;
            writeln!(f, "  {at_ms:>6} ms, for {lasts_ms:>4} ms: {kind:?} of {victims:?} ({aim:?})")?;
        }
        Ok(())
    }
}

fn weighted(mix: &[(FaultKind, u32)], dice: &mut impl Rng) -> FaultKind {
    let mut left = dice.random_range(0..mix.iter().map(|(_, weight)| weight).sum());
    for (kind, weight) in mix {
        if left < *weight {
            return *kind;
        }
        left -= weight;
    }
    unreachable!("the dice stay below the sum of the weights")
}

fn victims(kind: FaultKind, machines: usize, dice: &mut impl Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..machines).collect();
    for index in (1..machines).rev() {
        all.swap(index, dice.random_range(0..=index));
    }
    all.truncate(kind.victims(machines, dice));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64) -> Schedule {
        Schedule::draw(seed, &FaultPlan::default(), 5, 1_000, 30_000)
    }

    #[test]
    fn the_same_seed_draws_the_same_faults_and_another_one_others() {
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_fault_lies_within_its_time_and_names_victims_that_exist() {
        for seed in 0..200 {
            for fault in &draw(seed).0 {
                assert!(fault.at_ms >= 1_000 && fault.at_ms + fault.lasts_ms <= 30_000, "seed {seed}: {fault:?}");
                assert!(fault.victims.iter().all(|victim| *victim < 5), "seed {seed}: {fault:?}");
                let parts = fault.kind != FaultKind::Partition || (1..5).contains(&fault.victims.len());
                assert!(parts, "seed {seed}: a partition of all is none: {fault:?}");
            }
        }
    }

    #[test]
    fn every_kind_is_drawn_by_some_seed() {
        let kinds: std::collections::BTreeSet<_> = (0..50).flat_map(|seed| draw(seed).kinds().into_keys()).collect();
        assert_eq!(kinds.len(), FaultPlan::default().mix.len());
    }
}
