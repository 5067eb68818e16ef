"""The frame of a report: one HTML page that needs nothing beside itself, light and dark, readable on a phone."""

from __future__ import annotations

from html import escape

CSS = """
:root { color-scheme: light dark;
  --paper:#fbfbfa; --card:#ffffff; --ink:#1d2129; --quiet:#6a7280; --line:#e3e5e8; --soft:#f1f2f4;
  --good:#2563c9; --worse:#d9730d; --bad:#b3261e;
  --c0:#2563c9; --c1:#d9730d; --c2:#17875f; --c3:#8646c4; --c4:#b8326b; --c5:#0f7f94; --c6:#7a6a11; --c7:#5b6472; }
@media (prefers-color-scheme: dark) { :root {
  --paper:#14161a; --card:#1c1f25; --ink:#e6e8eb; --quiet:#99a1ad; --line:#30353d; --soft:#262a31;
  --good:#6ea3ff; --worse:#ff9f4a; --bad:#ff8a80;
  --c0:#6ea3ff; --c1:#ff9f4a; --c2:#4fcf9f; --c3:#bd93f9; --c4:#ff7fae; --c5:#4fc6dc; --c6:#d5c150; --c7:#a4adba; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--paper); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;
  font-variant-numeric:tabular-nums; -webkit-text-size-adjust:100%; }
main { max-width:1080px; margin:0 auto; padding:28px 20px 60px; }
h1 { font-size:26px; line-height:1.2; margin:0; letter-spacing:-.01em; }
h2 { font-size:18px; margin:38px 0 4px; letter-spacing:-.005em; }
h3 { font-size:13px; margin:0 0 2px; font-weight:600; }
p { margin:4px 0 12px; } .quiet, .lead { color:var(--quiet); } .lead { max-width:80ch; font-size:14px; }
  .more { margin-top:18px; }
.chip { white-space:nowrap; max-width:100%; overflow:hidden; text-overflow:ellipsis; }
summary .chip { max-width:min(100%,48ch); }
code, pre { font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace; overflow-wrap:anywhere; }
pre { white-space:pre-wrap; background:var(--soft); padding:12px; border-radius:8px; margin:8px 0; }
.head { display:flex; flex-wrap:wrap; gap:6px 14px; align-items:baseline; }
.status { font-size:13px; padding:2px 10px; border-radius:99px; background:var(--soft); font-weight:600; }
.status.finished { color:var(--c2); } .status.failed, .status.killed { color:var(--bad); }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(130px,1fr)); gap:10px; margin:20px 0 0; }
.tile, .card { background:var(--card); border:1px solid var(--line); border-radius:12px; }
.tile { padding:12px 14px; } .tile b { display:block; font-size:21px; line-height:1.25; letter-spacing:-.01em; }
.tile span { color:var(--quiet); font-size:12.5px; }
.grid-cards { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr)); gap:12px;
  margin-top:12px; }
.card { padding:14px 14px 8px; min-width:0; }
.scroll { overflow-x:auto; border:1px solid var(--line); border-radius:12px; background:var(--card); margin:10px 0; }
table { border-collapse:collapse; width:100%; font-size:14px; }
th, td { padding:8px 14px; text-align:right; white-space:nowrap; border-top:1px solid var(--line);
  vertical-align:middle; }
thead th { border-top:0; color:var(--quiet); font-weight:600; font-size:12.5px; }
th:first-child, td:first-child { text-align:left; position:sticky; left:0; background:var(--card); font-weight:600; }
.tall td { vertical-align:top; padding-top:9px; } .tall td:first-child { padding-top:9px; }
tr.learned td { background:color-mix(in srgb, var(--c0) 6%, var(--card)); }
.whole { border-left:1px solid var(--line); }
td small { color:var(--quiet); margin-left:4px; font-size:12px; }
.clear { color:var(--c2); font-weight:700; }
svg { display:block; } svg.chart { width:100%; height:auto; overflow:visible; }
svg.interval { width:120px; height:14px; margin:3px 0 0 auto; } svg.spark { width:100%; height:28px; }
.grid { stroke:var(--line); stroke-width:1; } .stage { stroke:var(--quiet); stroke-width:1; stroke-dasharray:3 3;
  opacity:.7; }
.tick, .stage-name { fill:var(--quiet); font:11px system-ui,sans-serif; } .line { fill:none; stroke-width:1.8;
  stroke-linejoin:round; stroke-linecap:round; } .range { stroke-width:4; stroke-linecap:round; opacity:.45; }
.band { opacity:.15; } .legend { display:flex; flex-wrap:wrap; gap:2px 14px; font-size:12.5px; color:var(--quiet); }
.legend i { display:inline-block; width:10px; height:10px; border-radius:3px; margin-right:5px; }
details { margin:10px 0; } summary { cursor:pointer; } .small { display:grid; gap:10px;
  grid-template-columns:repeat(auto-fill,minmax(150px,1fr)); margin-top:10px; font-size:12.5px; }
.small > div { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:8px 10px;
  min-width:0; }
.small span { display:block; color:var(--quiet); overflow:hidden; text-overflow:ellipsis; white-space:nowrap; }
.dialogue { background:var(--card); border:1px solid var(--line); border-radius:12px; overflow:hidden; }
.dialogue > summary { padding:10px 14px; display:flex; flex-wrap:wrap; gap:4px 8px; align-items:center;
  list-style:none; }
.dialogue > summary::before { content:"▸"; color:var(--quiet); } .dialogue[open] > summary::before { content:"▾"; }
.dialogue > summary::-webkit-details-marker { display:none; } .dialogue-title { font-weight:600; }
.chip { font-size:12.5px; background:var(--soft); border-radius:99px; padding:1px 9px; }
  .chip.bad { color:var(--bad); }
.id { margin-left:auto; font-size:12px; overflow-wrap:anywhere; }
.seats { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr)); gap:1px;
  background:var(--line);
  border-top:1px solid var(--line); } .seat { background:var(--card); padding:12px 14px; min-width:0; }
.seat:only-child { max-width:780px; } .seats:has(> .seat:only-child) { background:none; }
.seat header { display:flex; gap:8px; align-items:baseline; margin-bottom:8px; } .paid { margin-left:auto;
  font-size:12.5px; }
.message { padding:7px 11px; border-radius:10px; margin:6px 0; background:var(--soft); overflow-wrap:anywhere;
  max-width:92%; width:fit-content; } .message.system { background:none; border:1px dashed var(--line);
  max-width:100%; }
.message.reply { margin-left:auto;
  background:color-mix(in srgb, var(--hue,transparent) calc(var(--depth,0%) * .22), var(--card));
  border:1px solid color-mix(in srgb, var(--hue,var(--line)) calc(30% + var(--depth,0%) * .5), var(--line)); }
.role { display:block; font-size:11px; color:var(--quiet); line-height:1.3; } .text { white-space:pre-wrap; }
.text.reasoning { color:var(--quiet); font-style:italic; } .call { display:block; }
.tokens { display:flex; flex-wrap:wrap; gap:2px; margin:5px 0 2px; } .tokens i { width:9px; height:9px;
  border-radius:2px;
  background:color-mix(in srgb, var(--hue,var(--quiet)) calc(12% + var(--depth,0%) * .88), var(--card)); }
.tokens i.idle { background:none; border:1px solid var(--line); }
.facts { font-size:12px; color:var(--quiet); } .error { color:var(--bad); padding:0 14px; }
.scale { display:inline-block; width:110px; height:9px; border-radius:5px; vertical-align:middle; margin:0 6px;
  background:linear-gradient(90deg,var(--worse),var(--soft),var(--good)); }
@media (max-width:560px) { main { padding:18px 12px 40px; } h1 { font-size:22px; } th,td { padding:7px 10px; }
  .id { margin-left:0; width:100%; } .message { max-width:100%; } }
""" + "".join(
    f".line.c{i},.range.c{i}{{stroke:var(--c{i})}} .dot.c{i},.band.c{i}{{fill:var(--c{i})}}\n"
    f".legend .c{i}{{background:var(--c{i})}}\n"
    for i in range(8)
)


def page(title: str, body: str) -> str:
    """A whole HTML document. Its policy forbids every request, so that it shows the same with no network."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def tile(value: str, label: str) -> str:
    """One number of the head."""
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def card(title: str, picture: str, legend: str = "") -> str:
    """A titled picture; nothing without a picture."""
    return f'<div class="card"><h3>{escape(title)}</h3>{legend}{picture}</div>' if picture else ""


def section(title: str, lead: str, content: str) -> str:
    """A titled section; nothing without content."""
    return f'<h2>{escape(title)}</h2><p class="lead">{lead}</p>{content}' if content else ""
