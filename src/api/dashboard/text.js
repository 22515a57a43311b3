"use strict";
// How figures are said. Nothing here touches the page or the node.

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** A count: exact while it is short. */
function count(number) {
  return number < 100000 ? whole.format(number) : short.format(number);
}

function plural(number, one, many = one + "s") {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** Something a second. */
function rate(number) {
  if (number === 0) return "0";
  if (number < 0.1) return "< 0.1";
  return number < 10 ? number.toFixed(1) : count(Math.round(number));
}

function percent(share) {
  if (share === null || share === undefined) return NONE;
  const text = (100 * share).toFixed(share > 0.99 && share < 1 ? 2 : 1);
  return `${text.replace(/\.?0+$/, "")} %`;
}

/** An age, in the two units that matter. */
function age(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** How long a call took. */
function latency(seconds) {
  const ms = 1000 * seconds;
  if (ms < 10) return `${ms.toFixed(ms < 1 ? 2 : 1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

/** The end of a peer's id, which is what tells peers apart. */
function peer(id) {
  return id ? "…" + id.slice(-6) : NONE;
}

/** The beginning of a session's id. */
function session(id) {
  return id.length > 10 ? id.slice(0, 8) + "…" : id;
}

/**
 * A name that somebody chose, so that no two names look alike: what cannot be seen, or turns round what follows, is
 * written as its number. (Two joiners stay: some scripts need them to be read.)
 */
function legible(name) {
  const number = (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`;
  return name.replace(/(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, number);
}

/** Such a name within a sentence, which goes on in its own direction after it. */
function isolated(name) {
  return `\u2068${legible(name)}\u2069`;
}

/** Who they are: the first few by name. */
function named(people) {
  const names = people.slice(0, 3).map((person) => isolated(person.owner || session(person.session)));
  const rest = people.length - names.length;
  return names.join(", ") + (rest > 0 ? ` and ${plural(rest, "other")}` : "");
}

function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

const ROLES = { "lock-manager": "locks", "queue-node": "queues", "cache-node": "cache", "bootstrap": "bootstrap" };

function roles(list) {
  return list.map((role) => ROLES[role] ?? role).join(" · ") || NONE;
}
