// --- marks: what a person says of a trace or a tile, kept in this browser, exported as labels

const settings = JSON.parse(find("settings").textContent);
const [positive, ...others] = settings.classes;
// A length in pixels as the page shows it: in the photo's pixels, or by its scale.
function measure(pixels) {
  const millimetres = pixels * settings.mm_per_pixel;
  if (!settings.mm_per_pixel) return `${number(pixels)} px`;
  return millimetres < 1000 ? `${number(Math.round(millimetres))} mm` : `${(millimetres / 1000).toFixed(2)} m`;
}

const STORE = `hairline-marks-${settings.identity}`;
const stored = loadMarks();

// A mark: { photo, windows: [[x, y, width, height], ...], what: "trace" or "tile", says, label, time }.
// `says` is right, wrong or revisit; `label` the class that this makes the windows.
function loadMarks() {
  const empty = { by: "", root: settings.root, marks: {} };
  try {
    return { ...empty, ...JSON.parse(localStorage.getItem(STORE) ?? "{}") };
  } catch {
    return empty;
  }
}

function saveMarks() {
  let problem = "";
  try {
    localStorage.setItem(STORE, JSON.stringify(stored));
  } catch {
    problem = "This browser keeps nothing for this page: export the marks before you close it.";
  }
  find("export-problem").textContent = problem;
  countMarks();
}

const markKey = (photo, what, box) => JSON.stringify([photo, what, ...box]);
const markOf = (photo, what, box) => stored.marks[markKey(photo, what, box)];
const allMarks = () => Object.values(stored.marks);

function setMark(photo, what, box, windows, choice) {
  stored.marks = loadMarks().marks; // another tab may have changed them
  const key = markKey(photo, what, box);
  if (choice) stored.marks[key] = { photo, what, windows, ...choice, time: new Date().toISOString() };
  else delete stored.marks[key];
}

// What can be said of a trace or a tile. With more than two classes a false alarm names the true one.
function choices(flagged) {
  const wrong = flagged ? "False alarm" : "Correct";
  return [
    { says: "right", label: positive, text: flagged ? "Right" : `Missed: ${positive}`, key: "r" },
    ...others.map((label, index) => ({
      says: "wrong", label, text: others.length > 1 ? `${wrong}: ${label}` : wrong, key: index ? "" : "f",
    })),
    { says: "revisit", label: "", text: "To revisit", key: "t" },
  ];
}

// Show the number of marks, and on each photo which it has.
function countMarks() {
  find("marks-count").textContent = number(allMarks().length);
  const says = new Map();
  for (const mark of allMarks()) says.set(mark.photo, (says.get(mark.photo) ?? new Set()).add(mark.says));
  // Rows of photos that cannot be read have none.
  for (const row of rows) row.dataset.marks = [...says.get(JSON.parse(row.dataset.photo ?? "null")) ?? []].sort().join(" ");
}

// One label per window. A tile's own mark counts most; a tile with a confirmed trace shows one, whatever else is in it.
function labelledWindows() {
  const rank = (mark) => (mark.what === "tile" ? 4 : { right: 3, wrong: 2, revisit: 1 }[mark.says]);
  const windows = new Map();
  for (const mark of allMarks()) {
    for (const box of mark.windows) {
      const key = JSON.stringify([mark.photo, ...box]);
      const before = windows.get(key);
      if (!before || rank(mark) > rank(before.mark)) windows.set(key, { mark, box });
    }
  }
  return [...windows.values()];
}

function joined(root, name) {
  if (!root) return name;
  const separator = settings.root.includes("\\") && !settings.root.includes("/") ? "\\" : "/";
  return /[\\/]$/.test(root) ? root + name : root + separator + name;
}

const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;

function marksTable(by, root) {
  const lines = labelledWindows().map(({ mark, box }) =>
    [joined(root, mark.photo), ...box, mark.label, mark.time, by, "selected"].map(quoted).join(","));
  return ["path,x,y,width,height,label,time,by,chosen", ...lines].join("\n") + "\n";
}

// UTF-8; a byte of a file name that is not UTF-8 came as a lone surrogate (Python's surrogateescape) and goes as it was.
function encode(text) {
  const encoder = new TextEncoder();
  return text.split(/(?<![\ud800-\udbff])([\udc80-\udcff])/).map((part, index) =>
    (index % 2 ? new Uint8Array([part.charCodeAt(0) - 0xdc00]) : encoder.encode(part)));
}

function download() {
  stored.by = find("export-by").value.trim();
  stored.root = find("export-root").value.trim();
  saveMarks();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(encode(marksTable(stored.by, stored.root)), { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function openExport() {
  const count = (says) => allMarks().filter((mark) => mark.says === says).length;
  find("export-counts").textContent = `${number(count("right"))} right, ${counted(count("wrong"), "false alarm")}, `
    + `${number(count("revisit"))} to revisit: a table of ${counted(labelledWindows().length, "tile")}.`;
  find("export-by").value = stored.by;
  find("export-root").value = stored.root;
  find("export-save").disabled = find("export-clear").disabled = allMarks().length === 0;
  find("export-clear").textContent = "Delete all marks";
  find("export").showModal();
}

// The second click deletes: the browser's own question would block the page.
function clearMarks() {
  const button = find("export-clear");
  if (button.textContent === "Delete all marks") {
    button.textContent = "Really delete all?";
    return;
  }
  stored.marks = {};
  saveMarks();
  filter();
  find("export").close();
}

function bindMarks() {
  window.addEventListener("storage", (event) => {
    if (event.key !== STORE) return;
    stored.marks = loadMarks().marks;
    countMarks();
  });
  find("export-open").addEventListener("click", openExport);
  find("export-close").addEventListener("click", () => find("export").close());
  find("export-save").addEventListener("click", download);
  find("export-clear").addEventListener("click", clearMarks);
  find("help-open").addEventListener("click", () => find("help").showModal());
  find("help-close").addEventListener("click", () => find("help").close());
  document.addEventListener("keydown", (event) => {
    if (event.key === "?" && !event.target.closest("input, select")) find("help").showModal();
  });
}
