// The records behind a number: #cell/<table>/<row>/<column> and #record/<id> open this dialog.
const viewer = byId("viewer");
let returnTo = null;

function flat(node, prefix = "", found = []) {
  for (const [key, value] of Object.entries(node)) {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) flat(value, `${prefix}${key}.`, found);
    else found.push([`${prefix}${key}`, value === null ? "null" : typeof value === "string" ? value : JSON.stringify(value)]);
  }
  return found;
}

function keys(pairs) {
  return el("dl", { class: "keys" }, pairs.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([key, value]) => [el("dt", {}, key), el("dd", {}, el("bdi", {}, value))]));
}

function duration(seconds) {
  if (seconds === undefined) return undefined;
  return seconds < 120 ? `${seconds.toFixed(1)} s` : seconds < 7200 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function percent(value) {
  return value === undefined ? undefined : `${value.toFixed(2)} %`;
}

function grouped(value) {
  return value === undefined ? undefined : value.toLocaleString("en");
}

function results(found) {
  const { metrics, counts, seconds = {}, speed = {} } = found;
  return keys([
    ["test top-1, last epoch", percent(metrics.test_top1_last_pct)], ["test top-1, best look", percent(metrics.test_top1_peak_pct)],
    ["val top-1, last epoch", percent(metrics.val_top1_last_pct)], ["val top-1, best look", percent(metrics.val_top1_best_pct)],
    ["best epoch", metrics.best_epoch], ["images: training, test", [metrics.train_n, metrics.test_n].map(grouped).join(", ")],
    ["trained parameters", grouped(counts.trainable_params)], ["of the head", grouped(counts.head_params)],
    ["multiply-adds, merged", grouped(counts.forward_macs)], ["time in all", duration(seconds.total_s)],
    ["training, test", [seconds.train_s, seconds.evaluate_s].map(duration).filter(Boolean).join(", ")],
    ["median step", speed.step_ms_median && `${speed.step_ms_median.toFixed(1)} ms${speed.mode ? ` (${speed.mode})` : ""}`],
    ["peak memory", found.peak_bytes && `${(found.peak_bytes / 2 ** 30).toFixed(2)} GiB`],
  ]);
}

function provenance(found) {
  const { provenance: code, weights, data, run } = found;
  const packages = Object.entries(code.packages || {}).map(([name, version]) => `${name} ${version}`).join(", ");
  return keys([
    ["created", found.created], ["code", [code.version, code.commit, code.dirty ? "with changes" : ""].filter(Boolean).join(" ")],
    ["device", [code.device, code.cpu_model, code.cpu_capability].filter(Boolean).join(", ")],
    ["threads, cores", [code.threads, code.cpu_count].filter((value) => value !== undefined).join(", ")],
    ["platform", [code.platform, code.python && `Python ${code.python}`].filter(Boolean).join(", ")], ["packages", packages],
    ["weights", [weights.kind, weights.timm_name, weights.sha256].filter(Boolean).join(" ")],
    ["data", [data.encoding, data.own_split ? "own split" : "", `lists ${data.list_sha256}`].filter(Boolean).join(", ")],
    ["adapter", found.adapter && `${found.adapter} ${found.adapter_sha256 || ""}`],
    ["digest", run.digest ? "checked" : "none: written before records had one"], ["read from", run.o],
  ]);
}

function configuration(found) {
  const pairs = flat(found.config);
  const list = el("dl", { class: "keys" });
  const draw = (text) => list.replaceChildren(...pairs.filter((pair) => pair.join(" ").toLowerCase().includes(text.toLowerCase()))
    .map(([key, value]) => el("div", {}, el("dt", {}, key), el("dd", {}, el("bdi", {}, value)))));
  draw("");
  const search = el("input", { type: "search", placeholder: "Filter keys", "aria-label": "Filter the configuration", input: () => draw(search.value) });
  return [el("div", { class: "tools" }, search, el("span", { class: "count" }, `${pairs.length} keys`)), el("div", { class: "config" }, list)];
}

function copyLine(text) {
  const button = el("button", { type: "button", class: "quiet", click: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  } }, "Copy");
  const code = el("code", {}, text);
  return el("div", { class: "copy" }, code, button);
}

function detail(index) {
  const found = record(index);
  const { run } = found;
  return [
    el("h3", {}, "Record ", el("a", { class: "mono", href: `#record/${run.id}`, title: "A link to this record" }, run.id)),
    el("p", { class: "fine" }, `${run.m} on ${runName(run)}, ${run.b}, protocol ${run.p}, tuned ${run.u}. `, el("a", { href: fileHref(run), target: "_blank", rel: "noopener" }, "Its file (JSON)")),
    run.dev ? el("p", { class: "fine" }, "Other than the defaults: ", run.dev.map((item) => [el("span", { class: "tag" }, item), " "])) : null,
    run.cmd ? copyLine(run.cmd) : null,
    el("div", { class: "columns" }, el("div", {}, el("h3", {}, "Result and cost"), results(found)), el("div", {}, el("h3", {}, "Provenance"), provenance(found))),
    el("h3", {}, "Configuration"), configuration(found),
    found.notes && found.notes.length ? [el("h3", {}, "Notes"), el("ul", { class: "commands" }, found.notes.map((note) => el("li", {}, el("bdi", {}, note))))] : null,
  ].flat();
}

const COLUMNS = [
  ["Data set", (run) => runName(run).replace(/, seed.*/, ""), true], ["Seed", (run) => run.s], ["Top-1", (run) => number(run.last, 2)],
  ["Best look", (run) => number(run.peak, 2)], ["Protocol", (run) => run.p, true], ["Time", (run) => duration((run.own.seconds || {}).total_s) || "—"],
  ["Created", (run) => run.own.created.slice(0, 10)], ["Record", (run) => el("span", { class: "mono" }, run.id), true],
];

function runsTable(indexes, select) {
  const columns = COLUMNS.filter(([title]) => title !== "Best look" || indexes.some((index) => RUNS[index].peak !== undefined));
  const rows = indexes.map((index) => {
    const pick = () => select(index);
    const cells = columns.map(([, value, left], at) => {
      const shown = value(RUNS[index]);
      return el("td", { class: left ? "left" : null }, at ? shown : el("a", { href: `#record/${RUNS[index].id}`, click: (event) => { event.preventDefault(); event.stopPropagation(); pick(); } }, shown));
    });
    return el("tr", { "data-index": index, click: pick }, cells);
  });
  const head = el("tr", {}, columns.map(([title, , left]) => el("th", { scope: "col", class: left ? "left" : null }, title)));
  return el("div", { class: "wide scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows)));
}

function openViewer(title, below, indexes) {
  const order = [...indexes].sort((a, b) => RUNS[a].t.localeCompare(RUNS[b].t) || (RUNS[a].shots ?? 0) - (RUNS[b].shots ?? 0) || (RUNS[a].split ?? 0) - (RUNS[b].split ?? 0) || RUNS[a].s - RUNS[b].s);
  const curves = el("div");
  const about = el("div");
  const body = el("div", { class: "body" });
  const select = (index) => {
    for (const row of body.querySelectorAll("tr[data-index]")) row.setAttribute("aria-selected", String(Number(row.dataset.index) === index));
    drawCurves(curves, order, index);
    about.replaceChildren(...detail(index).filter(Boolean));
  };
  if (order.length > 1) body.append(el("p", { class: "fine" }, `${order.length} records; select one.`), runsTable(order, select));
  body.append(curves, about);
  const close = el("button", { type: "button", class: "quiet", click: () => viewer.close() }, "Close");
  viewer.replaceChildren(el("div", { class: "head" }, el("div", {}, el("h2", { id: "viewer-title" }, el("bdi", {}, title)), el("p", {}, below)), close), body);
  hideTip();
  if (!viewer.open) {
    returnTo = document.activeElement;
    viewer.showModal();
  }
  viewer.scrollTop = 0;
  select(order[0]);
  close.focus();
}

function openCell(tableName, key, columnKey) {
  const table = DATA.tables[tableName];
  const row = table && table.rows.find((candidate) => candidate.k === key);
  const column = table && table.columns.find((candidate) => candidate.k === columnKey);
  if (!row || !column) return false;
  const cell = row.cells[columnKey] || {};
  const every = [...new Set(Object.values(row.cells).flatMap((other) => other.r || []))];
  const indexes = cell.r || every;
  if (!indexes.length) return false;
  const value = cell.v === undefined ? "" : `: ${estimate(cell, cell.d)}`;
  openViewer(`${key}, ${column.title}${value}`, cell.v === undefined ? table.title : `${table.title}; ${interval(cell, cell.d)}`, indexes);
  return true;
}

// Follows the address; false where it names nothing of the viewer's.
function route() {
  const parts = location.hash.slice(1).split("/");
  let opened = false;
  try {
    const names = parts.map(decodeURIComponent);
    if (names[0] === "cell") opened = openCell(names[1], names[2], names.slice(3).join("/"));
    if (names[0] === "record") {
      const index = RUNS.findIndex((run) => run.id === names[1]);
      if (index >= 0) openViewer(`${RUNS[index].m} on ${runName(RUNS[index])}`, `record ${RUNS[index].id}`, [index]);
      opened = index >= 0;
    }
  } catch (error) {
    if (!(error instanceof URIError)) throw error;
  }
  if (!opened && viewer.open) viewer.close();
}

viewer.addEventListener("close", () => {
  viewer.replaceChildren();
  if (/^#(cell|record)\//.test(location.hash)) history.replaceState(null, "", `${location.pathname}${location.search}`);
  if (returnTo && returnTo.isConnected) returnTo.focus({ preventScroll: true });
});
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
window.addEventListener("hashchange", route);
