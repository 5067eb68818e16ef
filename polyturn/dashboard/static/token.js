// One token: what is known of it, and how its weight came about, from what was recorded.
import { exact, h, put, short, signed } from "./dom.js";
import { arithmetic } from "./arithmetic.js";

export function inspector(book, run, found, closed) {
  const body = h("div.panel-body");
  const node = h("aside.panel.waiting", { "aria-label": "Token" }, h("button.plain.close", { "aria-label": "Close", onclick: () => close() }, "×"), body);
  const wait = () => {
    node.classList.add("waiting");
    put(body, h("p", "Choose a token: what is known of it, and how its weight came about."));
  };
  function close() {
    if (node.classList.contains("waiting")) return;
    wait();
    closed();
  }
  wait();
  function show(token) {
    node.classList.remove("waiting");
    put(body, ...facts(token, book), ...arithmetic(token, book, found));
    body.scrollTop = 0;
  }
  return { node, show, close };
}

function facts(token, book) {
  const trajectory = book.episode.trajectories[token.t];
  const gap = token.old !== null && token.behavior !== null ? token.old - token.behavior : null;
  const row = (name, value, note) => (value === null || value === undefined ? null : h("div.fact", h("dt", name), h("dd", h("b", value), note ? h("small.quiet", note) : null)));
  const chance = (value) => (value === null || value === undefined ? null : `probability ${(100 * Math.exp(value)).toPrecision(3)} %`);
  return [
    h("h2.token-title", h("code", token.text === null ? `#${token.id}` : JSON.stringify(token.text)), h("span.quiet", ` id ${token.id}`)),
    h("p.quiet", `${trajectory.seat} · ${trajectory.policy}${token.turn ? ` · turn at ${token.turn.at}` : ""} · span ${token.span}, token ${token.i + 1} of ${trajectory.spans[token.span].ids.length}${token.sampled ? ` · written by version ${token.version}` : token.turn ? " · scripted" : " · fed, not written"}`),
    h("dl.token-facts",
      row("log-probability when drawn", token.behavior === null ? null : exact(token.behavior), chance(token.behavior)),
      row("the learner's, before the update", token.old === null ? null : exact(token.old), chance(token.old)),
      row("gap, learner − sampler", gap === null ? null : signed(gap), gap === null ? null : `ratio ${short(Math.exp(gap), 5)}`),
      row("reference", token.reference === null ? null : exact(token.reference), token.reference === null || token.old === null ? null : `learner − reference ${signed(token.old - token.reference)}`),
      row("entropy", token.entropy === null ? null : `${short(token.entropy)} nats`),
      row("mask", token.support, token.support ? "ids were allowed here" : null),
      token.turn ? row("temperature", short(token.turn.sampling.temperature), token.turn.sampling.top_p < 1 ? `top-p ${token.turn.sampling.top_p}` : null) : null),
  ];
}
