// An episode as people read dialogues: seats side by side, what each was told and wrote, every token to be asked.
import { $, get, h, link, many, put, short, signed, span as time, status, to, when, words } from "./dom.js";
import { Book, MODES, modeLegend, paint, tokenElement } from "./tokens.js";
import { inspector } from "./token.js";
import { eventLine, messageParts } from "./message.js";
import { contextMap, rewritten } from "./branches.js";

const kept = { mode: "advantage", exact: false };

export async function episodePage(context, run, name) {
  context.run = run;
  const found = await get(`/api/run/${run}/episode/${name}`);
  const episode = found.episode, book = new Book(found);
  const key = found.key, members = found.members, place = members.findIndex((m) => m.key === key);
  context.trail({ text: run, href: to.run(run) }, ...(found.row?.iteration !== null && found.row ? [{ text: `${found.row.stage} ${found.row.iteration}`, href: to.iteration(run, found.row.stage, found.row.iteration) }] : [{ text: "episodes", href: to.episodes(run) }]), { text: episode.id });
  const open = (address, more) => import("./app.js").then((app) => app.open(address, more));
  kept.mode = context.parameters.get("colour") || (book.credit.size ? kept.mode : "logprob");
  kept.exact = context.parameters.has("exact") ? true : kept.exact;
  const panel = inspector(book, run, found, () => { remember({ token: "" }); mark(null); });
  const stage = h("div.stage-area");
  let chosen = null;

  const remember = (more) => {
    const now = Object.fromEntries(context.parameters);
    context.remember({ ...now, colour: kept.mode === "advantage" ? "" : kept.mode, exact: kept.exact ? "1" : "", ...more });
  };
  function mark(node) {
    chosen?.classList.remove("chosen");
    chosen = node;
    chosen?.classList.add("chosen");
  }
  function pick(token, node) {
    mark(node);
    panel.show(token);
    remember({ turn: token.turn ? String(token.turn.at) : "", token: `${token.t}.${token.span}.${token.i}` });
  }
  function recolour(mode) {
    kept.mode = mode;
    remember({});
    for (const node of stage.querySelectorAll(".tok")) paint(node, mode, book.scale);
    bar.replaceWith((bar = toolbar()));
  }
  function toolbar() {
    return h("div.toolbar", h("div.modes", { role: "group", "aria-label": "Colour of the tokens" }, MODES.map(([name, title], i) => h("button", { "aria-pressed": String(name === kept.mode), title: `${title} (${i + 1})`, onclick: () => recolour(name) }, title))),
      h("button.exact", { "aria-pressed": String(kept.exact), title: "What the model was fed and wrote, token by token (t)", onclick: toggle }, "Exact tokens"), modeLegend(kept.mode, book.scale));
  }
  function toggle() {
    kept.exact = !kept.exact;
    remember({});
    bar.replaceWith((bar = toolbar()));
    drawStage();
  }
  function drawStage() {
    put(stage, dialogue({ book, run, exact: kept.exact, pick, remember }));
    for (const node of stage.querySelectorAll(".tok")) paint(node, kept.mode, book.scale);
  }
  let bar = toolbar();
  drawStage();
  context.show(head(run, found, place), bar, h("div.with-panel", stage, panel.node));
  keys();
  restore();

  function restore() {
    const turn = context.parameters.get("turn"), token = context.parameters.get("token"), find = context.parameters.get("find");
    if (token) {
      const node = [...stage.querySelectorAll(".tok")].find((n) => `${n.token.t}.${n.token.span}.${n.token.i}` === token);
      if (node) { pick(node.token, node); return node.scrollIntoView({ block: "center" }); }
      if (!kept.exact) { toggle(); return restore(); }  // a token that was fed stands among the exact ones only
    }
    if (turn) $(`#turn-${CSS.escape(turn)}`)?.scrollIntoView({ block: "start" });
    else if (find) highlight(stage, find);
  }
  function keys() {
    const step = (by) => () => {
      const all = [...stage.querySelectorAll(".turn")];
      const at = all.findIndex((n) => n.classList.contains("at"));
      const next = all[Math.min(Math.max(at + by, 0), all.length - 1)];
      all[at]?.classList.remove("at");
      next?.classList.add("at");
      next?.scrollIntoView({ block: "center" });
      if (next) remember({ turn: next.id.slice(5) });
    };
    const beside = (by) => () => members[place + by] && open(to.episode(run, members[place + by].key));
    Object.assign(context.keys, { j: step(1), k: step(-1), t: toggle, "[": beside(-1), "]": beside(1), Escape: () => panel.close() });
    MODES.forEach(([name], i) => (context.keys[String(i + 1)] = () => recolour(name)));
    const walk = (by) => () => {
      if (!chosen) return;
      const all = [...stage.querySelectorAll(".tok")], next = all[all.indexOf(chosen) + by];
      if (next) { pick(next.token, next); next.scrollIntoView({ block: "nearest" }); }
    };
    context.keys.Enter = () => { const node = $(".turn.at .reply .tok", stage); if (node) pick(node.token, node); };
    Object.assign(context.keys, { ArrowRight: walk(1), ArrowLeft: walk(-1) });
    context.keys.d = () => { const other = members[place + 1] || members[place - 1]; if (other) open(to.diff(run, key, other.key)); };
  }
  if (!found.row) context.news = async (changed) => { if (run in changed) await open(location.href, { keep: true }); };
}

function head(run, found, place) {
  const episode = found.episode, members = found.members, row = found.row;
  const facts = [
    row && row.score !== null ? h("span.chip", "score ", h("b", short(row.score))) : null,
    row ? h(`span.chip${episode.stop.kind === "error" ? ".bad" : ""}`, episode.stop.kind, episode.stop.reason ? `: ${episode.stop.reason}` : "") : status("running"),
    row?.invalid ? h("span.chip.bad", `${row.invalid} illegal`) : null,
    row?.trained ? h("span.chip", "trained") : h("span.chip.quiet", "not trained"),
    h("span.chip.quiet", time(episode.ended - episode.started)), h("span.chip.quiet", `trial ${episode.trial}, seed ${episode.seed}`),
    episode.parent ? h("span.chip", "answers again ", link(to.episode(run, episode.parent.split("#")[0]), episode.parent)) : null,
  ];
  const group = members.length > 1 ? h("div.members", h("span.quiet", "group"), members.map((m, i) => (i === place ? h("b.member.here", { title: m.id }, short(m.score)) : h("span.member", link(to.episode(run, m.key), { title: m.id }, m.stop === "error" ? "!" : short(m.score)), link(to.diff(run, found.key, m.key), { title: `beside ${m.id}`, class: "beside", "aria-label": `Compare with ${m.id}` }, "⇄"))))) : null;
  const scores = Object.entries(episode.scores).map(([verifier, seats]) => [verifier, Object.entries(seats)]);
  return h("div.episode-head", h("div.head", h("h1", episode.task.id || episode.id), h("span.grow"), h("span.quiet.mono", episode.id)), h("p.facts", facts), group,
    episode.error ? h("p.error", episode.error) : null,
    h("details.about", h("summary", "Task, cast, scores, final state"),
      h("dl", h("dt", "task"), h("dd", h("pre", pretty(episode.task.payload_json))),
        h("dt", "cast"), h("dd", Object.entries(episode.cast).map(([seat, who]) => h("div", h("b", seat), ` ${who.name} (${who.kind}, version ${who.version})`, episode.train.includes(seat) ? h("span.chip", "learns") : null, who.tokenizer_sha256 ? h("small.mono.quiet", ` tokenizer ${who.tokenizer_sha256.slice(0, 10)}`) : null))),
        h("dt", "scores"), h("dd", scores.length ? scores.map(([verifier, seats]) => seats.map(([seat, s]) => h("div", h("b", verifier), ` ${seat}: `, s.value === null ? "abstained" : short(s.value), s.success === null ? "" : s.success ? " ✓" : " ✗", Object.entries(s.parts).map(([n, v]) => h("span.chip", n, " ", h("b", short(v)))), s.findings.map((f) => h("p.quiet", `${f.name}: ${f.value} ${f.reason}`))))) : "none"),
        h("dt", "final"), h("dd", episode.final_json ? h("pre", pretty(episode.final_json)) : "unknown"))));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 1);
  } catch {
    return String(text);
  }
}

/** Rows in the order of play, a column for each seat; turns of one step stand in one row. */
export function dialogue({ book, run, exact, pick, remember }) {
  const { trajectories, events } = book.episode;
  const seats = trajectories.map((t, i) => ({ ...t, i, seen: new Set(), before: [], number: 0 }));
  const turns = seats.flatMap((t) => t.turns.map((turn) => ({ turn, seat: t }))).sort((a, b) => a.turn.at - b.turn.at);
  const rows = [];
  for (const one of turns) {
    const last = rows.at(-1);
    if (last && seats.length > 1 && last.every((o) => o.seat !== one.seat && o.turn.step === one.turn.step && o.turn.branch === one.turn.branch)) last.push(one);
    else rows.push([one]);
  }
  const left = [...events].sort((a, b) => a.at - b.at);
  const nodes = [];
  let line = 2;
  const place = (node, column, row) => { node.style.setProperty("grid-row", String(row)); node.style.setProperty("grid-column", column); nodes.push(node); };
  for (const seat of seats) place(seatHead(book, seat, exact), String(seat.i + 1), 1);
  const eventsUntil = (at) => {
    while (left.length && left[0].at < at) {
      const event = left.shift(), shown = eventLine(event), column = seats.findIndex((s) => s.seat === event.seat);
      if (shown) place(shown, column >= 0 ? String(column + 1) : "1 / -1", line++);
    }
  };
  for (const row of rows) {
    eventsUntil(Math.min(...row.map((o) => o.turn.at)));
    for (const { turn, seat } of row) place(turnCell({ book, run, seat, turn, exact, pick }), String(seat.i + 1), line);
    line++;
  }
  eventsUntil(Infinity);
  const grid = h("div.seats", { "--seats": String(seats.length) }, nodes);
  if (!turns.length) grid.append(h("p.quiet", "No turn was taken."));
  return grid;
}

function seatHead(book, seat, exact) {
  const paid = book.episode.events.filter((e) => e.kind === "reward" && e.seat === seat.seat && !e.branch).reduce((sum, e) => sum + Number(JSON.parse(e.content_json).value), 0);
  return h(`header.seat-head.s${seat.i % 8}`, h("b", seat.seat), " ", h("span.quiet", seat.policy), h("span.grow"), paid ? h("span.quiet", `paid ${signed(paid)}`) : null, seat.stop ? h("span.quiet", ` ${seat.stop.kind}${seat.stop.reason ? ": " + seat.stop.reason : ""}`) : null, contextMap(book, seat.i));
}

function turnCell({ book, run, seat, turn, exact, pick }) {
  seat.number += 1;
  const cell = h(`article.turn.s${seat.i % 8}${turn.branch ? ".forked" : ""}${turn.dropped ? ".dropped" : ""}`, { id: `turn-${turn.at}` }, h("span.seat-label", seat.seat));
  const path = turn.spans.length ? book.path(seat.i, turn.spans.at(-1)) : [];
  const cut = rewritten(book, seat, path);
  if (cut) cell.append(cut);
  if (exact && path.length) cell.append(promptTokens(book, seat, turn, path, pick));
  else for (const index of turn.prompt) if (!seat.seen.has(index)) cell.append(messageBlock(seat.messages[index], run));
  for (const index of [...turn.prompt, turn.reply]) seat.seen.add(index);
  if (path.length) seat.before = path;
  cell.append(replyBlock({ book, run, seat, turn, exact, pick }));
  return cell;
}

function promptTokens(book, seat, turn, path, pick) {
  const fresh = path.filter((s) => !seat.before.includes(s) && !turn.spans.includes(s));
  return h("div.message.prompt.exact-tokens", h("span.role", `fed: ${fresh.reduce((n, s) => n + seat.spans[s].ids.length, 0)} new tokens`), h("div.text.mono", fresh.flatMap((s) => book.tokens(seat.i, s).map((token) => tokenElement(token, null, book.scale, pick)))));
}

export function messageBlock(message, run) {
  const extra = ["env", "policy", message.role].includes(message.origin) ? "" : ` · ${message.origin}`;
  const observed = message.observed === "executed" ? "" : ` · ${message.observed}`;
  return h(`div.message.${message.role}${message.status === "error" ? ".failed" : ""}`, h("span.role", message.role, message.name ? ` ${message.name}` : "", extra, observed, message.status === "ok" ? "" : ` · ${message.status}`), messageParts(message, run));
}

function replyBlock({ book, run, seat, turn, exact, pick }) {
  const message = seat.messages[turn.reply], tokens = book.written(seat.i, turn);
  const rows = turn.spans.map((s) => book.row(seat, s)).filter(Boolean);
  const trained = tokens.filter((x) => x.weight), advantage = trained.length ? trained.reduce((sum, x) => sum + x.advantage, 0) / trained.length : null;
  const spelled = tokens.length && tokens.every((x) => x.text !== null);
  const drawn = () => tokens.map((token) => tokenElement(token, null, book.scale, pick));
  const facts = [
    advantage !== null ? h("span", "advantage ", h("b", signed(advantage))) : rows.length ? h("span.quiet", "weight 0") : tokens.length ? h("span.quiet", "not in an update") : null,
    Object.entries(turn.rewards).map(([channel, value]) => h("span", `${words(channel)} `, h("b", signed(value)))),
    turn.finish !== "stop" ? h("span", `ended by ${turn.finish}`) : null, turn.purpose !== "act" ? h("span.chip", turn.purpose) : null,
    turn.branch ? h("span.chip", `branch ${turn.branch}`) : null, turn.dropped ? h("span.chip.bad", `taken back: ${turn.dropped}`) : null,
    tokens.length ? h("span.quiet", many(tokens.length, "token")) : null,
    turn.usage.prompt_tokens ? h("span.quiet", `${short(turn.usage.prompt_tokens)} read${turn.usage.cached_tokens ? `, ${short(turn.usage.cached_tokens)} from cache` : ""}`) : null,
    turn.ended > turn.started ? h("span.quiet", time(turn.ended - turn.started)) : null,
    tokens.length && tokens[0].sampled ? h("span.quiet", `version ${tokens[0].version}`) : tokens.length ? h("span.quiet", "scripted") : null,
  ];
  const body = spelled ? [h("div.text.tokens-text", { dir: "auto" }, drawn()), exact ? null : messageParts(message, run, { without: "text" })] : [messageParts(message, run), tokens.length ? h("div.squares", drawn()) : null];
  return h("div.message.reply", h("span.role", `${seat.seat} · reply ${seat.number}`, h("button.plain.link", { title: "Permanent link to this turn", "aria-label": "Link to this turn", onclick: (event) => { const url = new URL(location.href); url.searchParams.set("turn", turn.at); url.searchParams.delete("token"); history.replaceState(history.state, "", url); navigator.clipboard?.writeText(url.href); event.target.textContent = "copied"; setTimeout(() => (event.target.textContent = "#"), 900); } }, "#")), body, h("div.facts", facts.flat().filter(Boolean)));
}

/** Marks a searched text where it stands first, across tokens, and goes there. */
function highlight(root, text) {
  const wanted = text.toLowerCase();
  for (const block of root.querySelectorAll(".text, .call, .event, pre")) {
    const nodes = [], walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) nodes.push(node);
    const at = nodes.map((n) => n.data).join("").toLowerCase().indexOf(wanted);
    if (at < 0) continue;
    let before = 0, first = null;
    for (const node of nodes) {
      const from = Math.max(0, at - before), until = Math.min(node.length, at + wanted.length - before);
      before += node.length;
      if (from >= until) continue;
      const part = node.splitText(from);
      part.splitText(until - from);
      const hit = h("mark");
      part.replaceWith(hit);
      hit.append(part);
      first ||= hit;
    }
    return first.scrollIntoView({ block: "center" });
  }
}
