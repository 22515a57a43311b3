//! `members recover`: one lock manager goes on alone after the others are lost for good.
//!
//! Works on a data directory, not over HTTP. Without `--yes` it shows what it would do, changes nothing and exits 1.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Context, Failure, OnInterrupt};
use crate::node::recovery::{Recovery, RecoveryError, Survivor};

/// What an operator has to know before it is done.
const DANGERS: &str = "\
What this means:
  * What the lost lock managers decided that this one never heard of is lost: locks that they granted may be granted
    again (under greater tokens), locks that were released may be held until their sessions end. Entries that this one
    had and that were perhaps never committed count as decided. Of several that are left, recover the one whose log
    goes farthest, and only that one.
  * The lost ones must not run again with the data that they have: two of them that find each other would go on as the
    cluster of before, beside this one. Empty their data directories first; they then join as new. This node refuses
    them under their old ids.
  * Queues: a partition is served again once all who may have all of its messages have come back, among the members
    that stay. Where nobody is left it is journal-lost until `syncmesh queue recover PARTITION --accept-loss`. Messages
    that were acknowledged while this node was not in sync, which it did not hear of, may be missing without a sign.
  * The cache begins empty.
";

/// The arguments of `members recover`.
#[derive(Debug, Args)]
pub(super) struct Recover {
    /// The data directory of the lock manager that is left; with DATA_SLOTS=on, its slot.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Do it.
    #[arg(long)]
    yes: bool,
}

impl From<RecoveryError> for Failure {
    fn from(error: RecoveryError) -> Self {
        Self::Other(error.into())
    }
}

impl Recover {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let survivor = Survivor::open(&self.data_dir)?;
        let plan = survivor.plan()?;
        let (about, document) = (about(&survivor, &plan), document(&survivor, &plan, self.yes));
        if !self.yes {
            context.output.result(&document, || format!("{about}\n{DANGERS}"))?;
            context.output.note("nothing was changed: to do it, say --yes");
            return Err(Failure::Exit(1));
        }
        context.block_on(OnInterrupt::Fail, async { Ok(Some(survivor.recover().await?)) })?;
        context
            .output
            .result(&document, || format!("{about}\nrecovered: start this node as usual, then others as new members\n"))
    }
}

fn about(survivor: &Survivor, plan: &Recovery) -> String {
    let extent = survivor.extent;
    let mut text = format!(
        "cluster   {} ({})\nnode      {}\nlog       to entry {} of term {}; {} of these are known to be committed\nlocks     {} \
         sessions hold {} locks\ntokens    count on from {} (the last one was {})\nqueues    {} partitions wait for their \
         journals, {} are lost\n",
        survivor.cluster_name,
        survivor.cluster_id,
        survivor.node,
        extent.index,
        extent.term,
        extent.committed,
        plan.locks.sessions,
        plan.locks.holds,
        plan.token,
        plan.token_before,
        plan.partitions_waiting,
        plan.partitions_lost,
    );
    for peer in &plan.barred {
        text.push_str(&format!("barred    {peer}\n"));
    }
    for peer in &plan.stay {
        text.push_str(&format!("stays     {peer}\n"));
    }
    text
}

fn document(survivor: &Survivor, plan: &Recovery, done: bool) -> Value {
    json!({
        "recovered": done,
        "cluster_id": survivor.cluster_id.to_string(),
        "cluster_name": survivor.cluster_name,
        "node": survivor.node,
        "last_log_index": survivor.extent.index,
        "last_log_term": survivor.extent.term,
        "committed_index": survivor.extent.committed,
        "sessions": plan.locks.sessions,
        "locks_held": plan.locks.holds,
        "last_token": plan.token_before,
        "tokens_from": plan.token,
        "partitions_waiting": plan.partitions_waiting,
        "partitions_lost": plan.partitions_lost,
        "barred": plan.barred,
        "stay": plan.stay,
    })
}
