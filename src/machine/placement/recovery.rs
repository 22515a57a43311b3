//! What follows when nobody who holds everything is there: who is waited for, and who may serve in the end.
//!
//! The holders, who are listed as the last in-sync set from then on, hold all that was acknowledged. They report how far
//! their journals go; once none of them is awaited any more, the one with the greatest position has everything that was
//! ever committed. Who never stopped has everything anyhow, and need not wait for others. Where all of them have lost
//! their journals, only an operator can decide what to go on with.

use std::cmp::Reverse;

use super::{Change, Partition, PartitionStatus, Report, Reports};
use crate::{
    ids::NodeId,
    machine::{
        membership::{Liveness, Membership},
        replication::Replica,
    },
};

/// What is known of a member of the last in-sync set.
enum Standing {
    Reported(Report),
    /// It may come, with what it holds.
    Awaited,
    /// It left, or came back with another journal.
    Gone,
}

fn standing(member: &Replica, reports: &Reports, members: &Membership) -> Standing {
    match reports.get(&member.node) {
        Some(report) if report.replica.journal == member.journal => return Standing::Reported(*report),
        // It is here, and says that it has not what it had.
        Some(report) if report.replica.journal == Report::NOT_WHAT_IT_WAS => return Standing::Gone,
        _ => {}
    }
    match members.members().get(&member.node).filter(|known| known.belongs()) {
        Some(known) if known.joiner.journal.is_none_or(|journal| journal == member.journal) => Standing::Awaited,
        _ => Standing::Gone,
    }
}

/// Whether this is said by the run of the node that is there.
fn is_of_now(report: &Report, members: &Membership) -> bool {
    let Report { replica, .. } = report;
    members.replica(&replica.node).is_some_and(|now| {
        now.incarnation == replica.incarnation
            && (now.journal == replica.journal || replica.journal == Report::NOT_WHAT_IT_WAS)
    })
}

/// Whether the run of the node that said this may still be there: it is only out of sight, or nobody knows better.
fn is_of_last_run(report: &Report, members: &Membership) -> bool {
    let Report { replica, .. } = report;
    members.members().get(&replica.node).filter(|member| member.belongs()).is_some_and(|member| {
        member.joiner.incarnation == replica.incarnation
            && (member.joiner.journal == Some(replica.journal) || replica.journal == Report::NOT_WHAT_IT_WAS)
    })
}

/// The reports that count for the election: of the last in-sync set, with the journal that it had.
fn reported(now: &Partition, reports: &Reports) -> Vec<Report> {
    let of =
        |member: &Replica| reports.get(&member.node).filter(|report| report.replica.journal == member.journal).copied();
    now.in_sync.iter().filter_map(of).collect()
}

/// The one with the most: of equals, one whose journal is verified, then the first by the ring.
fn best(now: &Partition, reports: impl IntoIterator<Item = Report>) -> Option<Report> {
    let place = |node: &NodeId| now.replicas.iter().position(|replica| replica == node).unwrap_or(usize::MAX);
    reports.into_iter().max_by_key(|report| {
        let node = report.replica.node;
        (report.last, report.verified, Reverse((place(&node), node)))
    })
}

/// It serves, alone at first. Until it has confirmed that, whoever holds as much as it does still counts.
fn elect(now: &Partition, replica: Replica, others: impl IntoIterator<Item = Replica>) -> Change {
    let mut replicas = now.replicas.clone();
    if !replicas.contains(&replica.node) {
        replicas.push(replica.node);
    }
    let others = others.into_iter().filter(|other| other.node != replica.node);
    let holders = std::iter::once(replica).chain(others).collect();
    let (primary, in_sync, status) = (Some(replica), vec![replica], PartitionStatus::Serving);
    Change::To(Partition { primary, in_sync, holders, replicas, status, ..now.clone() })
}

/// What follows from the reports and the members as they are now. A report counts while the run that made it is there:
/// another run may find less.
pub(super) fn settle(now: &Partition, members: &Membership, lost: Option<&Reports>) -> Change {
    if !now.is_placed() {
        return Change::None;
    }
    let before = match &now.status {
        PartitionStatus::Serving => return Change::None,
        PartitionStatus::Waiting { reports } => reports.clone(),
        PartitionStatus::JournalLost => lost.cloned().unwrap_or_default(),
    };
    let was_lost = now.status == PartitionStatus::JournalLost;
    let mut reports = before.clone();
    // Where the journals are lost there is no new epoch in which somebody who was only out of sight would report
    // again: what it said is kept, and counts once it is back.
    reports.retain(|_, report| is_of_now(report, members) || (was_lost && is_of_last_run(report, members)));
    let mut of_now = reports.clone();
    of_now.retain(|_, report| is_of_now(report, members));
    let (mut awaited, mut never_stopped) = (false, false);
    let (mut elected, mut left) = (Vec::new(), Vec::new());
    for member in &now.in_sync {
        match standing(member, &of_now, members) {
            Standing::Reported(report) => {
                never_stopped |= report.replica == *member;
                elected.push(report);
                left.push(*member);
            }
            Standing::Awaited => {
                awaited = true;
                left.push(*member);
            }
            Standing::Gone => {}
        }
    }
    match best(now, elected).filter(|_| never_stopped || !awaited) {
        Some(report) => elect(now, report.replica, left),
        None if awaited && !was_lost && reports == before => Change::None,
        None if awaited => {
            Change::To(Partition { status: PartitionStatus::Waiting { reports: of_now }, ..now.clone() })
        }
        None if was_lost && reports == before => Change::None,
        None if was_lost => Change::Noted(reports),
        None => Change::Lost(Partition { primary: None, status: PartitionStatus::JournalLost, ..now.clone() }, reports),
    }
}

/// A node says how far its journal goes.
pub(super) fn report(now: &Partition, members: &Membership, lost: Option<&Reports>, report: Report) -> Change {
    let node = report.replica.node;
    if !now.is_placed() || !now.concerns(&node) || !is_of_now(&report, members) {
        return Change::Void;
    }
    match &now.status {
        PartitionStatus::Serving => Change::Void,
        PartitionStatus::JournalLost => {
            let mut reports = lost.cloned().unwrap_or_default();
            if reports.insert(node, report) == Some(report) { Change::None } else { Change::Noted(reports) }
        }
        PartitionStatus::Waiting { reports } => {
            let mut reports = reports.clone();
            if reports.insert(node, report) == Some(report) {
                return Change::None;
            }
            let noted = Partition { status: PartitionStatus::Waiting { reports }, ..now.clone() };
            match settle(&noted, members, lost) {
                Change::None | Change::Void => Change::To(noted),
                settled => settled,
            }
        }
    }
}

/// Who has not reported is waited for no longer, where a verified journal is there.
pub(super) fn wait_no_longer(now: &Partition) -> Change {
    let PartitionStatus::Waiting { reports } = &now.status else { return Change::Void };
    let reported = reported(now, reports);
    if !reported.iter().any(|report| report.verified) {
        return Change::Void;
    }
    best(now, reported).map_or(Change::Void, |report| elect(now, report.replica, now.in_sync.iter().copied()))
}

/// Of those who may have everything, one that is up and has not reported: it is about to, or its journal is away.
pub(super) fn awaited_though_up(now: &Partition, members: &Membership) -> Option<NodeId> {
    let PartitionStatus::Waiting { reports } = &now.status else { return None };
    let mut of_now = reports.clone();
    of_now.retain(|_, report| is_of_now(report, members));
    let is_up = |node: &NodeId| members.members().get(node).is_some_and(|member| member.liveness == Liveness::Up);
    let awaited = |member: &&Replica| matches!(standing(member, &of_now, members), Standing::Awaited);
    now.in_sync.iter().filter(awaited).map(|member| member.node).find(is_up)
}

/// Whoever has most of it serves it. Where all journals are lost and nobody has reported anything, somebody who is to
/// keep it begins with what it has.
pub(super) fn accept_loss(now: &Partition, members: &Membership, lost: Option<&Reports>) -> Change {
    let (reports, begin_anew) = match &now.status {
        PartitionStatus::Serving => return Change::Void,
        PartitionStatus::Waiting { reports } => (Some(reports), false),
        PartitionStatus::JournalLost => (lost, true),
    };
    let reports = reports.into_iter().flat_map(|reports| reports.values()).copied();
    let best = best(now, reports.filter(|report| is_of_now(report, members)));
    // Whatever it has, it journals on into what it has.
    if let Some(replica) = best.and_then(|report| members.replica(&report.replica.node)) {
        return elect(now, replica, None);
    }
    let is_up = |node: &&NodeId| members.members().get(node).is_some_and(|member| member.liveness == Liveness::Up);
    let anyone = now.replicas.iter().filter(is_up).find_map(|node| members.replica(node));
    anyone.filter(|_| begin_anew).map_or(Change::Void, |replica| elect(now, replica, None))
}
