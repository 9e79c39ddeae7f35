"use strict";
// Elements, numbers, and the data of the page. Text is only ever set as text.
document.documentElement.classList.add("js");
const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.records.runs;
const POOL = DATA.records.pool;
const HERO = "karst";
const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(key, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// el("a", {href: "#x", click: listener}, "text", child)
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function number(value, digits = 1) {
  return value === undefined || value === null ? "—" : value.toFixed(digits).replace(/^-/, "−");
}

// 81.5 ±0.5 (3), as the tables print it.
function estimate(point, digits = 1) {
  const half = point.hi === undefined || point.lo === undefined ? "" : ` ±${((point.hi - point.lo) / 2).toFixed(digits)}`;
  return `${number(point.v, digits)}${half}${point.n === undefined ? "" : ` (${point.n})`}`;
}

// The 95 % interval and the number of seeds in words, for tips.
function interval(point, digits = 1) {
  const seeds = point.n === undefined ? "" : `${point.n} seed${point.n === 1 ? "" : "s"}`;
  if (point.lo === undefined || point.hi === undefined) return seeds ? `${seeds}, no interval` : "no interval";
  return `95 % ${number(point.lo, digits)} to ${number(point.hi, digits)}${seeds ? `, ${seeds}` : ""}`;
}

const METHODS = [...new Set(RUNS.map((run) => run.m.split("+")[0]))].filter((name) => name !== HERO).sort();

// The class that gives a method its colour, the same in every plot.
function colour(label) {
  const name = label.split(" [")[0].split("+")[0];
  if (name === HERO) return "ch";
  const index = METHODS.indexOf(name);
  return `c${(index < 0 ? 6 : index) % 8}`;
}

function choice(label, options, chosen, changed) {
  const list = el("select", { change: () => changed(list.value) }, options.map(([value, title]) => el("option", { value, selected: value === chosen }, title)));
  return el("label", {}, label, list);
}

function pressed(label, on, changed, attributes = {}) {
  const button = el("button", { type: "button", "aria-pressed": String(on), ...attributes, click: () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(now));
    changed(now);
  } }, label);
  return button;
}

function cellHash(table, row, column) {
  return `#cell/${[table, row, column].map(encodeURIComponent).join("/")}`;
}

// The way to a record's file beside the page.
function fileHref(run) {
  return encodeURI(run.f).replace(/[?#]/g, encodeURIComponent);
}
