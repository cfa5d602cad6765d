"use strict";
// Draws the page from the JSON beside it. Text goes into the page as text alone, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const shown = { arms: data.arms.map(() => true), runs: data.runs.map(() => true), seeds: true, group: -1 };
const redraws = [];
const redraw = () => redraws.forEach((draw) => draw());

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "path", "rect", "circle", "text", "pattern", "defs", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick" || key === "oninput" || key === "onchange") node.addEventListener(key.slice(2), value);
    else if (key === "colour") node.style.setProperty("--c", value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return Number(value.toPrecision(3)).toExponential();
  if (Number.isInteger(value) && size >= 1000) return value.toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

function toggle(label, pressed, change, colour, dash) {
  const button = make("button", { type: "button", "aria-pressed": pressed });
  if (colour) button.append(swatch(colour, dash));
  button.append(label);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", now);
    change(now);
    redraw();
  });
  return button;
}

const swatch = (colour, dash = "") => make("svg", { class: "swatch", viewBox: "0 0 18 10", "aria-hidden": "true" },
  make("line", { x1: 0, y1: 5, x2: 18, y2: 5, "stroke-width": 2.5, "stroke-dasharray": dash, colour }));

// Groups: an arm each, or the arms that share a feature's value.
function groups() {
  const found = new Map();
  data.arms.forEach((arm, i) => {
    const key = shown.group < 0 ? i : arm.features[shown.group];
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(i);
  });
  let count = 0;
  return [...found.entries()].map(([key, members]) => {
    if (shown.group < 0) return { label: data.arms[key].name, members, colour: data.arms[key].colour, dash: data.arms[key].dash };
    const axis = data.axes[shown.group], plain = members.every((i) => data.arms[i].baseline);
    const label = key === "-" ? `without ${axis}` : key.includes("heads") ? key : `${axis} ${key}`;
    const colour = plain ? data.palette.baseline : data.palette.lines[count++ % data.palette.lines.length];
    return { label, members, colour, dash: "" };
  });
}
let styles = [];
function regroup() {
  const box = byId("arms");
  box.replaceChildren();
  for (const group of groups()) {
    for (const i of group.members) styles[i] = group;
    box.append(toggle(group.label, group.members.some((i) => shown.arms[i]),
      (on) => group.members.forEach((i) => { shown.arms[i] = on; }), group.colour, group.dash));
  }
  if (data.arms.length > 3) {
    const all = (on) => () => { shown.arms.fill(on); regroup(); redraw(); };
    box.append(make("button", { type: "button", onclick: all(true) }, "all"), make("button", { type: "button", onclick: all(false) }, "none"));
  }
}

// Tables
function table(node, spec, extra) {
  const head = make("tr"), body = make("tbody");
  const rows = spec.rows.map((cells, i) => ({ cells, i }));
  let by = -1, down = false;
  const fill = () => body.replaceChildren(...rows.map((row) => row.node));
  spec.columns.forEach(([label, meaning, numeric], column) => {
    const button = make("button", { type: "button", title: meaning }, label);
    const heading = make("th", { scope: "col", "aria-sort": "none", class: numeric ? "number" : "" }, button);
    button.addEventListener("click", () => {
      down = by === column ? !down : false;
      by = column;
      head.querySelectorAll("th[aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((a, b) => compare(a.cells[column][1], b.cells[column][1]) * 1 || a.i - b.i);
      fill();
    });
    head.append(heading);
    if (extra && extra.after === column) head.append(extra.heading());
  });
  function compare(a, b) {  // what is not known stays last either way
    if (a === null || b === null) return (a === null) - (b === null);
    return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
  }
  if (extra && extra.before) head.prepend(extra.before.heading());
  for (const row of rows) {
    row.node = make("tr");
    if (extra && extra.before) row.node.append(extra.before.cell(row.i));
    row.cells.forEach(([text], column) => {
      const cell = make("td", { class: spec.columns[column][2] ? "number" : text.length > 40 ? "long" : "" });
      const cut = spec.columns[column][2] ? text.search(/ [[(]/) : -1;
      if (column === 0 && extra && extra.swatch) cell.append(extra.swatch(row.i));
      cell.append(cut < 0 ? text : text.slice(0, cut));
      if (cut >= 0) cell.append(make("span", { class: "interval" }, text.slice(cut)));
      row.node.append(cell);
      if (extra && extra.after === column) row.node.append(extra.cell(row.i));
    });
  }
  fill();
  node.append(make("thead", {}, head), body);
}

// The forest plot's column: each difference with its interval on one scale.
function forest(values) {
  const known = values.filter((v) => v);
  const bounds = known.flatMap((v) => v.filter((x) => x !== null)).concat(0);
  const centres = Math.max(...known.map((v) => Math.abs(v[0])), 1e-9);
  const low = Math.max(Math.min(...bounds), -4 * centres), high = Math.min(Math.max(...bounds), 4 * centres);
  const width = 170, x = (v) => 6 + (width - 12) * (Math.min(Math.max(v, low), high) - low) / (high - low || 1);
  return {
    heading: () => make("th", { scope: "col" }, "difference and interval"),
    cell: (i) => {
      const svg = make("svg", { width, height: 20, role: "img" }, make("line", { class: "grid", x1: x(0), x2: x(0), y1: 0, y2: 20 }));
      const value = values[i], colour = data.arms[i].colour;
      svg.setAttribute("aria-label", value ? `${number(value[0])} from ${number(value[1])} to ${number(value[2])}` : "baseline");
      if (value) {
        const from = value[1] === null ? 0 : x(value[1]), to = value[2] === null ? width : x(value[2]);
        svg.append(make("line", { class: "stroke", colour, x1: from, x2: to, y1: 10, y2: 10, "stroke-width": 2 }),
          make("circle", { class: "fill", colour, cx: x(value[0]), cy: 10, r: 4 }));
      }
      return make("td", {}, svg);
    },
  };
}

// main and total are grey, so that the heads have the colours.
function lossStyle(label, labels) {
  if (label === "main" || label === "total") return { colour: data.palette.baseline, dash: label === "total" ? "2 2" : "" };
  const i = labels.filter((other) => other !== "main" && other !== "total").indexOf(label), colours = data.palette.lines;
  return { colour: colours[i % colours.length], dash: data.palette.dashes[Math.floor(i / colours.length) % data.palette.dashes.length] };
}

// Axes
function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(Number((Math.round(v / step) * step).toPrecision(12)));
  return found;
}
function logTicks(low, high) {
  const found = [], few = Math.log10(high / low) < 3;
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
    for (const m of few ? [1, 2, 5] : [1]) found.push(m * 10 ** p);
  const inside = found.filter((v) => v >= low * 0.999 && v <= high * 1.001);
  return inside.filter((_, i) => i % Math.ceil(inside.length / 8) === 0);
}
function scale(values, log, from, to) {
  let low = Math.min(...values), high = Math.max(...values);
  if (!(high > low)) { const room = log ? 2 : Math.abs(high) * 0.1 || 1; [low, high] = log ? [low / room, high * room] : [low - room, high + room]; }
  const f = log ? Math.log10 : (v) => v;
  const at = (v) => from + (to - from) * (f(v) - f(low)) / (f(high) - f(low));
  return { at, low, high, ticks: (count) => (log ? logTicks(low, high) : ticks(low, high, count)) };
}

// A panel of lines
function lines(box, plot, frame, panel, logX, logY) {
  const width = box.clientWidth || 600, height = Math.max(230, Math.min(360, width * 0.55));
  const fits = plot.categories.reduce((sum, name) => sum + 7 * name.length + 14, 0) < width - 60, slanted = plot.categories.length && !fits;
  const margin = { left: 54, right: 12, top: 26, bottom: slanted ? 62 : 36 };
  const right = width - margin.right, bottom = height - margin.bottom, byArm = plot.colours === "arm";
  const labels = [...new Set(panel.lines.map((line) => line.label))];
  const isShown = (line) => (line.arm < 0 || shown.arms[line.arm]) && (line.run < 0 || (shown.seeds && shown.runs[line.run]));
  const visible = panel.lines.filter(isShown), all = plot.frames.filter((f) => f.y === frame.y).flatMap((f) => f.panels).flatMap((p) => p.lines.filter(isShown));  // one scale for all panels and steps
  const usable = (v, log) => v !== null && (!log || v > 0);
  const xs = all.flatMap((line) => plot.xs[line.x]).filter((v) => usable(v, logX));
  const ys = all.flatMap((line) => line.y).filter((v) => usable(v, logY));
  const svg = make("svg", { width, height, role: "img", tabindex: 0, "aria-label": `${plot.title} ${panel.title}: ${frame.y} by ${plot.x}. Arrow keys read values.` });
  box.append(svg);
  if (!ys.length) { svg.append(make("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing shown")); return; }
  let [low, high] = [Math.min(...ys), Math.max(...ys)];
  if (!logY) {  // wide bands of few runs may leave the view
    const room = (high - low) * 0.3 || Math.abs(high) * 0.1 || 1;
    const bands = all.flatMap((line) => [...(line.low || []), ...(line.high || [])]).filter((v) => v !== null);
    [low, high] = [Math.max(low - room, Math.min(low, ...bands)), Math.min(high + room, Math.max(high, ...bands))];
    if (frame.y.endsWith("%")) [low, high] = [Math.max(low, 0), Math.min(high, 100)];
    if (high > low) [low, high] = [low - (high - low) * 0.03, high + (high - low) * 0.03];
  }
  const y = scale([low, high], logY, bottom, margin.top);
  const x = scale(plot.categories.length ? [-0.3, plot.categories.length - 0.7] : xs, logX, margin.left + 4, right - 4);
  for (const t of y.ticks(height / 40)) svg.append(make("line", { class: "grid", x1: margin.left, x2: right, y1: y.at(t), y2: y.at(t) }),
    make("text", { x: margin.left - 6, y: y.at(t) + 4, "text-anchor": "end" }, number(t)));
  const names = plot.categories.map((name) => (name.length > 14 ? name.slice(0, 13) + "…" : name));
  if (names.length) names.forEach((name, i) => {
    if (slanted && i % Math.ceil(names.length / (width / 34))) return;
    if (fits) { svg.append(make("text", { x: x.at(i), y: bottom + 16, "text-anchor": "middle" }, plot.categories[i])); return; }
    svg.append(make("text", { transform: `translate(${x.at(i) + 4},${bottom + 14}) rotate(-30)`, "text-anchor": "end" }, name));
  });
  else for (const t of x.ticks(width / 90)) svg.append(make("text", { x: x.at(t), y: bottom + 16, "text-anchor": "middle" }, number(t)));
  svg.append(make("line", { class: "axis", x1: margin.left, x2: right, y1: bottom, y2: bottom }),
    make("text", { x: right, y: height - 4, "text-anchor": "end" }, plot.x), make("text", { x: 0, y: 12 }, frame.y));
  if (frame.target !== null && frame.target >= low && frame.target <= high)
    svg.append(make("line", { class: "goal", x1: margin.left, x2: right, y1: y.at(frame.target), y2: y.at(frame.target) }),
      make("text", { x: margin.left + 6, y: y.at(frame.target) - 4 }, `target ${number(frame.target)}`));
  const clip = (v) => Math.min(Math.max(y.at(v), margin.top - 4), bottom);
  const style = (line) => (byArm && line.arm >= 0 ? styles[line.arm] : lossStyle(line.label, labels));
  const points = (line, column) => plot.xs[line.x].map((v, i) => [v, column[i]]).filter(([a, b]) => usable(a, logX) && usable(b, logY)).map(([a, b]) => `${x.at(a).toFixed(1)},${clip(b).toFixed(1)}`);
  const path = (line) => {  // broken where a value is missing
    let pen = "M";
    return plot.xs[line.x].map((v, i) => {
      if (!usable(v, logX) || !usable(line.y[i], logY)) { pen = "M"; return ""; }
      const part = `${pen}${x.at(v).toFixed(1)},${clip(line.y[i]).toFixed(1)}`;
      pen = "L";
      return part;
    }).join("");
  };
  for (const line of [...visible].sort((a, b) => (a.run < 0) - (b.run < 0))) {
    const { colour, dash } = style(line), group = make("g", { "data-arm": line.arm, "data-run": line.run, class: "line" });
    if (line.low) group.append(make("path", { class: "fill band", colour, d: `M${[...points(line, line.high), ...points(line, line.low.map((v) => (v !== null && logY && v <= 0 ? low : v))).reverse()].join("L")}Z` }));
    const at = points(line, line.y);
    if (at.length) group.append(make("path", { class: `stroke ${line.run < 0 ? "mean" : "seed"}`, colour, "stroke-dasharray": line.run < 0 ? dash : "", d: path(line) }));
    if (line.run < 0 && (at.length < 12 || names.length)) at.forEach((p) => group.append(make("circle", { class: "fill", colour, cx: p.split(",")[0], cy: p.split(",")[1], r: 3 })));
    svg.append(group);
  }
  hover(svg, plot, visible, x, y, style, margin.top, bottom);
}

function hover(svg, plot, visible, x, y, style, top, bottom) {
  const rule = make("line", { class: "rule", y1: top, y2: bottom, visibility: "hidden" });
  svg.append(rule);
  const steps = [...new Set(visible.flatMap((line) => plot.xs[line.x]))].sort((a, b) => a - b);
  let place = -1;
  const show = (step, clientX, clientY, pointer) => {
    rule.setAttribute("x1", x.at(step)); rule.setAttribute("x2", x.at(step)); rule.setAttribute("visibility", "visible");
    const rows = [];
    let nearest = null;
    for (const line of visible) {
      const i = plot.xs[line.x].indexOf(step);
      if (i < 0 || line.y[i] === null) continue;
      const interval = line.low && line.low[i] !== null ? ` [${number(line.low[i])}, ${number(line.high[i])}]` : "";
      if (line.run < 0) rows.push([line.y[i], line.label, number(line.y[i]) + interval, style(line)]);
      else if (pointer !== null && Math.abs(y.at(line.y[i]) - pointer) < (nearest ? nearest[0] : 12)) nearest = [Math.abs(y.at(line.y[i]) - pointer), `run ${data.runs[line.run].name}`, number(line.y[i]), style(line)];
    }
    rows.sort((a, b) => b[0] - a[0]);
    if (nearest) rows.push(nearest);
    tip(plot.categories.length ? plot.categories[step] : `${plot.x} ${number(step, 7)}`, rows, clientX, clientY);
  };
  const hide = () => { rule.setAttribute("visibility", "hidden"); byId("tip").hidden = true; };
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect(), at = event.clientX - frame.left;
    place = steps.reduce((best, step, i) => (Math.abs(x.at(step) - at) < Math.abs(x.at(steps[best]) - at) ? i : best), 0);
    show(steps[place], event.clientX, event.clientY, event.clientY - frame.top);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    place = Math.min(Math.max(place + move, 0), steps.length - 1);
    const frame = svg.getBoundingClientRect();
    show(steps[place], frame.left + x.at(steps[place]), frame.top + top, null);
  });
}

function tip(title, rows, clientX, clientY) {
  const node = byId("tip"), body = make("table");
  for (const [, label, text, look] of rows.slice(0, 14)) body.append(make("tr", {}, make("td", {}, ...(look ? [swatch(look.colour, look.dash)] : []), label), make("td", { class: "number" }, text)));
  node.replaceChildren(make("strong", {}, title), body);
  if (rows.length > 14) node.append(`and ${rows.length - 14} more`);
  node.hidden = false;
  const left = clientX + 16 + node.offsetWidth > innerWidth ? clientX - 16 - node.offsetWidth : clientX + 16;
  node.style.left = `${Math.max(left, 4)}px`;
  node.style.top = `${Math.max(Math.min(clientY + 12, innerHeight - node.offsetHeight - 4), 4)}px`;
}

// A panel with a grid
function colour(share, name) {
  const stops = data.palette[name], place = Math.min(Math.max(share, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(place), stops.length - 2);
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  return `rgb(${[0, 1, 2].map((k) => Math.round(part(stops[i], k) + (part(stops[i + 1], k) - part(stops[i], k)) * (place - i))).join(",")})`;
}
function span(plot) {
  const values = plot.frames.flatMap((f) => f.panels.flatMap((p) => (p.grid ? p.grid.values.flat() : []))).filter((v) => v !== null);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (plot.scale === "diverging") { high = Math.max(Math.abs(low), Math.abs(high)); low = -high; }
  return high > low ? [low, high] : [low - 0.5, high + 0.5];
}
function grid(box, plot, frame, panel) {
  const { rows, columns, values, hatched, texts } = panel.grid, [low, high] = span(plot);
  const left = Math.min(150, 14 + 6.5 * Math.max(...rows.map((r) => r.length))), width = box.clientWidth || 600;
  const tall = texts.length ? 44 : Math.max(14, Math.min(34, 240 / rows.length)), wide = Math.min((width - left - 4) / columns.length, texts.length ? 170 : plot.x ? 1e3 : 60);
  const height = tall * rows.length, cut = (s) => (s.length > 20 ? s.slice(0, 19) + "…" : s);
  const svg = make("svg", { width, height: height + 50, role: "img", "aria-label": `${plot.title} ${panel.title}: ${frame.y}` });
  rows.forEach((row, r) => svg.append(make("text", { x: left - 8, y: r * tall + tall / 2 + 4, "text-anchor": "end" }, cut(row))));
  const every = Math.ceil(columns.length / Math.max(1, Math.floor((width - left) / (8 * Math.max(...columns.map((c) => cut(c).length), 4)))));
  columns.forEach((name, c) => { if (c % every === 0) svg.append(make("text", { x: left + (c + 0.5) * wide, y: height + 16, "text-anchor": "middle" }, cut(name))); });
  svg.append(make("text", { x: left + wide * columns.length, y: height + 36, "text-anchor": "end" }, plot.x));
  values.forEach((row, r) => row.forEach((value, c) => {
    if (value === null) return;
    const place = { x: left + c * wide, y: r * tall, width: wide, height: tall }, mark = hatched.length && hatched[r][c];
    const cell = make("g", { class: "tile" }, make("rect", { ...place, fill: colour((value - low) / (high - low), plot.scale) }));
    if (mark) for (let k = -tall; k < wide; k += 9) {  // hatching, cut at the cell's edges
      const [a, b] = [Math.max(k, 0), Math.min(k + tall, wide)];
      cell.append(make("line", { x1: place.x + a, y1: place.y + tall - (a - k), x2: place.x + b, y2: place.y + tall - (b - k), stroke: "#6d747b", "stroke-width": 0.7 }));
    }
    const text = texts.length ? texts[r][c] : columns.length <= 8 && wide >= 44 ? number(value, 2) : "";
    if (text) cell.append(make("text", { class: `cell ${mark ? "marked" : Math.abs((value - low) / (high - low) - (plot.scale === "diverging" ? 0.5 : 0)) > (plot.scale === "diverging" ? 0.33 : 0.6) ? "light" : ""}`, x: place.x + wide / 2, y: place.y + tall / 2 + 4, "text-anchor": "middle" }, text));
    cell.addEventListener("pointermove", (e) => tip(panel.title || plot.title, [[0, `${rows[r]}, ${columns[c]}`, texts.length ? texts[r][c] : number(value)], ...(mark ? [[0, "its interval covers zero", ""]] : [])], e.clientX, e.clientY));
    cell.addEventListener("pointerleave", () => { byId("tip").hidden = true; });
    svg.append(cell);
  }));
  box.append(svg);
}

function key(plot) {  // the scale of a grid's colours
  const [low, high] = span(plot), bar = make("svg", { width: 120, height: 10, "aria-hidden": "true" });
  for (let i = 0; i < 60; i++) bar.append(make("rect", { x: 2 * i, y: 0, width: 2.2, height: 10, fill: colour(i / 59, plot.scale) }));
  return make("span", { class: "legend" }, number(low, 3), bar, number(high, 3));
}

function section(plot) {
  let place = plot.frames.length - 1, logX = false, logY = plot.log;
  const tools = make("div", { class: "tools" }), panels = make("div", { class: "panels" });
  const steps = plot.frames.every((f) => f.label.startsWith("step "));
  if (!steps) place = 0;
  if (plot.frames.length > 1 && steps) {
    const label = make("span", {}, plot.frames[place].label);
    tools.append(make("input", { type: "range", min: 0, max: plot.frames.length - 1, value: place, "aria-label": `Step of ${plot.title}`,
      oninput: (e) => { place = Number(e.target.value); label.textContent = plot.frames[place].label; draw(); } }), label);
  } else if (plot.frames.length > 1) {
    tools.append(make("select", { "aria-label": `Metric of ${plot.title}`, onchange: (e) => { place = e.target.selectedIndex; draw(); } },
      ...plot.frames.map((f) => make("option", {}, f.label))));
  }
  const isGrid = plot.frames.some((f) => f.panels.some((p) => p.grid));
  if (!isGrid && !plot.categories.length) tools.append(toggle("log x", false, (on) => { logX = on; }));
  if (!isGrid && !plot.frames.every((f) => /%|cosine|alignment/.test(f.y))) tools.append(toggle("log y", logY, (on) => { logY = on; }));
  if (isGrid) tools.append(make("span", {}, plot.frames[0].y), key(plot));
  if (!isGrid && plot.colours === "label") {
    const labels = [...new Set(plot.frames[0].panels.flatMap((p) => p.lines.map((line) => line.label)))];
    tools.append(make("span", { class: "legend" }, ...labels.map((label) => make("span", {}, swatch(lossStyle(label, labels).colour, lossStyle(label, labels).dash), label))));
  }
  function draw() {
    panels.replaceChildren();
    const frame = plot.frames[place];
    for (const panel of frame.panels) {
      if (panel.arm >= 0 && !shown.arms[panel.arm]) continue;
      const box = make("div", { class: "panel" });
      if (panel.title) box.append(make("h3", {}, panel.title));
      panels.append(box);
    }
    const kept = frame.panels.filter((panel) => panel.arm < 0 || shown.arms[panel.arm]);
    [...panels.children].forEach((box, i) => (kept[i].grid ? grid(box, plot, frame, kept[i]) : lines(box, plot, frame, kept[i], logX, logY)));
  }
  const wide = plot.name === "learning_curves" || Math.max(...plot.frames.map((f) => f.panels.length)) > 1;
  byId("plots").append(make("section", { id: plot.name, class: wide ? "wide" : "" }, make("h2", {}, plot.title), make("p", { class: "note" }, plot.note), tools, panels));
  redraws.push(draw);
}

function start() {
  const counts = new Map();
  for (const run of data.runs) counts.set(run.status, (counts.get(run.status) || 0) + 1);
  const compared = data.arms.filter((arm) => !arm.baseline).length;
  byId("subtitle").textContent = `${data.runs.length} runs (${[...counts].map(([status, n]) => `${n} ${status}`).join(", ")}) in ${data.arms.length} arm${data.arms.length > 1 ? "s" : ""}${compared ? `, ${compared} compared with a baseline` : ""}`;
  const more = data.supported.length > 8 ? make("details", {}, make("summary", {}, `and ${data.supported.length - 8} more arms`)) : null;
  data.supported.forEach(({ word, text }, i) => (i < 8 ? byId("supported") : more).append(make("li", { class: word.split(" ")[0] }, make("span", { class: "word" }, { helped: "▲ helped", hurt: "▼ hurt", chosen: "→ to choose", no: "= no difference" }[word.split(" ")[0]] || "? cannot tell"), make("span", {}, text))));
  if (more) byId("supported").append(make("li", { class: "rest" }, more));
  for (const text of data.unsupported) byId("unsupported").append(make("li", {}, text));
  byId("supported-section").hidden = !data.supported.length;
  byId("unsupported-section").hidden = !data.unsupported.length;
  for (const text of data.rules) byId("rules").append(make("p", {}, text));
  byId("legend-of-table").textContent = data.rules[0];
  const difference = data.headline.columns.findIndex(([label]) => label.startsWith("difference"));
  const mark = (i) => swatch(data.arms[i].colour, data.arms[i].dash);
  table(byId("headline"), data.headline, { swatch: mark, ...(difference < 0 ? {} : { after: difference, ...forest(data.headline.forest) }) });
  byId("losses-section").hidden = !data.losses.rows.length;
  table(byId("progress"), data.progress, { swatch: (i) => mark(data.progress.arms[i]) });
  table(byId("losses"), data.losses, { swatch: (i) => mark(data.losses.arms[i]) });
  table(byId("runs"), data.table, { before: {
    heading: () => make("th", { scope: "col" }, "shown"),
    cell: (i) => {
      const button = toggle("●", true, (on) => { shown.runs[i] = on; button.firstChild.textContent = on ? "●" : "○"; });
      button.setAttribute("aria-label", `Show ${data.runs[i].name}`);
      return make("td", {}, button);
    } } });
  regroup();
  byId("options").append(toggle("seeds", true, (on) => { shown.seeds = on; }));
  if (data.axes.length > 1) byId("options").append(make("label", {}, "colour by ", make("select", { id: "group", onchange: (e) => { shown.group = e.target.selectedIndex - 1; regroup(); redraw(); } },
    make("option", {}, "arm"), ...data.axes.map((axis) => make("option", {}, axis)))));
  data.plots.forEach(section);
  redraw();
  const theme = (dark) => { document.documentElement.dataset.theme = dark ? "dark" : "light"; byId("theme").textContent = dark ? "Light" : "Dark"; };
  const preference = matchMedia("(prefers-color-scheme: dark)");
  theme(preference.matches);
  preference.addEventListener("change", (event) => theme(event.matches));
  byId("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme !== "dark"));
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
}
start();
