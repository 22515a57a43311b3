use openraft::{Vote, raft::VoteRequest};

use super::*;
use crate::raft::{
    Changing, MembershipError, ReadError, ReadPolicy, Stopped, TransferError,
    network::{Chunk, Reply, Request, from_wire, to_wire},
};

fn small_snapshots() -> RaftSettings {
    RaftSettings { snapshot_entries: 20, kept_entries: 2, ..RaftSettings::default() }
}

#[tokio::test(start_paused = true)]
async fn what_is_proposed_is_applied_everywhere_in_one_order() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let proposals = (0..100).map(|n| {
        let leader = leader.clone();
        async move { leader.propose(vec![format!("{n}a"), format!("{n}b")]).await.unwrap() }
    });
    let answers = futures::future::join_all(proposals).await;
    let expected = lines(&leader);
    assert_eq!(expected.len(), 200);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer[1], answer[0] + 1);
        assert_eq!(expected[usize::try_from(answer[0]).unwrap() - 1], format!("{n}a"));
    }
    for node in cluster.nodes() {
        eventually("the followers", async || (lines(&node) == expected).then_some(())).await;
        let times = node.with_state(|journal, _| journal.times.clone()).unwrap();
        assert!(times.is_sorted());
    }
    let entries = leader.status().borrow().last_log_index;
    assert!(entries < 30, "200 commands took {entries} entries");
}

#[tokio::test(start_paused = true)]
async fn listeners_hear_every_entry_in_order_and_once() {
    let cluster = Cluster::of(3).await;
    for n in 0..20 {
        cluster.write(&n.to_string()).await;
    }
    let index = cluster.leader().await.status().borrow().last_log_index;
    for (id, told) in &cluster.told {
        let node = cluster.node(*id);
        node.applied().wait_for(|applied| *applied >= index).await.unwrap();
        eventually("the listener", async || (told.lock().unwrap().len() as u64 == index + 2).then_some(())).await;
        let told = told.lock().unwrap();
        assert_eq!(told[0], Applied::Reset { index: 0 });
        let mut effects = Vec::new();
        for (expected, applied) in told[1..].iter().enumerate() {
            let Applied::Entry { index, effects: new, .. } = applied else { panic!("{applied:?}") };
            assert_eq!(*index, expected as u64);
            effects.extend(new.clone());
        }
        assert_eq!(effects, lines(&node));
    }
}

#[tokio::test(start_paused = true)]
async fn another_leader_takes_over_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::of(3).await;
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        for n in 0..5 {
            let line = format!("{round}.{n}");
            cluster.write(&line).await;
            acknowledged.push(line);
        }
        let old = cluster.leader().await.id();
        cluster.kill(old).await;
        assert_ne!(cluster.leader().await.id(), old);
        assert_eq!(lines(&cluster.leader().await), acknowledged);
        cluster.boot(old).await;
        eventually("the restarted node", async || (lines(&cluster.node(old)) == acknowledged).then_some(())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_may_crash_at_once() {
    let mut cluster = Cluster::of(3).await;
    for n in 0..10 {
        cluster.write(&n.to_string()).await;
    }
    let before = lines(&cluster.leader().await);
    for id in 1..=3 {
        cluster.kill(node(id)).await;
    }
    for id in 1..=3 {
        cluster.boot(node(id)).await;
    }
    let leader = cluster.leader().await;
    leader.read_barrier(ReadPolicy::Index).await.unwrap();
    assert_eq!(lines(&leader), before);
}

#[tokio::test(start_paused = true)]
async fn an_isolated_leader_refuses_soon() {
    let cluster = Cluster::of(3).await;
    cluster.write("before").await;
    let leader = cluster.leader().await;
    cluster.isolate(leader.id());
    let limit = cluster.settings.election_max * 2;
    let started = Instant::now();
    let barrier = leader.read_barrier(ReadPolicy::Index).await;
    assert!(matches!(barrier, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })), "{barrier:?}");
    assert!(started.elapsed() <= limit, "reading took {:?}", started.elapsed());
    let started = Instant::now();
    let proposed = leader.propose(vec!["lost".to_owned()]).await;
    assert!(matches!(proposed, Err(ProposeError::NotLeader { .. } | ProposeError::Unknown)), "{proposed:?}");
    assert!(started.elapsed() <= limit, "proposing took {:?}", started.elapsed());
    assert!(leader.read_barrier(ReadPolicy::Lease).await.is_err());
    cluster.heal();
    cluster.write("after").await;
    eventually("the healed leader", async || (lines(&leader).last()? == "after").then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_proposed_before_the_isolation_is_answered_soon_too() {
    let cluster = Cluster::of(3).await;
    cluster.write("before").await;
    let leader = cluster.leader().await;
    cluster.isolate(leader.id());
    let started = Instant::now();
    assert_eq!(leader.propose(vec!["lost".to_owned()]).await, Err(ProposeError::Unknown));
    assert!(started.elapsed() <= cluster.settings.election_max * 2, "{:?}", started.elapsed());
}

/// What the others notice of the leader's death.
#[derive(PartialEq)]
enum Notice {
    Silence,
    ClosedConnections,
}

/// How long the others are without a leader after it was killed.
async fn outage(cluster: &Cluster, notice: Notice) -> Duration {
    let leader = cluster.leader().await.id();
    cluster.write("before").await;
    cluster.kill(leader).await;
    let started = Instant::now();
    for node in cluster.nodes().into_iter().filter(|_| notice == Notice::ClosedConnections) {
        tokio::spawn(async move { node.leader_lost(leader).await });
    }
    cluster.write("after").await;
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_replaced_within_two_election_timeouts() {
    for _ in 0..10 {
        let cluster = Cluster::of(3).await;
        let outage = outage(&cluster, Notice::Silence).await;
        assert!(outage < cluster.settings.election_max * 2 + Duration::from_millis(200), "{outage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_all_have_lost_is_replaced_at_once() {
    for _ in 0..10 {
        let cluster = Cluster::of(3).await;
        let outage = outage(&cluster, Notice::ClosedConnections).await;
        assert!(outage < Duration::from_millis(250), "{outage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_one_has_lost_goes_on() {
    let cluster = Cluster::of(3).await;
    cluster.write("before").await;
    let leader = cluster.leader().await;
    let term = leader.status().borrow().term;
    let mistaken = leader.status().borrow().successor(PATIENCE).unwrap();
    cluster.node(mistaken).leader_lost(leader.id()).await;
    for _ in 0..20 {
        leader.propose(vec!["during".to_owned()]).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(leader.status().borrow().term, term);
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_twenty_times_in_a_row() {
    let cluster = Cluster::of(3).await;
    for n in 0..20 {
        let leader = cluster.leader().await;
        let recent = cluster.settings.election_max;
        let to = eventually("a successor", async || leader.status().borrow().successor(recent)).await;
        let started = Instant::now();
        leader.transfer_leader(to).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(400), "transfer {n} took {:?}", started.elapsed());
        cluster.node(to).propose(vec![n.to_string()]).await.unwrap();
        assert_eq!(cluster.leader().await.id(), to);
    }
}

#[tokio::test(start_paused = true)]
async fn leadership_is_not_handed_to_who_cannot_lead() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let dead = leader.status().borrow().successor(PATIENCE).unwrap();
    cluster.kill(dead).await;
    sleep(cluster.settings.election_max).await;
    assert_eq!(leader.transfer_leader(dead).await, Err(TransferError::NotReady(dead)));
    assert_eq!(leader.transfer_leader(node(9)).await, Err(TransferError::NotVoter(node(9))));
    let follower = cluster.nodes().into_iter().find(|node| node.id() != leader.id()).unwrap();
    let refused = follower.transfer_leader(leader.id()).await;
    assert_eq!(refused, Err(TransferError::NotLeader { leader: Some(leader.id()) }));
    leader.propose(vec!["still leading".to_owned()]).await.unwrap();
    cluster.boot(dead).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_voters_that_its_leader_left_half_done_is_finished_by_the_next() {
    let mut cluster = Cluster::with(3, RaftSettings::default()).await;
    let leader = cluster.leader().await;
    cluster.boot(node(4)).await;
    leader.add_learner(node(4)).await.unwrap();
    let follower = cluster.nodes().into_iter().find(|node| node.id() != leader.id()).unwrap();
    let mut status = follower.status();
    eventually("the learner", async || (status.borrow().changing == Changing::Settled).then_some(())).await;
    let changed = tokio::spawn({
        let leader = leader.clone();
        async move { leader.change_voters((1..=4).map(node).collect()).await }
    });
    let begun = status.wait_for(|status| status.changing != Changing::Settled);
    _ = tokio::time::timeout(PATIENCE, begun).await.expect("the follower hears of the first step");
    cluster.kill(leader.id()).await;
    assert!(changed.await.unwrap().is_err());
    let next = cluster.leader().await;
    let halfway = Changing::Halfway((1..=4).map(node).collect());
    eventually("the change to be known", async || (next.status().borrow().changing == halfway).then_some(())).await;
    next.change_voters((1..=4).map(node).collect()).await.unwrap();
    eventually("the change", async || (next.status().borrow().changing == Changing::Settled).then_some(())).await;
    assert_eq!(next.status().borrow().voters.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn voting_is_not_left_to_those_who_are_silent() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let silent = (1..=3).map(node).find(|id| *id != leader.id()).unwrap();
    cluster.kill(silent).await;
    let (recent, status) = (cluster.settings.election_max, leader.status());
    eventually("silence", async || {
        let heard = status.borrow().followers[&silent].acknowledged;
        heard.is_none_or(|at| at.elapsed() >= recent).then_some(())
    })
    .await;
    let changed = leader.change_voters([leader.id(), silent].into()).await;
    assert!(matches!(changed, Err(MembershipError::Refused(_))), "{changed:?}");
    cluster.write("the two that are left still decide").await;
}

#[tokio::test(start_paused = true)]
async fn a_new_node_catches_up_by_snapshot_and_becomes_a_voter() {
    let mut cluster = Cluster::with(3, RaftSettings { max_request_bytes: 8 << 10, ..small_snapshots() }).await;
    for n in 0..80 {
        cluster.write(&format!("{n:>1000}")).await;
    }
    let leader = cluster.leader().await;
    eventually("the purge", async || (cluster.disks[&leader.id()].entries() < 40).then_some(())).await;
    let new = cluster.boot(node(4)).await;
    leader.add_learner(node(4)).await.unwrap();
    eventually("the learner", async || (lines(&new) == lines(&leader)).then_some(())).await;
    assert!(new.status().borrow().snapshot > 0);
    let told = cluster.told[&node(4)].lock().unwrap().clone();
    assert!(told.iter().any(|applied| matches!(applied, Applied::Reset { index } if *index > 0)));
    leader.change_voters((1..=4).map(node).collect()).await.unwrap();
    eventually("the vote", async || {
        let status = new.status().borrow().clone();
        (status.voters.len() == 4 && status.changing == Changing::Settled).then_some(())
    })
    .await;
    leader.change_voters((1..=3).map(node).collect()).await.unwrap();
    leader.remove_learner(node(4)).await.unwrap();
    assert_eq!(leader.status().borrow().learners, BTreeSet::new());
    assert!(cluster.cables.lock().unwrap().largest <= 8 << 10);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_and_the_log_behind_it_restore_the_state() {
    let mut cluster = Cluster::with(1, small_snapshots()).await;
    for n in 0..50 {
        cluster.write(&n.to_string()).await;
    }
    let before = cluster.node(node(1)).with_state(|journal, index| (journal.clone(), index)).unwrap();
    eventually("a snapshot", async || (cluster.node(node(1)).status().borrow().snapshot > 0).then_some(())).await;
    cluster.kill(node(1)).await;
    let restarted = cluster.boot(node(1)).await;
    cluster.leader().await.read_barrier(ReadPolicy::Index).await.unwrap();
    let after = restarted.with_state(|journal, index| (journal.clone(), index)).unwrap();
    assert_eq!(after.0, before.0);
    assert!(after.1 >= before.1);
}

#[tokio::test(start_paused = true)]
async fn large_and_many_entries_keep_to_the_limit_of_a_request() {
    let settings = RaftSettings { max_request_bytes: 64 << 10, ..RaftSettings::default() };
    let cluster = Cluster::with(3, settings).await;
    let leader = cluster.leader().await;
    let cut_off = leader.status().borrow().successor(PATIENCE).unwrap();
    cluster.isolate(cut_off);
    for _ in 0..20 {
        leader.propose(vec!["x".repeat(59 << 10)]).await.unwrap();
        leader.propose(vec!["y".repeat(5 << 10)]).await.unwrap();
    }
    let refused = leader.propose(vec!["z".repeat(64 << 10)]).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })), "{refused:?}");
    cluster.heal();
    let behind = cluster.node(cut_off);
    eventually("the one behind", async || (lines(&behind) == lines(&leader)).then_some(())).await;
    assert!(cluster.cables.lock().unwrap().largest <= 64 << 10);
}

#[tokio::test(start_paused = true)]
async fn nobody_speaks_for_another_and_noise_is_refused() {
    let cluster = Cluster::of(3).await;
    let target = cluster.node(node(2));
    let before = target.status().borrow().clone();
    let refused = async |from, body: Bytes| {
        let reply: Reply<Journal> = from_wire(&target.handle(from, body).await).unwrap();
        assert!(matches!(reply, Reply::Refused(_)));
    };
    let vote = Vote::new(99, node(3));
    let rpc = VoteRequest { vote, last_log_id: None, leadership_transfer: true };
    let claim = to_wire(&Request::<Journal>::Vote(rpc));
    refused(node(1), claim.clone()).await;
    let vote = Vote::new_committed(99, node(3));
    let chunk = Chunk { vote, transfer: 0, offset: 0, total: u64::MAX, data: Bytes::new() };
    refused(node(3), to_wire(&Request::<Journal>::Chunk(chunk.clone()))).await;
    refused(node(3), to_wire(&Request::<Journal>::Chunk(Chunk { offset: 7, total: 9, ..chunk.clone() }))).await;
    let noise = Chunk { total: 5, data: Bytes::from_static(b"noise"), ..chunk };
    refused(node(3), to_wire(&Request::<Journal>::Chunk(noise))).await;
    refused(node(3), Bytes::new()).await;
    refused(node(3), Bytes::from_static(b"\x02future")).await;
    for length in 0..claim.len() {
        refused(node(3), claim.slice(..length)).await;
    }
    assert_eq!(target.status().borrow().term, before.term);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_a_former_leader_or_beside_another_is_not_taken() {
    let cluster = Cluster::of(1).await;
    let target = cluster.leader().await;
    let ask = async |from: NodeId, term: u64, offset: u64| {
        let vote = Vote::new_committed(term, from);
        let data = Bytes::from_static(b"piece");
        let chunk = Request::<Journal>::Chunk(Chunk { vote, transfer: 0, offset, total: 15, data });
        from_wire::<Reply<Journal>>(&target.handle(from, to_wire(&chunk)).await).unwrap()
    };
    assert!(matches!(ask(node(2), 0, 0).await, Reply::Refused(_)), "a former leader");
    assert!(matches!(ask(node(2), 99, 0).await, Reply::Taken));
    assert!(matches!(ask(node(3), 99, 0).await, Reply::Refused(_)), "another one is coming in");
    assert!(matches!(ask(node(2), 99, 5).await, Reply::Taken), "and goes on");
    sleep(Duration::from_secs(10)).await;
    assert!(matches!(ask(node(2), 99, 10).await, Reply::Refused(_)), "it was given up");
    assert!(matches!(ask(node(3), 99, 0).await, Reply::Taken));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_ends_the_node_loudly_and_loses_nothing() {
    let mut cluster = Cluster::of(3).await;
    cluster.write("before").await;
    let leader = cluster.leader().await;
    cluster.disks[&leader.id()].fail_writes(Some(std::io::ErrorKind::StorageFull));
    let proposed = leader.propose(vec!["lost".to_owned()]).await;
    assert_eq!(proposed, Err(ProposeError::Unknown));
    let why = timeout(PATIENCE, leader.fatal()).await.unwrap();
    assert!(why.contains("no storage space") || why.contains("StorageFull"), "{why}");
    cluster.kill(leader.id()).await;
    cluster.write("after").await;
    cluster.disks[&leader.id()].fail_writes(None);
    let back = cluster.boot(leader.id()).await;
    eventually("the repaired node", async || (lines(&back) == ["before", "after"]).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_applying_is_fatal() {
    let cluster = Cluster::of(1).await;
    let alone = cluster.leader().await;
    let proposed = alone.propose(vec!["a bug".to_owned()]).await;
    assert_eq!(proposed, Err(ProposeError::Unknown));
    timeout(PATIENCE, alone.fatal()).await.unwrap();
}

/// A clock with a bug.
#[derive(Debug)]
struct BrokenClock;

impl Clock for BrokenClock {
    fn now(&self) -> Tick {
        Tick(0)
    }

    fn wall(&self) -> Tick {
        panic!("a bug")
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_proposing_is_fatal() {
    let mut cluster = Cluster::new(RaftSettings::default());
    cluster.clock = Arc::new(BrokenClock);
    let alone = cluster.boot(node(1)).await;
    alone.initialize(BTreeSet::from([node(1)])).await.unwrap();
    cluster.leader().await;
    let (proposed, fatal) = tokio::join!(alone.propose(vec!["x".to_owned()]), timeout(PATIENCE, alone.fatal()));
    assert_eq!(proposed, Err(ProposeError::Unknown));
    fatal.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stopped_node_says_so() {
    let cluster = Cluster::of(1).await;
    let alone = cluster.leader().await;
    alone.read_barrier(ReadPolicy::Lease).await.unwrap();
    assert_eq!(alone.is_initialized().await, Ok(true));
    let again = alone.initialize(BTreeSet::from([node(1)])).await;
    assert!(matches!(again, Err(MembershipError::Refused(_))), "{again:?}");
    alone.shutdown().await;
    assert_eq!(alone.propose(vec![String::new()]).await, Err(ProposeError::Stopped));
    assert_eq!(alone.read_barrier(ReadPolicy::Index).await, Err(ReadError::Stopped));
    assert_eq!(alone.with_state(|_, index| index), Err(Stopped));
    assert_eq!(alone.status().borrow().role, RaftRole::Stopped);
}
