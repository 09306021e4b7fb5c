// Curves as SVG: a bar of history in a tile, and a plot with axes, a legend and a value under the pointer.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 420, HEIGHT = 170, LEFT = 50, RIGHT = 8, TOP = 8, BOTTOM = 22;

function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

// Runs of known values as path data; what is not known leaves a gap.
function path(values, x, y) {
  let data = "", open = false;
  values.forEach((value, index) => {
    if (value === null) { open = false; return; }
    data += `${open ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    open = true;
  });
  return data;
}

export function spark(box, series) {
  const recent = series.slice(-60);
  const known = recent.filter((value) => value !== null);
  box.setAttribute("viewBox", "0 0 120 28");
  box.setAttribute("preserveAspectRatio", "none");
  if (known.length < 2) { box.replaceChildren(); return; }
  const top = Math.max(...known, 1e-9);
  const x = (index) => 120 - (recent.length - 1 - index) * (120 / 59);
  const y = (value) => 26 - (value / top) * 24;
  box.replaceChildren(svg("path", { d: path(recent, x, y), class: "spark" }));
}

// The next round number above, so that the scale does not jump with every sample.
function round(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

export function short(value) {
  const size = Math.abs(value);
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= limit) return `${+(value / limit).toPrecision(3)}${unit}`;
  }
  return String(+value.toPrecision(3));
}

export function plot(box, { id, title, unit, times, lines }) {
  if (!box.firstChild) {
    box.append(document.createElement("figcaption"), svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" }),
      Object.assign(document.createElement("p"), { className: "legend" }));
    box.querySelector("svg").addEventListener("pointermove", (event) => { box.pointer = event; drawPointer(box); });
    box.querySelector("svg").addEventListener("pointerleave", () => { box.pointer = null; drawPointer(box); });
  }
  const figure = box.querySelector("svg");
  const end = times.at(-1) ?? 0, span = Math.max(60, Math.min(300, end - (times[0] ?? end)));
  const from = times.findIndex((at) => at >= end - span);
  const at = from < 0 ? [] : times.slice(from);
  const drawn = lines.map((line) => ({ name: line.name, values: from < 0 ? [] : line.values.slice(from) }));
  const top = round(Math.max(0, ...drawn.flatMap((line) => line.values.filter((value) => value !== null))));
  const x = (index) => LEFT + (1 - (end - at[index]) / span) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    parts.push(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(share * top), y2: y(share * top), class: "grid" }));
    parts.push(svg("text", { x: LEFT - 6, y: y(share * top) + 4, class: "y" }, short(share * top)));
  }
  for (const [share, text] of [[0, `−${Math.round(span)} s`], [1, "now"]]) {
    parts.push(svg("text", { x: LEFT + share * (WIDTH - LEFT - RIGHT), y: HEIGHT - 6, class: share ? "x end" : "x" }, text));
  }
  drawn.forEach((line, index) => parts.push(svg("path", { d: path(line.values, x, y), class: `curve c${index}` })));
  if (drawn.every((line) => line.values.every((value) => value === null))) {
    parts.push(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, class: "none" }, "not measured here"));
  }
  parts.push(svg("g", { class: "pointer" }));
  figure.replaceChildren(...parts);
  const last = (line) => line.values.findLast((value) => value !== null) ?? 0;
  figure.setAttribute("aria-label", `${title}, ${unit}: ${drawn.map((line) => `${line.name} ${short(last(line))}`).join(", ")} now`);
  const caption = `${title} · ${unit}`;
  if (box.firstChild.textContent !== caption) box.firstChild.textContent = caption;
  const legend = box.querySelector(".legend");
  if (legend.dataset.names !== lines.map((line) => line.name).join()) {
    legend.dataset.names = lines.map((line) => line.name).join();
    legend.replaceChildren(...lines.map((line, index) => {
      const entry = document.createElement("span");
      const key = svg("svg", { viewBox: "0 0 24 8", class: "key", "aria-hidden": "true" });
      key.append(svg("path", { d: "M1 4L23 4", class: `curve c${index}` }));
      entry.append(key, line.name);
      return entry;
    }));
  }
  box.scene = { at, drawn, x, y, figure, unit, id };
  drawPointer(box);
}

function drawPointer(box) {
  const group = box.querySelector(".pointer");
  if (!group) return;
  group.replaceChildren();
  const { at, drawn, x, figure } = box.scene;
  if (!box.pointer || !at.length) return;
  const frame = figure.getBoundingClientRect();
  const wanted = ((box.pointer.clientX - frame.left) / frame.width) * WIDTH;
  let best = 0;
  at.forEach((_, index) => { if (Math.abs(x(index) - wanted) < Math.abs(x(best) - wanted)) best = index; });
  const place = x(best), right = place > WIDTH / 2;
  group.append(svg("line", { x1: place, x2: place, y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor" }));
  drawn.filter((line) => line.values[best] !== null).forEach((line, index) => {
    const text = `${line.name} ${short(line.values[best])}`;
    group.append(svg("text", { x: place + (right ? -6 : 6), y: TOP + 12 + index * 14, class: right ? "tip end" : "tip" }, text));
  });
}
