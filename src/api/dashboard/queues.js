// Queues: what is in them, and how fast it comes and goes.

/** Most queues that are asked for, and that are shown. */
const QUEUES_ASKED = 1000;
const QUEUES_SHOWN = 100;

const FLOW = ["in", "out", "done"];
const flow = new Trail(FLOW);
const flowChart = new Chart($("queues-chart"), flow, 600, 70);

function flowOf(queue) {
  return { in: queue.publish_rate, out: queue.deliver_rate, done: queue.ack_rate };
}

const queueRows = new Rows($("queues-rows"), () => {
  const node = el("tr");
  const name = heading(node);
  const tag = el("span", "tag", "dead letters");
  name.after(" ", tag);
  const row = { node, name, tag };
  for (const [key, label] of [["ready", "Ready"], ["leased", "Leased"], ["delayed", "Delayed"], ["dead", "Dead"], ["oldest", "Oldest"], ["rates", "In / out a second"]]) {
    row[key] = cell(node, label, "n");
  }
  const picture = drawn("svg", { class: "spark", viewBox: "0 0 110 24", preserveAspectRatio: "none", "aria-hidden": "true" });
  cell(node, "Flow").append(picture);
  row.history = new Trail(["in", "out"]);
  row.chart = new Chart(picture, row.history, 110, 24);
  row.kept = cell(node, "Kept by", "soft");
  return row;
}, (row, queue) => {
  say(row.name, legible(queue.queue));
  show(row.tag, queue.isForDeadLetters);
  say(row.ready, count(queue.depth));
  say(row.leased, count(queue.in_flight));
  say(row.delayed, count(queue.delayed));
  say(row.dead, count(queue.dead_lettered));
  row.dead.classList.toggle("care", queue.dead_lettered > 0);
  say(row.oldest, queue.oldest_age_ms ? age(queue.oldest_age_ms) : NONE);
  say(row.rates, `${rate(queue.publish_rate)} / ${rate(queue.ack_rate)}`);
  row.history.add(flowOf(queue));
  row.chart.draw();
  const lacks = queue.in_sync.length < queue.replicas.length;
  say(row.kept, `${queue.primary ? peer(queue.primary) : "nobody now"}, ${queue.in_sync.length} of ${queue.replicas.length} in sync`);
  set(row.kept, "title", `partition ${queue.partition}, epoch ${queue.epoch}, journal ${queue.journal}, ${bytes(queue.bytes)}`);
  row.kept.classList.toggle("care", lacks || !queue.primary);
});

function gotQueues(text) {
  const page = JSON.parse(text);
  const list = page.queues;
  const deadLetters = new Set(list.map((queue) => queue.config.dead_letter));
  for (const queue of list) queue.isForDeadLetters = deadLetters.has(queue.queue);
  const unserved = page.unserved ?? [];
  problem($("queues-problem"), unserved.length ? { type: "unavailable", detail: `nobody serves partitions ${unserved.join(", ")}: their queues are missing` } : null);
  const sum = (field) => list.reduce((total, queue) => total + queue[field], 0);
  const total = { in: sum("publish_rate"), out: sum("deliver_rate"), done: sum("ack_rate") };
  const plus = page.next ? "+" : "";
  const oldest = list.length ? Math.max(...list.map((queue) => queue.oldest_age_ms)) : 0;
  const parts = [plural(list.length, "queue") + plus, `${count(sum("depth"))} ready`, `${count(sum("in_flight"))} leased`, bytes(sum("bytes"))];
  if (oldest > 0) parts.push(`oldest ${age(oldest)}`);
  if (list.length > QUEUES_SHOWN || page.next) parts.push(`the first ${QUEUES_SHOWN} shown`);
  say($("queues-sum"), parts.join(" · "));
  flow.add(total);
  say($("queues-top"), count(flowChart.draw()));
  set($("queues-chart"), "aria-label", `published ${rate(total.in)}, delivered ${rate(total.out)}, acknowledged ${rate(total.done)} a second`);
  queueRows.update(list.slice(0, QUEUES_SHOWN), (queue) => queue.queue);
  show($("queues-empty"), list.length === 0);
  say($("queues-empty"), "There is no queue yet: a first publish makes one.");
  say($("tile-queues"), `${count(sum("depth"))}${plus} ready`);
  say($("tile-queues-more"), `${rate(total.in)} in · ${rate(total.done)} out a second`);
}
