// Tables: sorting by any column, filtering, shading, moving about by arrow keys.
function cellValue(cell) {
  if (cell.classList.contains("left")) return cell.textContent.trim().toLowerCase();
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = cell.textContent.trim();
  return text === "—" || text === "" ? null : text.toLowerCase();
}

// Empty cells stand last whichever way; numbers before texts.
function compareValues(a, b, sign) {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
}

function enhance(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, index) => {
    const title = head.textContent;
    const text = original.length > 0 && original.every((row) => row.cells[index].classList.contains("left"));
    head.classList.toggle("left", text);
    head.classList.toggle("wrap", title.length > 14);
    const button = el("button", { type: "button", title: "Sort by this column", click: () => sortBy(table, heads, original, index, text) }, title);
    head.replaceChildren(button);
  });
  if (original.length > 1) tools(table, original, heads);
  table.addEventListener("keydown", (event) => moveFocus(event));
  const wide = table.parentElement;
  wide.addEventListener("scroll", () => wide.classList.toggle("moved", wide.scrollLeft > 0), { passive: true });
}

// First click: best or A first; second: the other way; third: as printed.
function sortBy(table, heads, original, index, text) {
  const now = heads[index].getAttribute("aria-sort");
  const cycle = text ? [null, "ascending", "descending"] : [null, "descending", "ascending"];
  const next = cycle[(cycle.indexOf(now) + 1) % 3];
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  const rows = [...original];
  if (next) {
    heads[index].setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1;
    const keyed = rows.map((row) => [cellValue(row.cells[index]), row]);
    keyed.sort((a, b) => compareValues(a[0], b[0], sign));
    rows.splice(0, rows.length, ...keyed.map((pair) => pair[1]));
  }
  table.tBodies[0].append(...rows);
}

function tools(table, rows, heads) {
  const place = document.querySelector(`[data-tools="${CSS.escape(table.dataset.table)}"]`);
  if (!place) return;
  const state = { text: "", kind: "*" };
  const count = el("span", { class: "count", role: "status" });
  const apply = () => {
    let shown = 0;
    for (const row of rows) {
      const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
      const text = row.dataset.row.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) && (state.kind === "*" || row.dataset.kind === state.kind));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };
  const search = el("input", { type: "search", placeholder: "Filter rows", "aria-label": "Filter rows", input: () => { state.text = search.value; apply(); } });
  place.append(search);
  const kinds = [...new Set(rows.filter((row) => row.className === "ours").map((row) => row.dataset.kind).filter(Boolean))].sort();
  if (kinds.length > 1) {
    place.append(choice("Tuned", [["*", "all"], ...kinds.map((kind) => [kind, kind])], "*", (value) => { state.kind = value; apply(); }));
  }
  const groups = [...new Set(heads.map((head) => head.dataset.group).filter(Boolean))];
  if (groups.length) {
    const options = [["*", "all"], ...groups.map((group) => [group, group]), ["-", "averages only"]];
    place.append(choice("Columns", options, "*", (value) => showColumns(table, heads, value)));
  }
  if (heads.some((head) => head.dataset.ranked !== undefined)) {
    place.append(pressed("Shade", false, (on) => shade(table, rows, heads, on), { title: "Shade each column of accuracies, from its lower quartile to its best" }));
  }
  place.append(count);
  place.hidden = false;
  apply();
}

function showColumns(table, heads, value) {
  heads.forEach((head, index) => {
    const hidden = head.dataset.group !== undefined && value !== "*" && head.dataset.group !== value;
    for (const row of [head.parentElement, ...table.tBodies[0].rows]) row.cells[index].hidden = hidden;
  });
  for (const group of table.querySelectorAll(".groups th")) group.hidden = value !== "*" && group.textContent !== value;
}

function shade(table, rows, heads, on) {
  table.classList.toggle("shaded", on);
  heads.forEach((head, index) => {
    if (head.dataset.ranked === undefined) return;
    const cells = rows.map((row) => row.cells[index]).filter((cell) => cell.dataset.v !== undefined);
    const values = cells.map((cell) => Number(cell.dataset.v));
    const sorted = [...values].sort((a, b) => a - b);
    const low = sorted[Math.floor(sorted.length / 4)];
    const span = sorted[sorted.length - 1] - low;
    cells.forEach((cell, at) => {
      cell.toggleAttribute("data-heat", on && span > 0);
      cell.style.setProperty("--h", on && span > 0 ? Math.max(0, (values[at] - low) / span).toFixed(3) : "0");
    });
  });
}

// Arrow keys go from link to link of neighbouring cells.
function moveFocus(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const cell = event.target.closest("td");
  if (!cell || !(event.key in steps)) return;
  const [down, along] = steps[event.key];
  let row = cell.parentElement;
  let index = cell.cellIndex;
  for (;;) {
    index += along;
    if (down) do row = down > 0 ? row.nextElementSibling : row.previousElementSibling; while (row && row.hidden);
    const next = row && row.cells[index];
    if (!next) return;
    const link = next.hidden ? null : next.querySelector("a");
    if (link) {
      event.preventDefault();
      link.focus();
      return;
    }
  }
}
