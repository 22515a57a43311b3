// Writing to the page: as text, always. What comes from the cluster is never read as markup.

const SVG = "http://www.w3.org/2000/svg";

function $(id) {
  return document.getElementById(id);
}

/** Writes a text, where it is another one: so that a reader's selection and a screen reader are left alone. */
function say(node, text) {
  text = String(text);
  if (node.textContent !== text) node.textContent = text;
}

function set(node, attribute, value) {
  value = String(value);
  if (node.getAttribute(attribute) !== value) node.setAttribute(attribute, value);
}

function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** An element with a class and what is in it: texts and elements. */
function el(tag, className = "", ...content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

function drawn(tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  return node;
}

/** Says what went wrong in a section, whose figures are old then; or that nothing does. */
function problem(node, refusal) {
  node.parentElement.classList.toggle("is-old", Boolean(refusal));
  show(node, Boolean(refusal));
  say(node, refusal ? `${refusal.type}: ${refusal.detail}` : "");
}

/** A cell that names itself where a row is shown as a card. */
function cell(row, label, className = "") {
  const node = el("td", className);
  if (label) node.dataset.label = label;
  row.append(node);
  return node;
}

/** The heading of a row: a name that somebody chose. */
function heading(row) {
  const node = el("th", "name");
  node.scope = "row";
  const name = el("bdi");
  node.append(name);
  row.append(node);
  return name;
}

/** The rows of a table, each kept for as long as its item is there, with the focus that is in it. */
class Rows {
  constructor(body, make, fill) {
    this.body = body;
    this.make = make;
    this.fill = fill;
    this.kept = new Map();
  }

  update(items, key) {
    const focused = document.activeElement;
    const wanted = new Set(items.map(key));
    for (const [name, row] of this.kept) {
      if (!wanted.has(name)) {
        row.node.remove();
        this.kept.delete(name);
      }
    }
    let next = this.body.firstChild;
    for (const item of items) {
      const name = key(item);
      let row = this.kept.get(name);
      if (!row) {
        row = this.make(item);
        this.kept.set(name, row);
      }
      if (row.node === next) next = next.nextSibling;
      else this.body.insertBefore(row.node, next);
      this.fill(row, item);
    }
    if (focused && focused !== document.activeElement && this.body.contains(focused)) {
      focused.focus({ preventScroll: true });
    }
  }
}

/** A list of facts: names and what they are now. */
function facts(list, entries) {
  while (list.children.length > entries.length) list.lastChild.remove();
  entries.forEach(([name, value], index) => {
    let pair = list.children[index];
    if (!pair) {
      pair = el("div", "", el("dt"), el("dd"));
      list.append(pair);
    }
    say(pair.firstChild, name);
    say(pair.lastChild, value);
  });
}
