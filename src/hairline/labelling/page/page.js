// One tile at a time: a key or a button sends the answer, and the next tile shows when the answer is on the disk.
"use strict";

const $ = (id) => document.getElementById(id);
const counted = (value, noun) => `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
const classes = JSON.parse(document.body.dataset.classes);
const browser = sessionStorage.browser || (sessionStorage.browser = crypto.randomUUID ? crypto.randomUUID() : String(Math.random()));
let tiles = [], busy = false, requests = 0, correcting = null, refresh = null;

async function act(action, values = {}) {
  if (busy) return false;
  const request = ++requests, overtaken = () => request !== requests;
  // While the page only asks for news about a tile on the screen, a key counts: its request overtakes this one.
  busy = action !== "show" || !tiles.length;
  clearTimeout(refresh);
  try {
    const response = await fetch(`act/${action}`, {
      method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({browser, ...values}),
    });
    const reply = await response.json();
    if (overtaken()) return false;
    if (!response.ok) throw new Error(reply.error);
    busy = true; // until the tile that the next key answers is on the screen
    if (action !== "show" || $("error").dataset.action === "show") $("error").hidden = true; // news hide no lost answer
    await show(reply);
    return true;
  } catch (error) {
    if (overtaken()) return false;
    fail(error, action);
    refresh = setTimeout(() => act("show"), 3000);
    return false;
  } finally {
    if (!overtaken()) busy = false;
  }
}

function fail(error, action) {
  $("error").textContent = error instanceof TypeError ? "label.py does not answer: start it again, and open the address that it prints." : error.message;
  $("error").dataset.action = action;
  $("error").hidden = false;
}

async function show(reply) {
  const before = tiles[0]?.tile;
  tiles = reply.tiles;
  const tile = tiles[0];
  $("question").classList.toggle("empty", !tile);
  $("pictures").hidden = !tile;
  $("done").hidden = Boolean(tile);
  enable();
  if (tile) {
    if (tile.tile !== before) {
      hideHeat();
      await Promise.all([load($("tile"), `tile/${tile.tile}.jpg`), load($("surroundings"), `around/${tile.tile}.jpg`)]);
      document.body.dataset.tile = tile.tile;
    }
    place(tile.frame);
    const percent = (share) => `${(100 * share).toFixed(0)} %`;
    $("says").textContent = `The model says ${tile.predicted} (` + (tile.threshold === null ? percent(tile.probability)
      : `probability of ${tile.heat} ${percent(tile.probability)}, threshold ${percent(tile.threshold)}`) + ").";
    $("place").textContent = `${tile.photo.split(/[/\\]/).pop()}, x ${tile.box[0]}, y ${tile.box[1]}`;
  }
  for (const next of tiles.slice(1)) {
    new Image().src = `tile/${next.tile}.jpg`;
    new Image().src = `around/${next.tile}.jpg`;
  }
  panel(reply.state);
}

function enable() {
  for (const button of document.querySelectorAll(".answer, #skip")) button.disabled = !tiles.length && correcting === null;
}

function hideHeat() {
  $("heat").hidden = $("legend").hidden = true;
  $("heat-button").setAttribute("aria-pressed", "false");
}

async function toggleHeat() {
  if (!tiles.length) return;
  const button = $("heat-button"), pressed = () => button.getAttribute("aria-pressed") === "true";
  if (pressed()) { hideHeat(); return; }
  const {tile, heat} = tiles[0];
  button.setAttribute("aria-pressed", "true");
  $("legend").hidden = false;
  $("legend").textContent = "Computing the heat map; the first one takes a while ...";
  const picture = $("heat");
  picture.src = `heat/${tile}.png?${Date.now()}`; // the model changes with each label
  const done = await picture.decode().then(() => true, () => false);
  if (tiles[0]?.tile !== tile || !pressed()) return; // answered, or switched off, meanwhile
  $("legend").textContent = done ? `Red speaks for ${heat}, blue against it.` : "No heat map: the photo cannot be read, or label.py does not answer.";
  picture.hidden = !done;
}

async function load(image, address) {
  image.src = address;
  try { await image.decode(); } catch { /* shown as missing; the answer counts all the same */ }
}

function place([left, top, width, height]) {
  // The picture lies centred in a square box; shares of that box stay right when the window changes.
  const image = $("surroundings"), frame = $("frame").style, longest = Math.max(image.naturalWidth, image.naturalHeight) || 1;
  const across = image.naturalWidth / longest, down = image.naturalHeight / longest;
  frame.left = `${100 * ((1 - across) / 2 + left * across)}%`;
  frame.top = `${100 * ((1 - down) / 2 + top * down)}%`;
  frame.width = `${100 * width * across}%`;
  frame.height = `${100 * height * down}%`;
}

function panel(state) {
  $("progress").textContent = `${counted(state.answers, "label")}, ${counted(state.left, "tile")} left`;
  const rows = [...Object.entries(state.counts), ["of these chosen at random", state.random], ["skipped", state.skipped]];
  $("counts").replaceChildren(...rows.map(([name, count]) => {
    const row = document.createElement("tr");
    for (const text of [name, count]) row.insertCell().textContent = text;
    return row;
  }));
  const curve = state.curve, last = curve[curve.length - 1];
  $("estimate").textContent = last
    ? `${last.value.toFixed(2)} (${last.low.toFixed(2)} to ${last.high.toFixed(2)}) with ${counted(last.answers, "label")}`
    : "Estimated as soon as each class has a few labels.";
  draw(curve);
  $("changed").textContent = state.photos_changed === null ? ""
    : `${state.photos_changed} of ${counted(state.photos, "photo")} changed their answer with the last ten labels.`;
  $("enough").hidden = !state.enough;
  $("enough").textContent = "More labels hardly change the answers any more: a good moment to finish.";
  $("failed").hidden = !state.failed;
  $("undo").disabled = !state.can_undo;
  $("last").replaceChildren(...state.strip.map((entry) => {
    const button = document.createElement("button"), image = new Image();
    button.type = "button";
    button.dataset.tile = entry.tile;
    button.setAttribute("aria-pressed", String(correcting === entry.tile));
    image.src = `tile/${entry.tile}.jpg`;
    image.alt = "";
    button.append(image, entry.label ?? "skipped");
    button.onclick = () => select(correcting === entry.tile ? null : entry.tile);
    return button;
  }));
  if (correcting !== null) document.querySelector(`#last [data-tile="${correcting}"]`)?.focus();
  if (state.learning && !$("finished").open) refresh = setTimeout(() => act("show"), 400);
}

function draw(curve) {
  const names = "http://www.w3.org/2000/svg", svg = $("curve");
  const most = Math.max(50, ...curve.map((point) => point.answers));
  const floor = curve.some((point) => point.low < 0.5) ? 0 : 0.5, step = floor ? 0.1 : 0.2;
  const x = (answers) => 30 + 262 * answers / most, y = (value) => 148 - 138 * (value - floor) / (1 - floor);
  const make = (name, values, text) => {
    const node = document.createElementNS(names, name);
    for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const parts = [];
  for (let value = floor; value < 1.01; value += step) {
    parts.push(make("line", {class: "axis", x1: 30, x2: 292, y1: y(value), y2: y(value)}));
    parts.push(make("text", {x: 26, y: y(value) + 4, "text-anchor": "end"}, value.toFixed(1)));
  }
  parts.push(make("text", {x: 292, y: 165, "text-anchor": "end"}, `${most} labels`));
  if (curve.length) {
    const band = [...curve.map((p) => [x(p.answers), y(p.high)]), ...curve.map((p) => [x(p.answers), y(p.low)]).reverse()];
    parts.push(make("polygon", {class: "band", points: band.join(" ")}));
    parts.push(make("polyline", {class: "line", points: curve.map((p) => [x(p.answers), y(p.value)]).join(" ")}));
    const end = curve[curve.length - 1];
    parts.push(make("circle", {cx: x(end.answers), cy: y(end.value), r: 3.5, fill: "#1f5fbf"}));
  }
  svg.replaceChildren(...parts);
}

function select(tile) {
  correcting = tile;
  enable();
  for (const button of document.querySelectorAll("#last button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.tile) === tile));
    if (Number(button.dataset.tile) === tile) button.focus();
  }
  if (tile === null) document.activeElement?.blur();
}

async function give(label) {
  if (busy) return;
  if (correcting !== null) {
    if (await act("correct", {tile: correcting, label})) select(null);
  } else if (tiles.length) {
    act("answer", {tile: tiles[0].tile, label});
  }
}

function undo() {
  if (busy) return;
  select(null);
  act("undo");
}

async function finish() {
  clearTimeout(refresh); // the server ends after its answer
  requests++; // whatever is under way is of no account any more
  busy = true;
  try {
    const response = await fetch("finish", {method: "POST", headers: {"content-type": "application/json"}, body: "{}"});
    $("commands").textContent = (await response.json()).commands.join("\n");
    $("finished").showModal();
  } catch (error) {
    fail(error, "finish");
    busy = false;
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $("finished").open) return;
  if ($("help").open) return;
  const known = classes.find((entry) => entry.key === event.key.toLowerCase());
  const strip = [...document.querySelectorAll("#last button")];
  const at = strip.findIndex((button) => Number(button.dataset.tile) === correcting);
  if (known) give(known.name);
  else if (event.key === "k") give("");
  else if (event.key === "u") undo();
  else if (event.key === "h") toggleHeat();
  else if (event.key === "?") $("help").showModal();
  else if (event.key === "e" && strip.length) select(Number(strip[0].dataset.tile));
  else if (event.key === "Escape") select(null);
  else if (at >= 0 && event.key === "ArrowRight" && strip[at + 1]) select(Number(strip[at + 1].dataset.tile));
  else if (at >= 0 && event.key === "ArrowLeft" && strip[at - 1]) select(Number(strip[at - 1].dataset.tile));
  else return;
  event.preventDefault();
});
for (const button of document.querySelectorAll(".answer")) button.onclick = () => give(button.dataset.label);
$("skip").onclick = () => give("");
$("undo").onclick = undo;
$("heat-button").onclick = toggleHeat;
$("help-button").onclick = () => $("help").showModal();
$("help-close").onclick = () => $("help").close();
$("finish-button").onclick = finish;
$("finished").addEventListener("cancel", (event) => event.preventDefault()); // behind it the page would answer no key
act("show");
