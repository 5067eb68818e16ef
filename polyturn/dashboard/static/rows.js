// Rows of a table that keys walk over: j, k, Enter, x.
import { $ } from "./dom.js";

export function rowKeys(context, box, { mark } = {}) {
  const rows = () => [...box.querySelectorAll("tr[data-href]")];
  const move = (step) => {
    const all = rows();
    if (!all.length) return;
    const at = all.findIndex((row) => row.classList.contains("at"));
    const next = all[Math.min(Math.max(at + step, 0), all.length - 1)];
    all[at]?.classList.remove("at");
    next.classList.add("at");
    next.scrollIntoView({ block: "nearest" });
  };
  context.keys.j = () => move(1);
  context.keys.k = () => move(-1);
  context.keys.Enter = () => $("tr.at a[data-link]", box)?.click();
  if (mark) context.keys.x = () => $("tr.at", box) && mark($("tr.at", box));
  box.onclick = (event) => {
    if (!event.target.closest("a, input, button, label")) $("a[data-link]", event.target.closest("tr[data-href]") || box)?.click();
  };
}
