// Tokens of an episode with all that is recorded of each, and the colours they are seen in.
import { h, short, signed } from "./dom.js";

export const spanKey = (seat, policy, span) => `${seat}\n${policy}\n${span}`;

/** Everything of an episode by token, over the answer of the server. */
export class Book {
  constructor(found) {
    this.episode = found.episode;
    this.spelled = found.spelled;
    this.updates = [...new Set(found.credit.map((row) => row.update))].sort((a, b) => a - b);
    this.credit = new Map();
    for (const row of found.credit) {
      const key = spanKey(row.seat, row.policy, row.span);
      this.credit.set(key, [...(this.credit.get(key) || []), row]);
    }
    this.scale = this.scales(found.credit);
  }

  /** The last row of credit of a span, or that of one update. */
  row(trajectory, span, update = null) {
    const rows = this.credit.get(spanKey(trajectory.seat, trajectory.policy, span)) || [];
    return update === null ? rows.at(-1) : rows.find((row) => row.update === update);
  }

  scales(rows) {
    const most = (read) => Math.max(0, ...rows.map((row) => row.weight.reduce((best, w, i) => { const v = read(row, i); return v === null || v === undefined || Number.isNaN(v) ? best : Math.max(best, Math.abs(v)); }, 0)));
    return {
      advantage: most((row, i) => (row.weight[i] ? row.advantage[i] : null)) || 1,
      gap: Math.max(1e-4, most((row, i) => difference(row.old?.[i], row.behavior?.[i]))),
      entropy: most((row, i) => row.entropy?.[i]) || 1,
      weight: most((row, i) => row.weight[i]) || 1,
      logprob: 6,
    };
  }

  /** The tokens of one span. */
  tokens(t, index, turn = null) {
    const trajectory = this.episode.trajectories[t], span = trajectory.spans[index], texts = this.spelled[t]?.[index], row = this.row(trajectory, index);
    const at = (name, i) => (row?.[name] === null || row?.[name] === undefined ? null : row[name][i]);
    return span.ids.map((id, i) => ({
      t, span: index, i, id, text: texts ? texts[i] : null, sampled: span.sampled, version: span.version, turn, row,
      support: span.support?.[i]?.length ? span.support[i].length : null,
      behavior: span.logprobs ? span.logprobs[i] : null, old: at("old", i), advantage: at("advantage", i), weight: at("weight", i),
      reference: at("reference", i), entropy: at("entropy", i), clipped: at("clipped", i), present: at("present", i), push: at("push", i),
    }));
  }

  /** The tokens that a turn wrote. */
  written(t, turn) {
    return turn.spans.flatMap((index) => this.tokens(t, index, turn));
  }

  /** The spans from the root down to one. */
  path(t, span) {
    const found = [], spans = this.episode.trajectories[t].spans;
    for (let i = span; i >= 0; i = spans[i].parent) found.push(i);
    return found.reverse();
  }
}

const difference = (a, b) => (a === null || a === undefined || b === null || b === undefined ? null : a - b);

/** name, what it is called, what it means, and token -> [depth 0..1, hue] or null where nothing is known. */
export const MODES = [
  ["advantage", "Advantage", "orange: worse than expected, blue: better", (x, s) => (x.weight && x.advantage !== null ? [Math.abs(x.advantage) / s.advantage, x.advantage < 0 ? "worse" : "good"] : null), (s) => [["worse", signed(-s.advantage)], ["good", signed(s.advantage)]]],
  ["logprob", "Log-probability", "the darker, the less likely when it was drawn", (x, s) => { const v = x.behavior ?? x.old; return v === null || v === undefined ? null : [-v / s.logprob, "c3"]; }, (s) => [["c3", `−${s.logprob} or less`]]],
  ["gap", "Gap sampler / learner", "learner's log-probability minus the sampler's", (x, s) => { const v = difference(x.old, x.behavior); return v === null ? null : [Math.abs(v) / s.gap, v < 0 ? "worse" : "good"]; }, (s) => [["worse", signed(-s.gap)], ["good", signed(s.gap)]]],
  ["clip", "Clip", "red: the clip took its gradient away", (x) => (x.clipped === null || x.clipped === undefined ? null : x.clipped ? [1, "bad"] : [0.25, "c2"]), () => [["bad", "clipped"], ["c2", "not clipped"]]],
  ["mask", "Mask", "green: trained; hatched: written and not trained", (x) => (x.weight ? [0.6, "c2"] : null), () => [["c2", "trained"]]],
  ["entropy", "Entropy", "how open the choice was, in nats", (x, s) => (x.entropy === null || x.entropy === undefined ? null : [x.entropy / s.entropy, "c5"]), (s) => [["c5", short(s.entropy)]]],
  ["weight", "Weight", "what multiplies its term of the loss", (x, s) => (x.weight ? [Math.abs(x.weight) / s.weight, "c6"] : null), (s) => [["c6", short(s.weight)]]],
];

const SPECIAL = /^<\|?[^<>\n]{1,40}\|?>$/;

/** A token as an element; pick is called when it is chosen. */
export function tokenElement(token, mode, scale, pick) {
  const node = h("span.tok", { role: "button", "aria-label": null, onclick: (event) => { event.stopPropagation(); pick(token, node); } });
  if (token.text === null) node.classList.add("square");
  else node.append(token.text === "" ? "·" : token.text.replaceAll("\n", "⏎\n").replaceAll("\t", "→\t"));
  if (token.text !== null && SPECIAL.test(token.text)) node.classList.add("special");
  node.token = token;
  paint(node, mode, scale);
  return node;
}

export function paint(node, mode, scale) {
  const token = node.token, found = MODES.find(([name]) => name === mode);
  const value = found && token.sampled !== null ? found[3](token, scale) : null;
  node.classList.toggle("idle", token.turn !== null && !value);
  node.style.setProperty("--depth", value ? `${Math.round(100 * Math.min(1, Math.max(0.04, value[0])))}%` : "0%");
  node.style.setProperty("--hue", value ? `var(--${value[1]})` : "transparent");
}

export function modeLegend(mode, scale) {
  const found = MODES.find(([name]) => name === mode);
  if (!found) return h("span.quiet", "no colour");
  return h("span.mode-legend", h("span.quiet", found[2]), found[4](scale).map(([hue, text]) => h("span", h("i", { "--hue": `var(--${hue})` }), text)));
}
