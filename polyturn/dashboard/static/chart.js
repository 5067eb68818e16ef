// Curves with bands over iterations, with a crosshair that names the values; a click or Enter picks an iteration.
import { h, put, short } from "./dom.js";

const LEFT = 42, RIGHT = 12, TOP = 20, BOTTOM = 24;

/** Round numbers around low..high, about count steps of 1, 2 or 5 times a power of ten. */
export function ticks(low, high, count = 4) {
  if (low === 0 && high === 1) return [0, 0.25, 0.5, 0.75, 1];
  if (high - low <= 1e-12 * Math.max(Math.abs(low), Math.abs(high))) {
    const room = Math.abs(low) * 0.1 || 1;
    [low, high] = [low ? low - room : low, high + room];
  }
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= rough * (1 - 1e-9));
  const found = [];
  for (let i = Math.floor(low / step + 1e-9); i <= Math.ceil(high / step - 1e-9); i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

/**
 * curves: [{name, colour, dashed, parts: [[{x, y, low, high, note}]]}]; marks: [{x, label}] where stages begin.
 * xName(x) names an iteration; pick(x) opens it.
 */
export function chart({ curves, marks = [], label, yRange = null, xName = String, pick = null, height = 190 }) {
  const box = h("div.chart", { tabindex: pick ? "0" : null, role: "img", "aria-label": label });
  let width = 0;
  const draw = () => {
    const now = Math.round(box.clientWidth);
    if (!now || now === width) return;
    width = now;
    put(box, ...picture({ curves, marks, yRange, xName, pick, width, height }, box));
  };
  new ResizeObserver(draw).observe(box);
  return box;
}

function picture(given, box) {
  const { curves, marks, width, height } = given;
  const points = curves.flatMap((c) => c.parts.flat()).filter((p) => p.y !== null && p.y !== undefined);
  if (!points.length) return [h("p.quiet.empty", "nothing recorded yet")];
  const ends = points.flatMap((p) => [p.y, p.low, p.high]).filter((v) => v !== null && v !== undefined && Number.isFinite(v));
  const yTicks = ticks(...(given.yRange || [Math.min(...ends), Math.max(...ends)]));
  const xLow = Math.min(...points.map((p) => p.x)), xHigh = Math.max(...points.map((p) => p.x), xLow + 1);
  const [yLow, yHigh] = [yTicks[0], yTicks.at(-1)];
  const X = (v) => LEFT + ((v - xLow) / (xHigh - xLow)) * (width - LEFT - RIGHT);
  const Y = (v) => height - BOTTOM - Math.min(Math.max((v - yLow) / (yHigh - yLow), 0), 1) * (height - TOP - BOTTOM);
  const svg = h("svg:svg", { viewBox: `0 0 ${width} ${height}`, width, height });
  for (const v of yTicks) svg.append(h("svg:line.grid", { x1: LEFT, x2: width - RIGHT, y1: Y(v), y2: Y(v) }), h("svg:text.tick", { x: LEFT - 7, y: Y(v) + 3.5, "text-anchor": "end" }, short(v)));
  const inside = ticks(xLow, xHigh, Math.max(2, Math.floor(width / 110))).filter((v) => v >= xLow && v <= xHigh && Number.isInteger(v));
  for (const v of inside) svg.append(h("svg:text.tick", { x: X(v), y: height - 7, "text-anchor": "middle" }, v));
  let free = -Infinity;
  const begun = marks.filter(({ x }) => x <= xLow).slice(-1).map(({ label }) => ({ x: xLow, label }));
  for (const { x, label } of [...begun, ...marks.filter(({ x }) => x > xLow && x <= xHigh)]) {
    if (x > xLow) svg.append(h("svg:line.stage", { x1: X(x), x2: X(x), y1: TOP - 6, y2: height - BOTTOM }));
    if (Math.min(X(x), width - 4 - label.length * 6.4) >= free) {
      const long = label.length * 6.4, room = width - 4 - X(x) > long;
      svg.append(h("svg:text.stage-name", { x: room ? X(x) + (x > xLow ? 4 : 0) : width - 4, y: TOP - 9, "text-anchor": room ? "start" : "end" }, label));
      free = X(x) + 8 + long;
    }
  }
  const dots = points.length <= 60;
  for (const curve of curves) svg.append(...line(curve, X, Y, dots));
  const cross = h("svg:g.cross", { visibility: "hidden" });
  svg.append(cross);
  const tip = h("div.chart-tip", { hidden: true });
  hover({ ...given, X, Y, xLow, xHigh, svg, cross, tip }, box);
  return [svg, tip];
}

function line(curve, X, Y, dots) {
  const marks = [];
  for (const part of curve.parts) {
    const banded = part.filter((p) => Number.isFinite(p.low) && Number.isFinite(p.high) && p.low !== null && p.high !== null);
    if (banded.length > 1) {
      const edge = [...banded.map((p) => `${X(p.x).toFixed(1)},${Y(p.high).toFixed(1)}`), ...banded.toReversed().map((p) => `${X(p.x).toFixed(1)},${Y(p.low).toFixed(1)}`)];
      marks.push(h(`svg:polygon.band.c${curve.colour}`, { points: edge.join(" ") }));
    }
    const known = part.filter((p) => p.y !== null && p.y !== undefined);
    marks.push(h(`svg:polyline.line.c${curve.colour}${curve.dashed ? ".dashed" : ""}`, { points: known.map((p) => `${X(p.x).toFixed(1)},${Y(p.y).toFixed(1)}`).join(" ") }));
    if (dots || known.length < 3) for (const p of known) marks.push(h(`svg:circle.dot.c${curve.colour}`, { cx: X(p.x), cy: Y(p.y), r: known.length <= 2 ? 3 : 1.8 }));
  }
  return marks;
}

function hover({ curves, X, Y, xLow, xHigh, svg, cross, tip, xName, pick, width, height }, box) {
  const xs = [...new Set(curves.flatMap((c) => c.parts.flat().map((p) => p.x)))].sort((a, b) => a - b);
  let at = null;
  const show = (x) => {
    at = x;
    put(cross, h("svg:line.hair", { x1: X(x), x2: X(x), y1: TOP, y2: height - BOTTOM }));
    const rows = [];
    for (const curve of curves) {
      const p = curve.parts.flat().find((q) => q.x === x);
      if (!p || p.y === null || p.y === undefined) continue;
      cross.append(h(`svg:circle.dot.big.c${curve.colour}`, { cx: X(x), cy: Y(p.y), r: 4 }));
      const band = p.low !== null && p.low !== undefined ? ` (${short(p.low)} to ${short(p.high)})` : "";
      rows.push(h("div", h(`i.c${curve.colour}`), curve.name ? `${curve.name} ` : "", h("b", short(p.y)), h("span.quiet", band + (p.note ? `, ${p.note}` : ""))));
    }
    put(tip, h("div.chart-tip-head", xName(x)), ...rows);
    tip.hidden = false;
    cross.setAttribute("visibility", "visible");
    const left = X(x) > width / 2 ? X(x) - tip.offsetWidth - 12 : X(x) + 12;
    tip.style.setProperty("left", `${Math.max(0, Math.min(left, width - tip.offsetWidth))}px`);
  };
  const hide = () => {
    tip.hidden = true;
    cross.setAttribute("visibility", "hidden");
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const x = xLow + ((event.clientX - box.left - LEFT) / (width - LEFT - RIGHT)) * (xHigh - xLow);
    return xs.reduce((best, v) => (Math.abs(v - x) < Math.abs(best - x) ? v : best), xs[0]);
  };
  svg.addEventListener("pointermove", (event) => show(nearest(event)));
  svg.addEventListener("pointerleave", hide);
  box.onblur = hide;
  if (!pick) return;
  svg.classList.add("picks");
  svg.addEventListener("click", (event) => pick(nearest(event)));
  box.onkeydown = (event) => {
    const i = xs.indexOf(at);
    if (event.key === "ArrowRight") show(xs[Math.min(i + 1, xs.length - 1)]);
    else if (event.key === "ArrowLeft") show(xs[i < 0 ? xs.length - 1 : Math.max(i - 1, 0)]);
    else if (event.key === "Enter" && at !== null) pick(at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
}

/** A dot and its interval on a line that stands for span. */
export function interval(mean, low, high, span = [0, 1], colour = 0) {
  const place = (v) => 4 + 112 * Math.min(Math.max((v - span[0]) / (span[1] - span[0]), 0), 1);
  const marks = [h("svg:line.grid", { x1: 4, x2: 116, y1: 7, y2: 7 })];
  if (span[0] < 0 && span[1] > 0) marks.push(h("svg:line.stage", { x1: place(0), x2: place(0), y1: 1, y2: 13 }));
  if (low !== null && low !== undefined) marks.push(h(`svg:line.range.c${colour}`, { x1: place(low), x2: place(high), y1: 7, y2: 7 }));
  marks.push(h(`svg:circle.dot.c${colour}`, { cx: place(mean), cy: 7, r: 3.6 }));
  return h("svg:svg.interval", { viewBox: "0 0 120 14", width: 120, height: 14, "aria-hidden": "true" }, marks);
}

export function legend(curves) {
  return h("div.legend", curves.map((c) => h("span", h(`i.c${c.colour}${c.dashed ? ".dashed" : ""}`), words(c.name))));
}
const words = (name) => name.replaceAll("_", " ");
