"""The look of the page, light and dark, narrow and wide."""

STYLE = """
:root {
  --ground: #f5f6f8; --card: #ffffff; --ink: #1d2329; --muted: #5c6773;
  --grid: #d9dee4; --shade: #c3cad2; --link: #0b5c95;
  --good: #0a6b50; --bad: #a83c00; --open: #735800;
  --series-0: #0b6fb3; --series-1: #cf5200; --series-2: #0a8060;
  --series-3: #a6478a; --series-4: #8a6a00; --series-5: #2b8fa8;
  --series-6: #66707c;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #101418; --card: #181d23; --ink: #e4e8ec; --muted: #9aa5b1;
    --grid: #333b45; --shade: #000000; --link: #7cc0f2;
    --good: #5fd0aa; --bad: #ff9a66; --open: #e0bd55;
    --series-0: #5cb3f2; --series-1: #ff8f52; --series-2: #47cfa3;
    --series-3: #e792cb; --series-4: #dcb94a; --series-5: #6fd3ea;
    --series-6: #b3bcc7;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; max-width: 74rem; padding: 2.5rem 1.25rem 4rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Liberation Sans", Arial, sans-serif;
}
h1 {
  margin: 0 0 .75rem; font-size: 1.9rem; line-height: 1.2;
  overflow-wrap: anywhere;
}
h2 { margin: 3rem 0 .5rem; font-size: 1.35rem; line-height: 1.3; }
h3 { margin: 0; font-size: 1rem; line-height: 1.4; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); text-underline-offset: .15em; }
.eyebrow { margin: 0 0 .25rem; color: var(--muted); font-size: .875rem; }
.result { margin: 0 0 1rem; font-size: 1.15rem; line-height: 1.5; }
.note, figcaption p { color: var(--muted); font-size: .875rem; }
.warning { border-left: 3px solid var(--open); padding-left: .75rem; }
ul.chips, nav ul {
  display: flex; flex-wrap: wrap; list-style: none; margin: 1rem 0; padding: 0;
}
ul.chips { gap: .4rem; }
ul.chips li {
  border: 1px solid var(--grid); border-radius: 1rem; padding: .1rem .7rem;
  font-size: .875rem; background: var(--card);
}
nav ul {
  gap: .25rem 1.25rem; border-block: 1px solid var(--grid);
  padding: .6rem 0; font-size: .9375rem;
}
.grid {
  display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
}
figure, .scroll, dl, pre {
  margin: 0; background: var(--card); border: 1px solid var(--grid);
  border-radius: .5rem;
}
figure { padding: 1rem; min-width: 0; }
figcaption p { margin: .15rem 0 .5rem; }
figure svg {
  display: block; width: 100%; height: auto; margin: .5rem auto 0;
}
/* A shade at the side to which the table goes on. */
.scroll {
  overflow-x: auto; margin: 1rem 0;
  background:
    linear-gradient(to right, var(--card) 40%, transparent) left,
    linear-gradient(to left, var(--card) 40%, transparent) right,
    linear-gradient(to right, var(--shade), transparent) left,
    linear-gradient(to left, var(--shade), transparent) right,
    var(--card);
  background-size: 3rem 100%, 3rem 100%, .8rem 100%, .8rem 100%;
  background-repeat: no-repeat;
  background-attachment: local, local, scroll, scroll;
}
table {
  border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums;
}
caption {
  text-align: left; padding: .75rem .9rem .5rem; font-weight: 600;
  font-size: 1rem;
}
th, td {
  padding: .35rem .9rem; text-align: right; white-space: nowrap;
  border-top: 1px solid var(--grid);
}
thead th {
  color: var(--muted); font-weight: 500; vertical-align: bottom;
  white-space: normal; line-height: 1.3;
}
tbody th { font-weight: 500; }
th:first-child, .text th, .text td { text-align: left; }
.text td { white-space: normal; min-width: 7rem; vertical-align: top; }
.text th { vertical-align: top; }
.text td:nth-child(2) { min-width: 16rem; }
.text td:last-child { white-space: nowrap; }
tbody th, thead th:first-child {
  position: sticky; left: 0; background: var(--card);
}
tbody tr:last-child > * { padding-bottom: .7rem; }
.reproduced { color: var(--good); font-weight: 600; }
.not-reproduced { color: var(--bad); font-weight: 600; }
.undecided { color: var(--open); font-weight: 600; }
.not-run { color: var(--muted); }
dl { padding: .4rem .9rem; margin: 1rem 0; font-size: .9375rem; }
dl div {
  display: grid; grid-template-columns: 11rem 1fr; gap: .25rem 1rem;
  padding: .35rem 0;
}
dl div + div { border-top: 1px solid var(--grid); }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
pre {
  white-space: pre-wrap; overflow-wrap: anywhere;
  padding: .75rem .9rem; margin: 1rem 0;
  font-size: .875rem; line-height: 1.5;
}
code { font-family: ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono",
  monospace; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 500; color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
@media (max-width: 40rem) {
  body { padding: 1.5rem .9rem 3rem; }
  h1 { font-size: 1.5rem; }
  h2 { margin-top: 2.25rem; }
  .result { font-size: 1.05rem; }
  figure { padding: .75rem .6rem; }
  dl div { grid-template-columns: 1fr; gap: 0; }
}
@media print {
  body { background: none; padding: 0; max-width: none; }
  nav { display: none; }
  figure, .scroll { break-inside: avoid; }
}
"""
