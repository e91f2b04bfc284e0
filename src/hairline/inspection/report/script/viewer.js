// --- the viewer: one photo, large, with its traces and its heat map

const SVG = "http://www.w3.org/2000/svg";
const LAYERS = ["photo", "traces", "heat"];
const viewer = find("viewer");
// row, entry: the photo; target: what a mark is about, { what, index }; tiles: whether the arrows choose tiles.
const view = { row: null, entry: null, target: null, tiles: false, layer: "traces", opener: null };
const zoom = new Zoom(find("stage"), placeSheet);

// The name is isolated (U+2068 to U+2069): one in Hebrew or Arabic leaves the rest in its order.
const describe = (row) => `\u2068${row.querySelector(".name bdi").textContent}\u2069: ${row.querySelector(".badge").textContent}, `
  + `evidence ${Number(row.dataset.evidence).toFixed(2)}`;

function openViewer(row, opener = row.querySelector(".open")) {
  if (!row || row.dataset.number === undefined) return;
  Object.assign(view, { row, opener, entry: entryOf(row), target: null, tiles: false });
  if (!viewer.open) viewer.showModal();
  showTexts();
  showImages();
  zoom.fit(view.entry.width, view.entry.height);
  select(view.entry.regions.length ? { what: "trace", index: 0 } : null);
  // A button that was just disabled has lost the focus, and the keys with it.
  if (!viewer.contains(document.activeElement) || document.activeElement.disabled) find("stage").focus();
}

function step(by) {
  const all = openable();
  const next = all[all.indexOf(view.row) + by];
  if (next) openViewer(next);
}

function showTexts() {
  const { row, entry } = view, all = openable();
  const text = (selector) => row.querySelector(selector)?.textContent.trim().replace(/\s+/g, " ");
  find("viewer-name").textContent = row.querySelector(".name bdi").textContent;
  find("viewer-verdict").textContent = `${text(".badge")} · ${text(".value")}`;
  find("viewer-verdict").className = row.dataset.kind;
  find("viewer-place").textContent = `${number(all.indexOf(row) + 1)} of ${number(all.length)}`;
  find("viewer-back").disabled = all[0] === row;
  find("viewer-next").disabled = all.at(-1) === row;
  find("viewer-facts").textContent = [
    `Evidence ${text(".value")}`, `highest probability ${text(".highest")}`, `traced ${text(".length")}, longest ${text(".longest")}`,
    text(".size"), text("td.time"), text("td.place"),
  ].filter(Boolean).join(" · ");
  find("viewer-remarks").hidden = entry.remarks.length === 0;
  find("viewer-remarks").querySelector("p").textContent = entry.remarks.join("; ");
  find("viewer-file").href = entry.overlay;
}

function showImages() {
  const { row, entry } = view;
  find("viewer-missing").hidden = true;
  const photo = find("viewer-photo"), heat = find("viewer-heat");
  photo.onerror = () => {
    photo.onerror = null;
    photo.src = row.querySelector("img").src;
    find("viewer-missing").textContent = `Only the thumbnail is here: put this file beside the folder of ${entry.photo}`;
    find("viewer-missing").hidden = false;
  };
  heat.onerror = () => heat.removeAttribute("src");
  photo.src = source(entry.photo, "image/jpeg");
  heat.src = source(entry.heat, "image/png");
  photo.alt = describe(row);
  setLayer(view.layer);
}

// The embedded image, or the file beside the page.
function source(path, type) {
  const embedded = document.querySelector(`script[data-file="${CSS.escape(path)}"]`);
  return embedded ? `data:${type};base64,${embedded.textContent}` : path;
}

function setLayer(layer) {
  view.layer = layer;
  viewer.dataset.layer = layer;
  find("legend").hidden = layer !== "heat";
  for (const button of viewer.querySelectorAll("[data-layer]")) {
    button.setAttribute("aria-pressed", button.dataset.layer === layer);
  }
}

function placeSheet({ base, scale, x, y }) {
  const { style } = find("sheet");
  for (const [name, value] of Object.entries({ left: base.x, top: base.y, width: base.width, height: base.height })) {
    style[name] = `${value}px`;
  }
  style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
}

// --- what is drawn over the photo

function shape(name, attributes, parent) {
  const element = parent.appendChild(document.createElementNS(SVG, name));
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function draw() {
  const { entry, target } = view, drawing = find("viewer-drawing");
  drawing.setAttribute("viewBox", `0 0 ${entry.width} ${entry.height}`);
  drawing.replaceChildren();
  for (const [index, box] of entry.tiles.entries()) drawTile(drawing, index, box);
  for (const [index, region] of entry.regions.entries()) drawTrace(drawing, index, region);
  if (target) {
    const [x, y, width, height] = boxOf(target);
    shape("rect", { class: "chosen", x, y, width, height }, drawing);
  }
}

function drawTile(drawing, index, [x, y, width, height]) {
  const mark = markOf(view.entry.name, "tile", [x, y, width, height]);
  if (mark) shape("rect", { class: `tile ${mark.says}`, x, y, width, height }, drawing);
}

function drawTrace(drawing, index, region) {
  const mark = markOf(view.entry.name, "trace", region.box);
  const chosen = view.target?.what === "trace" && view.target.index === index;
  const group = shape("g", { class: `trace ${mark?.says ?? ""} ${chosen ? "current" : ""}`, "data-index": index }, drawing);
  const [x, y, width, height] = region.box;
  const path = region.path.length > 1 ? region.path : [[x, y], [x + width, y + height]];
  const points = path.map((point) => point.join(",")).join(" ");
  for (const name of ["touch", "halo", "line"]) shape("polyline", { class: name, points }, group);
}

const boxOf = ({ what, index }) => (what === "trace" ? view.entry.regions[index].box : view.entry.tiles[index]);

// --- choosing a trace or a tile, and marking it

function select(target) {
  view.target = target;
  draw();
  showTarget();
  showTraces();
}

function showTarget() {
  const { target, entry } = view;
  find("target").textContent = !target ? "Nothing chosen" : target.what === "trace"
    ? `Trace ${target.index + 1} of ${entry.regions.length}` : `Tile, probability ${(entry.scores[target.index] / 100).toFixed(2)}`;
  const flagged = target && (target.what === "trace" || entry.flagged.includes(target.index));
  refill(find("verdicts"), target ? choices(flagged).map(choiceButton) : []);
}

// Replace buttons; the one at the place of the focus gets it, so that the keyboard goes on where it was.
function refill(parent, children) {
  const place = [...parent.querySelectorAll("button")].indexOf(document.activeElement);
  parent.replaceChildren(...children);
  if (place >= 0) (parent.querySelectorAll("button")[place] ?? find("stage")).focus();
}

function choiceButton(choice) {
  const button = document.createElement("button");
  const current = currentMark();
  button.type = "button";
  button.className = choice.says;
  button.textContent = choice.text;
  if (choice.key) button.appendChild(document.createElement("kbd")).textContent = choice.key;
  button.setAttribute("aria-pressed", current?.says === choice.says && current.label === choice.label);
  button.addEventListener("click", () => mark(choice));
  return button;
}

const currentMark = () => view.target && markOf(view.entry.name, view.target.what, boxOf(view.target));

// Mark what is chosen; the same mark once more, or none, removes it.
function mark(choice) {
  const { target, entry } = view;
  if (!target) return;
  const before = currentMark();
  const same = choice && before?.says === choice.says && before.label === choice.label;
  const box = boxOf(target);
  const windows = target.what === "trace" ? entry.regions[target.index].tiles.map((tile) => entry.tiles[tile]) : [box];
  setMark(entry.name, target.what, box, windows, same ? null : choice && { says: choice.says, label: choice.label });
  saveMarks();
  select(target);
}

function showTraces() {
  refill(find("traces"), view.entry.regions.map((region, index) => {
    const item = document.createElement("li"), button = item.appendChild(document.createElement("button"));
    const says = markOf(view.entry.name, "trace", region.box)?.says;
    button.type = "button";
    button.className = says ?? "";
    button.textContent = `${index + 1}: ${measure(region.length)}, probability ${region.highest.toFixed(2)}`
      + (says ? `, ${{ right: "right", wrong: "false alarm", revisit: "to revisit" }[says]}` : "");
    button.setAttribute("aria-current", view.target?.what === "trace" && view.target.index === index);
    button.addEventListener("click", () => { select({ what: "trace", index }); zoomToTarget(); });
    return item;
  }));
}

function zoomToTarget() {
  if (!view.target) return;
  const [x, y, width, height] = boxOf(view.target), { entry } = view;
  zoom.showBox({ x: x / entry.width, y: y / entry.height, width: width / entry.width, height: height / entry.height });
}

function stepTrace(by) {
  const { regions } = view.entry;
  if (!regions.length) return;
  const before = view.target?.what === "trace" ? view.target.index : by > 0 ? -1 : regions.length;
  select({ what: "trace", index: (before + by + regions.length) % regions.length });
}

// The tile with this point of the photo; where tiles overlap, the one whose centre is nearest.
function tileAt(x, y) {
  const distances = view.entry.tiles.map(([left, top, width, height]) =>
    Math.max(Math.abs(left + width / 2 - x) / width, Math.abs(top + height / 2 - y) / height));
  return distances.indexOf(Math.min(...distances));
}

function toggleTiles() {
  view.tiles = !view.tiles;
  const best = view.entry.scores.indexOf(Math.max(...view.entry.scores));
  select(view.tiles ? { what: "tile", index: best } : null);
}

// The nearest tile in a direction, for the arrow keys.
function stepTile(across, down) {
  const [x, y, width, height] = boxOf(view.target);
  const centre = [x + width / 2 + across * width, y + height / 2 + down * height];
  if (centre[0] < 0 || centre[1] < 0 || centre[0] > view.entry.width || centre[1] > view.entry.height) return;
  select({ what: "tile", index: tileAt(...centre) });
}

function onStageClick(event) {
  const trace = event.target.closest(".trace");
  if (trace) return select({ what: "trace", index: Number(trace.dataset.index) });
  const share = zoom.share(event.clientX, event.clientY);
  if (share.x < 0 || share.y < 0 || share.x > 1 || share.y > 1) return undefined;
  return select({ what: "tile", index: tileAt(share.x * view.entry.width, share.y * view.entry.height) });
}

// --- keys

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onArrow(key, shift) {
  const [across, down] = ARROWS[key];
  if (shift) zoom.move(-80 * across, -80 * down);
  else if (view.tiles) stepTile(across, down);
  else if (across) step(across);
  else stepTrace(down);
}

function onViewerKey(event) {
  const flagged = view.target?.what === "trace" || view.entry.flagged.includes(view.target?.index);
  const choice = choices(flagged).find((one) => one.key === event.key.toLowerCase());
  const actions = {
    1: () => setLayer("photo"), 2: () => setLayer("traces"), 3: () => setLayer("heat"),
    o: () => setLayer(LAYERS[(LAYERS.indexOf(view.layer) + 1) % LAYERS.length]),
    "+": () => zoom.by(1.5), "=": () => zoom.by(1.5), "-": () => zoom.by(1 / 1.5),
    0: () => zoom.fit(view.entry.width, view.entry.height),
    z: zoomToTarget, g: toggleTiles, u: () => mark(null), Backspace: () => mark(null), Delete: () => mark(null),
  };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const action = ARROWS[event.key] ? () => onArrow(event.key, event.shiftKey)
    : choice ? () => mark(choice) : actions[event.key] ?? actions[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
}

function bindViewer() {
  find("stage").addEventListener("click", onStageClick);
  find("viewer-back").addEventListener("click", () => step(-1));
  find("viewer-next").addEventListener("click", () => step(1));
  find("viewer-close").addEventListener("click", () => viewer.close());
  find("zoom-in").addEventListener("click", () => zoom.by(1.5));
  find("zoom-out").addEventListener("click", () => zoom.by(1 / 1.5));
  find("zoom-fit").addEventListener("click", () => zoom.fit(view.entry.width, view.entry.height));
  for (const button of viewer.querySelectorAll("[data-layer]")) {
    button.addEventListener("click", () => setLayer(button.dataset.layer));
  }
  viewer.addEventListener("keydown", onViewerKey);
  viewer.addEventListener("close", () => {
    find("viewer-photo").removeAttribute("src");
    find("viewer-heat").removeAttribute("src");
    filter();
    view.opener?.focus();
  });
  window.addEventListener("resize", () => { if (viewer.open) zoom.fit(view.entry.width, view.entry.height); });
}
