// What has happened, newest first.

/** Events that stay listed. */
const EVENTS_LISTED = 200;
/** Events of before this page was opened that are asked for. */
const EVENTS_RECENT = 100;

const GRAVE = new Set(["member-down", "reset"]);

/** Of a change of placement: worth a word where there are any. */
const QUIET = new Set(["filling", "waiting", "journal_lost"]);

/** One member of an event's data: ids shortened, lists counted or listed. */
function detail(name, value) {
  const word = (item) => (typeof item === "string" && item.startsWith("12D3KooW") ? peer(item) : typeof item === "object" ? JSON.stringify(item) : String(item));
  if (name === "roles") return roles(value);
  const text = Array.isArray(value) ? value.map(word).join(", ") : word(value);
  return `${name.replace(/_id$/, "").replaceAll("_", " ")} ${text}`;
}

function happened(event) {
  let data;
  try {
    data = JSON.parse(event.data);
  } catch {
    return;
  }
  const { at, ...rest } = data;
  const when = new Date(at);
  const time = el("time", "", clock(when));
  time.dateTime = at;
  time.title = when.toLocaleString("en-GB");
  const text = event.name === "reset"
    ? "some events were missed here"
    : Object.entries(rest).filter(([name, value]) => !(QUIET.has(name) && value === 0)).map(([name, value]) => detail(name, value)).join(" · ");
  const list = $("events-list");
  list.prepend(el("li", "", time, el("b", GRAVE.has(event.name) ? "alert" : "", event.name), el("span", "", text)));
  while (list.children.length > EVENTS_LISTED) list.lastChild.remove();
  show($("events-empty"), false);
}
