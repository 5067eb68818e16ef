// The arithmetic of one token's weight, from what was recorded: channels, normalisation, accumulation, mask, clip, weight.
import { exact, h, many, short, signed } from "./dom.js";

export function arithmetic(token, book, found) {
  const row = token.row;
  if (!token.turn) return [h("p.notice", "Nobody wrote this token: it was fed to the model, so it has no weight.")];
  if (!row) return [h("h3", "Weight"), h("p.notice", notInAnUpdate(token, book))];
  const rule = row.rule_json ? JSON.parse(row.rule_json) : null, steps = row.steps_json ? JSON.parse(row.steps_json) : [];
  const list = h("ol.steps");
  const step = (name, ...said) => list.append(h("li", h("h4", name), ...said));
  for (const one of steps) if (told(one, steps, token)) step(...stageOf(one, token, found));
  if (!steps.length) step("Paid", ...paid(token, book, found));
  const last = steps.length ? at(steps.at(-1).out, place(token)) : null;
  const further = last !== null && token.advantage !== null && Math.abs(last - token.advantage) > 1e-9 * Math.max(1, Math.abs(last));
  step("Advantage", h("p.formula", `A = ${exact(token.advantage)}`), rule?.advantage ? h("p.quiet.mono", rule.advantage) : null,
    further ? h("p.quiet", `The stages that were told end at ${exact(last)}; what the rule did beyond them, or a turn without credit, makes the rest.`) : null);
  step("Mask", h("p", mask(token, rule)));
  step("Weight", h("p.formula", `w = ${exact(token.weight)}${token.weight ? ` = 1 / ${short(1 / token.weight, 6)}` : ""}`), rule?.weighting ? h("p.quiet.mono", rule.weighting) : null);
  step("Clip", ...clip(token, rule));
  step("Push", ...push(token, rule));
  const update = book.updates.length > 1 ? `update ${row.update} (of ${many(book.updates.length, "update")} that held this episode)` : `update ${row.update}`;
  return [h("h3", "How its weight came about"), h("p.quiet", `stage ${row.stage}, iteration ${row.iteration}, ${update}${row.version === null ? "" : `, weights of version ${row.version}`}${row.waiver ? ` · waived: ${row.waiver}` : ""}`), list];
}

const place = (token) => token.i;
/** A number of a stage: its own, or that of the token where the stage is by token. */
const at = (value, i) => (Array.isArray(value) ? value[i] ?? null : value);

/** A root inherits from itself: nothing to say. */
function told(one, steps) {
  if (one.stage !== "inherit") return true;
  const before = steps[steps.indexOf(one) - 1];
  return !before || JSON.stringify(before.out) !== JSON.stringify(one.out);
}

function stageOf(one, token, found) {
  const i = place(token), out = at(one.out, i), value = at(one.value, i);
  if (one.stage === "channels") {
    const parts = Object.entries(one).filter(([name]) => name.startsWith("paid "));
    return ["Channels", h("p.formula", parts.length ? `R = ${parts.map(([name, v]) => `${name.slice(5)} ${exact(v)}`).join(" + ")}${parts.length > 1 ? ` = ${exact(out)}` : ""}` : `R = ${exact(out)}`)];
  }
  if (one.stage === "normalise") return [`Normalise by ${one.unit}, within equal ${one.key.join(" and ")}`, ...normalised(one, out, value, found)];
  if (one.stage === "accumulate") return [`Accumulate by ${one.unit}`, ...accumulated(one, out, value, i)];
  if (one.stage === "inherit") return ["Inherit", h("p.formula", `A = ${exact(out)}`), h("p.quiet", one.root ? `from its root seat ${one.root}` : `from the turn that it served (${one.served})`)];
  if (one.stage === "scale") return [`Scale within equal ${one.key.join(" and ")}`, h("p.formula", `${exact(value)} / ${exact(at(one.divisor, i))} = ${exact(out)}`)];
  return [one.stage, h("p.formula", JSON.stringify(one))];
}

function normalised(one, out, value, found) {
  const divisor = one.divisor ?? 1, alone = one.count !== undefined && one.count < 1.5;
  const scores = one.key.includes("group") ? found.members.filter((m) => m.score !== null) : [];
  const how = { mean: "mean of the set", leave_one_out: "mean of the others", none: "nothing", "running baseline": "running baseline" }[one.by] || one.by;
  return [
    h("p.formula", alone ? `only one in its set: ${exact(out)}` : `(${exact(value)} − ${exact(one.centre)})${divisor === 1 ? "" : ` / ${exact(divisor)}`} = ${exact(out)}`),
    h("p.quiet", `${exact(one.centre)} is the ${how}`, one.count === undefined ? "" : ` of ${short(one.count)}`, divisor === 1 ? (one.scale && one.scale !== "none" ? "; all in the set are equal, so nothing is divided" : "") : `; ${exact(divisor)} its ${words(one.scale)} deviation${one.epsilon ? ` + ${one.epsilon}` : ""}`, one.alpha !== undefined ? ` (alpha ${one.alpha}, moved by ${one.order})` : "", "."),
    scores.length > 1 ? h("p.quiet", `scores of the group: ${scores.map((m) => short(m.score)).join(", ")}`) : null,
  ];
}
const words = (name) => ({ root_mean_square: "root mean square", sample: "sample", population: "population" })[name] || name;

function accumulated(one, out, value, i) {
  if (one.left !== undefined) return [h("p.formula", `${exact(value)} · ${one.gamma}^${one.left} = ${exact(out)}`), h("p.quiet", `${many(one.left, "turn")} of its own came after this one.`)];
  const lambda = one.lambda_ === undefined || one.lambda_ === 1 ? "" : `, lambda ${one.lambda_}`;
  const v = value === null || value === undefined || value === 0 ? "" : ` against the value ${exact(value)} read before it`;
  const paidHere = one.paid === undefined ? "" : `${exact(one.paid)} paid here, and `;
  return [h("p.formula", `${exact(out)}`), h("p.quiet", `${paidHere}what came later, discounted by gamma ${one.gamma}${lambda}${v}.`)];
}

function notInAnUpdate(token, book) {
  const trajectory = book.episode.trajectories[token.t], root = trajectory.seat.split("/")[0];
  if (!token.sampled && !book.credit.size) return "A script wrote this token, and no update held it.";
  if (!book.episode.train.includes(root)) return `Seat ${root} does not learn in this episode, so its tokens are in no update.`;
  if (book.episode.stop.kind === "error") return "The episode ended in an error, and such an episode is never trained.";
  if (token.turn.branch) return "The turn was sampled while searching, in a branch, and is not trained.";
  return "No update held this token: its group was filtered out, the iteration has not reached its update, or the run did not train on it.";
}

/** For records that tell no stages: what was paid, and the scores of the group. */
function paid(token, book, found) {
  const turn = token.turn, seat = book.episode.trajectories[token.t].seat;
  const scores = Object.entries(book.episode.scores).flatMap(([name, seats]) => (seats[seat] ? [[name, seats[seat].value]] : []));
  const rewards = Object.entries(turn.rewards), members = found.members.filter((m) => m.score !== null);
  return [
    h("p", rewards.map(([name, value]) => h("span.chip", `${name} at this turn `, h("b", signed(value)))), scores.map(([name, value]) => h("span.chip", `${name} of the episode `, h("b", value === null ? "abstained" : exact(value))))),
    members.length > 1 ? h("p.quiet", `scores of its group: ${members.map((m) => short(m.score)).join(", ")}`) : null,
    h("p.quiet", "This record does not tell by which stages the advantage came about."),
  ];
}

function mask(token, rule) {
  if (token.turn.dropped) return `The turn was taken back (${token.turn.dropped}): weight zero.`;
  if (token.weight) return "Counts: written by the policy that learns, its turn kept, its trajectory scored.";
  if (token.advantage === 0 && rule?.proportional) return "Its advantage is zero and the loss is proportional to it: weight zero spares the computation and changes no gradient.";
  return "Weight zero: its trajectory was not scored or broke, or the weighting leaves it out.";
}

function clip(token, rule) {
  const bounds = rule?.clip, several = token.present !== null;
  const ratio = several && token.old !== null ? Math.exp(token.present - token.old) : null;
  const range = bounds ? `${short(1 - (bounds.clip_low ?? 1), 5)} to ${bounds.clip_high === null || bounds.clip_high === undefined ? "any" : short(1 + bounds.clip_high, 5)}` : null;
  const said = [];
  if (ratio !== null) said.push(h("p.formula", `r = exp(${exact(token.present)} − ${exact(token.old)}) = ${exact(ratio)}`));
  if (!rule) return [h("p", "The record does not say by which loss.")];
  if (!bounds) return [...said, h("p", "The loss has no clip that is known.")];
  if (!several) said.push(h("p", `r = 1: the batch is used for one step, by weights that had not moved. Allowed is ${range}.`));
  else said.push(h("p", token.clipped ? `Outside ${range} on the side that its advantage pushes to: the clip took its gradient away.` : `Not clipped; allowed is ${range}.`));
  return said;
}

function push(token, rule) {
  if (!token.weight) return [h("p", "No part in the gradient.")];
  if (token.push === null || token.push === undefined) return [h("p.formula", `−w · A = ${exact(-token.weight * token.advantage)}`), h("p.quiet", "at ratio 1, by the policy gradient; the record does not hold what the loss made of it")];
  const ratio = token.present !== null && token.old !== null ? Math.exp(token.present - token.old) : 1;
  const plain = -token.weight * ratio * token.advantage, same = Math.abs(plain - token.push) <= 1e-4 * Math.abs(plain) + 1e-12;
  const way = token.push < 0 ? "more likely" : token.push > 0 ? "less likely" : "neither more nor less likely";
  return [
    h("p.formula", same ? `−w · r · A = ${exact(token.push)}` : `dL / d log p = ${exact(token.push)}`),
    same || token.clipped ? null : h("p.quiet", `the policy gradient alone would be −w · r · A = ${exact(plain)}; further terms of the loss, or another kind of loss, make the rest`),
    h("p.quiet", `the derivative of the loss by its log-probability, before the gradient's norm is clipped: the step makes the token ${way}.`),
    rule?.loss ? h("p.quiet.mono", rule.loss) : null,
  ];
}
