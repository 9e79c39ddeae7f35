// Two kinds of plots drawn as SVG: rows of dots with intervals, and points and lines over an axis.
const tip = byId("tip");

function showTip(anchor, lines) {
  tip.replaceChildren(el("b", {}, lines[0]), ...lines.slice(1).filter(Boolean).map((line) => el("div", {}, line)));
  tip.hidden = false;
  const box = anchor.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), window.innerWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
}

function hideTip() {
  tip.hidden = true;
}

// A mark that tells its numbers when pointed at or reached by key, and leads to its records.
function mark(className, lines, href, hit, ...shapes) {
  const name = lines.filter(Boolean).join(", ");
  const node = svg(href ? "a" : "g", { class: `mark ${className}`, href, tabindex: href ? null : "0", "aria-label": name, role: href ? null : "img" }, hit, ...shapes);
  for (const event of ["pointerenter", "focus"]) node.addEventListener(event, () => showTip(hit, lines));
  for (const event of ["pointerleave", "blur", "click"]) node.addEventListener(event, hideTip);
  return node;
}

function niceTicks(low, high, count) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = power * [1, 2, 5, 10].find((factor) => span / (power * factor) <= count);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

function range(points, pad = 0.06) {
  const values = points.flatMap((point) => [point.v, point.lo, point.hi, ...(point.seeds || [])]).filter((value) => value !== undefined);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}

// Where an axis may start so that the upper rows can be told apart: above a gap that takes half of the span, again and again
// while more than half of the rows stay; undefined where there is no such gap.
function zoomedFrom(values) {
  const sorted = [...values].sort((a, b) => b - a);
  let kept = sorted.length;
  for (;;) {
    const gaps = sorted.slice(1, kept).map((value, at) => sorted[at] - value);
    const widest = gaps.indexOf(Math.max(...gaps));
    if (!gaps.length || gaps[widest] * 2 < sorted[0] - sorted[kept - 1] || (widest + 1) * 2 <= sorted.length) break;
    kept = widest + 1;
  }
  return kept === sorted.length ? undefined : sorted[kept - 1];
}

function shorten(text, width) {
  const most = Math.max(4, Math.floor(width / 6.5));
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

function frame(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label });
}

// rows: {label, v, lo, hi, n, seeds, href, lines}; options: {digits, axis, zero, band: [from, to], label}
function dotPlot(canvas, rows, options) {
  const width = Math.max(260, canvas.clientWidth);
  const left = Math.min(210, Math.round(width * 0.34));
  const right = width > 420 ? 6 + 6.9 * Math.max(...rows.map((row) => estimate(row, options.digits).length)) : 8;
  const step = 23;
  const top = 6;
  const bottom = top + rows.length * step;
  const [low, high] = options.domain || range(rows);
  const x = (value) => left + (Math.max(0, value - low) / (high - low)) * (width - left - right);
  const root = frame(width, bottom + 38, options.label);
  if (options.band) {
    const from = Math.max(x(options.band[0]), left);
    root.append(svg("rect", { class: "band", x: from, y: top, width: Math.min(x(options.band[1]), width - right) - from, height: bottom - top }));
  }
  for (const value of niceTicks(low, high, width > 560 ? 9 : 5)) {
    root.append(svg("line", { class: value === 0 && options.zero ? "zero" : "grid", x1: x(value), x2: x(value), y1: top, y2: bottom }));
    root.append(svg("text", { class: "tick", x: x(value), y: bottom + 15, "text-anchor": "middle" }, String(value).replace("-", "−")));
  }
  root.append(svg("text", { class: "axis", x: (left + width - right) / 2, y: bottom + 33, "text-anchor": "middle" }, options.axis));
  rows.forEach((row, index) => root.append(dotRow(row, { x, low, y: top + (index + 0.5) * step, step, left, right, width, digits: options.digits })));
  canvas.replaceChildren(root);
}

function dotRow(row, { x, low, y, step, left, right, width, digits }) {
  const hero = row.label.split(" [")[0] === HERO;
  const hit = svg("rect", { class: "hit", x: 0, y: y - step / 2, width, height: step, rx: 4 });
  const shapes = [svg("text", { x: left - 10, y: y + 4, "text-anchor": "end", class: hero ? "hero" : "" }, shorten(row.label, left - 12))];
  const outside = row.v < low;
  if (!outside && row.lo !== undefined && row.hi !== undefined) {
    shapes.push(svg("line", { x1: x(row.lo), x2: x(row.hi), y1: y, y2: y }));
    for (const end of [row.lo, row.hi]) shapes.push(svg("line", { x1: x(end), x2: x(end), y1: y - 4, y2: y + 4 }));
  }
  for (const seed of outside ? [] : row.seeds || []) shapes.push(svg("line", { class: "seed", x1: x(seed), x2: x(seed), y1: y - 6, y2: y + 6 }));
  if (outside) shapes.push(svg("path", { d: `M${left + 9} ${y - 5}L${left + 1} ${y}L${left + 9} ${y + 5}Z` }));
  else shapes.push(svg("circle", { cx: x(row.v), cy: y, r: hero ? 5 : 4.3 }));
  if (right > 20) shapes.push(svg("text", { x: width - right + 10, y: y + 4, class: hero ? "hero" : "" }, estimate(row, digits)));
  return mark(row.className || colour(row.label), row.lines, row.href, hit, ...shapes);
}

// A scale over x: linear, log (with a place for zero at the left), or log2.
function xScale(kind, values, from, to) {
  if (kind === "linear") {
    const [low, high] = range(values.map((value) => ({ v: value })), 0.08);
    return { at: (value) => from + ((value - low) / (high - low)) * (to - from), ticks: niceTicks(low, high, to - from > 420 ? 8 : 5) };
  }
  const positive = values.filter((value) => value > 0);
  const zero = positive.length < values.length;
  const start = zero ? from + 34 : from;
  const low = Math.log10(Math.min(...positive)) - 0.12;
  const high = Math.log10(Math.max(...positive)) + 0.12;
  const at = (value) => (value <= 0 ? from + 8 : start + ((Math.log10(value) - low) / (high - low)) * (to - start));
  const found = kind === "log2" ? [...new Set(positive)].sort((a, b) => a - b) : logTicks(low, high);
  return { at, ticks: zero ? [0, ...found] : found };
}

function logTicks(low, high) {
  const steps = high - low > 2.2 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
    for (const step of steps) {
      const value = Number(`${step}e${power}`);
      if (Math.log10(value) >= low && Math.log10(value) <= high) found.push(value);
    }
  }
  return found;
}

// series: {name, className, line, hollow, faint, labels, dots, points: [{x, v, lo, hi, href, lines}]}
// options: {x: linear|log|log2, xlabel, ylabel, height, front: [[x, v], ...], label}
function xyPlot(canvas, series, options) {
  const width = Math.max(260, canvas.clientWidth);
  const height = options.height || 300;
  const area = { left: 44, right: width - 12, top: 8, bottom: height - 40 };
  const points = series.flatMap((one) => one.points);
  const scale = xScale(options.x, points.map((point) => point.x), area.left + 6, area.right - 6);
  const [low, high] = options.domain || range(points, 0.08);
  const y = (value) => area.bottom - (Math.max(0, value - low) / (high - low)) * (area.bottom - area.top);
  const root = frame(width, height, options.label);
  for (const value of niceTicks(low, high, 6)) {
    root.append(svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }));
    root.append(svg("text", { class: "tick", x: area.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value).replace("-", "−")));
  }
  for (const value of scale.ticks) {
    root.append(svg("line", { class: "base", x1: scale.at(value), x2: scale.at(value), y1: area.bottom, y2: area.bottom + 4 }));
    root.append(svg("text", { class: "tick", x: scale.at(value), y: area.bottom + 17, "text-anchor": "middle" }, String(value)));
  }
  root.append(svg("line", { class: "base", x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom }));
  root.append(svg("text", { class: "axis", x: (area.left + area.right) / 2, y: height - 6, "text-anchor": "middle" }, options.xlabel));
  root.append(svg("text", { class: "axis", x: 11, y: (area.top + area.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${(area.top + area.bottom) / 2})` }, options.ylabel));
  const path = (list) => list.map(([px, pv], index) => `${index ? "L" : "M"}${scale.at(px).toFixed(1)} ${y(pv).toFixed(1)}`).join("");
  if (options.front && options.front.length > 1) root.append(svg("path", { class: "front", d: path(options.front) }));
  for (const one of series) if (one.line) root.append(lineOf(one, path));
  for (const one of series) if (one.dots !== false) root.append(...one.points.map((point) => dotOf(one, point, scale.at(point.x), y, low)));
  root.append(...placedLabels(series, (point) => [scale.at(point.x), Math.min(y(point.v), area.bottom - 8)], area));
  canvas.replaceChildren(root);
}

function lineOf(one, path) {
  const drawn = svg("path", { class: `series ${one.className}${one.faint ? " faint" : ""}`, d: path(one.points.map((point) => [point.x, point.v])) });
  if (one.dash) drawn.setAttribute("stroke-dasharray", one.dash);
  return drawn;
}

function dotOf(one, point, px, y, low) {
  const shapes = [];
  const outside = point.v < low;
  if (!outside && point.lo !== undefined && point.hi !== undefined) shapes.push(svg("line", { x1: px, x2: px, y1: y(point.lo), y2: y(point.hi) }));
  if (outside) shapes.push(svg("path", { d: `M${px - 5} ${y(low) - 9}L${px} ${y(low) - 1}L${px + 5} ${y(low) - 9}Z` }));
  else shapes.push(svg("circle", { cx: px, cy: y(point.v), r: one.small ? 2.6 : one.className === "ch" ? 5 : 4.2 }));
  const hit = svg("circle", { class: "hit", cx: px, cy: y(point.v), r: one.small ? 7 : 11 });
  return mark(`${one.className}${one.hollow ? " hollow" : ""}`, point.lines, point.href, hit, ...shapes);
}

// Names beside points, where one fits without covering another; the rest is told by pointing.
function placedLabels(series, at, area) {
  const points = series.filter((one) => one.labels).flatMap((one) => one.points.map((point) => ({ at: at(point), text: point.label, hero: one.className === "ch" })));
  const taken = points.map(({ at: [px, py] }) => [px - 5, py - 5, px + 5, py + 5]);
  const found = [];
  for (const { at: [px, py], text, hero } of points.sort((a, b) => Number(b.hero) - Number(a.hero))) {
    const wide = text.length * (hero ? 6.9 : 6.3);
    const tries = [[px + 8, py + 4, "start"], [px - 8, py + 4, "end"], [px, py - 9, "middle"], [px, py + 17, "middle"]];
    for (const [x, y, anchor] of tries) {
      const start = anchor === "start" ? x : anchor === "end" ? x - wide : x - wide / 2;
      const box = [start, y - 10, start + wide, y + 2];
      const inside = box[0] >= area.left && box[2] <= area.right + 10 && box[1] >= 0 && box[3] <= area.bottom;
      if (!inside || taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      found.push(svg("text", { x, y, "text-anchor": anchor, class: hero ? "hero" : "", "pointer-events": "none" }, text));
      break;
    }
  }
  return found;
}
