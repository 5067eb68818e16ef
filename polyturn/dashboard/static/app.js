// Which page an address shows, links without reloading, keys, and news from the server.
import { $, failed, h, link, put, to } from "./dom.js";
import { runsPage, comparePage } from "./runs.js";
import { runPage, iterationPage } from "./run.js";
import { episodesPage } from "./episodes.js";
import { episodePage } from "./episode.js";
import { diffPage } from "./diff.js";

const PAGES = [
  [/^\/$/, runsPage],
  [/^\/compare$/, comparePage],
  [/^\/run\/([^/]+)$/, runPage],
  [/^\/run\/([^/]+)\/episodes$/, episodesPage],
  [/^\/run\/([^/]+)\/iteration\/([^/]*)(?:\/(\d+))?$/, iterationPage],
  [/^\/run\/([^/]+)\/episode\/([\w.\-]+)$/, episodePage],
  [/^\/run\/([^/]+)\/diff\/([\w.\-]+)\/([\w.\-]+)$/, diffPage],
];
const KEYS = [
  ["g r", "runs"], ["g o", "this run"], ["g e", "its episodes"], ["/", "search"], ["j  k", "next, previous row or turn"],
  ["Enter", "open the row"], ["[  ]", "previous, next episode of the group"], ["1 … 7", "colour of the tokens"], ["t", "exact tokens or words"],
  ["← →", "token by token, once one is chosen"], ["d", "beside another episode of its group"], ["x", "mark a run for comparison"],
  ["Esc", "close, leave a field"], ["?", "this list"],
];

let current = { leave: null, news: null, keys: {}, run: null };
let shown = 0;

/** What a page may do: set its trail, answer keys, be told of news, be left. */
function makeContext(path) {
  const number = ++shown;
  const context = {
    main: $("#main"), parameters: new URLSearchParams(location.search), keys: {}, news: null, leave: null, run: null,
    alive: () => number === shown,
    trail(...parts) {
      put($("#crumbs"), ...parts.flatMap((part, i) => [i || true ? h("span.sep", "/") : null, part.href ? link(part.href, part.text) : h("span", part.text)]));
      document.title = parts.length ? `${parts.map((p) => p.text).join(" · ")} · Polyturn` : "Polyturn";
    },
    show(...nodes) {
      if (number === shown) put(this.main, ...nodes.flat(Infinity).filter(Boolean));
    },
    remember(parameters) {
      const query = new URLSearchParams(Object.entries(parameters).filter(([, v]) => v !== "" && v !== null && v !== undefined)).toString();
      history.replaceState(history.state, "", location.pathname + (query ? "?" + query : ""));
      this.parameters = new URLSearchParams(location.search);
    },
    path,
  };
  return context;
}

export async function open(address, { replace = false, keep = false } = {}) {
  if (!keep) history[replace ? "replaceState" : "pushState"]({}, "", address);
  current.leave?.();
  const path = location.pathname;
  const context = makeContext(path);
  current = context;
  context.trail();
  for (const [pattern, page] of PAGES) {
    const match = path.match(pattern);
    if (!match) continue;
    try {
      await page(context, ...match.slice(1).map((part) => (part === undefined ? undefined : decodeURIComponent(part))));
    } catch (error) {
      context.show(failed(error), h("p", link("/", "All runs")));
    }
    if (context.alive() && !keep) scrollTo(0, 0);
    return;
  }
  context.show(h("h1", "There is no such page"), h("p", link("/", "All runs")));
}

document.addEventListener("click", (event) => {
  const found = event.target.closest?.("a[data-link]");
  if (!found || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  open(found.getAttribute("href"));
});
addEventListener("popstate", () => open(location.href, { keep: true }));

let prefix = "";
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "Escape" && typing) return event.target.blur();
  if (typing || event.metaKey || event.ctrlKey || event.altKey) return;
  const key = prefix + event.key;
  prefix = "";
  const jump = { "g r": "/", "g o": current.run && to.run(current.run), "g e": current.run && to.episodes(current.run) }[key];
  if (event.key === "g" && !key.startsWith("g ")) prefix = "g ";
  else if (jump) open(jump);
  else if (current.keys[event.key]) current.keys[event.key](event);
  else if (event.key === "/") $("input[type=search]")?.focus();
  else if (event.key === "?") help();
  else return;
  event.preventDefault();
});

function help() {
  const dialog = $("#help");
  put(dialog, h("h2", "Keys"), h("dl.keys", KEYS.map(([key, what]) => [h("dt", key.split(" ").filter(Boolean).map((k) => h("kbd", k))), h("dd", what)])), h("form", { method: "dialog" }, h("button", "Close")));
  dialog.showModal();
}
$("#help-button").addEventListener("click", help);

/** News: run -> version; the page decides what to read again. At most one reading is under way. */
let busy = false, waiting = null, last = 0;
function news(changed) {
  waiting = { ...waiting, ...changed };
  if (busy) return;
  busy = true;
  setTimeout(async () => {
    const told = waiting, begun = Date.now();
    waiting = null;
    try {
      await current.news?.(told);
    } catch (error) {
      console.warn(error);
    }
    busy = false;
    last = Date.now() - begun;
    if (waiting) news({});
  }, 100 + Math.min(2000, 3 * last));
}
function listen() {
  const source = new EventSource("/api/live");
  let first = true;
  source.onmessage = (event) => {
    $("#pulse").className = "pulse on";
    if (!first) news(JSON.parse(event.data));
    first = false;
  };
  source.onerror = () => ($("#pulse").className = "pulse off");
  source.onopen = () => ($("#pulse").className = "pulse on");
}

open(location.href, { keep: true }).then(listen);
