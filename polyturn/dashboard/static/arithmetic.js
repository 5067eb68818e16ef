// The arithmetic of one token's weight: channels, normalisation, accumulation, mask, clip, weight.
import { exact, h, link, many, short, signed, to } from "./dom.js";

export function arithmetic(token, book, found) {
  const row = token.row;
  if (!token.turn) return [h("p.notice", "Nobody wrote this token: it was fed to the model, so it has no weight.")];
  if (!row) return [h("h3", "Weight"), h("p.notice", notInAnUpdate(token, book, found))];
  const step = (name, ...said) => h("li", h("h4", name), ...said);
  const turn = token.turn;
  return [
    h("h3", "How its weight came about"),
    h("p.quiet", `stage ${row.stage}, iteration ${row.iteration}, update ${row.update}${row.version === null ? "" : `, by weights of version ${row.version}`}${row.waiver ? ` · waived: ${row.waiver}` : ""}`),
    h("ol.steps",
      step("Paid", channels(turn, book, token, found)),
      step("Advantage", h("p", "A = ", h("b", exact(token.advantage)))),
      step("Mask", h("p", mask(token, turn))),
      step("Clip", h("p", clip(token, row))),
      step("Weight", h("p", "w = ", h("b", exact(token.weight)), token.weight ? h("span.quiet", ` = 1 / ${short(1 / token.weight, 5)}`) : null), h("p.quiet", token.weight && token.advantage !== null ? `its term of the loss, without clip: −w · r · A = ${exact(-token.weight * token.advantage)} · r` : "no part in the gradient"))),
  ];
}

function notInAnUpdate(token, book, found) {
  const trajectory = book.episode.trajectories[token.t], root = trajectory.seat.split("/")[0];
  if (!token.sampled && !book.credit.size) return "A script wrote this token, and no update held it.";
  if (!book.episode.train.includes(root)) return `Seat ${root} does not learn in this episode, so its tokens are in no update.`;
  if (book.episode.stop.kind === "error") return "The episode ended in an error, and such an episode is never trained.";
  if (token.turn.branch) return "The turn was sampled while searching, in a branch, and is not trained.";
  return "No update held this token: its group was filtered out, the iteration has not reached its update, or the run did not train on it.";
}

function channels(turn, book, token, found) {
  const seat = book.episode.trajectories[token.t].seat, scores = Object.entries(book.episode.scores).flatMap(([name, seats]) => (seats[seat] ? [[name, seats[seat].value]] : []));
  const paid = Object.entries(turn.rewards);
  const members = found.members.filter((m) => m.score !== null);
  return [
    h("p", paid.length ? paid.map(([name, value]) => h("span.chip", `${name} at this turn `, h("b", signed(value)))) : h("span.quiet", "nothing was paid at this turn itself")),
    scores.length ? h("p", scores.map(([name, value]) => h("span.chip", `${name} of the episode `, h("b", value === null ? "abstained" : exact(value))))) : null,
    members.length > 1 ? h("p.quiet", `scores of its group: ${members.map((m) => short(m.score)).join(", ")}; mean ${short(members.reduce((sum, m) => sum + m.score, 0) / members.length)}`) : null,
  ];
}

function mask(token, turn) {
  if (turn.dropped) return `The turn was taken back (${turn.dropped}): weight zero.`;
  if (!token.weight && token.advantage === 0) return "Its advantage is zero, and the rule spares such tokens: weight zero, the same gradient.";
  return token.weight ? "Sampled by the policy that learns, its turn kept, its trajectory scored: it counts." : "It was in the update with weight zero.";
}

function clip(token, row) {
  if (token.clipped === null || token.clipped === undefined) return "The record does not say whether it was clipped; at the first update on a batch the ratio is 1 and nothing is.";
  return token.clipped ? "The clip took its gradient away." : "Not clipped.";
}
