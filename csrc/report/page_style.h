// The style sheet of report.html: paper and ink, one blue for training, one rust for evaluation; dark when
// the reader's system is.
#pragma once

#include <string_view>

namespace contender {

inline constexpr std::string_view kPageStyle = R"css(
:root{color-scheme:light dark;--paper:#faf9f6;--card:#fff;--ink:#1f2023;--soft:#6d6f76;--line:#e4e2dc;--band:#f3f1eb;
--s0:#2f6690;--s1:#c4572e;--s2:#8a7a1f;--good:#2e7d4f;--bad:#b83a3a;
--c0:#2f6690;--c1:#c4572e;--c2:#8a9a5b;--c3:#d9a441;--c4:#7a5c8e;--c5:#4f9d9d;--c6:#a65e6e;--c7:#8c8c8c}
@media(prefers-color-scheme:dark){:root{--paper:#15161a;--card:#1c1e23;--ink:#e6e4df;--soft:#9496a0;--line:#2d3037;--band:#22252b;
--s0:#7fb4dc;--s1:#f0936b;--s2:#d3c168;--good:#6fc794;--bad:#f08080;
--c0:#6aa5d0;--c1:#e08159;--c2:#a7b878;--c3:#e3b964;--c4:#a98cc0;--c5:#74bdbd;--c6:#cc8797;--c7:#a0a0a0}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
main{max-width:1160px;margin:0 auto;padding:clamp(20px,5vw,56px) clamp(16px,4vw,40px)}
.kicker{margin:0;color:var(--soft);font-size:13px;letter-spacing:.08em;text-transform:uppercase}
h1,h2{font-family:"Iowan Old Style","Palatino Linotype",Palatino,Georgia,serif;font-weight:500;letter-spacing:-.01em;line-height:1.15;
overflow-wrap:anywhere}
h1{font-size:clamp(30px,5vw,46px);margin:.15em 0 .5em}
h2{font-size:clamp(24px,3.4vw,32px);margin:2.4em 0 .6em;padding-top:.9em;border-top:1px solid var(--line)}
h3{font-size:13px;font-weight:600;color:var(--soft);letter-spacing:.08em;text-transform:uppercase;margin:3em 0 1em}
.climb{display:flex;flex-wrap:wrap;align-items:baseline;gap:.1em .35em;margin:0 0 .1em;
font:500 clamp(40px,8vw,72px)/1.1 "Iowan Old Style","Palatino Linotype",Palatino,Georgia,serif}
.climb .from,.climb .to{color:var(--soft)}.climb .to{font-size:.6em}.climb .after{color:var(--good)}.climb .after.worse{color:var(--bad)}
.climb+p{margin:0 0 1.6em;color:var(--soft)}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:1px;margin:1.2em 0 0;background:var(--card);
border:1px solid var(--line);border-radius:8px;overflow:hidden}
dl div{background:var(--card);padding:10px 14px;min-width:0;box-shadow:0 0 0 1px var(--line)}
dt{color:var(--soft);font-size:12.5px}dd{margin:0;font-size:17px;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:18px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 14px 8px;min-width:0}
figcaption{display:flex;flex-wrap:wrap;align-items:baseline;gap:0 8px;margin-bottom:6px;font-size:14px}
figcaption b{font-weight:600}figcaption small{color:var(--soft)}figcaption output{margin-left:auto;font-weight:600}
.legend{color:var(--soft);font-size:12.5px}.key{display:inline-block;width:9px;height:9px;border-radius:50%;margin:0 4px 0 6px}
.key.s0{background:var(--s0)}.key.s1{background:var(--s1)}.key.s2{background:var(--s2)}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:11px;fill:var(--soft);stroke:none}
.ytick{text-anchor:end}.xtick{text-anchor:middle}.band{fill:var(--band)}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1;opacity:.6}
.s0{stroke:var(--s0)}.s1{stroke:var(--s1)}.s2{stroke:var(--s2)}
.curve{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}.curve.raw{opacity:.28;stroke-width:1}
.join{fill:none;stroke-width:1;opacity:.55;stroke-dasharray:2 3}.mark{fill:var(--card);stroke-width:2}
.pt rect{fill:transparent}.pt circle{fill:var(--card);stroke-width:2;opacity:0;pointer-events:none}.pt:hover circle{opacity:1}
@media(min-width:860px){.charts{grid-template-columns:repeat(6,1fr)}.chart{grid-column:span 2}.chart.wide{grid-column:span 3}}
@media(max-width:859px){.wide svg text{font-size:14px}}
.phases{margin-top:18px;padding-bottom:14px}.stack{display:flex;height:26px;border-radius:5px;overflow:hidden}.stack i{min-width:1px}
.phases ul{display:flex;flex-wrap:wrap;gap:4px 20px;list-style:none;margin:12px 0 0;padding:0;font-size:14px}
.phases li i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}.phases li span{color:var(--soft)}
.c0{background:var(--c0)}.c1{background:var(--c1)}.c2{background:var(--c2)}.c3{background:var(--c3)}
.c4{background:var(--c4)}.c5{background:var(--c5)}.c6{background:var(--c6)}.c7{background:var(--c7)}
.sample{margin-bottom:18px;padding:0;overflow:hidden}
.ask{padding:12px 16px;border-bottom:1px solid var(--line);background:var(--band)}.ask pre{color:var(--ink)}
.pair{display:grid;grid-template-columns:1fr 1fr}.pair>div{padding:12px 16px;min-width:0}.pair>div+div{border-left:1px solid var(--line)}
@media(max-width:700px){.pair{grid-template-columns:1fr}.pair>div+div{border-left:0;border-top:1px solid var(--line)}}
.label{display:flex;justify-content:space-between;gap:12px;color:var(--soft);font-size:12.5px;margin-bottom:4px}
.right{color:var(--good);font-weight:600}.wrong{color:var(--bad);font-weight:600}
pre{margin:0;font:13.5px/1.55 ui-monospace,"SF Mono",Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.think{color:var(--soft)}.answer{color:var(--ink);font-weight:700}.tag{color:var(--s0);opacity:.75;font-weight:400}
details{margin-top:24px}summary{cursor:pointer;color:var(--soft);margin-bottom:16px}
.bad{color:var(--bad)}
footer{margin-top:4em;color:var(--soft);font-size:13px}
)css";

}  // namespace contender
