// The plots of the page, from its tables.
const NAMES = DATA.names;
const cellText = (row, key) => (row.cells[key] || {}).x || "";

function head(figure) {
  const controls = figure.querySelector("[data-controls]");
  return { controls, canvas: figure.querySelector(".canvas") };
}

function empty(canvas, text) {
  canvas.replaceChildren(el("p", { class: "empty" }, text));
}

// A figure that has nothing to show: its title and why are named in one line below the others.
function absent(figure, why = "no runs yet") {
  figure.hidden = true;
  const place = byId("plots-empty");
  place.append(place.firstChild ? "; " : "Not drawn: ", `${figure.querySelector("h3").textContent} (${why})`);
  return () => {};
}

function ourRows(name) {
  const table = DATA.tables[name];
  return table ? table.rows.filter((row) => row.source === "ours") : [];
}

function ranking(figure) {
  const { controls, canvas } = head(figure);
  const usable = Object.keys(DATA.tables).filter((name) => /^(table\d|fgvc|runs_)/.test(name) && ourRows(name).length);
  usable.sort((a, b) => Number(b === NAMES.main) - Number(a === NAMES.main));
  if (!usable.length) return absent(figure);
  const state = { table: usable[0], column: "group_avg", kind: heroKind(usable[0]), whole: false };
  const columnsOf = (name) => DATA.tables[name].columns.filter((column) => column.ranked && ourRows(name).some((row) => (row.cells[column.k] || {}).v !== undefined));
  const draw = () => {
    const column = columnsOf(state.table).find((one) => one.k === state.column) || columnsOf(state.table)[0];
    if (!column) return empty(canvas, "No runs yet.");
    const rows = ourRows(state.table).filter((row) => (row.cells[column.k] || {}).v !== undefined && (state.kind === "*" || row.kind === state.kind)).map((row) => {
      const cell = row.cells[column.k];
      const single = column.group || !/avg|natural|specialized|structured/.test(column.k) ? (cell.r || []).map((index) => RUNS[index].last).filter((value) => value !== undefined) : [];
      return { ...cell, label: row.k, seeds: single.length > 1 ? single : [], href: cellHash(state.table, row.k, column.k),
        lines: [row.k, `${column.title}: ${estimate(cell, cell.d)}`, interval(cell, cell.d), paramsLine(row)] };
    }).sort((a, b) => b.v - a.v);
    if (!rows.length) return empty(canvas, "No runs yet.");
    const cut = zoomedFrom(rows.map((row) => row.v));
    whole.hidden = cut === undefined;
    const zoomed = cut !== undefined && !state.whole;
    const domain = zoomed ? range(rows.filter((row) => row.v >= cut)) : undefined;
    dotPlot(canvas, rows, { digits: 1, domain, axis: `Test top-1 (%), ${column.title}${zoomed ? "; ◂ lies below the axis" : ""}`, label: `Accuracy by method, ${column.title}` });
  };
  const whole = pressed("Whole axis", false, (on) => { state.whole = on; draw(); });
  const build = () => {
    const columns = columnsOf(state.table);
    if (!columns.some((column) => column.k === state.column)) state.column = columns.length ? columns[0].k : "";
    const kinds = [...new Set(ourRows(state.table).map((row) => row.kind).filter(Boolean))].sort();
    if (!kinds.includes(state.kind)) state.kind = "*";
    controls.replaceChildren(
      usable.length > 1 ? choice("Table", usable.map((name) => [name, DATA.tables[name].title]), state.table, (value) => { state.table = value; build(); draw(); }) : "",
      choice("Column", columns.map((column) => [column.k, column.title]), state.column, (value) => { state.column = value; draw(); }),
      kinds.length > 1 ? choice("Tuned", [["*", "all"], ...kinds.map((kind) => [kind, kind])], state.kind, (value) => { state.kind = value; draw(); }) : "",
      whole,
    );
  };
  build();
  return draw;
}

// The kind of tuning to begin with, for like compares with like: that of KARST's row, where it has company; else all.
function heroKind(name) {
  const rows = ourRows(name);
  const hero = rows.find((row) => row.k.split(" [")[0] === HERO && row.cells.group_avg && row.cells.group_avg.v !== undefined);
  return hero && rows.filter((row) => row.kind === hero.kind).length > 2 ? hero.kind : "*";
}

function paramsLine(row) {
  const size = row.cells.params_m;
  return size && size.v !== undefined ? `${number(size.v, size.d)} M trained parameters` : "";
}

// The row of the main table that stands on the same records as a point.
function rowOf(point) {
  const wanted = String(point.r);
  return ourRows(NAMES.main).find((row) => row.cells.method && String(row.cells.method.r) === wanted);
}

function costs(figure) {
  const { controls, canvas } = head(figure);
  const panels = new Map(DATA.costs.filter(([, points]) => points.length));
  const titles = [...panels.keys()];
  if (!titles.length) return absent(figure, "no method has runs on every task yet");
  let title = titles[0];
  let zoomed = true;
  const draw = () => {
    const all = panels.get(title);
    const cut = zoomedFrom(all.map((point) => point.v));
    whole.hidden = cut === undefined;
    const low = cut !== undefined && zoomed ? cut : -Infinity;
    const bare = (label) => label.split(" [")[0];
    const short = (point) => (all.filter((other) => bare(other.m) === bare(point.m)).length > 1 ? point.m : bare(point.m));
    const series = all.map((point) => {
      const row = point.r.length ? rowOf(point) : null;
      const name = row ? row.k : `${point.m}${point.source === "ours" ? "" : ` (${point.source})`}`;
      const lines = [name, `Avg. ${estimate(point)}`, interval(point), `${title}: ${Number(point.x.toPrecision(4))}`];
      return { className: colour(point.m), hollow: point.source !== "ours", labels: true,
        points: [{ ...point, label: point.v < low ? `${short(point)}, below: ${number(point.v)}` : short(point), lines, href: row ? cellHash(NAMES.main, row.k, row.cells.group_avg ? "group_avg" : "method") : null }] };
    });
    const inside = all.filter((point) => point.v >= low);
    const front = inside.filter((point) => point.front).map((point) => [point.x, point.v]).sort((a, b) => a[0] - b[0]);
    xyPlot(canvas, series, { x: title.includes("parameters") ? "log" : "linear", xlabel: title, ylabel: "Test top-1 (%), Avg.", front, height: 340, label: `Accuracy against ${title}`,
      domain: inside.length < all.length ? range(inside, 0.1) : undefined });
  };
  const whole = pressed("Whole axis", false, (on) => { zoomed = !on; draw(); });
  if (titles.length > 1) controls.append(choice("Cost", titles.map((one) => [one, one]), title, (value) => { title = value; draw(); }));
  controls.append(whole);
  return draw;
}

function contrasts(figure) {
  const { controls, canvas } = head(figure);
  const rows = ourRows(NAMES.pairs).filter((row) => (row.cells.difference || {}).v !== undefined);
  if (!rows.length) return absent(figure, "it takes two methods with runs on every task");
  const seconds = [...new Set(rows.map((row) => cellText(row, "second")))];
  let second = seconds[0];
  let zoomed = true;
  const draw = () => {
    const shown = rows.filter((row) => cellText(row, "second") === second).map((row) => {
      const cell = row.cells.difference;
      const p = row.cells.p_seeds_holm || {};
      const told = cell.lo === undefined ? "c6" : cell.lo > 0 ? "c0" : cell.hi < 0 ? "c1" : "c6";
      const test = p.v === undefined ? "no test over seeds" : `p over seeds ${p.v < 0.001 ? "< 0.001" : p.v.toFixed(3)} (Holm)`;
      return { ...cell, label: cellText(row, "first"), className: told, href: cellHash(NAMES.pairs, row.k, "difference"),
        lines: [`${cellText(row, "first")} − ${second}`, `${estimate(cell, 2)} points`, interval(cell, 2), test, cellText(row, "paired") && `paired: ${cellText(row, "paired")}`] };
    }).sort((a, b) => b.v - a.v);
    const cut = zoomedFrom([0, ...shown.map((row) => row.v)]);
    whole.hidden = cut === undefined;
    const inside = cut === undefined || !zoomed ? shown : shown.filter((row) => row.v >= cut);
    const [low, high] = range(inside);
    const axis = `Avg. minus that of ${second} (points)${inside.length < shown.length ? "; ◂ lies below" : ""}`;
    dotPlot(canvas, shown, { digits: 1, zero: true, domain: [Math.min(low, -0.06 * Math.max(high, 0)), Math.max(high, -0.06 * Math.min(low, 0))], axis, label: `Differences from ${second}` });
  };
  const whole = pressed("Whole axis", false, (on) => { zoomed = !on; draw(); });
  controls.append(
    seconds.length > 1 ? choice("Against", seconds.map((one) => [one, one]), second, (value) => { second = value; draw(); }) : "",
    el("span", { class: "legend c0" }, "better"), el("span", { class: "legend c1" }, "worse"), el("span", { class: "legend c6" }, "not told apart, or one seed"), whole,
  );
  return draw;
}

function fewshot(figure) {
  const { controls, canvas } = head(figure);
  const rows = ourRows(NAMES.few);
  if (!rows.length) return absent(figure);
  const sets = [...new Set(rows.map((row) => cellText(row, "set")))];
  const methods = [...new Set(rows.map((row) => cellText(row, "method")))];
  const off = new Set();
  let set = sets[sets.length - 1];
  const draw = () => {
    const series = rows.filter((row) => cellText(row, "set") === set && !off.has(cellText(row, "method"))).map((row) => {
      const method = cellText(row, "method");
      const found = Object.entries(row.cells).filter(([key, cell]) => key.startsWith("shots_") && cell.v !== undefined).map(([key, cell]) => {
        const shots = Number(key.slice(6));
        return { ...cell, x: shots, href: cellHash(NAMES.few, row.k, key), lines: [`${method}, ${shots} shot${shots > 1 ? "s" : ""}`, `${set}: ${estimate(cell, cell.d)}`, interval(cell, cell.d)] };
      }).sort((a, b) => a.x - b.x);
      return { className: colour(method), line: true, points: found };
    }).filter((one) => one.points.length);
    if (!series.length) return empty(canvas, "Nothing chosen.");
    xyPlot(canvas, series, { x: "log2", xlabel: "Training images per class (shots)", ylabel: "Test top-1 (%)", height: 340, label: `Few-shot accuracy, ${set}` });
  };
  controls.append(choice("Set", sets.map((one) => [one, one]), set, (value) => { set = value; draw(); }));
  controls.append(...methods.map((method) => pressed(method.length > 24 ? `${method.split(" [")[0]} […]` : method, true, (on) => { if (on) off.delete(method); else off.add(method); draw(); }, { class: `legend ${colour(method)}`, title: method })));
  return draw;
}

function kernels(figure) {
  const { controls, canvas } = head(figure);
  const views = { [NAMES.ablation]: "all N, m, r over parameters", [NAMES.kernels]: "over the number of kernels N" };
  const there = Object.keys(views).filter((name) => ourRows(name).length);
  if (!there.length) return absent(figure);
  let view = there[there.length - 1];
  const draw = () => {
    const over = view === NAMES.kernels;
    const column = DATA.tables[view].columns.find((one) => one.k === "accuracy");
    const found = ourRows(view).map((row) => {
      const axes = ["N", "m", "r"].map((axis) => `${axis}=${cellText(row, axis)}`).join(" ");
      const cell = row.cells.accuracy;
      const size = row.cells.params_m;
      return { ...cell, x: over ? Number(cellText(row, "N")) : size.v, label: over ? number(cell.v, 1) : axes, n: cell.n, front: cellText(row, "front"), kernels: cellText(row, "N"),
        href: cellHash(view, row.k, "accuracy"), lines: [axes, estimate(cell, 2), interval(cell, 2), `${number(size.v, size.d)} M trained parameters`, cellText(row, "front") === "knee" && "knee of the front"] };
    });
    const series = found.map((point) => ({ className: over ? "ch" : `c${(Number(point.kernels) || 0) % 8}`, labels: true, points: [point] }));
    if (over) series.unshift({ className: "ch", line: true, dots: false, points: found });
    const front = over ? [] : found.filter((point) => point.front !== "-").map((point) => [point.x, point.v]).sort((a, b) => a[0] - b[0]);
    xyPlot(canvas, series, { x: over ? "log2" : "log", xlabel: over ? "Number of kernels N" : "Trainable parameters (M)", ylabel: column.title, front, height: 340, label: views[view] });
  };
  if (there.length > 1) controls.append(choice("Show", there.map((name) => [name, views[name]]), view, (value) => { view = value; draw(); }));
  return draw;
}

function peeking(figure) {
  const { canvas } = head(figure);
  const rows = ourRows(NAMES.main).filter((row) => (row.cells.peeking_gap || {}).v !== undefined).map((row) => {
    const cell = row.cells.peeking_gap;
    return { ...cell, label: row.k, href: cellHash(NAMES.main, row.k, "peeking_gap"), lines: [row.k, `peak − last: ${estimate(cell, 2)} points`, interval(cell, 2)] };
  }).sort((a, b) => b.v - a.v);
  if (!rows.length) return absent(figure, "no run of protocol=peek10 yet");
  const [low, high] = range(rows);
  return () => dotPlot(canvas, rows, { digits: 2, zero: true, domain: [Math.min(0, low), high], axis: "Peak minus last epoch (points)", label: "What peeking is worth" });
}

function ranks(figure) {
  const { controls, canvas } = head(figure);
  if (!DATA.ranks) return absent(figure, "it takes three methods with runs on every task");
  const { mean, critical, p } = DATA.ranks;
  const known = new Set(ourRows(NAMES.statistics).map((row) => row.k));
  const rows = Object.entries(mean).map(([label, v]) => ({ label, v, href: known.has(label) ? cellHash(NAMES.statistics, label, "method") : null, lines: [label, `mean rank ${v.toFixed(2)}`] })).sort((a, b) => a.v - b.v);
  const best = rows[0].v;
  controls.append(el("span", {}, `Critical difference ${critical.toFixed(2)}; Friedman p ${p < 0.001 ? "< 0.001" : p.toFixed(3)}`));
  return () => dotPlot(canvas, rows, { digits: 2, domain: [0.6, rows.length + 0.4], band: [best, best + critical], axis: "Mean rank", label: "Mean ranks" });
}

const FIGURES = { ranking, costs, contrasts, fewshot, kernels, peeking, ranks };
