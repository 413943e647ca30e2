"use strict";
// Makes elements. Text of the run goes through `shown` and textContent, never through
// markup: it is data, whatever it looks like.

const SVG = "http://www.w3.org/2000/svg";

/** Shows characters that would hide, reorder or break text as escapes. */
function shown(text) {
  return String(text).replace(
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200c\u200e-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : name === "value" ? value : shown(value)); // an option's value is not seen but compared
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(shown(child)));
  }
  return node;
}

/** Makes an HTML element; children are nodes or text. */
function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Makes an SVG element. */
function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Text of the run, with a direction of its own. */
function bdi(text) { return h("bdi", null, text === "" ? "(empty)" : text); }

function percent(value, digits = 1) {
  return value === null || value === undefined ? "not known" : (100 * value).toFixed(digits) + "%";
}

function signed(value) {
  if (value === null || value === undefined) return "not known";
  return (value < 0 ? "\u2212" : "+") + (100 * Math.abs(value)).toFixed(1) + " points";
}

function plusminus(effect, error) {
  if (effect === null || effect === undefined) return "not measured";
  return signed(effect) + (error === null || error === undefined ? "" : " \u00b1 " + (100 * error).toFixed(1));
}

function number(value) {
  if (value === null || value === undefined) return "\u2013";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "not known";
  if (seconds < 90) return seconds.toFixed(0) + " s";
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? minutes + " min" : Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
}

function interval(r) {
  if (!r || r.low === null || r.low === undefined) return "";
  return (100 * r.low).toFixed(0) + " to " + (100 * r.high).toFixed(0) + "%";
}

/** A table in a region that scrolls by keyboard; `numeric` columns are on the right. */
function table(label, head, rows, numeric = [], tall = false) {
  const cell = (tag, i) => (value) => h(tag, { class: numeric.includes(i) ? "n" : null, scope: tag === "th" ? "col" : null }, value);
  return h("div", { class: "scroll" + (tall ? " tall" : ""), tabindex: 0, role: "region", "aria-label": label },
    h("table", null,
      h("thead", null, h("tr", null, head.map((value, i) => cell("th", i)(value)))),
      h("tbody", null, rows.map((row) => h("tr", null, row.map((value, i) => cell("td", i)(value)))))));
}

function cards(items) {
  return h("dl", { class: "cards" }, items.filter(Boolean).map(([name, value, note]) =>
    h("div", null, h("dt", null, name), h("dd", null, value), note ? h("dd", null, note) : null)));
}

const VERDICTS = { accepted: ["\u2714 accepted", "good"], rejected: ["\u2718 rejected", "bad"], "not chosen": ["\u25cb not chosen", ""], "on trial": ["\u2026 on trial", ""] };

function verdict(word) {
  const [text, kind] = VERDICTS[word] || [word, ""];
  return h("span", { class: "verdict " + kind }, text);
}
