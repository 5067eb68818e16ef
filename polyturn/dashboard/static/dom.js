// Elements, numbers, requests: what every page is made of.

const SVG = "http://www.w3.org/2000/svg";

/** h("div.card", {title: "x", onclick: f}, "text", child, [children]) -> an element. */
export function h(what, ...rest) {
  const [tag, ...classes] = what.split(".");
  const svg = tag.startsWith("svg:");
  const node = svg ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag || "div");
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const part of rest.flat(Infinity)) {
    if (part === null || part === undefined || part === false) continue;
    if (part instanceof Node) node.append(part);
    else if (typeof part === "object") attributes(node, part);
    else node.append(String(part));
  }
  return node;
}

function attributes(node, given) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name in node && !(node instanceof SVGElement) && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
}

/** Replaces what an element holds; nothing is put for null and false. */
export function put(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** Draws at once, or when the pointer leaves: what somebody points at is not taken from under the pointer. */
export function calmly(node, draw) {
  if (!node.childElementCount || !node.matches(":hover")) return draw();
  if (!node.drawLater) node.addEventListener("pointerleave", () => { const last = node.drawLater; node.drawLater = null; last?.(); }, { once: true });
  node.drawLater = draw;
}

export const $ = (selector, within = document) => within.querySelector(selector);

/** JSON of an address; an error of the server is thrown with its own words. */
export async function get(path, parameters) {
  const query = parameters ? "?" + new URLSearchParams(Object.entries(parameters).filter(([, v]) => v !== "" && v !== null && v !== undefined)) : "";
  const answer = await fetch(path + query, { headers: { accept: "application/json" } });
  if (answer.status === 401) {
    location.href = "/enter?to=" + encodeURIComponent(location.pathname + location.search);
    throw new Error("the token is no longer known");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || `${answer.status} ${answer.statusText}`);
  return found;
}

export async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || `${answer.status} ${answer.statusText}`);
  return found;
}

/** A number in at most five characters and a sign; an unknown one is a dash. */
export function short(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value), sign = value < 0 ? "−" : "";
  for (const [unit, name, scale] of [[1e9, "G", 1e9], [1e6, "M", 1e6], [1e4, "k", 1e3]])
    if (size >= unit) return sign + trim((size / scale).toPrecision(3)) + name;
  if (size > 0 && size < 1e-3) return sign + size.toExponential(0).replace("e-", "e−");
  if (size >= 100) return sign + size.toFixed(0);
  return sign + trim(size >= 1 ? size.toPrecision(digits) : size.toFixed(3));
}
const trim = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
export const signed = (value) => (value > 0 ? "+" : "") + short(value);
/** All digits that matter, for arithmetic. */
export const exact = (value) => (value === null || value === undefined ? "unknown" : String(Number(value.toPrecision(7))).replace("-", "−").replace("e−", "e−"));

export function span(seconds) {
  if (!(seconds >= 0)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
export const when = (time) => (time ? new Date(time * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC" : "–");
export const many = (count, one, more = one + "s") => `${Number(count).toLocaleString("en")} ${count === 1 ? one : more}`;
/** A recipe's name; of a file of one's own, without its folder. */
export const recipeName = (recipe) => recipe.split("/").at(-1).replace(/\.py$/, "");
export const words = (name) => String(name).replaceAll("_", " ");

export function link(href, ...children) {
  return h("a", { href, "data-link": "" }, ...children);
}

/** Addresses of the pages. */
export const to = {
  runs: () => "/",
  run: (run) => `/run/${encodeURIComponent(run)}`,
  episodes: (run, filter) => `/run/${encodeURIComponent(run)}/episodes` + (filter ? "?" + new URLSearchParams(filter) : ""),
  iteration: (run, stage, i) => `/run/${encodeURIComponent(run)}/iteration/${encodeURIComponent(stage)}` + (i === null || i === undefined ? "" : `/${i}`),
  episode: (run, key, more) => `/run/${encodeURIComponent(run)}/episode/${key}` + (more ? "?" + new URLSearchParams(more) : ""),
  diff: (run, a, b) => `/run/${encodeURIComponent(run)}/diff/${a}/${b}`,
  compare: (runs) => `/compare?runs=${runs.map(encodeURIComponent).join(",")}`,
};

export function status(name) {
  return h(`span.status.${name}`, name);
}

export function table(head, rows, attributes = {}) {
  return h("div.scroll", h("table", attributes, h("thead", h("tr", head.map((cell) => (cell instanceof Node && cell.tagName === "TH" ? cell : h("th", cell))))), h("tbody", rows)));
}

export function spark(values, width = 110, height = 26) {
  if (!values || values.length < 2) return h("span.quiet", "");
  const low = Math.min(...values), room = Math.max(...values) - low || 1;
  const line = values.map((v, i) => `${(2 + ((width - 4) * i) / (values.length - 1)).toFixed(1)},${(height - 3 - ((height - 6) * (v - low)) / room).toFixed(1)}`).join(" ");
  return h("svg:svg.spark", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, h("svg:polyline.line.c0", { points: line }));
}

export function failed(error) {
  return h("p.error", { role: "alert" }, error.message || String(error));
}
