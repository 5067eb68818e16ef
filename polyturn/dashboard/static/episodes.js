// All episodes of a run under a filter, page by page from the index.
import { calmly, get, h, link, many, put, short, span, table, to } from "./dom.js";
import { rowKeys } from "./rows.js";

const FIELDS = ["id", "text", "stage", "iteration", "family", "stop", "min_score", "max_score", "min_turns", "max_turns", "failed", "where", "grp"];
const HEAD = [["id", "episode"], ["score", "score"], ["stage", "stage"], ["stop", "ended"], ["turns", "turns"], ["tokens", "tokens"], ["invalid", "illegal"], ["started", "took"]];
const COUNT = 50;

export async function episodesPage(context, run) {
  context.run = run;
  context.trail({ text: run, href: to.run(run) }, { text: "episodes" });
  const view = await get(`/api/run/${run}`);
  const state = Object.fromEntries([...FIELDS, "sort", "first"].map((name) => [name, context.parameters.get(name) || ""]));
  const body = h("div"), count = h("span.quiet");
  let timer = null, asked = 0;
  const change = (name, value, wait = 0) => {
    state[name] = value;
    if (name !== "first") state.first = "";
    clearTimeout(timer);
    timer = setTimeout(() => load().catch((error) => put(body, h("p.error", { role: "alert" }, error.message))), wait);
  };
  const field = (name, attributes, label) => h("label", h("span", label), h("input", { ...attributes, value: state[name], oninput: (event) => change(name, event.target.value, 250) }));
  const choice = (name, values, label) => h("label", h("span", label), h("select", { onchange: (event) => change(name, event.target.value) }, h("option", { value: "" }, "all"), values.map((v) => h("option", { value: v, selected: state[name] === v }, v || "(none)"))));
  const families = [...new Set(Object.keys(view.scores).map((n) => n.slice(6)))];
  const bare = (name, attributes, label) => h("input", { ...attributes, "aria-label": label, value: state[name], oninput: (event) => change(name, event.target.value, 250) });
  const range = (label, low, high, attributes) => h("div.between", h("span", label), h("div", bare(low, attributes, `${label}, at least`), "to", bare(high, attributes, `${label}, at most`)));
  const form = h(`form.filter${FIELDS.some((name) => name !== "text" && state[name]) ? ".open" : ""}`, { onsubmit: (event) => event.preventDefault(), role: "search" },
    field("text", { type: "search", placeholder: "words in a message, tool output, error …" }, "Text"),
    h("button.filters-button", { type: "button", onclick: () => form.classList.toggle("open") }, "Filters …"),
    h("div.more-filters",
      field("id", { type: "text", placeholder: "episode or task" }, "Name"),
      choice("stage", view.stages.map((s) => s.stage), "Stage"), field("iteration", { type: "number", min: 0 }, "Iteration"),
      families.length > 1 ? choice("family", families, "Environment") : null,
      choice("stop", ["done", "truncated", "budget", "error"], "Ended"),
      range("Score", "min_score", "max_score", { type: "number", step: "any" }), range("Turns", "min_turns", "max_turns", { type: "number", min: 0 }),
      h("label.wide", h("span", "SQL"), h("input.mono", { type: "text", value: state.where, placeholder: "score < 0.5 and turns > 4   or   select attempt, play from turns where tokens > 60", spellcheck: false, oninput: (event) => change("where", event.target.value, 500) })),
      h("button", { type: "button", onclick: () => { for (const name of FIELDS) state[name] = ""; for (const i of form.querySelectorAll("input, select")) i.value = ""; change("first", ""); } }, "Clear")));

  async function load(quietly = false) {
    const number = ++asked;
    context.remember(state);
    const found = await get(`/api/run/${run}/episodes`, { ...state, sort: state.sort || "-offset", count: COUNT });
    if (!context.alive() || number !== asked) return;
    if (quietly) calmly(body, () => draw(found, quietly));
    else draw(found, quietly);
  }
  function draw(found, quietly) {
    const at = quietly ? body.querySelector("tr.at")?.dataset.key : null;
    count.textContent = `${many(found.total, "episode")}${found.searched !== undefined && found.searched < 1 ? ` (searched ${Math.round(100 * found.searched)} % of the record in the time there is)` : ""}`;
    const head = HEAD.map(([column, name]) => {
      const way = state.sort === column ? "▲" : state.sort === "-" + column ? "▼" : "";
      return h(["stage", "stop"].includes(column) ? "th.left" : "th", { "aria-sort": way === "▲" ? "ascending" : way ? "descending" : "none" }, h("button.plain", { onclick: () => change("sort", state.sort === "-" + column ? column : "-" + column) }, name, " ", way));
    });
    const last = Math.min(found.first + COUNT, found.total);
    const pages = h("div.pages", h("button", { disabled: !found.first, onclick: () => change("first", String(Math.max(0, found.first - COUNT))) }, "← newer"), h("span", found.total ? `${found.first + 1} to ${last} of ${found.total.toLocaleString("en")}` : ""), h("button", { disabled: last >= found.total, onclick: () => change("first", String(found.first + COUNT)) }, "older →"));
    put(body, found.rows.length ? table(head, found.rows.map((row) => drawRow(row, at)), { class: "rows" }) : h("p.quiet", "No episode fits."), pages);
    rowKeys(context, body);
  }
  function drawRow(row, at) {
    const key = `${row.attempt}.${row.play}`;
    return h(`tr${key === at ? ".at" : ""}`, { data: { href: to.episode(run, key), key } },
      h("td.name", link(to.episode(run, key, state.text ? { find: state.text } : null), row.id), h("small", row.task)),
      h("td", h("b", short(row.score)), row.success === 1 ? h("span.yes", { title: "success" }, " ✓") : row.success === 0 ? h("span.no", { title: "no success" }, " ✗") : null),
      h("td.left", row.stage, row.iteration === null ? null : h("small", `iteration ${row.iteration}`)),
      h("td.left", h(`span.chip${row.stop === "error" ? ".bad" : ""}`, row.stop), h("small.clip", row.error || row.reason)),
      h("td", { data: { unit: "turns" } }, row.turns, row.seats > 1 ? h("small", `${row.seats} seats`) : null), h("td", { data: { unit: "tokens" } }, short(row.tokens)), h("td", row.invalid ? { data: { unit: "illegal" } } : null, row.invalid || ""), h("td", span(row.ended - row.started)));
  }
  await load();
  context.show(h("div.head", h("h1", "Episodes"), count), form, body);
  context.keys["/"] = () => form.querySelector("input[type=search]").focus();
  context.news = async (changed) => { if (run in changed && !state.first && document.activeElement?.tagName !== "INPUT") await load(true); };
}
