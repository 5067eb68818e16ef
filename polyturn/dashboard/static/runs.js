// The list of runs, and several of them compared.
import { calmly, get, h, link, many, put, recipeName, short, span, spark, status, table, to, when, words } from "./dom.js";
import { chart, interval, legend } from "./chart.js";
import { rowKeys } from "./rows.js";

/** Runs of one recipe whose settings differ in nothing but the seed are one arm. */
const armOf = (row) => row.recipe + " " + JSON.stringify({ ...row.settings, seed: null });

export async function runsPage(context) {
  const marked = new Set();
  let rows = [], filter = context.parameters.get("q") || "";
  const search = h("input", { type: "search", placeholder: "Filter: recipe, name, setting=value …", value: filter, "aria-label": "Filter runs", oninput: () => { filter = search.value; context.remember({ q: filter }); draw(); } });
  const body = h("div");
  const button = h("button", { disabled: true, onclick: () => compareMarked() }, "Compare marked");
  const compareMarked = () => import("./app.js").then((app) => app.open(to.compare([...marked])));
  const head = h("div.head", h("h1", "Runs"), h("span.grow"), search, button);

  function draw() {
    const wanted = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = rows.filter((row) => {
      const text = `${row.name} ${row.recipe} ${row.status} seed=${row.seed} ${Object.entries(row.settings).map(([k, v]) => `${k}=${v}`).join(" ")}`.toLowerCase();
      return wanted.every((word) => text.includes(word));
    });
    put(body, shown.length ? table([h("th", h("input", { type: "checkbox", "aria-label": "Mark all shown", checked: shown.every((row) => marked.has(row.name)), onchange: (event) => { for (const row of shown) marked[event.target.checked ? "add" : "delete"](row.name); draw(); } })), h("th.left", "run"), h("th.left", "status"), h("th.left", "score"), h("th.left", "course"), "iterations", "episodes", "time", h("th.wide-only", "begun")], shown.map(drawRow), { class: "rows" }) : h("p.quiet", rows.length ? "No run fits." : "No runs."));
    button.disabled = marked.size < 2;
    button.textContent = marked.size ? `Compare ${marked.size} marked` : "Compare marked";
    rowKeys(context, body, { mark: (row) => $check(row)?.click() });
  }
  const $check = (row) => row.querySelector("input[type=checkbox]");

  function drawRow(row) {
    const mark = h("input", { type: "checkbox", checked: marked.has(row.name), "aria-label": `Mark ${row.name}`, onchange: () => { marked[mark.checked ? "add" : "delete"](row.name); draw(); } });
    const scores = Object.entries(row.scores);
    return h("tr", { data: { href: to.run(row.name) } }, h("td.check", mark),
      h("td.name", link(to.run(row.name), row.name), h("small", [recipeName(row.recipe), row.seed !== null && row.seed !== undefined ? `seed ${row.seed}` : null].filter(Boolean).join(" · ")), row.trouble ? h("small.bad", row.trouble) : null),
      h("td.left", status(row.status), row.progress.whole ? null : h("small", `indexing ${Math.round((100 * row.progress.read) / Math.max(1, row.progress.there))} %`)),
      h("td.left.scores", scores.slice(0, 3).map(([name, value]) => h("span.chip", words(name.slice(6)), " ", h("b", short(value)))), scores.length > 3 ? h("span.quiet", `+${scores.length - 3}`) : null),
      h("td.left", spark(row.course)), h("td", { data: { unit: "iterations" } }, Number(row.iterations).toLocaleString("en")), h("td", { data: { unit: "episodes" } }, Number(row.episodes).toLocaleString("en"), row.errors ? h("small.bad", many(row.errors, "error")) : null), h("td", span(row.seconds)), h("td.quiet.wide-only", when(row.started).slice(5, 16)));
  }

  const load = async () => { rows = await get("/api/runs"); if (context.alive()) calmly(body, draw); };
  await load();
  context.show(head, body);
  context.keys["/"] = () => search.focus();
  context.news = load;
}

/** Curves of several runs in one picture; arms of several seeds become one curve with an interval over seeds. */
export async function comparePage(context) {
  context.trail({ text: "compare" });
  const names = (context.parameters.get("runs") || "").split(",").filter(Boolean);
  const load = async () => {
    const found = await get("/api/compare", { runs: names.join(",") });
    if (context.alive()) context.show(...drawn(found));
  };
  await load();
  context.news = async (changed) => { if (names.some((name) => name in changed)) await load(); };
}

function drawn(found) {
  const arms = new Map();
  for (const row of found.runs) arms.set(armOf(row), [...(arms.get(armOf(row)) || []), row]);
  const named = [...arms.values()].map((rows, colour) => ({ rows, colour: colour % 8, name: armName(rows, found) }));
  const families = [...new Set(Object.values(found.curves).flatMap((curves) => curves.map((c) => c.family + (c.seat ? ` · ${c.seat}` : ""))))];
  const cards = families.map((family) => {
    const curves = named.map((arm) => armCurve(arm, family, found)).filter((c) => c.parts[0].length);
    const values = curves.flatMap((c) => c.parts[0].map((p) => p.y)), unit = Math.min(...values) >= 0 && Math.max(...values) <= 1;
    return h("section.card", h("h3", words(family)), chart({ curves, yRange: unit ? [0, 1] : null, label: `${family}: score of ${curves.map((c) => c.name).join(", ")}`, xName: (x) => `iteration ${x + 1} of the run` }), legend(curves));
  });
  return [
    h("div.head", h("h1", `${found.runs.length} runs compared`)),
    h("p.lead", "Score of the training episodes by iteration of the run, mean over five iterations. Where an arm has several seeds the curve is the mean of its seeds and the band its 95 % interval over seeds; one seed alone has the interval over its groups."),
    h("div.grid-cards", cards),
    ratedTable(found), settingsTable(found),
    h("p", found.runs.map((row) => h("span.chip", link(to.run(row.name), row.name)))),
  ];
}

/** What sets an arm apart: its recipe where recipes differ, else the settings that differ; else the name of its run. */
function armName(rows, found) {
  const recipes = new Set(found.runs.map((r) => r.recipe)), one = rows[0];
  const own = Object.keys(found.settings).filter((name) => name !== "seed" && found.settings[name][one.name] !== null && found.settings[name][one.name] !== undefined);
  const told = recipes.size > 1 ? [recipeName(one.recipe)] : own.slice(0, 3).map((name) => `${name} ${found.settings[name][one.name]}`);
  const seeds = rows.length > 1 ? ` (${rows.length} seeds)` : "";
  return (told.join(", ") || (rows.length > 1 ? recipeName(one.recipe) : one.name)) + seeds;
}

const T975 = [0, 12.71, 4.3, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.2, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.1, 2.09];

function armCurve(arm, family, found) {
  const byRun = arm.rows.map((row) => {
    const curve = found.curves[row.name].find((c) => c.family + (c.seat ? ` · ${c.seat}` : "") === family);
    const place = new Map(found.axis[row.name].map(([stage, i], x) => [`${stage}\n${i}`, x]));
    return new Map((curve?.parts || []).flatMap((part) => part.points.map((p) => [place.get(`${part.stage}\n${p[0]}`), p])));
  });
  const xs = [...new Set(byRun.flatMap((points) => [...points.keys()]))].sort((a, b) => a - b);
  const points = xs.map((x) => {
    const here = byRun.map((p) => p.get(x)).filter(Boolean);
    if (arm.rows.length === 1) return { x, y: here[0][1], low: here[0][2], high: here[0][3], note: many(here[0][4], "group") };
    const mean = here.reduce((sum, p) => sum + p[1], 0) / here.length;
    const deviation = Math.sqrt(here.reduce((sum, p) => sum + (p[1] - mean) ** 2, 0) / Math.max(1, here.length - 1));
    const half = here.length > 1 ? ((T975[here.length - 1] || 1.96) * deviation) / Math.sqrt(here.length) : null;
    return { x, y: mean, low: half === null ? null : mean - half, high: half === null ? null : mean + half, note: many(here.length, "seed") };
  });
  return { name: arm.name, colour: arm.colour, parts: [points] };
}

function ratedTable(found) {
  const keys = [...new Set(Object.values(found.rated).flatMap((rows) => rows.map((r) => `${r.stage}\n${r.family}`)))];
  if (!keys.length) return null;
  const names = found.runs.map((r) => r.name);
  const rows = keys.map((key) => {
    const [stage, family] = key.split("\n");
    return h("tr", h("td.name", words(family), h("small", stage)), names.map((name) => {
      const r = found.rated[name].find((x) => x.stage === stage && x.family === family);
      return h("td", r ? [h("b", short(r.mean)), h("small", r.low === null ? "" : `${short(r.low)} to ${short(r.high)}`), interval(r.mean, r.low, r.high)] : "–");
    }));
  });
  return h("section", h("h2", "Played outside training"), h("p.lead", "Mean score with its 95 % interval, clustered by task."), table(["", ...names], rows, { class: "tall" }));
}

function settingsTable(found) {
  const names = Object.keys(found.settings);
  if (!names.length) return h("p.quiet", "The runs have equal settings.");
  const runs = found.runs.map((r) => r.name);
  return h("section", h("h2", "Settings that differ"), table(["", ...runs], names.map((name) => h("tr", h("td", name), runs.map((run) => h("td", h("code", String(found.settings[name][run]))))))));
}
