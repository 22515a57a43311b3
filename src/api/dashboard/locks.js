// Locks: who holds, who waits, and taking one away by force.

/** Most locks that are asked for, and that are shown. */
const LOCKS_ASKED = 500;
const LOCKS_SHOWN = 100;

const locks = { list: [], more: false, sessions: new Map(), prefix: "" };

function holdersOf(lock) {
  return lock.holders.length ? named(lock.holders) : "nobody now";
}

/** Who waits, in their order, and since when the first one does. */
function waitersOf(lock) {
  const [first, ...others] = lock.waiters;
  if (!first) return "";
  const wait = `${named([first])} for ${age(now() - Date.parse(first.since))}`;
  return others.length ? `${wait}, then ${named(others)}` : wait;
}

/** What remains of the term of the first holder. */
function termOf(lock) {
  const holder = lock.holders[0] && locks.sessions.get(lock.holders[0].session);
  return holder ? `${holder.owner ? session(holder.session) + ", " : ""}lease ${age(holder.expires_in_ms)}` : "";
}

function heldMs(lock) {
  const since = lock.holders.map((holder) => Date.parse(holder.since));
  return since.length ? now() - Math.min(...since) : 0;
}

const lockRows = new Rows($("locks-rows"), (lock) => {
  const node = el("tr");
  const name = heading(node);
  const mode = cell(node, "Mode");
  const holder = cell(node, "Held by", "people");
  const [owner, term] = [el("bdi"), el("div", "soft term")];
  holder.append(owner, term);
  const row = { node, name, mode, owner, term, held: cell(node, "For", "n"), token: cell(node, "Token", "n soft") };
  const waits = cell(node, "Waiting", "people");
  [row.waits, row.who] = [el("span"), el("bdi", "soft")];
  waits.append(row.waits, " ", row.who);
  row.button = el("button", "small danger", "Break", el("span", "unseen"));
  row.button.type = "button";
  row.button.addEventListener("click", () => openBreak(lock.lock));
  cell(node, "").append(row.button);
  return row;
}, (row, lock) => {
  say(row.name, legible(lock.lock));
  say(row.mode, lock.mode ?? "free");
  say(row.owner, holdersOf(lock));
  set(row.owner, "title", lock.holders.map((holder) => `${holder.session} ${holder.owner}`).join("\n"));
  say(row.term, termOf(lock));
  say(row.held, lock.holders.length ? age(heldMs(lock)) : NONE);
  say(row.token, lock.holders.length ? Math.max(...lock.holders.map((holder) => holder.fencing_token)) : NONE);
  say(row.waits, lock.waiters.length ? count(lock.waiters.length) : NONE);
  row.waits.classList.toggle("care", lock.waiters.length > 0);
  say(row.who, waitersOf(lock));
  say(row.button.lastChild, ` ${legible(lock.lock)}`);
  show(row.button, lock.holders.length > 0);
});

function showLocks() {
  const { list, more, prefix } = locks;
  const held = list.filter((lock) => lock.holders.length > 0);
  const waiters = list.reduce((sum, lock) => sum + lock.waiters.length, 0);
  const longest = held.length ? `longest ${age(Math.max(...held.map(heldMs)))}` : "";
  const plus = more ? "+" : "";
  const parts = [`${count(held.length)}${plus} held`, `${count(waiters)}${plus} waiting`, longest];
  // Where somebody waits is what one looks for; the rest stays in the order of names.
  const shown = [...list].sort((a, b) => b.waiters.length - a.waiters.length).slice(0, LOCKS_SHOWN);
  if (shown.length < list.length || more) parts.push(`${count(shown.length)} shown: narrow them by how they begin`);
  say($("locks-sum"), parts.filter(Boolean).join(" · "));
  lockRows.update(shown, (lock) => lock.lock);
  show($("locks-empty"), list.length === 0);
  say($("locks-empty"), prefix ? "No lock that begins so is held or waited for." : "No lock is held or waited for.");
  if (!prefix) {
    say($("tile-locks"), `${count(held.length)}${plus} held`);
    say($("tile-locks-more"), [`${count(waiters)} waiting`, longest].filter(Boolean).join(" · "));
    set($("tile-locks-more"), "class", waiters > 0 ? "care" : "");
  }
  showBreak();
}

function gotLocks(text) {
  const page = JSON.parse(text);
  locks.list = page.locks;
  locks.more = Boolean(page.next);
  problem($("locks-problem"), null);
  showLocks();
}

function gotSessions(text) {
  locks.sessions = new Map(JSON.parse(text).sessions.map((entry) => [entry.session, entry]));
}

function locksPath() {
  const prefix = locks.prefix ? `&prefix=${encodeURIComponent(locks.prefix)}` : "";
  return `/v1/locks?limit=${LOCKS_ASKED}${prefix}`;
}

// The dialog. It tells who holds the lock now, also when that changes while it is open.

const breaking = { lock: null, opener: null };

function openBreak(lock) {
  Object.assign(breaking, { lock, opener: document.activeElement });
  say($("break-name"), legible(lock));
  problem($("break-problem"), null);
  $("break-yes").disabled = false;
  say($("locks-done"), "");
  showBreak();
  $("break").showModal();
}

function showBreak() {
  if (breaking.lock === null) return;
  const lock = locks.list.find((candidate) => candidate.lock === breaking.lock);
  if (!lock || lock.holders.length === 0) {
    say($("break-what"), "Nobody holds it any more, as far as this page can see.");
    return;
  }
  const next = lock.waiters.length ? `; ${plural(lock.waiters.length, "session waits", "sessions wait")}` : "";
  say($("break-what"), `Held by ${holdersOf(lock)} for ${age(heldMs(lock))}, ${lock.mode}${next}.`);
}

function closedBreak() {
  const opener = breaking.opener;
  Object.assign(breaking, { lock: null, opener: null });
  // The button is gone with its lock; its section is what comes nearest.
  (opener?.isConnected && !opener.hidden ? opener : $("locks")).focus({ preventScroll: true });
}

async function breakLock() {
  const lock = breaking.lock;
  $("break-yes").disabled = true;
  try {
    const { broken } = JSON.parse(await ask("DELETE", `/v1/locks/${encodeURIComponent(lock)}`));
    const from = broken.length ? `taken from ${broken.map(session).join(", ")}` : "nobody held it";
    say($("locks-done"), `${isolated(lock)}: ${from}.`);
    $("break").close();
  } catch (error) {
    const unknown = { type: "no answer", detail: "whether the lock was broken is not known: look at who holds it before you try again" };
    if (breaking.lock === lock) problem($("break-problem"), error instanceof Refused ? error.problem : unknown);
    $("break-yes").disabled = false;
  }
}

function listenToBreak() {
  $("break-no").addEventListener("click", () => $("break").close());
  $("break-yes").addEventListener("click", breakLock);
  $("break").addEventListener("close", closedBreak);
}
