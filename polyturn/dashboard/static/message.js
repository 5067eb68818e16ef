// Messages as they are read: words, reasoning, calls, pictures, results; and events between turns.
import { h, short, signed, words } from "./dom.js";

const LONG = 900;
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f]/g;
export const readable = (text) => text.replace(CONTROL, (c) => (c === "\u007f" ? "␡" : String.fromCharCode(0x2400 + c.charCodeAt(0))));

/** The parts of a message in their order, then its calls. without: a kind that is shown elsewhere. */
export function messageParts(message, run, { without = "" } = {}) {
  const shown = message.parts.filter((part) => part.kind !== without).map((part) => partNode(part, run));
  const calls = message.calls.map((call) => h("div.call", h("span.call-name", call.name), callArguments(call), call.error ? h("p.error", call.error) : null));
  if (!shown.length && !calls.length) return without ? null : h("span.quiet", "(empty)");
  return [...shown, ...calls];
}

function partNode(part, run) {
  if (part.kind === "text" || part.kind === "reasoning") {
    const text = readable(part.text);
    const body = h(`div.text.${part.kind}`, { dir: "auto" }, text);
    if (text.length <= LONG) return body;
    return h("details.long", h("summary", text.slice(0, 240), h("span.quiet", ` … ${text.length.toLocaleString("en")} characters`)), body);
  }
  if (part.kind === "json") return h("pre.json", JSON.stringify(JSON.parse(part.data_json ?? "null"), null, 1));
  const address = part.media ? `/api/run/${run}/media/${part.media}?mime=${encodeURIComponent(part.mime || "")}` : null;
  if (part.kind === "image" && address) return h("a.picture", { href: address, target: "_blank" }, h("img", { src: address, alt: part.text || "picture shown to the seat", loading: "lazy" }));
  if (part.kind === "audio" && address) return h("audio", { src: address, controls: true });
  if (part.kind === "video" && address) return h("video", { src: address, controls: true });
  return h("span.quiet", `[${part.kind} ${(part.media || part.text || "").slice(0, 16)}]`);
}

function callArguments(call) {
  let given = null;
  try {
    given = call.arguments_json ? JSON.parse(call.arguments_json) : null;
  } catch {
    given = null;
  }
  if (given === null || typeof given !== "object") return h("code", call.raw);
  return h("span.arguments", Object.entries(given).map(([name, value]) => h("span", h("i", name), " ", h("code", typeof value === "string" ? value : JSON.stringify(value)))));
}

/** An event as a line; null for what needs none. */
export function eventLine(event) {
  let content = {};
  try {
    content = JSON.parse(event.content_json);
  } catch {
    content = { text: event.content_json };
  }
  const branch = event.branch ? h("span.chip", `branch ${event.branch}`) : null;
  if (event.kind === "reward") return h(`div.event.reward${content.value < 0 ? ".minus" : ""}`, h("b", signed(Number(content.value))), ` ${words(content.channel)} for ${event.seat}`, branch);
  const told = Object.entries(content).map(([k, v]) => `${k} ${typeof v === "string" ? v : JSON.stringify(v)}`).join(", ");
  return h(`div.event${event.kind === "invalid" ? ".bad" : ""}`, { title: told }, h("b", words(event.kind)), event.seat ? ` ${event.seat}` : "", told ? h("span.quiet", ` ${told.length > 220 ? told.slice(0, 220) + " …" : told}`) : null, branch);
}
