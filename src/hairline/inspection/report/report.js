"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const body = document.querySelector("#photos tbody");
  const rows = [...body.rows];
  const visible = () => [...body.rows].filter((row) => !row.hidden);

  // --- filter
  const filter = () => {
    const text = find("text").value.trim().toLowerCase();
    const verdict = find("verdict").value;
    const least = parseFloat(find("least").value) || 0;
    let count = 0;
    for (const row of rows) {
      const fits = (!text || row.dataset.text.includes(text)) && (!verdict || row.dataset.verdict === verdict)
        && parseFloat(row.dataset.highest) >= least;
      row.hidden = !fits;
      count += fits;
    }
    find("count").textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} photos`;
    find("none").hidden = count > 0;
  };
  find("controls").addEventListener("input", filter);
  find("controls").addEventListener("submit", (event) => event.preventDefault());

  // --- sort
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (first, second) => {
    if (first === "" || second === "") return (first === "") - (second === ""); // unknown values come last
    const difference = Number(first) - Number(second);
    return Number.isNaN(difference) ? first.localeCompare(second, "en", { numeric: true }) : difference;
  };
  const sort = (head) => {
    const column = head.cellIndex;
    const before = head.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : head.classList.contains("n");
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const keyed = rows.map((row) => [value(row, column), row]);
    keyed.sort(([first], [second]) => {
      const known = first !== "" && second !== "";
      return compare(first, second) * (descending && known ? -1 : 1);
    });
    body.append(...keyed.map(([, row]) => row));
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.parentElement));
  }

  // --- full overlays
  const viewer = find("viewer");
  let current = null;
  const show = (row) => {
    if (!row) return;
    current = row;
    const image = find("viewer-image");
    const thumbnail = row.querySelector("img").src;
    const embedded = find(`full-${row.dataset.number}`);
    image.onerror = () => { image.onerror = null; image.src = thumbnail; };
    image.src = embedded ? `data:image/jpeg;base64,${embedded.textContent}` : row.dataset.overlay;
    image.alt = row.querySelector("img").alt;
    find("viewer-name").textContent = row.dataset.caption;
    find("viewer-file").href = row.dataset.overlay;
    if (!viewer.open) viewer.showModal();
  };
  const step = (by) => {
    const all = visible();
    show(all[all.indexOf(current) + by]);
  };
  body.addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (button) show(button.closest("tr"));
  });
  find("viewer-close").addEventListener("click", () => viewer.close());
  find("viewer-back").addEventListener("click", () => step(-1));
  find("viewer-next").addEventListener("click", () => step(1));
  find("viewer-image").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  viewer.addEventListener("close", () => {
    find("viewer-image").removeAttribute("src");
    if (current) current.querySelector(".open").focus();
  });
})();
