// What this node's calls to its peers cost, read from its own /metrics.

/** Over how many readings the figures are taken: one each five seconds. */
const READINGS = 12;

const readings = [];

/** The samples of these metrics: [name, labels, value]. */
function* samples(text, prefix) {
  for (const line of text.split("\n")) {
    if (!line.startsWith(prefix)) continue;
    const [, name, labels, value] = /^([a-z0-9_]+)\{([^}]*)\} (\S+)/.exec(line) ?? [];
    if (name === undefined) continue;
    const pairs = [...labels.matchAll(/([a-z0-9_]+)="([^"]*)"/g)].map(([, label, word]) => [label, word]);
    yield [name, Object.fromEntries(pairs), Number(value)];
  }
}

/** By protocol: how many calls were answered and failed, how long they took together, and the histogram. */
function readCalls(text) {
  const protocols = new Map();
  for (const [name, labels, value] of samples(text, "syncmesh_rpc_call")) {
    if (!labels.protocol) continue;
    if (!protocols.has(labels.protocol)) protocols.set(labels.protocol, { ended: 0, failed: 0, count: 0, sum: 0, buckets: new Map() });
    const calls = protocols.get(labels.protocol);
    if (name === "syncmesh_rpc_calls_total") {
      calls.ended += value;
      if (labels.outcome === "unreachable" || labels.outcome === "timeout") calls.failed += value;
    } else if (name === "syncmesh_rpc_call_seconds_bucket") {
      calls.buckets.set(labels.le, value);
    } else if (name === "syncmesh_rpc_call_seconds_sum") {
      calls.sum = value;
    } else if (name === "syncmesh_rpc_call_seconds_count") {
      calls.count = value;
    }
  }
  return protocols;
}

/** The least upper bound that 99 of 100 calls stayed within. */
function within(calls, before, counted) {
  const bounds = [...calls.buckets.keys()].filter((bound) => bound !== "+Inf").sort((a, b) => a - b);
  const bound = bounds.find((le) => calls.buckets.get(le) - (before?.buckets.get(le) ?? 0) >= 0.99 * counted);
  return bound === undefined ? `> ${latency(Number(bounds.at(-1) ?? 0))}` : latency(Number(bound));
}

const callRows = new Rows($("calls-rows"), () => {
  const node = el("tr");
  const name = heading(node);
  const row = { node, name };
  for (const [key, label] of [["rate", "A second"], ["mean", "Mean"], ["within", "99 % within"], ["failed", "Failed"]]) row[key] = cell(node, label, "n");
  return row;
}, (row, [protocol, figures]) => {
  say(row.name, protocol);
  say(row.rate, rate(figures.rate));
  say(row.mean, figures.mean);
  say(row.within, figures.within);
  say(row.failed, count(figures.failed));
  row.failed.classList.toggle("care", figures.failed > 0);
});

function gotMetrics(text) {
  const latest = { atMs: Date.now(), protocols: readCalls(text) };
  readings.push(latest);
  if (readings.length > READINGS) readings.shift();
  const oldest = readings[0];
  problem($("calls-problem"), null);
  const seconds = (latest.atMs - oldest.atMs) / 1000;
  const rows = [];
  for (const [protocol, calls] of [...latest.protocols].sort()) {
    let before = oldest.protocols.get(protocol);
    // A node that was started anew counts anew.
    if (before && before.ended > calls.ended) before = undefined;
    const counted = calls.count - (before?.count ?? 0);
    const ended = calls.ended - (before?.ended ?? 0);
    const mean = counted > 0 ? latency((calls.sum - (before?.sum ?? 0)) / counted) : NONE;
    rows.push([protocol, {
      rate: seconds > 0 ? ended / seconds : 0, mean,
      within: counted > 0 ? within(calls, before, counted) : NONE,
      failed: calls.failed - (before?.failed ?? 0),
    }]);
  }
  callRows.update(seconds > 0 ? rows : [], ([protocol]) => protocol);
  show($("calls-empty"), seconds === 0 || rows.length === 0);
  say($("calls-empty"), seconds === 0 ? "Counting: figures come with the second reading." : "It has called nobody yet.");
}
