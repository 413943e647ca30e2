// Draws lines, bars and spans as SVG, each with a legend and its figures as a table.
// Series differ by colour, by dash and by marker.

const COLOURS = 6;
const DASHES = [null, "7 4", "2 3", "10 3 2 3", "5 2", "1 4"];

function colour(i) { return "var(--c" + (i % COLOURS) + ")"; }

/** Round figures for an axis, about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
  const found = [];
  // The limit is for figures beyond 2^53, of which the next one is the same.
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && found.length < 100; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

function marker(shape, x, y, paint, size = 4) {
  const fillIt = { fill: paint, stroke: paint, "stroke-width": 1.5 };
  if (shape === 1) return s("rect", { x: x - size + 0.5, y: y - size + 0.5, width: 2 * size - 1, height: 2 * size - 1, ...fillIt });
  if (shape === 2) return s("path", { d: `M${x} ${y - size}L${x + size} ${y + size}H${x - size}Z`, ...fillIt });
  if (shape === 3) return s("path", { d: `M${x} ${y - size}L${x + size} ${y}L${x} ${y + size}L${x - size} ${y}Z`, ...fillIt });
  if (shape === "cross") return s("path", { d: `M${x - size} ${y - size}L${x + size} ${y + size}M${x + size} ${y - size}L${x - size} ${y + size}`, stroke: paint, "stroke-width": 2, fill: "none" });
  if (shape === "ring") return s("circle", { cx: x, cy: y, r: size, fill: "var(--page)", stroke: paint, "stroke-width": 2 });
  return s("circle", { cx: x, cy: y, r: size - 0.5, ...fillIt });
}

function legend(items) {
  if (items.length < 2 && !items.some((item) => item.shape)) return null;
  return h("ul", { class: "legend" }, items.map((item) => h("li", null,
    s("svg", { viewBox: "0 0 30 12", "aria-hidden": "true", focusable: "false" },
      item.bar ? s("rect", { x: 4, y: 1, width: 22, height: 10, fill: item.paint })
        : item.shape ? null : s("line", { x1: 0, x2: 30, y1: 6, y2: 6, stroke: item.paint, "stroke-width": 2, "stroke-dasharray": item.dash }),
      item.bar || item.plain ? null : marker(item.shape || item.marker || 0, 15, 6, item.paint)),
    bdi(item.name))));
}

/**
 * A chart of lines over steps.
 * options: title, note, series [{name, points [[x, y, low, high]], dots, plain}], marks
 * [{x, verdict, text}], rules [{y, name}], percent, low, high, xname, log.
 */
function lineChart(options) {
  const series = options.series.map((line, i) => ({ ...line, i, points: line.points.filter((p) => p[1] !== null && p[1] !== undefined) }));
  const points = series.flatMap((line) => line.points);
  const head = h("figcaption", null, options.title);
  if (!points.length) return h("figure", null, head, h("p", { class: "note" }, options.empty || "No figures yet."));
  const width = options.wide ? 960 : 480, height = options.wide ? 300 : 220;
  // Letters of a small chart are larger: it is drawn at two thirds of its size.
  const left = options.wide ? 52 : 66, right = 12, top = options.marks && options.marks.length ? 28 : 12, bottom = options.wide ? 36 : 42;
  const values = points.flatMap((p) => [p[1], p[2], p[3]]).filter((v) => v !== undefined && v !== null)
    .concat((options.rules || []).map((r) => r.y));
  let low = options.low ?? Math.min(...values), high = options.high ?? Math.max(...values);
  if (low === high) { const pad = Math.abs(low) * 0.1 || 1; low -= options.low === undefined ? pad : 0; high += pad; }
  const unit = ticks(low, high, 4), step = unit.length > 1 ? unit[1] - unit[0] : 0;
  if (step && options.low === undefined) low = Math.floor(low / step + 1e-9) * step;
  if (step && options.high === undefined) high = Math.ceil(high / step - 1e-9) * step;
  let first = Infinity, last = -Infinity;
  for (const p of points) { first = Math.min(first, p[0]); last = Math.max(last, p[0]); }
  if (first === last) { first -= 1; last += 1; }
  const x = (v) => left + (v - first) / (last - first) * (width - left - right);
  const y = (v) => height - bottom - (v - low) / (high - low) * (height - top - bottom);
  const show = options.percent ? (v) => (100 * v).toFixed(Math.abs(high - low) < 0.05 ? 1 : 0) + "%" : number;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.title + ", the figures are in the table below" });
  for (const t of ticks(low, high, 4)) svg.append(
    s("line", { x1: left, x2: width - right, y1: y(t), y2: y(t), stroke: "var(--grid)" }),
    s("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, show(t)));
  for (const t of ticks(first, last, options.wide ? 10 : 5).filter(Number.isInteger)) svg.append(s("text", { x: x(t), y: height - bottom + 16, "text-anchor": "middle" }, t));
  svg.append(s("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, stroke: "var(--rule)" }),
    s("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, options.xname || "step"));
  for (const rule of options.rules || []) svg.append(
    s("line", { x1: left, x2: width - right, y1: y(rule.y), y2: y(rule.y), stroke: "var(--rule)", "stroke-dasharray": "4 3" }));
  for (const mark of options.marks || []) {
    const good = mark.verdict === "accepted", paint = good ? "var(--good)" : mark.verdict === "rejected" ? "var(--bad)" : "var(--rule)";
    svg.append(s("line", { x1: x(mark.x), x2: x(mark.x), y1: top - 6, y2: height - bottom, stroke: paint, "stroke-dasharray": good ? null : "2 4", "stroke-opacity": 0.7 }),
      s("g", null, s("title", null, mark.text), marker(good ? 2 : mark.verdict === "rejected" ? "cross" : "ring", x(mark.x), 12, paint, 5)));
  }
  for (const line of series) {
    const paint = line.paint || colour(line.i), dash = DASHES[line.i % DASHES.length];
    const banded = line.points.filter((p) => p[2] !== undefined && p[2] !== null);
    if (banded.length > 1 && line.band) svg.append(s("path", { fill: paint, "fill-opacity": 0.15, stroke: "none",
      d: "M" + banded.map((p) => `${x(p[0])} ${y(Math.min(p[3], high))}`).join("L") + "L" + banded.slice().reverse().map((p) => `${x(p[0])} ${y(Math.max(p[2], low))}`).join("L") + "Z" }));
    else for (const p of banded) svg.append(s("line", { x1: x(p[0]) + 3 * line.i, x2: x(p[0]) + 3 * line.i, y1: y(p[2]), y2: y(p[3]), stroke: paint, "stroke-width": 1.5, "stroke-opacity": 0.8 }));
    if (!line.dots) svg.append(s("path", { d: "M" + line.points.map((p) => `${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("L"), fill: "none", stroke: paint, "stroke-width": 2, "stroke-dasharray": dash, "stroke-linejoin": "round" }));
    if (line.dots) for (const p of line.points) svg.append(s("circle", { cx: x(p[0]), cy: y(p[1]), r: 1.8, fill: paint, "fill-opacity": 0.55 }));
    else if (!line.plain && (line.points.length <= 30 || options.wide && line.points.length <= 60)) for (const p of line.points) svg.append(marker(line.i % 4, x(p[0]) + (banded.length && !line.band ? 3 * line.i : 0), y(p[1]), paint, 3.5));
  }
  for (const rule of options.rules || []) svg.append(s("text", { x: width - right, y: y(rule.y) - 4, "text-anchor": "end" }, rule.name));
  if (!options.wide) svg.setAttribute("class", "small");
  const names = series.map((line) => ({ name: line.name, paint: line.paint || colour(line.i), dash: DASHES[line.i % DASHES.length], marker: line.i % 4, plain: line.plain, shape: line.dots ? "dot" : undefined }));
  for (const kind of ["accepted", "rejected", "not chosen"]) if ((options.marks || []).some((m) => m.verdict === kind))
    names.push({ name: "trial " + kind, paint: kind === "accepted" ? "var(--good)" : kind === "rejected" ? "var(--bad)" : "var(--rule)", shape: kind === "accepted" ? 2 : kind === "rejected" ? "cross" : "ring" });
  return h("figure", null, head, options.note ? h("p", { class: "note" }, options.note) : null, legend(names), options.wide ? sideways(options.title, svg) : svg,
    figures(options.title, series, show, options.xname || "step"));
}

/** A wide chart keeps its size on a narrow screen and scrolls. */
function sideways(title, svg) {
  svg.setAttribute("class", "wide");
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Chart: " + title }, svg);
}

/** The table below a chart, filled when it is opened. */
function figures(title, series, show, xname) {
  const box = h("details", { ontoggle: () => {
    if (!box.open || box.childElementCount > 1) return;
    const rows = new Map();
    for (const line of series) for (const p of line.points) {
      if (!rows.has(p[0])) rows.set(p[0], new Array(series.length).fill(""));
      rows.get(p[0])[line.i] = show(p[1]) + (p[2] !== undefined && p[2] !== null ? ` (${show(p[2])} to ${show(p[3])})` : "");
    }
    const body = [...rows].sort((a, b) => a[0] - b[0]).map(([at, cells]) => [at, ...cells]);
    box.append(table("Figures: " + title, [xname, ...series.map((line) => bdi(line.name))], body, [0, ...series.map((_, i) => i + 1)], true));
  } }, h("summary", null, "Figures as a table"));
  return box;
}

/** Stacked bars per step. parts: [{name, values}], with one value per step or null. */
function stackedBars(title, note, steps, parts, unit) {
  const totals = steps.map((_, i) => parts.reduce((sum, part) => sum + (part.values[i] || 0), 0));
  const high = Math.max(...totals, 0);
  if (!high) return h("figure", null, h("figcaption", null, title), h("p", { class: "note" }, "No figures yet."));
  const width = 960, height = 260, left = 52, right = 12, top = 12, bottom = 36;
  const slot = (width - left - right) / steps.length;
  const y = (v) => height - bottom - v / high * (height - top - bottom);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title + ", the figures are in the table below" });
  const patterns = s("defs", null, parts.map((_, i) => pattern(title, i)));
  svg.append(patterns);
  for (const t of ticks(0, high, 4)) svg.append(s("line", { x1: left, x2: width - right, y1: y(t), y2: y(t), stroke: "var(--grid)" }), s("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, number(t)));
  steps.forEach((step, i) => {
    let base = 0;
    parts.forEach((part, k) => {
      const value = part.values[i] || 0;
      svg.append(s("rect", { x: left + i * slot + slot * 0.1, y: y(base + value), width: slot * 0.8, height: Math.max(y(base) - y(base + value), 0), fill: `url(#${patternId(title, k)})` }));
      base += value;
    });
    if (i % Math.ceil(steps.length / 12) === 0) svg.append(s("text", { x: left + (i + 0.5) * slot, y: height - bottom + 16, "text-anchor": "middle" }, step));
  });
  svg.append(s("line", { x1: left, x2: width - right, y1: y(0), y2: y(0), stroke: "var(--rule)" }), s("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, "step"), s("text", { x: left, y: 10 }, unit));
  const series = parts.map((part, i) => ({ i, name: part.name, points: steps.map((step, k) => [step, part.values[k]]).filter((p) => p[1] !== null) }));
  return h("figure", null, h("figcaption", null, title), note ? h("p", { class: "note" }, note) : null,
    legend(parts.map((part, i) => ({ name: part.name, paint: `url(#${patternId(title, i)})`, bar: true }))), sideways(title, svg), figures(title, series, number, "step"));
}

function patternId(title, i) { return "p" + [...title].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) % 99991, 7) + "-" + i; }

/** A fill that differs by colour and by hatching. */
function pattern(title, i) {
  const lines = [null, "M0 6L6 0", "M0 3H6", "M0 0L6 6", "M3 0V6"][i % 5];
  return s("pattern", { id: patternId(title, i), width: 6, height: 6, patternUnits: "userSpaceOnUse" },
    s("rect", { width: 6, height: 6, fill: colour(i) }),
    lines ? s("path", { d: lines, stroke: "var(--page)", "stroke-width": 1.2 }) : null);
}
