// Pause, resume, checkpoint, stop, limits: what a person asks of a run that is at work.
import { h, post, when } from "./dom.js";

const WHAT = { tokens: "sampled tokens a seat", model_calls: "model calls a seat", tool_calls: "tool calls a seat", env_steps: "environment steps", seconds: "seconds a seat", max_tokens: "longest reply, tokens", temperature: "temperature", concurrency: "episodes at once", call_seconds: "longest wait for a reply, seconds" };

/** Survives redrawing: what is being typed, and the last answer. */
const kept = { open: false, values: {}, said: "" };

export function controls(run, view) {
  if (view.status !== "running") return view.orders.length ? h("div.controls", orders(view)) : null;
  const said = h("span.said", { role: "status" }, kept.said);
  const send = async (command, settings) => {
    kept.said = "";
    try {
      await post(`/api/run/${encodeURIComponent(run)}/control`, { command, settings });
      said.textContent = kept.said = `Asked for ${command}; the run obeys before its next iteration.`;
    } catch (error) {
      said.textContent = kept.said = error.message;
    }
  };
  const stop = () => confirm("Save a checkpoint and end the run after this iteration? polyturn run --resume goes on with it.") && send("stop");
  const form = h("form", { hidden: !kept.open, onsubmit: (event) => { event.preventDefault(); set(); } },
    view.can_set.map((name) => h("label", WHAT[name] || name, h("input", { name, inputmode: "decimal", placeholder: "as the recipe says", value: kept.values[name] || "", oninput: (event) => (kept.values[name] = event.target.value) }))), h("button", "Set"));
  const set = () => {
    const given = Object.entries(kept.values).map(([name, text]) => [name, text.trim()]).filter(([, text]) => text !== "");
    const settings = Object.fromEntries(given.map(([name, text]) => [name, text === "none" ? null : Number(text)]));
    if (Object.values(settings).some((value) => Number.isNaN(value))) said.textContent = kept.said = "Numbers, or none for the recipe's own.";
    else if (given.length) send("set", settings);
  };
  return h("div.controls", { role: "group", "aria-label": "Control of the run" },
    view.paused ? h("button", { onclick: () => send("resume") }, "▶ Resume") : h("button", { onclick: () => send("pause") }, "❚❚ Pause"),
    h("button", { onclick: () => send("checkpoint") }, "Checkpoint now"),
    h("button", { "aria-expanded": String(kept.open), onclick: (event) => { kept.open = form.hidden; form.hidden = !form.hidden; event.target.setAttribute("aria-expanded", String(kept.open)); } }, "Limits …"),
    h("button.danger", { onclick: stop }, "Stop after this iteration"), said, form, orders(view));
}

function orders(view) {
  if (!view.orders.length) return null;
  const line = (o) => h("li", h("span.quiet", when(o.asked).slice(11, 16) + " "), o.command === "set" ? Object.entries(o.settings).map(([k, v]) => `${k}=${v ?? "none"}`).join(", ") : o.command, h("span.quiet", o.by ? ` by ${o.by}` : ""), o.said ? `: ${o.said}` : view.status === "running" ? ": not yet" : ": the run ended before");
  return h("details.orders", { open: view.orders.some((o) => !o.said && view.status === "running") }, h("summary", `${view.orders.length} asked of it`), h("ul", view.orders.map(line)));
}
