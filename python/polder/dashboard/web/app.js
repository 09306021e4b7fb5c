// The dashboard: draws what the server's view-model says, and decides nothing.

import { plot, spark } from "/plot.js";

const MARKS = { good: "●", plain: "", note: "◆", warn: "▲", bad: "✖" };
const WORDS = { good: "good", plain: "", note: "note", warn: "warning", bad: "bad" };
const $ = (id) => document.getElementById(id);

const token = (() => {
  const given = location.hash.slice(1);
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") ?? "";
})();
const headers = { Authorization: `Bearer ${token}` };
let shown = Number(sessionStorage.getItem("view") ?? 0);
let stream = null;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Keeps as many children as there are items, so that what is read, focused or selected stays where it is.
function keep(parent, items, make, fill) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, index) => {
    if (!parent.children[index]) parent.append(make(item));
    fill(parent.children[index], item);
  });
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Text with commands between backticks.
function write(node, text) {
  if (node.dataset.text === text) return;
  node.dataset.text = text;
  node.replaceChildren(...text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part)));
}

function level(node, value) {
  if (node.dataset.level !== value) node.dataset.level = value;
}

function drawTile(box, tile) {
  level(box, tile.level);
  say(box.querySelector("h2"), tile.label);
  say(box.querySelector(".value"), tile.value);
  say(box.querySelector(".mark"), MARKS[tile.level]);
  say(box.querySelector(".word"), WORDS[tile.level]);
  say(box.querySelector(".note"), tile.note);
  spark(box.querySelector("svg"), tile.series);
}

function makeTile() {
  const value = element("p", { class: "number" },
    element("span", { class: "mark", "aria-hidden": "true" }), element("span", { class: "value" }), element("span", { class: "word" }));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  return element("article", { class: "tile" }, element("h2"), value, element("p", { class: "note" }), svg);
}

function drawTable(box, table) {
  say(box.querySelector("caption"), table.title);
  const numeric = new Set(table.numeric);
  keep(box.querySelector("thead tr"), table.columns, () => element("th", { scope: "col" }), (cell, name) => say(cell, name));
  [...box.querySelectorAll("thead th")].forEach((cell, index) => cell.classList.toggle("numeric", numeric.has(index)));
  keep(box.querySelector("tbody"), table.rows, () => element("tr"), (row, cells) => {
    keep(row, cells, () => element("td", {}, element("span", { class: "mark" }), element("span")), (cell, value) => {
      level(cell, value.level);
      say(cell.children[0], MARKS[value.level]);
      cell.children[0].setAttribute("aria-label", WORDS[value.level]);
      say(cell.children[1], value.text);
    });
    [...row.children].forEach((cell, index) => cell.classList.toggle("numeric", numeric.has(index)));
  });
  say(box.querySelector(".empty"), table.rows.length ? "" : table.empty);
}

function makeTable() {
  const table = element("table", {}, element("caption"), element("thead", {}, element("tr")), element("tbody"));
  return element("div", { class: "table", tabindex: "0" }, table, element("p", { class: "empty" }));
}

function drawActions(actions) {
  keep($("actions"), actions, () => {
    const button = element("button", { type: "button" });
    button.addEventListener("click", () => act(button.action));
    return button;
  }, (button, action) => {
    button.action = action;
    say(button, action.label);
  });
}

async function act(action) {
  say($("question"), action.confirm);
  const choices = action.choices.map((name) => element("option", { value: name }, name));
  $("choice").replaceChildren(...(choices.length ? [element("select", { "aria-label": action.label }, ...choices)] : []));
  $("confirm").showModal();
  await new Promise((done) => $("confirm").addEventListener("close", done, { once: true }));
  if ($("confirm").returnValue !== "yes") return;
  const choice = $("choice").querySelector("select")?.value ?? "";
  const button = [...$("actions").children].find((each) => each.action?.id === action.id);
  if (button) button.disabled = true;
  say($("told"), `${action.label} …`);
  const body = JSON.stringify({ view: shown, action: action.id, choice });
  const answer = await fetch("/api/act", { method: "POST", headers, body });
  const { said } = await answer.json().catch(() => ({ said: "It was refused." }));
  if (button) button.disabled = false;
  say($("told"), said);
}

function draw(view) {
  document.title = `${MARKS[view.level]} ${view.title} · Polder`;
  say($("title"), view.title);
  say($("clock"), new Date(view.at * 1000).toLocaleTimeString());
  level($("headline"), view.level);
  say($("headline").querySelector(".mark"), MARKS[view.level]);
  say($("said"), view.headline);
  write($("advice"), view.signs.find((sign) => sign.text === view.headline)?.advice ?? "");
  write($("next"), view.next);
  keep($("tiles"), view.tiles, makeTile, drawTile);
  keep($("signs"), view.signs.filter((sign) => sign.text !== view.headline), () => element("article", {}, element("h2"), element("p")), (box, sign) => {
    level(box, sign.level);
    say(box.children[0], `${MARKS[sign.level]} ${sign.text}`);
    write(box.children[1], sign.advice);
  });
  keep($("plots"), view.plots, () => element("figure"), (box, each) => plot(box, each));
  keep($("tables"), view.tables, makeTable, drawTable);
  drawActions(view.actions);
}

function drawNames(names) {
  if (shown >= names.length) shown = 0;
  keep($("views"), names.length > 1 ? names : [], () => element("button", { type: "button" }), (button, name) => {
    say(button, name);
    const index = names.indexOf(name);
    button.setAttribute("aria-pressed", String(index === shown));
    button.onclick = () => {
      shown = index;
      sessionStorage.setItem("view", String(index));
      connect();
    };
  });
}

function lost(text) {
  $("live").classList.remove("on");
  say($("clock"), "not connected");
  level($("headline"), "note");
  say($("said"), text.replaceAll("`", ""));
  write($("advice"), "");
}

// Server-sent events through fetch, because EventSource can send no header, and a token in an address ends up in histories.
async function connect() {
  stream?.abort();
  const mine = (stream = new AbortController());
  while (!mine.signal.aborted) {
    try {
      const answer = await fetch(`/api/stream?view=${shown}`, { headers, signal: mine.signal });
      if (!answer.ok) {
        lost(await answer.text());
        if (answer.status === 401) return;
      } else {
        $("live").classList.add("on");
        await read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
      }
    } catch (error) {
      if (mine.signal.aborted) return;
    }
    if (!mine.signal.aborted) lost("The dashboard's process does not answer. Start it again: polder dashboard");
    await new Promise((done) => setTimeout(done, 2000));
  }
}

async function read(reader) {
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const [first, second] = event.split("\n");
      const data = JSON.parse(second.slice("data: ".length));
      if (first === "event: names") drawNames(data);
      else draw(data);
    }
  }
}

connect();
