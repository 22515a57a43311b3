//! `debug bundle`: one archive with what a bug report needs, and with nothing that must stay secret.
//!
//! All of it comes from the node at `--url`, which asks the other members over the mesh. What cannot be had is
//! named in the archive and on stderr: it is part of the picture.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::Value;

use super::{Context, Failure, OnInterrupt, remote::Remote};
use crate::{
    client::{Call, ClientError},
    clock::{Clock, SystemClock},
    config::{Secret, values::REDACTED},
    ids::NodeId,
    node::status::{ClusterView, MemberStatus, NodeInfo},
    telemetry::RecentLogs,
    time::rfc3339,
};

/// Members that are asked at a time.
const AT_ONCE: usize = 8;
/// Members that are asked at all; the others are named as missing.
const MAX_MEMBERS: usize = 64;
/// The directory that everything in the archive lies in.
const ROOT: &str = "syncmesh-debug";

/// What helps with bugs.
#[derive(Debug, Subcommand)]
pub(super) enum DebugCommand {
    /// Write one archive (.tar.gz) for a bug report: configuration, state, metrics and recent logs.
    ///
    /// The node at --url gives its settings with secrets redacted, /v1/node, /v1/cluster, /v1/queues, /v1/cache, /readyz,
    /// /metrics and the last lines of its log, and asks every other member that is up what it says of itself and what it
    /// has logged. No message, no cached value, no token, no password and no cluster key is in it; names of locks, queues
    /// and nodes, addresses, and names of keys whose cached values were lost are: look before you publish it. What could not be collected stands in MISSING.txt and on stderr.
    Bundle(Bundle),
}

impl DebugCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Bundle(command) => command.run(context),
        }
    }
}

/// The arguments of `debug bundle`.
#[derive(Debug, Args)]
pub(super) struct Bundle {
    /// Where to write it, readable by you only; never over a file that is there. - is stdout. Without it, a name with
    /// node and time in the working directory.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What `--output json` prints.
#[derive(Serialize)]
struct Document<'a> {
    file: &'a Path,
    entries: Vec<&'a str>,
    missing: &'a BTreeMap<String, String>,
}

impl Bundle {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        let secrets = context.secrets();
        let collected = context.block_on(OnInterrupt::Fail, async {
            let mut collected = collect(&remote).await?;
            collected.redact(&secrets);
            Ok(Some(collected))
        })?;
        let Some(collected) = collected else { return Err(Failure::Interrupted) };
        let archive = collected.archive().context("the archive cannot be made")?;
        for (what, why) in &collected.missing {
            remote.output.note(&format!("could not collect {what}: {why}"));
        }
        let file = self.file.unwrap_or_else(|| PathBuf::from(&collected.name));
        if file == Path::new("-") {
            return remote.output.raw(&archive);
        }
        write_new(&file, &archive)?;
        let entries: Vec<&str> = collected.files.keys().map(String::as_str).collect();
        let document = Document { file: &file, entries, missing: &collected.missing };
        remote.output.result(&document, || {
            let missing = match collected.missing.len() {
                0 => String::new(),
                missing => format!("; {missing} things could not be collected: MISSING.txt in it names them"),
            };
            format!("wrote {} ({} files){missing}\n", file.display(), document.entries.len())
        })
    }
}

/// What goes into the archive.
#[derive(Debug, Default)]
struct Collected {
    /// How the archive is called where nobody named it.
    name: String,
    /// By their names in the archive.
    files: BTreeMap<String, String>,
    /// What is not in it, and why.
    missing: BTreeMap<String, String>,
}

impl Collected {
    fn take<E: ToString>(&mut self, name: &str, text: Result<String, E>) {
        match text {
            Ok(text) => drop(self.files.insert(name.to_owned(), text)),
            Err(why) => drop(self.missing.insert(name.to_owned(), why.to_string())),
        }
    }

    /// A second look: nothing that is collected should hold a secret of this process.
    fn redact(&mut self, secrets: &[Secret]) {
        for text in self.files.values_mut().chain(self.missing.values_mut()) {
            for secret in secrets {
                *text = text.replace(secret.expose(), REDACTED);
            }
        }
    }

    fn archive(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        let seconds = SystemClock.wall().0 / 1000;
        let missing: String = self.missing.iter().map(|(what, why)| format!("{what}: {why}\n")).collect();
        let missing = (!missing.is_empty()).then_some(("MISSING.txt", missing.as_str()));
        let files = self.files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        for (name, text) in files.chain(missing) {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(seconds);
            archive.append_data(&mut header, format!("{ROOT}/{name}"), text.as_bytes())?;
        }
        archive.into_inner()?.finish()
    }
}

/// Asks the node for everything. Without an answer to the first question there is nothing to write.
async fn collect(remote: &Remote) -> Result<Collected, Failure> {
    let client = &remote.client;
    let node: NodeInfo = client.node().await?;
    let at = rfc3339(SystemClock.wall());
    let mut collected = Collected { name: name(node.peer_id, &at), ..Collected::default() };
    collected.take("ABOUT.txt", Ok::<_, String>(about(client.url(), &node, &at)));
    collected.take("node.json", pretty(&node));

    let text = async |call: Call| client.text(&call).await.map_err(why).and_then(|body| readable(&body));
    let (log_call, metrics_call) = (Call::node_logs(), Call::metrics());
    let (settings, logs, cache, metrics, readiness, queues, cluster) = futures::join!(
        text(Call::node_settings()),
        client.json::<RecentLogs>(&log_call),
        text(Call::cache()),
        client.text(&metrics_call),
        client.readiness(),
        queues(remote),
        client.cluster(),
    );
    collected.take("config.json", settings);
    collected.take("logs.txt", logs.map(lines).map_err(why));
    collected.take("cache.json", cache);
    collected.take("metrics.txt", metrics.map_err(why));
    collected.take("readyz.json", readiness.map_err(why).and_then(|readiness| pretty(&readiness)));
    collected.take("queues.json", queues);
    if let Ok(cluster) = &cluster {
        collect_members(remote, node.peer_id, cluster, &mut collected).await;
    }
    collected.take("cluster.json", cluster.map_err(why).and_then(|cluster| pretty(&cluster)));
    Ok(collected)
}

/// What the other members say of themselves, and have logged.
async fn collect_members(remote: &Remote, asked: NodeId, cluster: &ClusterView, collected: &mut Collected) {
    let others = cluster.members.iter().filter(|member| member.peer_id != asked && member.status != MemberStatus::Left);
    let others: Vec<NodeId> = others.map(|member| member.peer_id).collect();
    for peer in others.iter().skip(MAX_MEMBERS) {
        let why = format!("no more than {MAX_MEMBERS} members are asked: make a bundle there");
        collected.take(&format!("members/{peer}"), Err::<String, _>(why));
    }
    let ask = async |peer: NodeId| {
        let (node, logs) = (Call::member_node(peer), Call::member_logs(peer));
        let (node, logs) = futures::join!(remote.client.text(&node), remote.client.json::<RecentLogs>(&logs));
        (peer, node, logs)
    };
    let mut answers = stream::iter(others.iter().take(MAX_MEMBERS).copied().map(ask)).buffer_unordered(AT_ONCE);
    while let Some((peer, node, logs)) = answers.next().await {
        collected.take(&format!("members/{peer}/node.json"), node.map_err(why).and_then(|body| readable(&body)));
        collected.take(&format!("members/{peer}/logs.txt"), logs.map(lines).map_err(why));
    }
}

/// All pages.
async fn queues(remote: &Remote) -> Result<String, String> {
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut page: Value = remote.client.json(&Call::queues(None, after.as_deref())).await.map_err(why)?;
        if let Some(queues) = page.get_mut("queues").and_then(Value::as_array_mut) {
            all.append(queues);
        }
        after = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if after.is_none() {
            return pretty(&serde_json::json!({"queues": all}));
        }
    }
}

fn why(error: ClientError) -> String {
    format!("{}: {}", error.error.code, error.error.detail)
}

fn pretty(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string())
}

fn readable(body: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(body).map_err(|error| format!("the answer is no JSON: {error}"))?;
    pretty(&value)
}

fn lines(logs: RecentLogs) -> String {
    let before = match logs.forgotten {
        0 => String::new(),
        forgotten => format!("({forgotten} lines before these are not kept any more)\n"),
    };
    logs.lines.into_iter().fold(before, |text, line| text + &line + "\n")
}

fn about(url: &str, node: &NodeInfo, at: &str) -> String {
    format!(
        "Made at {at} by syncmesh {} from the node at {url}, whose version is {} and which is {}.\n\
         Logs are the last lines of each process, as they went to its stderr; the others' were asked for over the mesh.\n",
        env!("CARGO_PKG_VERSION"),
        node.version,
        node.peer_id
    )
}

/// With the end of the peer id, which is what tells peers apart, and a time that sorts.
fn name(peer: NodeId, at: &str) -> String {
    let peer = peer.to_string();
    let short = &peer[peer.len().saturating_sub(6)..];
    let at: String = at.chars().take("2026-11-22T21:11:04".len()).filter(|c| !"-:".contains(*c)).collect();
    format!("{ROOT}-{short}-{at}Z.tar.gz")
}

/// Whole or not at all, for its owner only, and never in place of another.
fn write_new(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(anyhow!("{} exists and is left as it is: name another file", path.display()).into());
        }
        Err(error) => return Err(anyhow!(error).context(format!("cannot create {}", path.display())).into()),
    };
    if let Err(error) = file.write_all(content) {
        // Half an archive is of no use; the error that is reported is the first one.
        let _ = std::fs::remove_file(path);
        return Err(anyhow!(error).context(format!("cannot write {}", path.display())).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_named_after_its_node_and_its_time() {
        let named = name(NodeId::from_bytes([7; 32]), "2026-11-22T21:11:04.250Z");
        let peer = NodeId::from_bytes([7; 32]).to_string();
        assert_eq!(named, format!("syncmesh-debug-{}-20261122T211104Z.tar.gz", &peer[peer.len() - 6..]));
    }

    #[test]
    fn a_secret_that_got_in_in_spite_of_all_care_does_not_get_out() {
        let mut collected = Collected::default();
        collected.take("logs.txt", Ok::<_, String>("a line with hunter22 in it".to_owned()));
        collected.take("cache.json", Err::<String, _>("it answered hunter22"));
        collected.redact(&[Secret::new("hunter22")]);
        assert_eq!(collected.files["logs.txt"], format!("a line with {REDACTED} in it"));
        assert_eq!(collected.missing["cache.json"], format!("it answered {REDACTED}"));
    }

    #[test]
    fn logs_say_that_there_were_more() {
        let logs = RecentLogs { lines: vec!["a".into(), "b".into()], forgotten: 3 };
        assert_eq!(lines(logs), "(3 lines before these are not kept any more)\na\nb\n");
    }
}
