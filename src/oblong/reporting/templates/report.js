"use strict";

/* Figures: drawn without eval, which the page's content security policy forbids. */
const specs = JSON.parse(document.getElementById("figure-specs").textContent);
for (const place of document.querySelectorAll("[data-figure]")) {
  vegaEmbed(place, specs[place.dataset.figure], {
    actions: false,
    ast: true,
    defaultStyle: false,
    renderer: "svg",
    tooltip: { theme: "house" },
  }).catch((error) => {
    place.textContent = `This figure cannot be drawn: ${error.message}`;
  });
}

/* The table of measures: click a heading to sort, type to filter. */
const table = document.getElementById("measures-table");
if (table) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const count = document.getElementById("measures-count");

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };
  const isAbsent = (value) => value === "";
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  const sortBy = (heading, column) => {
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const sign = ascending ? 1 : -1;
    rows.sort((first, second) => {
      const a = valueOf(first, column);
      const b = valueOf(second, column);
      if (isAbsent(a) || isAbsent(b)) return isAbsent(a) - isAbsent(b);
      return sign * compare(a, b);
    });
    body.append(...rows);
  };
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    heading.firstElementChild.addEventListener("click", () => sortBy(heading, column));
  });

  const filter = document.getElementById("measures-filter");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown += 1;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  });
}
