// All records of the page: filtered, sorted, drawn some at a time.
const LISTED = [
  { title: "Method", of: (run) => run.m, left: true }, { title: "Data set", of: (run) => runName(run).replace(/, seed.*/, ""), left: true },
  { title: "Backbone", of: (run) => run.b, left: true }, { title: "Seed", of: (run) => run.s }, { title: "Top-1", of: (run) => run.last ?? null, digits: 2 },
  { title: "Protocol", of: (run) => run.p, left: true }, { title: "Tuned", of: (run) => run.u, left: true },
  { title: "Parameters", of: (run) => POOL[run.shared[DATA.shared.indexOf("counts")]].trainable_params, digits: 0 },
  { title: "Time (s)", of: (run) => (run.own.seconds || {}).total_s ?? null, digits: 1 }, { title: "Created", of: (run) => run.own.created },
  { title: "Record", of: (run) => run.id, left: true },
];
const BATCH = 25;

function listing() {
  const table = byId("listing");
  const state = { text: "", column: null, sign: 1, shown: BATCH };
  const rows = RUNS.map((run, index) => ({ index, values: LISTED.map((column) => column.of(run)), text: [run.m, run.t, run.b, run.p, run.u, run.id, `seed=${run.s}`, ...(run.dev || [])].join(" ").toLowerCase() }));
  const body = el("tbody");
  const count = el("span", { class: "count", role: "status" });
  const heads = LISTED.map((column, at) => {
    const cell = el("th", { scope: "col", class: column.left ? "left" : null });
    cell.append(el("button", { type: "button", click: () => {
      const cycle = column.left ? [0, 1, -1] : [0, -1, 1];
      const now = state.column === at ? state.sign : 0;
      const next = cycle[(cycle.indexOf(now) + 1) % 3];
      state.column = next ? at : null;
      state.sign = next;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) cell.setAttribute("aria-sort", next > 0 ? "ascending" : "descending");
      draw();
    } }, column.title));
    return cell;
  });
  const draw = () => {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter((row) => words.every((word) => row.text.includes(word)));
    if (state.column !== null) found.sort((a, b) => compareValues(a.values[state.column], b.values[state.column], state.sign));
    body.replaceChildren(...found.slice(0, state.shown).map(listedRow));
    count.textContent = `${found.length} of ${rows.length} records`;
    const rest = found.length - state.shown;
    byId("listing-more").replaceChildren(...(rest > 0 ? [el("button", { type: "button", click: () => { state.shown += 10 * BATCH; draw(); } }, `Show more (${rest})`)] : []));
  };
  const search = el("input", { type: "search", placeholder: "Filter: karst digits seed=0", "aria-label": "Filter records", input: () => { state.text = search.value; state.shown = BATCH; draw(); } });
  byId("listing-tools").append(search, count);
  table.append(el("thead", {}, el("tr", {}, heads)), body);
  table.addEventListener("keydown", moveFocus);
  draw();
}

function listedRow({ index, values }) {
  return el("tr", {}, LISTED.map((column, at) => {
    const value = values[at];
    const text = typeof value === "number" ? (column.digits === undefined ? String(value) : column.digits ? value.toFixed(column.digits) : grouped(value)) : value ?? "—";
    const shown = column.title === "Record" ? el("span", { class: "mono" }, text) : text;
    return el("td", { class: column.left ? "left" : null }, at === 0 || column.title === "Record" ? el("a", { href: `#record/${RUNS[index].id}` }, el("bdi", {}, shown)) : el("bdi", {}, shown));
  }));
}
