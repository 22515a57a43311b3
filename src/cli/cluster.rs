//! `status`, `members` and `health`: the cluster as its operators see it.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Context, Failure, OnInterrupt,
    leave::Leave,
    output::{Format, table},
    queue_placement,
    recover::Recover,
    remote::{Remote, cell, for_people, percent},
    watch::Watch,
};
use crate::{
    client::Call,
    ids::{NodeId, Role},
    node::status::{CacheSummary, Check, ClusterView, MemberStatus, MemberView, RaftStanding},
};

/// The arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    watch: Watch,
}

impl Status {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        self.watch.show(context, &remote, &Call::cluster(), |body| remote.print(body, status_text))
    }
}

/// The arguments of `members`.
#[derive(Debug, Args)]
pub(super) struct Members {
    #[command(flatten)]
    watch: Watch,
    #[command(subcommand)]
    command: Option<MembersCommand>,
}

/// What to do about members.
#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// The members with their roles and standing, those that are down or left too.
    List(Watch),
    /// Remove a member and bar it until it is admitted again.
    ///
    /// For one that is gone for good, or must be kept out: if its process runs, it says so and exits 1, and is
    /// refused until `members admit`. One that is to go in good order is asked with `members leave`. Where a
    /// voter is removed, the others go on while more than half of them are up.
    Remove(Peer),
    /// Lift the bar of a removed member: it may join again, under the id that it had.
    Admit(Peer),
    /// The node at --url drains, leaves for good, and its process ends.
    ///
    /// It hands its duties over first and exits 0. Started again, it joins as a new member. The command waits until
    /// the node has left, and shows on a terminal what is still to be handed over; Ctrl-C ends the waiting, not the
    /// leaving.
    Leave(Leave),
    /// Hand Raft's leadership over, such as before maintenance of the leader's machine.
    ///
    /// Locks stay held; calls in flight are repeated or refused within a second or two.
    TransferLeader(LeaderTo),
    /// The last resort: more than half of the voting lock managers are lost for good.
    ///
    /// Works on the data directory of a lock manager that is left, while it does NOT run, and makes it the only one of
    /// its cluster. Whatever the others decided that it never heard of is lost. Without --yes it only shows what it
    /// would do. As long as the lost ones may come back, start them instead.
    Recover(Recover),
}

/// A member.
#[derive(Debug, Args)]
struct Peer {
    /// Its peer id: `syncmesh members list` shows them.
    #[arg(value_name = "PEER")]
    peer: NodeId,
}

/// Who is to lead.
#[derive(Debug, Args)]
struct LeaderTo {
    /// The new leader's peer id; without it, whoever is most up to date.
    #[arg(value_name = "PEER")]
    peer: Option<NodeId>,
}

impl Members {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        let act = |call: Call, done| context.block_on(OnInterrupt::Fail, remote.act(&call, done));
        match self.command {
            None => self.watch.show(context, &remote, &Call::cluster(), |body| list(&remote, body)),
            Some(MembersCommand::List(here)) => {
                let watch = Watch { watch: self.watch.watch || here.watch };
                watch.show(context, &remote, &Call::cluster(), |body| list(&remote, body))
            }
            Some(_) if self.watch.watch => {
                Err(Failure::Usage("--watch is for the list: `syncmesh members --watch`".to_owned()))
            }
            // No node is asked: it must not run.
            Some(MembersCommand::Recover(recover)) => recover.run(context),
            Some(MembersCommand::Remove(Peer { peer })) => act(Call::remove_member(peer), "removed"),
            Some(MembersCommand::Admit(Peer { peer })) => act(Call::admit_member(peer), "admitted"),
            Some(MembersCommand::Leave(leave)) => leave.run(context, &remote),
            Some(MembersCommand::TransferLeader(LeaderTo { peer })) => {
                act(Call::transfer_leader(peer), "leadership handed over")
            }
        }
    }
}

fn list(remote: &Remote, body: &str) -> Result<(), Failure> {
    match remote.output.format() {
        Format::Text => remote.print(body, |cluster: ClusterView| {
            if !cluster.is_confirmed() {
                remote
                    .output
                    .note("no leader answers: this is what the node knows by itself (`syncmesh status` says more)");
            }
            members_text(&cluster)
        }),
        Format::Json => {
            let mut cluster: Value = serde_json::from_str(body).map_err(anyhow::Error::new)?;
            let members = cluster.get_mut("members").map(Value::take);
            remote.print(&json!({"members": members}).to_string(), |_: Value| String::new())
        }
    }
}

/// The arguments of `health`.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// Whether it can serve its roles now, and if not, why.
    #[arg(long)]
    ready: bool,
}

impl Health {
    /// Whatever goes wrong, a health check says 1.
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        self.check(context).map_err(|failure| {
            context.output.report(&failure);
            Failure::Exit(1)
        })
    }

    fn check(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        context.block_on(OnInterrupt::Fail, async {
            if !self.ready {
                return remote.show(&Call::health(), |_: Value| "ok    process  it answers\n".to_owned()).await;
            }
            let readiness = remote.client.readiness().await?;
            remote.output.result(&readiness, || readiness.checks.iter().map(check_text).collect())?;
            if readiness.ready { Ok(()) } else { Err(Failure::Exit(1)) }
        })
    }
}

fn check_text(check: &Check) -> String {
    let verdict = if check.ok { "ok  " } else { "fail" };
    format!("{verdict}  {}  {}\n", check.name, check.detail)
}

fn status_text(cluster: ClusterView) -> String {
    let id = cluster.cluster_id.map_or_else(|| "not founded yet".to_owned(), |id| id.to_string());
    let up = cluster.members.iter().filter(|member| member.status == MemberStatus::Up).count();
    let listed = cluster.members.iter().filter(|member| member.status != MemberStatus::Left).count();
    let (members, leader) = match (cluster.is_confirmed(), cluster.leader) {
        (true, Some(leader)) => (format!("{up} of {listed} up"), leader.to_string()),
        (true, None) => (format!("{up} of {listed} up"), "none".to_owned()),
        (false, _) => (
            format!("{up} of {listed} connected to this node; which of the others are up, it cannot know"),
            "none answers".to_owned(),
        ),
    };
    let mut text = format!(
        "verdict  {}\ncluster  {} ({id})\nmembers  {members}\nleader   {leader} (term {}, view {})\n",
        verdict(&cluster),
        cluster.cluster_name,
        cluster.term,
        cluster.epoch
    );
    if let Some(queues) = queue_placement::summary(&cluster.queue) {
        text.push_str(&format!("queues   {}{queues}\n", last_known(cluster.leaderless_ms)));
    }
    if cluster.members.iter().any(|member| member.roles.contains(&Role::CacheNode)) {
        text.push_str(&format!("cache    {}\n", cache_summary(&cluster.cache)));
    }
    if !cluster.is_confirmed() && !cluster.members.is_empty() {
        text.push_str(&format!("unknown  {ONLY_A_LEADER_KNOWS}\n"));
    }
    if !cluster.members.is_empty() {
        text.push('\n');
        text.push_str(&members_text(&cluster));
    }
    let shares = queue_placement::shares(&cluster.queue);
    if !shares.is_empty() {
        text.push('\n');
        text.push_str(&shares);
    }
    if !cluster.warnings.is_empty() {
        text.push('\n');
    }
    for warning in &cluster.warnings {
        text.push_str(&format!("warning  {}: {}\n", warning.code, warning.detail));
    }
    text
}

/// What stands before what no leader confirms.
fn last_known(leaderless_ms: Option<u64>) -> String {
    let since = |ms| format!("last known, without a leader for {}: ", for_people(Duration::from_millis(ms)));
    leaderless_ms.map(since).unwrap_or_default()
}

/// What a node cannot find out by itself.
const ONLY_A_LEADER_KNOWS: &str = "only a leader could tell: which members are up, how far their logs trail, when the others were last heard of, which \
     partitions move, and whether this view of members and partitions is the newest";

/// How the caches do, in a few words.
fn cache_summary(cache: &CacheSummary) -> String {
    let lines = &cache.lines;
    let mut text = format!(
        "{}, hit rate {}, lines M {} O {} E {} S {}",
        cache.protocol,
        percent(cache.hit_rate),
        lines.m,
        lines.o,
        lines.e,
        lines.s
    );
    if cache.dirty_lost > 0 {
        text.push_str(&format!("; {} acknowledged values lost with their owners", cache.dirty_lost));
    }
    if let Some(moving @ 1..) = cache.moving {
        text.push_str(&format!("; moving {moving} slots"));
    }
    text
}

/// What somebody wants to know first.
fn verdict(cluster: &ClusterView) -> String {
    match (cluster.is_confirmed(), cluster.members.is_empty(), cluster.warnings.len()) {
        (false, true, _) => "no cluster: this node has joined none yet".to_owned(),
        (false, false, _) => "no quorum: nothing can be locked; this is what this node knows by itself".to_owned(),
        (true, _, 0) => "ok".to_owned(),
        (true, _, 1) => "it works, with a warning".to_owned(),
        (true, _, warnings) => format!("it works, with {warnings} warnings"),
    }
}

fn members_text(cluster: &ClusterView) -> String {
    let status = if cluster.is_confirmed() { status_word } else { sight_word };
    let row = |member: &MemberView| {
        [
            member.peer_id.to_string(),
            status(member.status).to_owned(),
            member.raft.map_or("-", raft_word).to_owned(),
            cell(&member.roles),
            member.trails_by.map_or_else(|| "-".to_owned(), |entries| entries.to_string()),
            last_seen(member),
            member.version.clone(),
            cell(&member.addrs),
        ]
    };
    table(
        ["PEER", "STATUS", "RAFT", "ROLES", "TRAILS BY", "LAST SEEN", "VERSION", "ADDRESSES"],
        cluster.members.iter().map(row),
    )
}

/// Of one that is up it is now, and says nothing.
fn last_seen(member: &MemberView) -> String {
    let gone = member.last_seen.as_ref().filter(|_| member.status != MemberStatus::Up);
    gone.cloned().unwrap_or_else(|| "-".to_owned())
}

fn status_word(status: MemberStatus) -> &'static str {
    match status {
        MemberStatus::Up => "up",
        MemberStatus::Down => "down",
        MemberStatus::Left => "left",
    }
}

/// What a node can say by itself of a member that no leader vouches for.
fn sight_word(status: MemberStatus) -> &'static str {
    match status {
        MemberStatus::Up => "seen",
        MemberStatus::Down => "unseen",
        MemberStatus::Left => "left",
    }
}

fn raft_word(standing: RaftStanding) -> &'static str {
    match standing {
        RaftStanding::Leader => "leader",
        RaftStanding::Voter => "voter",
        RaftStanding::Learner => "learner",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::{CacheLines, PartitionState, PartitionView, QueuePlacement, Warning};

    fn voter(number: u8, status: MemberStatus) -> MemberView {
        MemberView {
            peer_id: NodeId::from_bytes([number; 32]),
            roles: vec![crate::ids::Role::LockManager],
            addrs: Vec::new(),
            status,
            raft: Some(RaftStanding::Voter),
            trails_by: None,
            version: "0.1.0".to_owned(),
            last_seen: None,
        }
    }

    fn served_by(node: NodeId) -> PartitionView {
        let status = PartitionState::Serving;
        PartitionView { id: 0, primary: Some(node), replicas: vec![node], in_sync: vec![node], epoch: 1, status }
    }

    fn cluster(leader: Option<NodeId>, members: Vec<MemberView>, warnings: &[&str]) -> ClusterView {
        let warning = |code: &&str| Warning { code: (*code).to_owned(), detail: "start the others".to_owned() };
        ClusterView {
            cluster_id: None,
            cluster_name: "default".to_owned(),
            epoch: 3,
            term: 2,
            leader,
            leaderless_ms: leader.is_none().then_some(12_000),
            members,
            queue: QueuePlacement::default(),
            cache: CacheSummary::default(),
            warnings: warnings.iter().map(warning).collect(),
        }
    }

    #[test]
    fn a_status_begins_with_the_verdict() {
        let (up, down) = (voter(1, MemberStatus::Up), voter(2, MemberStatus::Down));
        let leader = Some(up.peer_id);
        let first_line = |cluster| status_text(cluster).lines().next().unwrap().to_owned();
        assert_eq!(first_line(cluster(leader, vec![up.clone()], &[])), "verdict  ok");
        let degraded = cluster(leader, vec![up.clone(), down.clone()], &["member-down"]);
        assert_eq!(first_line(degraded), "verdict  it works, with a warning");
        assert!(first_line(cluster(None, vec![up, down], &["no-quorum"])).starts_with("verdict  no quorum"));
        assert!(first_line(cluster(None, Vec::new(), &["no-quorum"])).starts_with("verdict  no cluster"));
    }

    #[test]
    fn a_status_without_a_leader_claims_of_nobody_that_it_is_up() {
        let members = vec![voter(1, MemberStatus::Up), voter(2, MemberStatus::Down), voter(3, MemberStatus::Down)];
        let mut cluster = cluster(None, members, &["no-quorum"]);
        cluster.queue = QueuePlacement { partitions: vec![served_by(NodeId::from_bytes([2; 32]))], moving: None };
        let text = status_text(cluster);
        assert!(text.contains("members  1 of 3 connected to this node;"), "{text}");
        assert!(text.contains("leader   none answers (term 2, view 3)"), "{text}");
        assert!(text.contains("queues   last known, without a leader for 12.0s: 1 of 1 partitions served"), "{text}");
        assert!(text.contains("  seen    voter") && text.contains("  unseen  voter"), "{text}");
        assert!(text.ends_with("warning  no-quorum: start the others\n"), "{text}");
    }

    #[test]
    fn a_status_tells_of_the_cache_where_there_is_one() {
        let mut member = voter(1, MemberStatus::Up);
        let leader = Some(member.peer_id);
        assert!(!status_text(cluster(leader, vec![member.clone()], &[])).contains("cache "));
        member.roles.push(Role::CacheNode);
        let mut cluster = cluster(leader, vec![member], &[]);
        let lines = CacheLines { m: 1, o: 0, e: 2, s: 3 };
        cluster.cache =
            CacheSummary { protocol: "MESI".into(), hit_rate: Some(0.5), lines, dirty_lost: 0, moving: Some(0) };
        assert!(status_text(cluster.clone()).contains("cache    MESI, hit rate 50.0%, lines M 1 O 0 E 2 S 3\n"));
        cluster.cache.dirty_lost = 2;
        assert!(status_text(cluster.clone()).contains("S 3; 2 acknowledged values lost with their owners\n"));
        cluster.cache.moving = Some(7);
        assert!(status_text(cluster).contains("with their owners; moving 7 slots\n"));
    }
}
