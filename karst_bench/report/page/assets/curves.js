// What a run did from epoch to epoch; the chosen run stands out among those of its cell.
const MOST_CURVES = 24;

function record(index) {
  const run = RUNS[index];
  const [rest, ...groups] = run.config.map((at) => POOL[at]);
  const config = { seed: run.s, ...rest };
  DATA.groups.forEach((name, at) => { if (groups[at] !== null) config[name] = groups[at]; });
  const shared = {};
  DATA.shared.forEach((name, at) => { if (POOL[run.shared[at]] !== null) shared[name] = POOL[run.shared[at]]; });
  return { ...run.own, ...shared, config, epoch: POOL[run.x[0]], lr: POOL[run.x[1]], run };
}

function runName(run) {
  const shots = run.shots === undefined ? "" : `, ${run.shots} shots, split ${run.split ?? 0}`;
  return `${run.t}${shots}, seed ${run.s}`;
}

function points(values, epochs, what, digits, name) {
  return values.map((v, at) => ({ x: epochs[at], v, lines: [name, `epoch ${epochs[at]}: ${what} ${v.toFixed(digits)}`] }));
}

function lossSeries(indexes, chosen) {
  return indexes.map((index) => {
    const { run, epoch } = record(index);
    const on = index === chosen;
    return { className: on ? "c0" : "c6", line: true, faint: !on, dots: on, small: true, points: points(run.loss || [], epoch, "loss", 4, runName(run)) };
  }).filter((one) => one.points.length);
}

function accuracySeries(indexes, chosen) {
  const found = [];
  for (const index of indexes) {
    const { run, epoch } = record(index);
    const on = index === chosen;
    const name = runName(run);
    found.push({ className: on ? "c0" : "c6", line: true, faint: !on, dots: on, small: true, points: points(run.acc || [], epoch, "training top-1", 1, name) });
    const checks = (run.checks || []).map(([x, split, v]) => ({ x, v, lines: [name, `epoch ${x}: ${split} top-1 ${v.toFixed(2)}`] }));
    if (on && run.last !== undefined && epoch.length && !checks.some((check) => check.x === epoch[epoch.length - 1])) {
      checks.push({ x: epoch[epoch.length - 1], v: run.last, lines: [name, `after the last epoch: test top-1 ${run.last.toFixed(2)}`] });
    }
    if (checks.length) found.push({ className: on ? "c1" : "c6", line: true, faint: !on, dots: on, points: checks });
  }
  return found.filter((one) => one.points.length);
}

function drawCurves(place, indexes, chosen) {
  const drawn = [...indexes.filter((index) => index !== chosen).slice(0, MOST_CURVES - 1), chosen];
  const one = el("div", { class: "canvas" });
  const two = el("div", { class: "canvas" });
  place.replaceChildren(
    el("div", { class: "columns" }, el("div", {}, el("h3", {}, "Training loss"), one), el("div", {}, el("h3", {}, "Top-1 (%)"), two)),
    el("p", { class: "fine" }, el("span", { class: "legend c0" }, "training"), " ", el("span", { class: "legend c1" }, "evaluated"),
      indexes.length > 1 ? ` The chosen run among ${drawn.length} of ${indexes.length}.` : ""),
  );
  const loss = lossSeries(drawn, chosen);
  const top1 = accuracySeries(drawn, chosen);
  const options = { x: "linear", xlabel: "Epoch", height: 230 };
  if (loss.length) xyPlot(one, loss, { ...options, ylabel: "Loss", label: "Training loss by epoch" });
  else one.replaceChildren(el("p", { class: "empty" }, "Not recorded."));
  if (top1.length) xyPlot(two, top1, { ...options, ylabel: "Top-1 (%)", label: "Accuracy by epoch" });
  else two.replaceChildren(el("p", { class: "empty" }, "Not recorded."));
}
