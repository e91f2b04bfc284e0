// --- the list of photos: filter, order, view

const find = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");
const counted = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
const table = document.querySelector("#photos table");
const rows = [...table.querySelectorAll("tr.photo")];
const groups = [...table.querySelectorAll("tbody.group")];
const flat = table.appendChild(document.createElement("tbody")); // all photos in one order
const NUMERIC = ["evidence", "highest", "length", "longest"];
const FEW = 12, MANY = 100; // rows of a group before "Show all", among several groups and alone
const expanded = new Set();
let descending = false;

// Parsed when it is needed: a thousand photos have megabytes of these.
function entryOf(row) {
  const entry = JSON.parse(row.querySelector("script").textContent);
  const { x, y, width, height } = entry.grid;
  return { ...entry, tiles: y.flatMap((top) => x.map((left) => [left, top, width, height])) };
}

function matches(row) {
  const text = find("text").value.trim().toLowerCase();
  const kind = find("kind").value, marked = find("marked").value;
  const from = find("from")?.value, to = find("to")?.value;
  const day = (row.dataset.time ?? "").slice(0, 10);
  return (!text || textOf(row).includes(text))
    && (!kind || row.dataset.kind === kind)
    && (!marked || (marked === "none" ? !row.dataset.marks : row.dataset.marks.split(" ").includes(marked)))
    && (!from || day >= from) && (!to || (day && day <= to));
}

function textOf(row) {
  row.searched ??= (row.dataset.name + " " + (row.querySelector(".remark, .reason")?.textContent ?? "")).toLowerCase();
  return row.searched;
}

// Photos that match, in the order of the list; those that were not inspected cannot be opened.
function openable() {
  return [...table.querySelectorAll("tr.photo")].filter((row) => !row.hidden && row.dataset.number !== undefined);
}

function compare(first, second, key) {
  const [one, other] = [first.dataset[key] ?? "", second.dataset[key] ?? ""];
  if (one === "" || other === "") return (one === "") - (other === ""); // unknown values come last
  const difference = NUMERIC.includes(key) ? one - other : one.localeCompare(other, "en", { numeric: true });
  return descending ? -difference : difference;
}

// Put the rows into their groups, or all into one body where another order was chosen.
function arrange() {
  const key = find("order").value;
  for (const head of table.tHead.rows[0].cells) {
    head.removeAttribute("aria-sort");
    const order = head.querySelector("button")?.dataset.order;
    if (key ? order === key : order === "verdict") {
      head.setAttribute("aria-sort", key && descending ? "descending" : "ascending");
    }
  }
  if (key) {
    flat.append(...[...rows].sort((first, second) => compare(first, second, key)));
  } else {
    for (const body of groups) body.append(...rows.filter((row) => row.dataset.kind === body.dataset.kind));
  }
  filter();
}

function filter() {
  let count = 0;
  for (const row of rows) count += !(row.hidden = !matches(row));
  find("count").textContent = count === rows.length
    ? counted(count, "photo") : `${number(count)} of ${counted(rows.length, "photo")}`;
  find("none").hidden = count > 0;
  const kind = find("kind").value;
  for (const card of document.querySelectorAll(".card")) card.setAttribute("aria-pressed", card.dataset.kind === kind);
  for (const body of [...groups, flat]) shorten(body);
  filterMap();
}

// Show the first photos of a body, with a button for the rest.
function shorten(body) {
  body.querySelector("tr.more")?.remove();
  const fitting = [...body.querySelectorAll("tr.photo")].filter((row) => !row.hidden);
  body.hidden = fitting.length === 0;
  const key = body.dataset.kind ?? "flat";
  const most = expanded.has(key) ? Infinity : body === flat || find("kind").value ? MANY : FEW;
  fitting.forEach((row, index) => row.classList.toggle("beyond", index >= most));
  if (fitting.length > most) body.append(moreRow(key, fitting.length));
}

function moreRow(key, count) {
  const row = document.createElement("tr");
  row.className = "more";
  const cell = row.insertCell();
  cell.colSpan = table.tHead.rows[0].cells.length;
  const button = cell.appendChild(document.createElement("button"));
  button.type = "button";
  button.textContent = `Show all ${number(count)}`;
  button.addEventListener("click", () => {
    const body = row.parentElement, first = body.querySelector(".beyond .open");
    expanded.add(key);
    shorten(body);
    first?.focus();
  });
  return row;
}

function orderBy(key) {
  const before = find("order").value;
  const next = key === "verdict" ? "" : key;
  descending = next === before ? !descending : NUMERIC.includes(next);
  find("order").value = next;
  arrange();
}

function setView(view) {
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", button.dataset.view === view);
  }
  table.className = view === "table" ? "" : "pictures";
  document.body.classList.toggle("with-map", view === "map");
  if (view === "map") placeMap();
}

function setKind(kind) {
  find("kind").value = find("kind").value === kind ? "" : kind;
  filter();
}

// Paper shows what is folded on the screen.
function bindPrint() {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll(".notes > details:not([open]), #photos details:not([open])")];
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
}

function bindList() {
  find("controls").addEventListener("input", (event) => (event.target.id === "order" ? null : filter()));
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("order").addEventListener("change", () => {
    descending = NUMERIC.includes(find("order").value);
    arrange();
  });
  for (const button of table.querySelectorAll("th button")) {
    button.addEventListener("click", () => orderBy(button.dataset.order));
  }
  for (const card of document.querySelectorAll(".card")) {
    card.addEventListener("click", () => setKind(card.dataset.kind));
  }
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => setView(button.dataset.view));
  }
  table.addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (button) openViewer(button.closest("tr"));
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea, dialog");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      find("text").focus();
    }
  });
  find("filters").addEventListener("click", () => {
    find("filters").setAttribute("aria-expanded", find("controls").classList.toggle("open"));
  });
  bindPrint();
  // The head of the table sticks below the controls, however many lines these take.
  new ResizeObserver(() => {
    document.documentElement.style.setProperty("--bar", `${find("controls").offsetHeight}px`);
  }).observe(find("controls"));
}
