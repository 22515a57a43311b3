// Asking this node: one way to call it, what its silence means, the token, lists by polling, events by a stream.

const ANSWER_MS = 10000;
/** However much happens, nothing is asked for more often. */
const LEAST_PAUSE_MS = 250;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 10000;
/** The node writes a comment each 15 s: a stream that is silent for longer than two of them is dead. */
const SILENCE_MS = 35000;
/** Most bytes of one event. */
const LONGEST_EVENT = 1 << 20;
const TOKEN = "syncmesh-token";

/** The node refused, and said why (RFC 9457). */
class Refused extends Error {
  constructor(status, document) {
    super(document.detail);
    this.status = status;
    this.problem = document;
  }
}

/** The node said nothing: in time, or because the connection broke off. */
class NoAnswer extends Error {
  constructor(cause) {
    super(String(cause));
    this.timedOut = cause.name === "TimeoutError";
  }
}

/**
 * How this page stands with its node: `asking` (not yet answered), `up`, `away` (no answer), `locked` (it wants a
 * token that we do not have).
 */
const link = { state: "asking", why: "", answeredAt: null, nextTry: null, skewMs: 0, onChange: () => {} };

const waiting = new Set();

/** Something that somebody may wait for has changed. */
function changed() {
  for (const look of [...waiting]) look();
}

function until(condition) {
  return new Promise((resolve) => {
    const look = () => {
      if (!condition()) return;
      waiting.delete(look);
      resolve();
    };
    waiting.add(look);
    look();
  });
}

/** Waits, until `woken` says that it need not. */
async function pause(ms, woken = () => false) {
  let over = false;
  const timer = setTimeout(() => { over = true; changed(); }, ms);
  await until(() => over || woken());
  clearTimeout(timer);
}

function setLink(state, why = "") {
  if (link.state === state && link.why === why) return;
  link.state = state;
  link.why = why;
  link.onChange();
  changed();
}

/** Nobody is asked while nobody looks. */
function mayAsk() {
  return link.state === "up" && !document.hidden;
}

/** The time by the node's clock, which its times are told in. */
function now() {
  return Date.now() + link.skewMs;
}

function heard(response) {
  link.answeredAt = new Date();
  const told = Date.parse(response.headers.get("date") ?? "");
  // It tells whole seconds: what is less than two is no difference of clocks.
  const skew = told + 500 - Date.now();
  link.skewMs = Math.abs(skew) > 2000 ? skew : 0;
}

function authorization() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function keepToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
  // Ask again, with what we have now.
  setLink("asking");
}

async function refusal(response) {
  const text = await response.text();
  try {
    const document = JSON.parse(text);
    if (typeof document.detail === "string") return new Refused(response.status, document);
  } catch {
    // Somebody between here and the node answers in its place.
  }
  return new Refused(response.status, { type: String(response.status), detail: response.statusText || "refused" });
}

/** Calls the node. What it says comes back as text. */
async function ask(method, path) {
  try {
    const signal = AbortSignal.timeout(ANSWER_MS);
    const response = await fetch(path, { method, headers: authorization(), cache: "no-store", redirect: "error", signal });
    heard(response);
    if (!response.ok) throw await refusal(response);
    return await response.text();
  } catch (error) {
    if (error instanceof Refused) {
      if (error.status === 401) setLink("locked", error.message);
      throw error;
    }
    throw new NoAnswer(error);
  }
}

/** A call has gone unanswered. Does the node live? */
async function suspect() {
  if (link.state !== "up") return;
  try {
    await ask("GET", "/healthz");
  } catch (error) {
    if (error instanceof NoAnswer && link.state === "up") setLink("away");
  }
}

/** Finds out how we stand, and while there is no answer asks on, ever more rarely. */
async function keepLink() {
  let rest = FIRST_PAUSE_MS;
  for (;;) {
    await until(() => (link.state === "asking" || link.state === "away") && !document.hidden);
    try {
      await ask("GET", "/v1/node");
      setLink("up");
    } catch (error) {
      if (error instanceof Refused) {
        if (link.state !== "locked") setLink("up");
      } else {
        setLink("away");
        link.nextTry = new Date(Date.now() + rest);
        link.hurry = false;
        await pause(rest, () => link.hurry || link.state !== "away");
        rest = Math.min(2 * rest, LONGEST_PAUSE_MS);
        continue;
      }
    }
    rest = FIRST_PAUSE_MS;
  }
}

/** What is asked for again and again: one request at a time, while somebody looks and the node answers. */
class Poll {
  constructor(everyMs, path, answered, refused) {
    Object.assign(this, { everyMs, path, answered, refused, due: false });
    this.run();
  }

  async run() {
    for (;;) {
      await until(mayAsk);
      this.due = false;
      await this.once();
      await pause(LEAST_PAUSE_MS);
      await pause(this.everyMs - LEAST_PAUSE_MS, () => this.due);
    }
  }

  async once() {
    const path = this.path();
    let text;
    try {
      text = await ask("GET", path);
    } catch (error) {
      if (error instanceof Refused) {
        this.refused(error.problem);
      } else {
        await suspect();
        // A connection that broke off under a node that lives: the next turn tells.
        if (link.state === "up" && error.timedOut) this.refused({ type: "no answer", detail: `nothing came within ${ANSWER_MS / 1000} s` });
      }
      return;
    }
    // What was asked before the question changed is no answer.
    if (path === this.path()) this.answered(text);
  }

  /** Something has happened: do not wait for the next turn. */
  soon() {
    this.due = true;
    changed();
  }
}

/** The events of a stream (HTML Standard, section 9.2.6, as far as the node uses it). */
async function* parsed(body, beat) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    beat();
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    if (buffer.length > LONGEST_EVENT) throw new Error("an event without an end");
    for (const block of blocks) {
      const event = { name: "message", id: null, data: "" };
      for (const line of block.split("\n")) {
        const [, field, text] = /^([^:]*): ?(.*)$/.exec(line) ?? [];
        if (field === "event") event.name = text;
        if (field === "id") event.id = text;
        if (field === "data") event.data += text;
      }
      if (event.data) yield event;
    }
  }
}

/** Follows the events of the cluster as this node comes to know them; resumes where it was. */
async function followEvents(path, happened, standing) {
  let last = null;
  let rest = FIRST_PAUSE_MS;
  for (;;) {
    await until(mayAsk);
    const stop = new AbortController();
    let watchdog = 0;
    const beat = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => stop.abort(), SILENCE_MS);
    };
    // A hidden page keeps no connection: a browser has but six for all pages of a node.
    const away = () => { if (!mayAsk()) stop.abort(); };
    waiting.add(away);
    try {
      beat();
      const headers = { ...authorization(), ...(last === null ? {} : { "Last-Event-ID": last }) };
      const response = await fetch(path, { headers, cache: "no-store", signal: stop.signal });
      if (!response.ok) throw await refusal(response);
      standing(true);
      for await (const event of parsed(response.body, beat)) {
        rest = FIRST_PAUSE_MS;
        last = event.id ?? last;
        happened(event);
      }
    } catch (error) {
      if (error instanceof Refused && error.status === 401) setLink("locked", error.message);
    }
    clearTimeout(watchdog);
    waiting.delete(away);
    standing(false);
    if (mayAsk()) {
      await suspect();
      await pause(rest);
      rest = Math.min(2 * rest, LONGEST_PAUSE_MS);
    }
  }
}
