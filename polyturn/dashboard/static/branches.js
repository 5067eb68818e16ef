// Where a context was rewritten: a line between turns, and a small map of a trajectory's tree of spans.
import { h, many } from "./dom.js";

/** A line where a turn's prompt does not continue what the turn before ended with; else null. */
export function rewritten(book, seat, path) {
  if (!seat.before.length || !path.length) return null;
  const length = (spans) => spans.reduce((n, s) => n + seat.spans[s].ids.length, 0);
  const left = seat.before.filter((s) => !path.includes(s));
  if (!left.length) return null;
  const shared = seat.before.filter((s) => path.includes(s));
  return h("div.rewritten", { title: "The prompt is no continuation of the turn before: a new branch of the token tree." }, h("span.fork", "↳"), ` context rewritten: keeps ${many(length(shared), "token")}, leaves out ${length(left)}`);
}

/** The tree: depth in tokens to the right, a lane for each branch; written spans are solid. Null without branches. */
export function contextMap(book, t) {
  const trajectory = book.episode.trajectories[t], spans = trajectory.spans;
  if (spans.length < 2) return null;
  const start = [], children = spans.map(() => []);
  spans.forEach((span, i) => {
    start.push(span.parent < 0 ? 0 : start[span.parent] + spans[span.parent].ids.length);
    if (span.parent >= 0) children[span.parent].push(i);
  });
  const roots = spans.flatMap((s, i) => (s.parent < 0 ? [i] : []));
  const lane = spans.map(() => 0);
  let lanes = 0;
  const put = (i, at) => {
    lane[i] = at;
    children[i].forEach((child, k) => put(child, k ? ++lanes : at));
  };
  roots.forEach((root, k) => put(root, k ? ++lanes : 0));
  if (!lanes) return null;
  const end = Math.max(...spans.map((s, i) => start[i] + s.ids.length), 1), width = 260, row = lanes > 12 ? 5 : 9, height = (lanes + 1) * row + 4;
  const X = (n) => 2 + ((width - 4) * n) / end, Y = (k) => 3 + k * row + row / 2;
  const owner = new Map(trajectory.turns.flatMap((turn) => turn.spans.map((s) => [s, turn])));
  const marks = spans.flatMap((span, i) => {
    const [x1, x2, y] = [X(start[i]), Math.max(X(start[i] + span.ids.length), X(start[i]) + 1.5), Y(lane[i])];
    const rise = span.parent >= 0 && lane[span.parent] !== lane[i] ? [h("svg:line.rise", { x1, x2: x1, y1: Y(lane[span.parent]), y2: y })] : [];
    const turn = owner.get(i);
    const line = h(`svg:line${span.sampled ? ".wrote" : ".fed"}${turn?.dropped ? ".dropped" : ""}`, { x1, x2, y1: y, y2: y }, h("svg:title", turn ? `turn at ${turn.at}: ${many(span.ids.length, "token")}` : many(span.ids.length, "token")));
    if (turn) {
      line.classList.add("pick");
      line.addEventListener("click", () => document.getElementById(`turn-${turn.at}`)?.scrollIntoView({ block: "center", behavior: "smooth" }));
    }
    return [...rise, line];
  });
  return h("figure.map", h("svg:svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `Token tree with ${lanes + 1} branches` }, marks), h("figcaption", `${lanes + 1} branches of context, ${end} tokens deep`));
}
