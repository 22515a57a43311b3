// The cache: lines by state, hits, and what its coherence costs in invalidations.

const reads = new Trail(["in", "out"]);
const readsChart = new Chart($("cache-reads-chart"), reads, 600, 50);
const invalidations = new Trail(["in"]);
const invalidationsChart = new Chart($("cache-invalidations-chart"), invalidations, 600, 50);
const grown = { hits: new Growth(), misses: new Growth(), invalidations: new Growth() };

const STATES = ["M", "O", "E", "S"];

function hitRate(hits, misses) {
  return hits + misses > 0 ? hits / (hits + misses) : null;
}

function linesText(lines) {
  return STATES.map((state) => `${state} ${count(lines[state])}`).join("  ");
}

const cacheRows = new Rows($("cache-rows"), () => {
  const node = el("tr");
  const name = heading(node);
  const lines = cell(node, "Lines", "wide");
  const bar = el("div", "lines");
  const parts = STATES.map((state) => el("i", state.toLowerCase()));
  bar.append(...parts);
  bar.setAttribute("aria-hidden", "true");
  const legend = el("div", "legend");
  lines.append(bar, legend);
  const row = { node, name, parts, legend };
  for (const [key, label] of [["filled", "Filled"], ["hits", "Hit rate"], ["misses", "Misses"], ["evicted", "Evicted"], ["sent", "Invalidations sent"], ["repeated", "repeated"], ["expired", "expired"], ["lost", "Lost"]]) {
    row[key] = cell(node, label, "n");
  }
  return row;
}, (row, node) => {
  say(row.name, peer(node.peer));
  set(row.name, "title", node.peer);
  row.parts.forEach((part, nth) => { part.style.flexGrow = node.lines[STATES[nth]]; });
  say(row.legend, linesText(node.lines));
  say(row.filled, percent(node.entries / node.capacity));
  set(row.filled, "title", `${whole.format(node.entries)} of ${whole.format(node.capacity)} lines, ${bytes(node.bytes)}`);
  say(row.hits, percent(hitRate(node.hits, node.misses)));
  set(row.hits, "title", `${whole.format(node.hits)} local, ${whole.format(node.remote_hits)} from other nodes`);
  say(row.misses, count(node.misses));
  set(row.misses, "title", Object.entries(node.misses_by_cause).map(([cause, times]) => `${cause}: ${times}`).join("\n"));
  say(row.evicted, count(node.evictions));
  for (const [key, figure] of [["sent", "sent"], ["repeated", "repeated"], ["expired", "expired"]]) say(row[key], count(node.invalidations[figure]));
  say(row.lost, count(node.dirty_lost));
  row.lost.classList.toggle("alert", node.dirty_lost > 0);
});

function gotCache(text) {
  const cache = JSON.parse(text);
  const silent = cache.unanswered.length;
  problem($("cache-problem"), silent ? { type: "unavailable", detail: `${cache.unanswered.map(peer).join(", ")} did not answer: the figures leave them out` } : null);
  const total = (figure) => cache.nodes.reduce((sum, node) => sum + figure(node), 0);
  const per = (growth, figure) => growth.perSecond(cache.nodes.map((node) => [node.peer, figure(node)]), Date.now());
  const [hits, misses] = [total((node) => node.hits), total((node) => node.misses)];
  const rates = { in: per(grown.hits, (node) => node.hits), out: per(grown.misses, (node) => node.misses) };
  const told = per(grown.invalidations, (node) => node.invalidations.sent);
  reads.add(rates);
  invalidations.add({ in: told });
  say($("cache-reads-top"), count(readsChart.draw()));
  say($("cache-invalidations-top"), count(invalidationsChart.draw()));
  set($("cache-reads-chart"), "aria-label", `${rate(rates.in)} hits and ${rate(rates.out)} misses a second`);
  set($("cache-invalidations-chart"), "aria-label", `${rate(told)} invalidations a second`);
  const lines = Object.fromEntries(STATES.map((state) => [state, total((node) => node.lines[state])]));
  const share = hitRate(hits, misses);
  const lost = total((node) => node.dirty_lost);
  const parts = [`${cache.protocol}, write ${cache.write_policy}`, `hit rate ${percent(share)}`, `lines ${linesText(lines)}`];
  if (lost) parts.push(`${plural(lost, "acknowledged value")} lost with their owners`);
  say($("cache-sum"), parts.join(" · "));
  cacheRows.update(cache.nodes, (node) => node.peer);
  show($("cache-empty"), cache.nodes.length === 0);
  say($("cache-empty"), "There is no cache node.");
  say($("tile-cache"), share === null ? `${count(total((node) => node.entries))} lines` : `${percent(share)} hits`);
  say($("tile-cache-more"), share === null ? "nothing read yet" : `${rate(rates.in + rates.out)} reads a second`);
}
