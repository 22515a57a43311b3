// The cluster: its verdict, its members, Raft, and where the queues are kept.

/** What the node said last, for whoever joins two answers. */
const known = { cluster: null, node: null };

function peerOf(id) {
  return known.node?.peers.find((candidate) => candidate.peer_id === id) ?? null;
}

/** Whether a leader stands for it; else it is what this node knows by itself. */
function isConfirmed(cluster) {
  return !cluster.warnings.some((warning) => warning.code === "no-quorum");
}

function verdict(cluster) {
  const warnings = cluster.warnings.length;
  if (!isConfirmed(cluster)) {
    if (cluster.members.length === 0) return ["bad", "No cluster: this node has joined none yet"];
    return ["bad", "No quorum: nothing can be locked. This is what this node knows by itself"];
  }
  if (warnings === 0) return ["ok", "All is well"];
  return ["warn", warnings === 1 ? "It works, with a warning" : `It works, with ${warnings} warnings`];
}

const MARKS = { ok: "✓", warn: "!", bad: "✕" };

function showVerdict(cluster) {
  const [level, text] = verdict(cluster);
  set($("verdict"), "data-level", level);
  say($("verdict-text"), text);
  document.title = `${MARKS[level]} ${cluster.cluster_name} · Syncmesh`;
  const list = $("warnings");
  while (list.children.length > cluster.warnings.length) list.lastChild.remove();
  cluster.warnings.forEach((warning, nth) => {
    if (!list.children[nth]) list.append(el("li", "", el("b"), el("span")));
    say(list.children[nth].firstChild, warning.code);
    say(list.children[nth].lastChild, warning.detail);
  });
}

const memberRows = new Rows($("members-rows"), () => {
  const node = el("tr");
  const name = heading(node);
  name.className = "tail";
  const me = el("span", "tag", "this node");
  name.after(" ", me);
  const status = el("span", "state");
  cell(node, "Status").append(status);
  return {
    node, name, me, status,
    raft: cell(node, "Raft", "state-word"), roles: cell(node, "Roles", "soft wide"), trip: cell(node, "Round trip", "n"),
    trails: cell(node, "Trails by", "n"), address: cell(node, "Address", "soft wide name address"),
  };
}, (row, member) => {
  const cluster = known.cluster;
  const isMe = member.peer_id === known.node?.peer_id;
  const found = peerOf(member.peer_id);
  const word = isConfirmed(cluster) ? member.status : { up: "seen", down: "unseen", left: "left" }[member.status];
  row.node.classList.toggle("is-gone", member.status === "left");
  say(row.name, member.peer_id);
  set(row.name, "title", member.peer_id);
  show(row.me, isMe);
  set(row.status, "data-is", member.status);
  say(row.status, word);
  set(row.status, "title", member.last_seen ? `the leader heard of it last at ${clock(new Date(member.last_seen))}` : "");
  say(row.raft, member.raft === "leader" ? "★ leader" : member.raft ?? NONE);
  say(row.roles, roles(member.roles));
  say(row.trip, found && found.rtt_ms !== null ? `${found.rtt_ms} ms` : NONE);
  say(row.trails, member.trails_by === null ? NONE : count(member.trails_by));
  row.trails.classList.toggle("care", member.trails_by > 1000);
  say(row.address, found?.addr ?? member.addrs[0] ?? NONE);
});

function showMembers() {
  const { cluster, node } = known;
  const present = cluster.members.filter((member) => member.status !== "left");
  const up = present.filter((member) => member.status === "up").length;
  const of = `${count(up)} of ${count(present.length)}`;
  const gone = cluster.members.length - present.length;
  say($("members-sum"), `${of} ${isConfirmed(cluster) ? "up" : "in sight of this node"}${gone ? `, ${count(gone)} left` : ""}`);
  memberRows.update(cluster.members, (member) => member.peer_id);
  say($("tile-members"), of);
  say($("tile-members-more"), isConfirmed(cluster) ? "up" : "in sight");
  say($("tile-leader"), cluster.leader ? peer(cluster.leader) : "none");
  say($("tile-leader-more"), cluster.leader === node.peer_id ? `this node, term ${count(cluster.term)}` : `term ${count(cluster.term)}`);
  drawMesh($("mesh-picture"), cluster.members, node.peer_id, node.peers);
  say($("mesh-note"), "★ leads; filled: votes; ringed: this node. Lines are this node's connections, with the round trips that it measures; it does not know those between the others.");
}

const RAFT_ROLES = {
  leader: "this node leads", follower: "this node follows", candidate: "this node stands for election",
  learner: "this node learns, and does not vote", stopped: "Raft has stopped on this node",
};

const entries = new Growth();

function showRaft() {
  const { cluster, node } = known;
  const raft = node.raft;
  if (!raft) {
    say($("raft-sum"), "this node is no lock manager");
    facts($("raft-facts"), [["Leader", peer(cluster.leader)], ["Term", count(cluster.term)], ["View", count(cluster.epoch)]]);
    return;
  }
  say($("raft-sum"), raft.has_quorum === false ? "this node calls itself the leader without a quorum" : RAFT_ROLES[raft.role] ?? raft.role);
  facts($("raft-facts"), [
    ["Leader", raft.leader === node.peer_id ? "this node" : peer(raft.leader)],
    ["Term", count(raft.term)],
    ["View", count(cluster.epoch)],
    ["Log to", whole.format(raft.last_log_index)],
    ["Committed to", whole.format(raft.committed_index)],
    ["Applied to", whole.format(raft.applied_index)],
    ["Entries a second", rate(known.commitRate)],
    ["Voters", count(raft.voters.length)],
    ["Learners", count(raft.learners.length)],
  ]);
}

const PARTITION = { serving: "", waiting: "is-out", "journal-lost": "is-out", unplaced: "is-unplaced" };

function partitionClass(partition) {
  if (partition.status !== "serving") return PARTITION[partition.status] ?? "is-out";
  return partition.in_sync.length < partition.replicas.length ? "is-short" : "";
}

/** One square a partition. */
function drawPartitions(partitions) {
  const svg = $("partitions");
  const columns = partitions.length > 256 ? 64 : 32;
  const size = 400 / columns;
  const height = Math.ceil(partitions.length / columns) * size;
  set(svg, "viewBox", `0 0 400 ${height || 1}`);
  while (svg.children.length > partitions.length) svg.lastChild.remove();
  partitions.forEach((partition, nth) => {
    let square = svg.children[nth];
    if (!square) {
      const edge = Math.max(1, size * 0.13);
      square = drawn("rect", {
        x: (nth % columns) * size + edge, y: Math.floor(nth / columns) * size + edge,
        width: size - 2 * edge, height: size - 2 * edge, rx: edge,
      });
      square.append(drawn("title"));
      svg.append(square);
    }
    set(square, "class", partitionClass(partition));
    say(square.firstChild, `partition ${partition.id}: ${partition.status}, primary ${peer(partition.primary)}, ${partition.in_sync.length} of ${partition.replicas.length} copies in sync`);
  });
  show(svg, partitions.length > 0);
}

function showStorage() {
  const { cluster, node } = known;
  const partitions = cluster.queue.partitions;
  const tally = (name) => partitions.filter((partition) => partitionClass(partition) === name).length;
  const [out, lacking, unplaced] = [tally("is-out"), tally("is-short"), tally("is-unplaced")];
  const served = partitions.length - out - unplaced;
  const lastKnown = cluster.leaderless_ms === undefined ? "" : "last known: ";
  const summary = partitions.length === 0 ? "no partitions yet" : `${lastKnown}${count(served)} of ${plural(partitions.length, "partition")} served`;
  say($("storage-sum"), summary);
  drawPartitions(partitions);
  set($("partitions"), "aria-label", `${summary}, ${count(lacking)} with too few copies`);
  const queue = node.queue;
  facts($("storage-facts"), [
    ["Nobody serves", count(out)],
    ["Too few copies", count(lacking)],
    ["Moving", cluster.queue.moving === null ? NONE : count(cluster.queue.moving)],
    ...(queue ? [
      ["Journal here", `${queue.journal}${queue.durable ? "" : ", not durable"}`],
      ["Served here", count(queue.primaries.length)],
      ["Copies here", count(queue.backups.length)],
    ] : [["Journal here", "none: no queue node"]]),
  ]);
}

function showCluster() {
  if (!known.cluster || !known.node) return;
  showVerdict(known.cluster);
  showMembers();
  showRaft();
  showStorage();
}

function gotCluster(text) {
  known.cluster = JSON.parse(text);
  problem($("members-problem"), null);
  showCluster();
}

function gotNode(text) {
  const node = JSON.parse(text);
  known.node = node;
  if (node.raft) known.commitRate = entries.perSecond([["committed", node.raft.committed_index]], Date.now());
  say($("cluster-name"), node.cluster_name);
  say($("node-name"), peer(node.peer_id));
  set($("node-name"), "title", node.peer_id);
  say($("node-about"), `, version ${node.version}, up for ${age(node.uptime_ms)}${node.ready ? "" : ", not ready"}`);
  showCluster();
}
