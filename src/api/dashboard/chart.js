// Small charts, drawn by hand from a bounded memory of samples.

/** Samples that are remembered: two minutes of one a second. */
const SAMPLES = 120;

/** The last samples of a few quantities. */
class Trail {
  constructor(names) {
    this.samples = Object.fromEntries(names.map((name) => [name, []]));
  }

  add(values) {
    for (const [name, list] of Object.entries(this.samples)) {
      list.push(values[name] ?? 0);
      if (list.length > SAMPLES) list.shift();
    }
  }

  top() {
    return Math.max(...Object.values(this.samples).flat(), 0);
  }
}

/** Rounded up to 1, 2 or 5 times a power of ten: a scale that does not change with every sample. */
function roundTop(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

/** One curve for each quantity, the newest sample at the right; the first one has its area filled. */
class Chart {
  constructor(svg, history, width, height) {
    Object.assign(this, { svg, history, width, height });
    this.under = drawn("path", { class: "under" });
    svg.append(this.under);
    this.curves = Object.keys(history.samples).map((name) => {
      const curve = drawn("path", { class: `curve ${name}` });
      svg.append(curve);
      return [name, curve];
    });
  }

  /** Draws what is remembered. Returns what the upper edge stands for. */
  draw() {
    const top = roundTop(this.history.top());
    const step = this.width / (SAMPLES - 1);
    this.curves.forEach(([name, curve], index) => {
      const list = this.history.samples[name];
      const x = (nth) => (this.width - (list.length - 1 - nth) * step).toFixed(1);
      const y = (value) => (this.height - 1.5 - (value / top) * (this.height - 4)).toFixed(1);
      const line = list.map((value, nth) => `${nth ? "L" : "M"}${x(nth)} ${y(value)}`).join("");
      set(curve, "d", line);
      if (index === 0) set(this.under, "d", list.length ? `${line}V${this.height}H${x(0)}Z` : "");
    });
    return top;
  }
}

/** By how much a second a counter has grown; a counter that was reset has grown from nothing. */
class Growth {
  constructor() {
    this.known = new Map();
  }

  /** `counters` are [key, value]; what is not among them is forgotten. */
  perSecond(counters, atMs) {
    let grown = 0;
    const known = new Map();
    for (const [key, value] of counters) {
      const before = this.known.get(key);
      if (before !== undefined) grown += value >= before ? value - before : value;
      known.set(key, value);
    }
    const seconds = (atMs - (this.atMs ?? atMs)) / 1000;
    this.known = known;
    this.atMs = atMs;
    return seconds > 0 ? grown / seconds : 0;
  }
}
