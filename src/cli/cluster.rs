//! `status`, `members`, `events` and `health`: the cluster as its operators see it.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Context, Failure, OnInterrupt,
    output::{Format, table},
    remote::{Remote, cell},
};
use crate::{
    client::{Call, ServerEvent},
    ids::NodeId,
    node::status::{Check, ClusterView, MemberStatus, MemberView, RaftStanding},
};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Look again each second, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

impl Status {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        if !self.watch {
            return context.block_on(OnInterrupt::Fail, remote.show(&Call::cluster(), status_text));
        }
        context.block_on(OnInterrupt::Succeed, async {
            loop {
                match remote.client.text(&Call::cluster()).await {
                    Ok(body) => {
                        remote.output.new_screen()?;
                        remote.print(&body, status_text)?;
                    }
                    // The node may come back: that is what one watches for.
                    Err(error) => remote.output.report(&error.into()),
                }
                sleep(WATCH_INTERVAL).await;
            }
        })
    }
}

/// The arguments of `members`.
#[derive(Debug, Args)]
pub(super) struct Members {
    #[command(subcommand)]
    command: Option<MembersCommand>,
}

/// What to do about members.
#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// The members with their roles and standing.
    List,
    /// Remove a member and bar it until it is admitted again.
    Remove(Peer),
    /// Lift the bar of a removed member.
    Admit(Peer),
    /// The node at --url drains, leaves for good, and its process ends.
    Leave,
    /// Hand Raft's leadership over.
    TransferLeader(LeaderTo),
}

/// A member.
#[derive(Debug, Args)]
struct Peer {
    /// Its peer id.
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
        context.block_on(OnInterrupt::Fail, async {
            match self.command.unwrap_or(MembersCommand::List) {
                MembersCommand::List => list(&remote).await,
                MembersCommand::Remove(Peer { peer }) => remote.act(&Call::remove_member(peer), "removed").await,
                MembersCommand::Admit(Peer { peer }) => remote.act(&Call::admit_member(peer), "admitted").await,
                MembersCommand::Leave => remote.act(&Call::leave(), "the node leaves the cluster").await,
                MembersCommand::TransferLeader(LeaderTo { peer }) => {
                    remote.act(&Call::transfer_leader(peer), "leadership handed over").await
                }
            }
        })
    }
}

async fn list(remote: &Remote) -> Result<(), Failure> {
    let body = remote.client.text(&Call::cluster()).await?;
    let members = |cluster: ClusterView| members_text(cluster.members);
    match remote.output.format() {
        Format::Text => remote.print(&body, members),
        Format::Json => {
            let mut cluster: Value = serde_json::from_str(&body).map_err(anyhow::Error::new)?;
            let members = cluster.get_mut("members").map(Value::take);
            remote.print(&json!({"members": members}).to_string(), |_: Value| String::new())
        }
    }
}

/// The arguments of `events`.
#[derive(Debug, Args)]
pub(super) struct Events {}

impl Events {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        context.block_on(OnInterrupt::Succeed, remote.follow(&Call::events(), event_text))
    }
}

/// The arguments of `health`.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// Whether it can serve its roles now.
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

fn event_text(event: &ServerEvent) -> String {
    let Ok(Value::Object(mut data)) = serde_json::from_str(&event.data) else {
        return format!("{}  {}\n", event.event, event.data);
    };
    let at = data.remove("at").and_then(|at| at.as_str().map(str::to_owned)).unwrap_or_default();
    let rest: Vec<String> = data.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
    format!("{at}  {:<16}  {}\n", event.event, rest.join("  "))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn status_text(cluster: ClusterView) -> String {
    let up = cluster.members.iter().filter(|member| member.status == MemberStatus::Up).count();
    let listed = cluster.members.iter().filter(|member| member.status != MemberStatus::Left).count();
    let id = cluster.cluster_id.map_or_else(|| "not founded yet".to_owned(), |id| id.to_string());
    let leader = cluster.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    let mut text = format!(
        "cluster  {} ({id})\nmembers  {up} of {listed} up\nleader   {leader} (term {}, view {})\n\n",
        cluster.cluster_name, cluster.term, cluster.epoch
    );
    text.push_str(&members_text(cluster.members));
    if !cluster.warnings.is_empty() {
        text.push('\n');
    }
    for warning in &cluster.warnings {
        text.push_str(&format!("warning  {}: {}\n", warning.code, warning.detail));
    }
    text
}

fn members_text(members: Vec<MemberView>) -> String {
    let row = |member: MemberView| {
        [
            member.peer_id.to_string(),
            status_word(member.status).to_owned(),
            member.raft.map_or("-", raft_word).to_owned(),
            cell(&member.roles),
            member.trails_by.map_or_else(|| "-".to_owned(), |entries| entries.to_string()),
            member.version,
            cell(&member.addrs),
        ]
    };
    table(["PEER", "STATUS", "RAFT", "ROLES", "TRAILS BY", "VERSION", "ADDRESSES"], members.into_iter().map(row))
}

fn status_word(status: MemberStatus) -> &'static str {
    match status {
        MemberStatus::Up => "up",
        MemberStatus::Down => "down",
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
    use crate::node::status::Warning;

    #[test]
    fn a_status_says_what_to_look_at() {
        let member = MemberView {
            peer_id: NodeId::from_bytes([7; 32]),
            roles: vec![crate::ids::Role::LockManager],
            addrs: Vec::new(),
            status: MemberStatus::Down,
            raft: Some(RaftStanding::Voter),
            trails_by: None,
            version: "0.1.0".to_owned(),
            last_seen: None,
        };
        let text = status_text(ClusterView {
            cluster_id: None,
            cluster_name: "default".to_owned(),
            epoch: 3,
            term: 2,
            leader: None,
            members: vec![member],
            warnings: vec![Warning { code: "no-quorum".to_owned(), detail: "start the others".to_owned() }],
        });
        assert!(text.contains("0 of 1 up") && text.contains("leader   none"), "{text}");
        assert!(text.ends_with("warning  no-quorum: start the others\n"), "{text}");
    }

    #[test]
    fn an_event_is_one_line() {
        let event = ServerEvent {
            event: "member-up".to_owned(),
            id: None,
            data: r#"{"at":"2026-01-01T00:00:00.000Z","peer":"p"}"#.to_owned(),
        };
        assert_eq!(event_text(&event), "2026-01-01T00:00:00.000Z  member-up         peer=p\n");
    }
}
