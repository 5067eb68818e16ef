// Two episodes of a group side by side, from their first difference on.
import { get, h, link, many, put, short, to } from "./dom.js";
import { Book, MODES, modeLegend, paint, tokenElement } from "./tokens.js";
import { messageBlock } from "./episode.js";
import { messageParts } from "./message.js";

/** A trajectory as items in reading order: what the seat was told, what it replied. */
function items(book, t) {
  const trajectory = book.episode.trajectories[t], seen = new Set(), found = [];
  for (const turn of trajectory.turns.filter((x) => !x.branch)) {
    for (const index of turn.prompt) if (!seen.has(index)) found.push({ kind: "told", message: trajectory.messages[index] });
    for (const index of [...turn.prompt, turn.reply]) seen.add(index);
    found.push({ kind: "reply", message: trajectory.messages[turn.reply], turn, tokens: book.written(t, turn) });
  }
  return found;
}

const said = (item) => JSON.stringify([item.kind, item.message.role, item.message.parts, item.message.calls.map((c) => [c.name, c.raw]), item.kind === "reply" && item.tokens.length ? item.tokens.map((x) => x.id) : null]);

/** How many items at the beginning are equal, and in the first reply that differs how many tokens. */
export function firstDifference(a, b) {
  let same = 0;
  while (same < a.length && same < b.length && said(a[same]) === said(b[same])) same++;
  const [x, y] = [a[same], b[same]];
  let tokens = 0;
  if (x?.kind === "reply" && y?.kind === "reply") while (tokens < x.tokens.length && tokens < y.tokens.length && x.tokens[tokens].id === y.tokens[tokens].id) tokens++;
  return { same, tokens };
}

export async function diffPage(context, run, first, second) {
  context.run = run;
  const found = await Promise.all([first, second].map((key) => get(`/api/run/${run}/episode/${key}`)));
  const books = found.map((f) => new Book(f));
  context.trail({ text: run, href: to.run(run) }, { text: found[0].episode.group || "two episodes", href: found[0].row?.iteration !== null && found[0].row ? to.iteration(run, found[0].row.stage, found[0].row.iteration) : to.episode(run, found[0].key) }, { text: "side by side" });
  const seats = books[0].episode.trajectories.map((t) => [t.seat, t.policy]);
  let seat = context.parameters.get("seat") || seats.find(([name]) => books[0].episode.train.includes(name.split("/")[0]))?.[0] || seats[0]?.[0];
  let whole = false, mode = context.parameters.get("colour") || (books.some((b) => b.credit.size) ? "advantage" : "logprob");
  const area = h("div");
  const draw = () => {
    const at = books.map((b) => b.episode.trajectories.findIndex((t) => t.seat === seat));
    if (at.some((i) => i < 0)) return put(area, h("p.notice", `Seat ${seat} did not speak in both.`));
    const lists = books.map((b, i) => items(b, at[i])), { same, tokens } = firstDifference(...lists);
    const scale = books[0].scale.advantage > books[1].scale.advantage ? books[0].scale : books[1].scale;
    const rows = [];
    const most = Math.max(...lists.map((l) => l.length));
    for (let i = whole ? 0 : same; i < most; i++) rows.push(h(`div.pair${i === same ? ".first" : ""}`, lists.map((list) => (list[i] ? itemNode(list[i], run, i === same ? tokens : null) : h("div.message.gone", h("span.quiet", "ended before"))))));
    const shared = lists[0].slice(0, same), written = shared.reduce((n, x) => n + (x.tokens?.length || 0), 0);
    put(area, 
      h("p.shared", same === most ? "Both are equal to the last token." : same ? `${many(same, "message")} alike, ${many(written, "written token")} of them` : "They differ from the first message on", tokens ? `; then ${many(tokens, "token")} of the reply.` : ".", same ? h("button.plain", { onclick: () => { whole = !whole; draw(); } }, whole ? "Hide what is alike" : "Show what is alike") : null),
      h("div.pairs-head", found.map((f) => h("div", link(to.episode(run, f.key), f.episode.id), f.row?.score !== null && f.row ? h("span.chip", "score ", h("b", short(f.row.score))) : null, h("span.chip", f.episode.stop.kind, f.episode.stop.reason ? `: ${f.episode.stop.reason}` : "")))), ...rows);
    for (const node of area.querySelectorAll(".tok")) paint(node, mode, scale);
    put(legend, modeLegend(mode, scale));
  };
  const legend = h("span");
  const modes = h("div.modes", { role: "group", "aria-label": "Colour of the tokens" }, MODES.map(([name, title]) => h("button", { "aria-pressed": String(name === mode), onclick: (event) => { mode = name; for (const b of modes.children) b.setAttribute("aria-pressed", String(b === event.target)); draw(); } }, title)));
  const choose = seats.length > 1 ? h("select", { "aria-label": "Seat", onchange: (event) => { seat = event.target.value; context.remember({ seat }); draw(); } }, seats.map(([name]) => h("option", { value: name, selected: name === seat }, name))) : null;
  draw();
  context.show(h("div.head", h("h1", found[0].episode.task.id || "Two episodes"), h("span.grow"), choose), h("div.toolbar", modes, legend), area);
  MODES.forEach(([name], i) => (context.keys[String(i + 1)] = () => modes.children[i].click()));
}

function itemNode(item, run, differsAt) {
  if (item.kind === "told") return messageBlock(item.message, run);
  const spelled = item.tokens.length && item.tokens.every((x) => x.text !== null);
  const nodes = item.tokens.map((token, i) => {
    const node = tokenElement(token, null, null, () => {});
    if (i === differsAt) node.classList.add("differs");
    return node;
  });
  const trained = item.tokens.filter((x) => x.weight);
  const advantage = trained.length ? trained.reduce((sum, x) => sum + x.advantage, 0) / trained.length : null;
  return h("div.message.reply", h("span.role", "reply"), spelled ? h("div.text.tokens-text", nodes) : [messageParts(item.message, run), h("div.squares", nodes)], h("div.facts", advantage === null ? null : h("span", "advantage ", h("b", short(advantage))), h("span.quiet", many(item.tokens.length, "token"))));
}
