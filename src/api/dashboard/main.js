// Starts it all: who is asked how often, and what the page does about how it stands with the node.

const LINK_WORDS = { asking: "asking", up: "live", away: "no answer", locked: "wants a token" };

function showLink() {
  const { state } = link;
  const standing = $("standing");
  set(standing, "data-state", state);
  say(standing, LINK_WORDS[state]);
  const hasToken = sessionStorage.getItem(TOKEN) !== null;
  show($("forget"), hasToken && state !== "locked");
  show($("token-form"), state === "locked");
  // What was shown under a token is not shown without it; what is old is, and says so.
  if (state === "locked") known.cluster = null;
  show($("board"), known.cluster !== null);
  document.body.classList.toggle("is-stale", state === "away");
  if (state === "locked") askForToken(hasToken);
  showAway();
}

function askForToken(hadToken) {
  problem($("token-problem"), hadToken ? { type: "unauthorized", detail: link.why } : null);
  $("token").focus();
}

/** Says since when there is no answer, and when it is asked again. */
function showAway() {
  const isAway = link.state === "away";
  show($("away"), isAway);
  if (!isAway) return;
  const since = link.answeredAt;
  say($("away-since"), since ? `No answer from this node since ${clock(since)}.` : "No answer from this node.");
  const seconds = Math.max(0, Math.ceil(((link.nextTry ?? Date.now()) - Date.now()) / 1000));
  const old = known.cluster ? `What is shown is ${age(Date.now() - since)} old. ` : "";
  say($("away-next"), `${old}${seconds ? `Next try in ${seconds} s.` : "Trying."}`);
}

function listen() {
  link.onChange = showLink;
  document.addEventListener("visibilitychange", changed);
  $("try-now").addEventListener("click", () => { link.hurry = true; changed(); });
  $("forget").addEventListener("click", () => {
    sessionStorage.removeItem(TOKEN);
    location.reload();
  });
  $("token-form").addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    const field = $("token");
    keepToken(field.value.trim());
    field.value = "";
  });
  listenToBreak();
}

function start() {
  listen();
  const intoSection = (name) => (refused) => problem($(`${name}-problem`), refused);
  const polls = {
    cluster: new Poll(2000, () => "/v1/cluster", (text) => { gotCluster(text); showLink(); }, intoSection("members")),
    node: new Poll(2000, () => "/v1/node", (text) => { gotNode(text); showLink(); }, intoSection("members")),
    locks: new Poll(1000, locksPath, gotLocks, intoSection("locks")),
    sessions: new Poll(2000, () => "/v1/sessions", gotSessions, () => {}),
    queues: new Poll(1000, () => `/v1/queues?limit=${QUEUES_ASKED}`, gotQueues, intoSection("queues")),
    cache: new Poll(2000, () => "/v1/cache", gotCache, intoSection("cache")),
    metrics: new Poll(5000, () => "/metrics", gotMetrics, intoSection("calls")),
  };
  $("locks-prefix").addEventListener("input", (typed) => {
    locks.prefix = typed.target.value;
    polls.locks.soon();
  });
  $("break").addEventListener("close", () => polls.locks.soon());
  const told = (event) => {
    happened(event);
    polls.cluster.soon();
    polls.node.soon();
  };
  followEvents(`/v1/events?recent=${EVENTS_RECENT}`, told, (isLive) => say($("events-standing"), isLive ? "as this node comes to know them" : "the stream ended: connecting again"));
  setInterval(showAway, 1000);
  keepLink();
}

start();
