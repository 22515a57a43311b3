//! Without one of the rules something goes wrong.

use std::collections::BTreeSet;

use super::{
    Budget,
    Kind::{self, Evict, Load, Put, Store},
    Protocol::{self, Mesi, Moesi, Mosi},
    Rule, World, WritePolicy, check, world,
};
use crate::machine::cache::{
    HomeAnswer, HomeRequest,
    world::{Action, Envelope, GONE, IN_NO_DIRECTORY, NOT_HIGHER, OLDER, STALE, TWO_WRITERS},
};

/// More runs than a mutant takes to go wrong.
const MOST_OF_A_MUTANT: usize = 200_000;
/// So many are looked at to see that nothing goes wrong there with all rules.
const MOST_OF_A_BEGINNING: usize = 20_000;

type Begin = fn(&[Rule]) -> World;

/// Caches that did these things one after the other, with nothing in between.
fn after(protocol: Protocol, caches: usize, before: &[(usize, Kind)], without: &[Rule]) -> World {
    let plans: Vec<&[Kind]> = vec![&[]; caches];
    let gossip = Budget { gossip: true, ..Budget::default() };
    let mut world = world(protocol, WritePolicy::Back, &plans, gossip, without);
    before.iter().for_each(|(cache, kind)| world.does_all(*cache, *kind));
    world
}

fn calm() -> Budget {
    Budget { gossip: true, ..Budget::default() }
}

/// The home has a value, and no cache has.
const HOME_HAS_IT: [(usize, Kind); 2] = [(1, Store), (1, Evict)];

fn two_share(without: &[Rule]) -> World {
    after(Mesi, 2, &[(0, Store), (1, Load)], without).with(calm(), &[&[Store], &[]])
}

fn read_while_written(without: &[Rule]) -> World {
    after(Mosi, 2, &HOME_HAS_IT, without).with(calm(), &[&[Load], &[Store]])
}

fn read_twice_while_written(without: &[Rule]) -> World {
    after(Mosi, 2, &HOME_HAS_IT, without).with(calm(), &[&[Load, Load], &[Store]])
}

fn missed_while_written(without: &[Rule]) -> World {
    after(Mesi, 2, &[], without).with(calm(), &[&[Load, Load], &[Store]])
}

/// An answer is under way for almost as long as the lease that it grants.
fn read_for_long_while_written(without: &[Rule]) -> World {
    let mut world = after(Mosi, 2, &HOME_HAS_IT, without);
    world.does(0, Load);
    world.arrive(|envelope| matches!(envelope, Envelope::ToHome { .. }));
    world.time_passes(2);
    world.with(Budget { passes: 1, ..calm() }, &[&[], &[Store]])
}

fn read_again_while_written(without: &[Rule]) -> World {
    after(Mosi, 2, &HOME_HAS_IT, without).with(Budget { passes: 1, ..calm() }, &[&[Load], &[Store]])
}

/// A load joins a request that was sent under a session that has ended since.
fn read_over_two_sessions(without: &[Rule]) -> World {
    let mut world = after(Mosi, 2, &[(1, Store), (1, Evict), (0, Load)], without);
    world.time_passes(1);
    world.does_all(0, Evict);
    world.does(0, Load);
    world.arrive(|envelope| matches!(envelope, Envelope::ToHome { .. }));
    world.time_passes(1);
    world.with(Budget { renewals: 1, ..calm() }, &[&[Load], &[Store]])
}

/// An acknowledgement of the write before comes twice.
fn acknowledged_twice(without: &[Rule]) -> World {
    let is_ack = |envelope: &Envelope| matches!(envelope, Envelope::ToHome { message, .. } if matches!(message.body, HomeRequest::InvAck { .. }));
    let mut world = after(Mesi, 2, &[(0, Store), (1, Load)], without);
    world.does(0, Store);
    world.settle_but(is_ack);
    let acks = world.copies(is_ack);
    assert!(!acks.is_empty(), "a sharer has acknowledged");
    world.settle();
    world.does_all(1, Load);
    world.inject(acks);
    world.with(calm(), &[&[Store], &[]])
}

/// The home is deposed while one cache shares a line.
fn deposed_while_shared(without: &[Rule]) -> World {
    let mut world = after(Mosi, 2, &[(1, Store), (1, Evict), (0, Load)], without);
    world.happen(&Action::Depose);
    world.happen(&Action::Succeed);
    world.with(Budget { passes: 1, ..calm() }, &[&[], &[Store]])
}

/// All caches have heard of the successor, whose predecessor is inside its lease yet where the successor did not wait
/// for that.
fn succeeded(without: &[Rule]) -> World {
    let mut world = after(Mosi, 2, &HOME_HAS_IT, without);
    world.happen(&Action::Depose);
    world.happen(&Action::Succeed);
    world.happen(&Action::HomeTick { home: 1 });
    world.settle();
    world.with(Budget { crashes: 1, ..calm() }, &[&[Load], &[Store]])
}

/// The successor has waited for the lease of a cache that does not hear of it.
fn succeeded_unheard(without: &[Rule]) -> World {
    let mut world = after(Mosi, 2, &HOME_HAS_IT, without);
    world.happen(&Action::Depose);
    world.happen(&Action::Succeed);
    world.time_passes(3);
    world.happen(&Action::HomeTick { home: 1 });
    world.lose(|envelope| matches!(envelope, Envelope::FromHome { to: 0, .. }));
    world.settle();
    world.with(calm(), &[&[Load], &[Store]])
}

/// The same, and the home before is a member again, and knows that it is no home.
fn succeeded_and_returned(without: &[Rule]) -> World {
    let mut world = succeeded_unheard(without);
    world.first_home_returns();
    world
}

fn read_beside_a_write(without: &[Rule]) -> World {
    after(Mesi, 3, &[(0, Store), (1, Load)], without).with(calm(), &[&[Store], &[], &[Load]])
}

/// What is evicted is Put twice.
fn put_twice(without: &[Rule]) -> World {
    let is_put = |envelope: &Envelope| matches!(envelope, Envelope::ToHome { message, .. } if matches!(message.body, HomeRequest::Put { .. }));
    let mut world = after(Mesi, 2, &[(0, Store)], without);
    world.does(0, Evict);
    let puts = world.copies(is_put);
    world.settle();
    world.does_all(0, Store);
    world.inject(puts);
    world.with(calm(), &[&[], &[Load]])
}

fn paused_owner(without: &[Rule]) -> World {
    after(Mesi, 2, &[(0, Store)], without).with(Budget { passes: 3, ..calm() }, &[&[Store], &[Store]])
}

/// An owner was away for longer than its session, another one stored since and died; then the home is succeeded.
fn recovered_from_the_dead(without: &[Rule]) -> World {
    let mut world = after(Mesi, 2, &[(0, Store)], without);
    world.time_passes(3);
    world.does_all(1, Store);
    world.happen(&Action::Depose);
    world.happen(&Action::Succeed);
    world.time_passes(1);
    world.happen(&Action::HomeTick { home: 1 });
    world.happen(&Action::Crash { cache: 1 });
    world.with(calm(), &[&[], &[Load]])
}

fn owned_and_shared(without: &[Rule]) -> World {
    after(Moesi, 3, &[(0, Store), (1, Load)], without).with(calm(), &[&[], &[], &[Put]])
}

/// A request for a line that was granted, used, and returned comes again, and so does what was returned.
fn granted_twice(without: &[Rule]) -> World {
    let is_get = |envelope: &Envelope| matches!(envelope, Envelope::ToHome { message, .. } if matches!(message.body, HomeRequest::GetM { .. }));
    let is_put = |envelope: &Envelope| matches!(envelope, Envelope::ToHome { message, .. } if matches!(message.body, HomeRequest::Put { .. }));
    let mut world = after(Mesi, 2, &[], without);
    world.does(0, Store);
    let gets = world.copies(is_get);
    world.settle();
    world.does(0, Evict);
    let puts = world.copies(is_put);
    world.settle();
    [Store, Evict].into_iter().for_each(|kind| world.does_all(1, kind));
    world.inject(gets);
    world.inject(puts);
    world.with(calm(), &[&[], &[Load]])
}

fn upgrade_that_nobody_waits_for(without: &[Rule]) -> World {
    let budget = Budget { passes: 1, abandonments: 1, ..calm() };
    after(Mesi, 2, &[(0, Store), (1, Load)], without).with(budget, &[&[Store], &[Load]])
}

/// The grant of an Upgrade may be lost and told again, and nobody stores then: what is there is the owner's.
fn upgrade_of_an_owner(without: &[Rule]) -> World {
    let budget = Budget { passes: 1, abandonments: 1, ..calm() };
    after(Mosi, 2, &[(0, Store), (1, Load)], without).with(budget, &[&[Store], &[Load]])
}

/// The home has a value, and one cache a newer one.
fn newer_at_the_owner(without: &[Rule]) -> World {
    after(Mesi, 2, &[(0, Store), (0, Evict), (0, Store)], without).with(Budget { passes: 1, ..calm() }, &[&[], &[Put]])
}

/// A grant is lost.
fn grant_lost(without: &[Rule]) -> World {
    let mut world = after(Mesi, 2, &HOME_HAS_IT, without);
    world.does(0, Load);
    world.arrive(|envelope| matches!(envelope, Envelope::ToHome { .. }));
    world.lose(|envelope| {
        matches!(envelope, Envelope::HomeReply { reply, .. } if matches!(reply.body, HomeAnswer::Data { .. }))
    });
    world.with(Budget { passes: 1, ..calm() }, &[&[], &[Load]])
}

fn stored_over_a_newer_one(without: &[Rule]) -> World {
    after(Mesi, 3, &[(0, Store), (0, Evict), (0, Store)], without)
        .with(Budget { passes: 1, ..calm() }, &[&[], &[Store], &[Load]])
}

/// A home hands over, and stays a member. The next one cannot ask an owner, which renews its session with the first, and
/// serves without it; then that one is deposed.
fn told_to_the_home_after_the_next(without: &[Rule]) -> World {
    let mut world = after(Mesi, 2, &[(0, Store)], without);
    world.happen(&Action::Stop);
    world.happen(&Action::Succeed);
    (0..2).for_each(|cache| world.happen(&Action::View { cache }));
    world.is_out_of_reach(0);
    world.settle_homes(|envelope| envelope.between() != Some(0));
    [Store, Evict].into_iter().for_each(|kind| world.does_all(1, kind));
    world.happen(&Action::Depose);
    world.happen(&Action::Succeed);
    world.time_passes(1);
    world.renews(0);
    world.with(calm(), &[&[], &[Load]])
}

/// The same, but the owner hears of the first new home not before it hears of the second, while the first is inside its lease.
fn told_of_two_homes_at_once(without: &[Rule]) -> World {
    let mut world = after(Mesi, 2, &[(0, Store)], without);
    world.happen(&Action::Stop);
    world.happen(&Action::Succeed);
    world.happen(&Action::View { cache: 1 });
    world.is_out_of_reach(0);
    world.happen(&Action::Depose);
    world.happen(&Action::Succeed);
    world.happen(&Action::View { cache: 0 });
    world.settle_homes(|envelope| envelope.between() != Some(0));
    [Store, Evict].into_iter().for_each(|kind| world.does_all(1, kind));
    world.time_passes(1);
    world.renews(0);
    world.with(calm(), &[&[], &[Load]])
}

/// An owner has a newer value than its home, and nobody waits any more for the store that its Upgrade is for.
fn upgrade_without_a_store(without: &[Rule]) -> World {
    let before = [(1, Store), (0, Store), (1, Load)];
    after(Mosi, 2, &before, without).with(Budget { abandonments: 1, ..calm() }, &[&[Store, Evict], &[Load]])
}

/// An owner has a newer value than its home, and its Upgrade waits for a sharer. Its cache reads another key meanwhile, of which
/// there is nothing; nobody waits for the store any more, and the Upgrade is asked for again.
fn upgrade_behind_what_was_forgotten(without: &[Rule]) -> World {
    let is_ack = |envelope: &Envelope| matches!(envelope, Envelope::ToHome { message, .. } if matches!(message.body, HomeRequest::InvAck { .. }));
    let mut world = after(Mosi, 2, &[(1, Store), (0, Store), (1, Load)], without);
    world.does(0, Store);
    world.settle_but(is_ack);
    world.starts(0, Load.on(1));
    world.settle_but(is_ack);
    world.happen(&Action::Abandon { cache: 0 });
    world.time_passes(1);
    world.with(calm(), &[&[Evict], &[Load]])
}

/// The rules without which something goes wrong, where that shows, and what it is.
const NEEDED: [(Rule, Begin, &str); 28] = [
    (Rule::SharersAcknowledge, two_share, TWO_WRITERS),
    (Rule::LeaseFromSending, read_for_long_while_written, STALE),
    (Rule::DataNotBelowInv, read_while_written, STALE),
    (Rule::JoinBeforeInv, read_twice_while_written, OLDER),
    (Rule::AnswerNamesRequest, read_again_while_written, STALE),
    (Rule::AckNamesVersion, acknowledged_twice, TWO_WRITERS),
    (Rule::RecoverFromAll, deposed_while_shared, STALE),
    (Rule::RecoverAfterOldLease, succeeded, STALE),
    (Rule::HomeInsideLease, succeeded_unheard, STALE),
    (Rule::EpochFence, succeeded_and_returned, STALE),
    (Rule::NoGrantWhileBusy, read_beside_a_write, TWO_WRITERS),
    (Rule::SharerBeforeAnswer, read_while_written, STALE),
    (Rule::PutNamesGrant, put_twice, OLDER),
    (Rule::StoreInsideSession, paused_owner, NOT_HIGHER),
    (Rule::RecoverInsideSession, recovered_from_the_dead, OLDER),
    (Rule::OwnerIgnoresInv, owned_and_shared, GONE),
    (Rule::NonceServedOnce, granted_twice, OLDER),
    (Rule::UpgradeNotGivenUp, upgrade_that_nobody_waits_for, IN_NO_DIRECTORY),
    (Rule::SurrenderedStaysBuffered, newer_at_the_owner, OLDER),
    (Rule::NotOwnerNamesSession, grant_lost, GONE),
    (Rule::MissBeforeSending, missed_while_written, GONE),
    (Rule::DirtyIsSurrendered, stored_over_a_newer_one, OLDER),
    (Rule::JoinWithinSession, read_over_two_sessions, OLDER),
    (Rule::UpgradeKeepsGrant, upgrade_of_an_owner, GONE),
    (Rule::UntoldForNextHome, told_to_the_home_after_the_next, OLDER),
    (Rule::UntoldForNextHome, told_of_two_homes_at_once, OLDER),
    (Rule::UpgradeKeepsDirty, upgrade_without_a_store, OLDER),
    (Rule::EntryKnowsServed, upgrade_behind_what_was_forgotten, OLDER),
];

#[test]
fn without_any_one_of_the_rules_something_goes_wrong() {
    for (rule, begin, wrong) in NEEDED {
        let mut world = begin(&[rule]);
        world.looks_at_directory = rule == Rule::UpgradeNotGivenUp;
        let found = check(world, MOST_OF_A_MUTANT);
        eprintln!("without {rule:?}: {:?} after {} steps, {} states", found.wrong, found.path.len(), found.states);
        assert_eq!(found.wrong, Some(wrong), "without {rule:?}: {found:#?}");
    }
    let all: BTreeSet<Rule> = NEEDED.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(all, Rule::ALL.into_iter().collect(), "each rule is accounted for");
}

#[test]
fn with_all_rules_nothing_goes_wrong_where_mutants_do() {
    for (rule, begin, _) in NEEDED {
        let found = check(begin(&[]), MOST_OF_A_BEGINNING);
        assert_eq!(found.wrong, None, "where {rule:?} matters: {found:#?}");
    }
}
