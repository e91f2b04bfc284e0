// --- the map: markers of the photos that have a position

const mapSection = find("map");
const markers = mapSection ? [...mapSection.querySelectorAll(".marker")].reverse() : []; // the first is drawn on top
let mapZoom = null;

const rowOf = (marker) => rows[marker.dataset.number];

function placeMap() {
  if (!mapZoom) return;
  const [, , width, height] = mapSection.querySelector("svg").getAttribute("viewBox").split(" ").map(Number);
  mapZoom.fit(width, height);
}

function drawMap(zoom) {
  const svg = mapSection.querySelector("svg");
  const units = Number(svg.getAttribute("viewBox").split(" ")[2]) / zoom.base.width;
  const sheet = find("map-sheet");
  sheet.style.setProperty("--px", units / zoom.scale); // markers keep their size at every zoom
  sheet.setAttribute("transform", `translate(${zoom.x * units} ${zoom.y * units}) scale(${zoom.scale})`);
  // The bar keeps its length on the screen's ground: it grows with the zoom until it is too long, then halves.
  const bar = find("map-scale");
  const whole = Number(bar.dataset.width) / units * zoom.scale;
  const halvings = Math.max(0, Math.ceil(Math.log2(whole / 220)));
  bar.style.width = `${whole / 2 ** halvings}px`;
  bar.nextElementSibling.textContent = barText(bar, halvings);
}

function barText(bar, halvings) {
  bar.dataset.text ??= bar.nextElementSibling.textContent;
  const [value, unit] = bar.dataset.text.split(" ");
  const metres = Number(value) * (unit === "km" ? 1000 : 1) / 2 ** halvings;
  return metres >= 1000 ? `${+(metres / 1000).toPrecision(3)} km` : `${+metres.toPrecision(3)} m`;
}

function filterMap() {
  for (const marker of markers) marker.classList.toggle("gone", rowOf(marker).hidden);
  const shown = markers.filter((marker) => !marker.classList.contains("gone"));
  for (const marker of markers) marker.setAttribute("tabindex", marker === shown[0] ? 0 : -1);
}

function peek(marker) {
  const row = rowOf(marker), card = find("peek");
  card.hidden = false;
  card.querySelector("img").src = row.querySelector("img").src;
  card.querySelector("p").textContent = describe(row);
}

function stepMarker(marker, by) {
  const shown = markers.filter((other) => !other.classList.contains("gone"));
  const byTime = [...shown].sort((first, second) => compareTime(rowOf(first), rowOf(second)));
  byTime[byTime.indexOf(marker) + by]?.focus();
}

const compareTime = (first, second) => first.dataset.time.localeCompare(second.dataset.time)
  || first.dataset.number - second.dataset.number;

function onMapKey(event) {
  const marker = event.target.closest(".marker");
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (marker && step) stepMarker(marker, step);
  else if (marker && (event.key === "Enter" || event.key === " ")) openViewer(rowOf(marker), marker);
  else if (event.key === "+" || event.key === "=") mapZoom.by(1.5);
  else if (event.key === "-") mapZoom.by(1 / 1.5);
  else if (event.key === "0") placeMap();
  else return;
  event.preventDefault();
}

function bindMap() {
  if (!mapSection) return;
  mapZoom = new Zoom(mapSection.querySelector("svg"), drawMap, 200);
  mapSection.addEventListener("keydown", onMapKey);
  for (const name of ["pointerover", "focusin"]) {
    mapSection.addEventListener(name, (event) => { if (event.target.closest(".marker")) peek(event.target); });
  }
  mapSection.addEventListener("click", (event) => {
    const marker = event.target.closest(".marker");
    if (marker) openViewer(rowOf(marker), marker);
  });
  window.addEventListener("resize", () => { if (document.body.classList.contains("with-map")) placeMap(); });
}
