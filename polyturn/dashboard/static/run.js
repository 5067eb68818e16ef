// One run: how it stands, its curves, its stages, its results; and one iteration with its groups.
import { calmly, exact, get, h, link, many, put, recipeName, short, span, status, table, to, when, words } from "./dom.js";
import { chart, interval, legend } from "./chart.js";
import { controls } from "./controls.js";
import { rowKeys } from "./rows.js";

const FIRST = ["learner/loss", "learner/entropy", "learner/grad_norm", "learner/kl_old", "policy/clipped", "rollout/tokens_per_s", "rollout/illegal", "rollout/errors", "credit/zero_groups", "learner/lr"];

export async function runPage(context, run) {
  context.run = run;
  context.trail({ text: run });
  const open = (address) => import("./app.js").then((app) => app.open(address));
  const parts = { head: h("div"), controls: h("div"), live: h("div"), curves: h("div"), rates: h("div"), rest: h("div") };
  let more = false;
  const load = async () => {
    const asked = [get(`/api/run/${run}`), get(`/api/run/${run}/metrics`), get(`/api/run/${run}/curves`)];
    for (const one of asked) one.catch(() => {});
    const view = await asked[0];
    if (!context.alive()) return;
    calmly(parts.head, () => put(parts.head, head(run, view)));
    const asked_of = JSON.stringify([view.status, view.paused, view.orders]);
    if (parts.controls.dataset.of !== asked_of) put(parts.controls, controls(run, view));  // a button being pressed stays
    parts.controls.dataset.of = asked_of;
    calmly(parts.live, () => put(parts.live, ...live(run, view)));
    calmly(parts.rest, () => {
      const opened = [...parts.rest.querySelectorAll("details[open] > summary")].map((s) => s.textContent);
      put(parts.rest, stageTable(run, view), results(view), about(view));
      for (const details of parts.rest.querySelectorAll("details")) if (opened.includes(details.firstChild.textContent)) details.open = true;
    });
    if (!parts.head.isConnected) context.show(Object.values(parts));
    const metrics = await asked[1];
    const toggle = () => { more = !more; drawRates(); };
    const drawRates = () => put(parts.rates, ...metricCards(run, view, metrics, open, more, toggle));
    if (context.alive()) calmly(parts.rates, drawRates);
    const curves = await asked[2];
    if (context.alive()) calmly(parts.curves, () => put(parts.curves, ...scoreCards(run, view, curves, open)));
  };
  await load();
  context.keys.e = () => open(to.episodes(run));
  context.news = async (changed) => { if (run in changed) await load(); };
}

function head(run, view) {
  const tile = (value, name) => h("div.tile", h("b", value), h("span", name));
  const reason = view.attempt_list.at(-1)?.reason;
  return h("div",
    h("div.head", h("h1", { title: view.recipe }, recipeName(view.recipe) || "Run"), status(view.paused ? "paused" : view.status), h("span.grow"), link(to.episodes(run), "Episodes"), link(to.compare([run]), "Compare")),
    h("p.quiet", [view.id, when(view.started), view.seed !== null && view.seed !== undefined ? `seed ${view.seed}` : null, view.attempts > 1 ? `begun ${view.attempts} times` : null].filter(Boolean).join(" · ")),
    reason ? h("p.error", reason) : null, view.trouble ? h("p.error", view.trouble) : null,
    view.progress.damaged ? h("p.error", `${many(view.progress.damaged, "line")} of the record ${view.progress.damaged === 1 ? "is" : "are"} damaged and passed over`) : null,
    view.progress.whole ? null : h("p.notice", `Reading the record: ${Math.round((100 * view.progress.read) / Math.max(1, view.progress.there))} % so far; what is shown grows.`),
    h("div.tiles", tile(span(view.seconds), "time"), tile(view.iterations.toLocaleString("en"), "iterations"), tile(view.episodes.toLocaleString("en"), "episodes"), tile((view.turns || 0).toLocaleString("en"), "turns"), tile(short(view.tokens || 0), "sampled tokens"), view.errors ? tile(view.errors.toLocaleString("en"), "episodes failed") : null, view.results.peak_bytes ? tile(`${(view.results.peak_bytes / 2 ** 30).toFixed(1)} GiB`, "most memory") : null));
}

/** What is being played at this moment. */
function live(run, view) {
  if (view.status !== "running" || !view.open.length) return [];
  return [h("section", h("h2", "Being played now"), h("p", view.open.slice(0, 24).map((play) => h("span.chip", link(to.episode(run, `${play.attempt}.${play.play}`), play.id), " ", h("span.quiet", `${many(play.turns, "turn")}`))), view.open.length > 24 ? h("span.quiet", `and ${view.open.length - 24} more`) : null))];
}

function placesOf(view) {
  const axis = view.axis, place = new Map(axis.map(([stage, i], x) => [`${stage}\n${i}`, x]));
  const marks = [];
  axis.forEach(([stage], x) => { if (!x || axis[x - 1][0] !== stage) marks.push({ x, label: stage }); });
  const xName = (x) => (axis[x] ? `${axis[x][0]} · iteration ${axis[x][1]}` : "");
  return { place: (stage, i) => place.get(`${stage}\n${i}`), marks, xName, axis };
}

function scoreCards(run, view, curves, open) {
  const { place, marks, xName, axis } = placesOf(view);
  const families = [...new Set(curves.map((c) => c.family))];
  if (!families.length) return [];
  const cards = families.map((family, i) => {
    const drawn = curves.filter((c) => c.family === family).map((curve, k) => ({
      name: curve.seat, colour: (i + 3 * k) % 8,
      parts: curve.parts.map((part) => part.points.map(([at, y, low, high, groups, episodes]) => ({ x: place(part.stage, at), y, low, high, note: `${many(groups, "group")}, ${many(episodes, "episode")}` }))),
    }));
    const values = drawn.flatMap((c) => c.parts.flat()).flatMap((p) => [p.y]);
    const unit = Math.min(...values) >= 0 && Math.max(...values) <= 1;
    return h("section.card", h("h3", words(family)), chart({ curves: drawn, marks, yRange: unit ? [0, 1] : null, label: `Score of ${family} over iterations`, xName, pick: (x) => open(to.iteration(run, ...axis[x])) }), drawn.length > 1 ? legend(drawn) : null);
  });
  return [h("h2", "Scores while it learns"), h("p.lead", "Mean of five iterations with its 95 % interval, clustered by group. Choose an iteration to see its groups."), h("div.grid-cards", cards)];
}

function metricCards(run, view, metrics, open, more, toggle) {
  const names = Object.keys(metrics.series);
  if (!names.length) return [];
  const { place, marks, xName, axis } = placesOf(view);
  const rest = names.filter((name) => !FIRST.includes(name) && !name.startsWith("score/"));
  const shown = [...FIRST.filter((name) => names.includes(name)), ...(more ? rest : [])];
  const cards = shown.map((name) => {
    const parts = new Map();
    metrics.at.forEach(([stage, i], row) => {
      const y = metrics.series[name][row];
      if (y !== null) parts.set(stage, [...(parts.get(stage) || []), { x: place(stage, i), y }]);
    });
    return h("section.card.small-card", h("h3", words(name)), chart({ curves: [{ name: "", colour: 7, parts: [...parts.values()] }], marks, label: `${name} over iterations`, xName, height: 140, pick: (x) => open(to.iteration(run, ...axis[x])) }));
  });
  const every = metrics.every > 1 ? ` Every ${metrics.every}th of ${metrics.count.toLocaleString("en")} iterations is drawn.` : "";
  return [h("h2", "How it goes"), every ? h("p.lead", every) : null, h("div.grid-cards.dense", cards), rest.length ? h("button.more", { onclick: toggle }, more ? "Fewer measurements" : `${rest.length} more measurements`) : null].filter(Boolean);
}

function stageTable(run, view) {
  const rows = view.stages.map((stage) => h("tr", { data: { href: "" } },
    h("td.name", link(stage.iterations ? to.episodes(run, { stage: stage.stage }) : to.iteration(run, stage.stage, null), stage.stage || "(no group)"), h("small", stage.iterations ? many(stage.iterations, "iteration") : "outside training")),
    h("td", stage.episodes.toLocaleString("en")), h("td", short(stage.mean)), h("td", stage.truncated || ""), h("td", stage.errors ? h("b.bad", stage.errors) : "")));
  return h("section", h("h2", "Stages"), table(["stage", "episodes", "mean score", "cut by a horizon", "failed"], rows));
}

function results(view) {
  const found = view.results.table;
  if (!found || typeof found !== "object") return view.results.text ? h("section", h("h2", "Result"), h("pre", view.results.text)) : null;
  const BEFORE = ["null", "random", "base"], AFTER = ["oracle"];
  const names = [...BEFORE, ...Object.keys(found).filter((n) => !BEFORE.includes(n) && !AFTER.includes(n)), ...AFTER].filter((n) => found[n]?.environments);
  if (!names.length) return view.results.text ? h("section", h("h2", "Result"), h("pre", view.results.text)) : null;
  const places = [...new Set(names.flatMap((n) => Object.keys(found[n].environments)))];
  const cell = (row) => (row && row.mean !== null && row.mean !== undefined ? h("td", h("b", row.mean.toFixed(2)), h("small", row.low === null || row.low === undefined ? "" : `${short(row.low)} to ${short(row.high)}`), interval(row.mean, row.low, row.high)) : h("td.quiet", "–"));
  const rows = names.map((n) => h("tr", h("td.name", n), places.map((p) => cell(found[n].environments[p])), places.length > 1 ? cell(found[n].mixture) : null));
  return h("section", h("h2", "Result"), h("p.lead", "Mean score on held-out tasks with its 95 % interval."), table(["", ...places.map(words), places.length > 1 ? "mixture" : null].filter((x) => x !== null), rows, { class: "tall" }));
}

function about(view) {
  const pairs = (object) => table(["", ""], Object.entries(object).map(([k, v]) => h("tr", h("td", k), h("td", h("code", typeof v === "object" ? JSON.stringify(v) : String(v))))), { class: "pairs" });
  return h("section", h("h2", "How it is run"), h("p.lead", "The run folder alone is enough to repeat it: ", h("code", view.folder)),
    h("details", h("summary", "Settings"), pairs({ ...view.settings, ...Object.fromEntries(Object.entries(view.seeds).map(([k, v]) => [`seed: ${k}`, v])) })),
    h("details", h("summary", "Versions"), pairs({ ...view.versions, "code sha256": view.code_sha256.slice(0, 16) })),
    view.attempt_list.length > 1 ? h("details", h("summary", `${view.attempt_list.length} attempts`), table(["", "begun", "status", "reason"], view.attempt_list.map((a) => h("tr", h("td", a.number), h("td", when(a.started)), h("td", a.status), h("td", a.reason))))) : null,
    view.text ? h("details", h("summary", "Recipe"), h("pre.code", view.text)) : null);
}

/** One iteration, or a stage outside training: its groups, each episode a dot at its score. */
export async function iterationPage(context, run, stage, i) {
  context.run = run;
  const number = i === undefined ? null : Number(i);
  context.trail({ text: run, href: to.run(run) }, { text: number === null ? stage : `${stage} ${number}` });
  const open = (address) => import("./app.js").then((app) => app.open(address));
  const body = h("div");
  const load = async () => {
    const [groups, metrics] = await Promise.all([get(`/api/run/${run}/groups`, { stage, iteration: number === null ? "" : String(number) }), number === null ? null : get(`/api/run/${run}/metrics`)]);
    if (!context.alive()) return;
    const scores = groups.flatMap((g) => g.episodes.map((e) => e.score)).filter((s) => s !== null);
    const low = Math.min(0, ...scores), high = Math.max(1, ...scores);
    const row = metrics ? metrics.at.findIndex(([s, k]) => s === stage && k === number) : -1;
    const alike = groups.filter((g) => g.alike).length;
    put(body, 
      h("p.lead", `${many(groups.length, "group")}, ${many(groups.reduce((n, g) => n + g.episodes.length, 0), "episode")}`, alike ? `; in ${alike === groups.length ? "every group" : many(alike, "group")} all rollouts scored alike, so a group baseline learns nothing there` : "", "."),
      table(["group", h("th.left", "scores"), "mean", "turns", "tokens", ""], groups.map((g) => groupRow(run, g, low, high, open)), { class: "rows" }),
      row >= 0 ? h("details", h("summary", "All numbers of this iteration"), table(["", ""], Object.entries(metrics.series).filter(([, v]) => v[row] !== null).map(([name, v]) => h("tr", h("td", name), h("td", h("code", exact(v[row])))))), ) : null);
    rowKeys(context, body);
  };
  const near = (step) => () => open(to.iteration(run, stage, number + step));
  if (number !== null) Object.assign(context.keys, { "]": near(1), "[": () => number > 0 && near(-1)() });
  await load();
  context.show(h("div.head", h("h1", number === null ? words(stage) : `${words(stage)}, iteration ${number}`), h("span.grow"), number === null ? null : [number > 0 ? link(to.iteration(run, stage, number - 1), "← previous") : null, link(to.iteration(run, stage, number + 1), "next →")], link(to.episodes(run, number === null ? { stage } : { stage, iteration: number }), "as a list")), body);
  context.news = async (changed) => { if (run in changed) await load(); };
}

function groupRow(run, group, low, high, open) {
  const width = 220, x = (score) => 8 + ((width - 16) * (score - low)) / (high - low || 1);
  const seen = new Map();
  const dots = group.episodes.filter((e) => e.score !== null).map((e) => {
    const stack = seen.get(e.score) || 0;
    seen.set(e.score, stack + 1);
    const key = `${e.attempt}.${e.play}`;
    return h("svg:circle.dot.c0.pick", { cx: x(e.score) + (e.score > (low + high) / 2 ? -1 : 1) * 8 * (stack >> 2), cy: 26 - (stack % 4) * 7, r: 3.2, onclick: () => open(to.episode(run, key)) }, h("svg:title", `${e.id}: ${short(e.score)}`));
  });
  const first = group.episodes[0], total = (name) => group.episodes.reduce((sum, e) => sum + (e[name] || 0), 0);
  const failed = group.episodes.filter((e) => e.stop === "error").length;
  return h("tr", { data: { href: "" } },
    h("td.name", link(to.episode(run, `${first.attempt}.${first.play}`), group.grp), h("small", `${group.task}`)),
    h("td.left", h("svg:svg.strip", { viewBox: `0 0 ${width} 36`, width, height: 36, role: "img", "aria-label": `scores ${group.episodes.map((e) => short(e.score)).join(", ")}` }, h("svg:line.grid", { x1: 8, x2: width - 8, y1: 30.5, y2: 30.5 }), group.mean !== null ? h("svg:line.stage", { x1: x(group.mean), x2: x(group.mean), y1: 4, y2: 34 }) : null, dots)),
    h("td", { data: { unit: "mean" } }, h("b", short(group.mean))), h("td", { data: { unit: "turns" } }, short(total("turns"))), h("td", { data: { unit: "tokens" } }, short(total("tokens"))),
    h("td", group.alike ? h("span.chip", "all alike") : null, failed ? h("span.chip.bad", `${failed} failed`) : null, total("invalid") ? h("span.chip", `${total("invalid")} illegal`) : null));
}
