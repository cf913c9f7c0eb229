"use strict";
// What pages share: elements, data, filters in the address, charts, tables, theme and print.

const $ = (id) => document.getElementById(id);
const root = document.documentElement;

// Everything that a model wrote goes through text nodes: it can be read, not run.
const make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children.map((child) => child instanceof Node ? child : document.createTextNode(String(child))));
  return element;
};
// Says what the short names of teachers stand for, where that cannot be seen.
const named = (shorts) => Object.entries(shorts).filter(([name, short]) => !name.endsWith(short)).map(([name, short]) => short + " = " + name + ".").join(" ");
const fail = (text) => { $("failure").textContent = text; $("failure").hidden = false; };
const signed = (value, digits = 3) => value === null || value === undefined ? "-" : (value < 0 ? "" : "+") + value.toFixed(digits);
const ranged = (value, low, high) =>
  signed(value) + (low === null && high === null ? "" : " [" + signed(low) + ", " + signed(high) + "]");

const unpack = async (id) => {
  const bytes = Uint8Array.from(atob($(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
};
// Runs plotly.js and returns the page's data; null where the browser is too old.
const load = async () => {
  try {
    const plotly = document.createElement("script");
    plotly.textContent = await unpack("plotly");
    document.head.append(plotly);
    return JSON.parse(await unpack("data"));
  } catch (error) {
    fail("This browser cannot unpack the data of the charts; use one from 2023 or later. " + error);
    return null;
  }
};

// ---- The address keeps what is chosen: #teacher=...&token=...
const address = () => new URLSearchParams(location.hash.slice(1));
const linkTo = (changes) => {
  const parameters = address();
  for (const [name, value] of Object.entries(changes)) value === null ? parameters.delete(name) : parameters.set(name, value);
  return "#" + parameters;
};
// Replaces the address without a step for the back button; does nothing where a browser forbids it.
const remember = (changes) => {
  try { history.replaceState(null, "", linkTo(changes)); } catch { /* a page inside another one */ }
};
// Filters: name -> [values, what is shown of each, what is shown of no choice or null for always one].
// Returns a function that reads the choices; null where there is none.
const makeFilters = (filters) => {
  for (const [name, [values, label, all]] of Object.entries(filters)) {
    const every = all === null ? [] : [make("option", { value: "" }, all)];
    $("f-" + name).replaceChildren(...every, ...values.map((value, i) => make("option", { value: i }, label(value))));
  }
  return () => Object.fromEntries(Object.entries(filters).map(([name, [values]]) => {
    const index = $("f-" + name).value;
    return [name, index === "" ? null : values[Number(index)]];
  }));
};
const readAddress = (filters) => {
  const parameters = address();
  for (const [name, [values, , all]] of Object.entries(filters)) {
    const index = parameters.has(name) ? values.indexOf(parameters.get(name)) : -1;
    $("f-" + name).value = index < 0 ? (all === null ? "0" : "") : String(index);
  }
};
const writeAddress = (filters, chosen) => remember(Object.fromEntries(Object.entries(filters).map(
  ([name, [values, , all]]) => [name, all === null && chosen[name] === values[0] ? null : chosen[name]])));

// ---- Files to save.
const save = (name, text, type) => {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
const fileName = (id) => "gradalign-" + id.replace(/^(chart|table)-/, "");

// ---- Charts are drawn in the colours of paper; page.css gives their text and lines those of the theme,
// so that what is printed or saved is always dark on white.
const INK = "#1d2430", SOFT = "#5d6675", GRID = "#e8e6df";
const ZERO = { rangemode: "tozero", zeroline: true, zerolinecolor: SOFT, zerolinewidth: 1.5 };
const axis = (changes) => ({ gridcolor: GRID, zerolinecolor: SOFT, automargin: true, ...(changes || {}) });
// Plotly reads tags such as <b> in its own text: model-made names must not be read so.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const hasPoint = (trace) => ["x", "y"].every((name) => trace[name].some((value) => value !== null && value !== undefined));
const plot = (id, traces, changes) => {
  const chart = $(id), heading = chart.closest("section").querySelector("h2").textContent;
  const tools = chart.previousElementSibling && chart.previousElementSibling.matches(".tools") ? chart.previousElementSibling : null;
  if (!tools) {
    chart.before(make("div", { class: "tools" }, ...["svg", "png"].map((format) => {
      const button = make("button", { type: "button", "aria-label": "Save " + heading + " as " + format.toUpperCase() }, format.toUpperCase());
      button.addEventListener("click", () => Plotly.downloadImage(chart, {
        format, filename: fileName(id), width: chart.clientWidth, height: chart.clientHeight, scale: format === "png" ? 2 : 1 }));
      return button;
    })));
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", heading + "; the table below has its numbers");
  }
  const there = traces.filter(hasPoint);
  chart.hidden = !there.length;
  chart.previousElementSibling.hidden = !there.length;
  let empty = chart.nextElementSibling && chart.nextElementSibling.matches(".empty") ? chart.nextElementSibling : null;
  if (!empty) chart.after(empty = make("p", { class: "note empty" }, "Nothing to draw: none of these has a number."));
  empty.hidden = there.length > 0;
  if (!there.length) return;
  Plotly.react(chart, there, {
    margin: { l: 56, r: 14, t: 8, b: 42 }, paper_bgcolor: "#ffffff", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: INK, size: 12, family: "system-ui, DejaVu Sans, sans-serif" },
    hoverlabel: { bgcolor: "#ffffff", bordercolor: SOFT, font: { color: INK } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, ...changes,
    xaxis: axis(changes.xaxis), yaxis: axis(changes.yaxis),
  }, { responsive: true, displayModeBar: false });
};
const errorBars = (points) => ({
  type: "data", symmetric: false, thickness: 1.4, width: 3,
  array: points.map(([value, , high]) => high === null ? 0 : Math.max(high - value, 0)),
  arrayminus: points.map(([value, low]) => low === null ? 0 : Math.max(value - low, 0)),
});

// ---- Tables: sorted by a click on a title, saved as CSV.
// Cells are texts or elements; columns [first, end) hold numbers and stand at the right.
const table = (id, titles, rows, [first, end] = [2, Infinity]) => {
  const kind = (i) => i >= first && i < end ? { class: "n" } : {};
  const head = make("tr", {}, ...titles.map((title, i) => make("th", kind(i), title)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, i) => make("td", kind(i), cell instanceof Node ? cell : make("bdi", {}, cell)))));
  const made = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  $(id).replaceChildren(made);
  prepare(made, id);
};
// What scrolls sideways can be scrolled by keyboard, and shows that there is more.
const scrolls = (element, label) => {
  if (element.hasAttribute("role")) return;
  for (const [name, value] of Object.entries({ tabindex: "0", role: "region", "aria-label": label })) element.setAttribute(name, value);
  new ResizeObserver(() => element.classList.toggle("more", element.scrollWidth > element.clientWidth + 1)).observe(element);
};
const prepare = (table, id) => {
  const scroll = table.closest(".scroll"), name = fileName(id);
  scrolls(scroll, "Table: " + name.replace("gradalign-", ""));
  table.querySelectorAll("th").forEach((cell, column) => {
    const button = make("button", { type: "button", class: "sort" }, ...cell.childNodes);
    button.addEventListener("click", () => sort(table, column));
    cell.replaceChildren(button);
  });
  if (scroll.nextElementSibling && scroll.nextElementSibling.matches(".csv")) scroll.nextElementSibling.remove();
  const button = make("button", { type: "button", class: "csv", "aria-label": "Save table " + name + " as CSV" }, "CSV");
  button.addEventListener("click", () => save(name + ".csv", csv(table), "text/csv"));
  scroll.after(button);
};
const sort = (table, column) => {
  const head = table.tHead.rows[0].cells[column], rows = [...table.tBodies[0].rows];
  const text = (row) => row.cells[column] ? row.cells[column].textContent.trim() : "";
  const number = (row) => { const found = /^[+-]?\d[\d,]*\.?\d*(e[+-]?\d+)?/i.exec(text(row)); return found ? Number(found[0].replace(/,/g, "")) : null; };
  const missing = (row) => /^(-( |$)|$)/.test(text(row));
  const numeric = rows.some((row) => number(row) !== null) && rows.every((row) => number(row) !== null || missing(row));
  const before = head.getAttribute("aria-sort");
  const order = before ? (before === "ascending" ? "descending" : "ascending") : (numeric ? "descending" : "ascending");
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    if (!numeric) return sign * text(a).localeCompare(text(b));
    const [x, y] = [number(a), number(b)];
    return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);  // no number comes last
  });
  table.querySelectorAll("th").forEach((cell) => cell.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
  table.tBodies[0].append(...rows);
};
const csv = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => {
  const text = cell.textContent.trim();
  return /[",\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
}).join(",")).join("\n") + "\n";

// ---- Theme: the system's, until the button is used. Paper is always light; see page.css.
const preferred = window.matchMedia("(prefers-color-scheme: dark)");
const setTheme = (dark) => { root.dataset.theme = dark ? "dark" : "light"; };
setTheme(preferred.matches);
preferred.addEventListener("change", (event) => setTheme(event.matches));
$("theme").addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

// ---- What is printed has every table open, but for the long ones.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open], .numbers, .spine details)")];
  opened.forEach((part) => { part.open = true; });
});
window.addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));
