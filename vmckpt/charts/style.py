"""How the pages look, and the little that moves in them: the text of a style sheet and of a script. Used by `page`.

Colours keep apart for all kinds of colour vision, by lightness as well as by hue; text has a contrast of at least 4.5 to
what it stands on, in both themes. Without the script the page is whole: it adds the switch of themes, and shows at once
what a browser otherwise shows after a moment, the `title` of a shape.
"""

__all__ = ["SCRIPT", "STYLE"]

_LIGHT = """
--page:#f6f5f2;--card:#fff;--ink:#1b2430;--soft:#566272;--rule:#e2e0da;--faint:#eeece7;--accent:#1c64a6;
--blue:#1c64a6;--sky:#93c3ea;--orange:#c9480a;--amber:#eba63a;--grey:#8f9aa8;--pale:#e6e4de;--purple:#94508a;--green:#13866a;
--shade:#ecebe6;color-scheme:light;
"""
_DARK = """
--page:#10151b;--card:#181f27;--ink:#e8ecf1;--soft:#a2aebb;--rule:#2d3742;--faint:#222a34;--accent:#6cb3f0;
--blue:#4a9fe8;--sky:#2f6a9c;--orange:#f47b3c;--amber:#d6a03c;--grey:#677382;--pale:#28313b;--purple:#cf8abf;--green:#35b38d;
--shade:#202832;color-scheme:dark;
"""
_COLOURS = ("blue", "sky", "orange", "amber", "grey", "pale", "purple", "green", "ink", "soft", "card")

STYLE = (
    f":root{{{_LIGHT}}}\n"
    f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{_DARK}}}}}\n"
    f":root[data-theme=dark]{{{_DARK}}}\n"
    + "".join(f".c-{name}{{--c:var(--{name})}}" for name in _COLOURS)
    + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 24px}
header{padding-top:36px;position:relative}
.eyebrow{margin:0;padding-right:9rem;color:var(--soft);font-size:13px;letter-spacing:.02em}
h1{margin:.2rem 0 .6rem;font-size:clamp(24px,4.2vw,34px);line-height:1.2;letter-spacing:-.015em;font-weight:650;overflow-wrap:anywhere}
.lead{margin:0;max-width:62ch;font-size:17px;line-height:1.5;color:var(--soft)}
.lead b{color:var(--ink);font-weight:600}
#theme{position:absolute;top:30px;right:24px;font:inherit;font-size:13px;color:var(--ink);background:var(--card);border:1px solid var(--rule);border-radius:999px;padding:5px 14px;cursor:pointer}
#theme:hover{border-color:var(--soft)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.tiles{display:grid;grid-template-columns:repeat(5,minmax(0,1fr));margin:28px 0 20px;background:var(--card);border:1px solid var(--rule);border-radius:12px;overflow:hidden}
.tile{padding:14px 18px 13px;display:flex;flex-direction:column;box-shadow:1px 1px 0 var(--rule)}
.tile dt{font-size:13px;color:var(--soft)}
.tile dd{margin:0}
.tile .value{font-size:23px;line-height:1.35;font-weight:620;letter-spacing:-.01em}
.tile .note{font-size:13px;line-height:1.4;color:var(--soft)}
.figures{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:20px}
figure,.facts{grid-column:1/-1;min-width:0;margin:0;padding:20px 22px 16px;background:var(--card);border:1px solid var(--rule);border-radius:12px}
figure.half{grid-column:auto}
figure{display:flex;flex-direction:column}
figure>details,figure>div>details{margin-top:auto}
figure.half>.plot{margin-top:auto}figure.half>details{margin-top:0}
h2{margin:0 0 2px;font-size:17px;line-height:1.35;font-weight:640}
figcaption p{margin:0 0 12px;max-width:112ch;font-size:13.5px;color:var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 12px;padding:0;list-style:none;font-size:13px}
.legend li{display:flex;align-items:center;gap:7px;color:var(--soft)}
.legend b{color:var(--ink);font-weight:560;white-space:nowrap}
.key{flex:none;width:12px;height:12px;border-radius:3px;background:var(--c)}
.key.rug{height:5px;width:16px;border-radius:1px}
.key.line,.key.thick,.key.thin{width:18px;height:3px;border-radius:2px}
.key.thick{height:7px;opacity:.45}.key.thin{height:2px}
.key.dash,.key.dot,.key.solid{width:0;height:14px;border-radius:0;background:none;border-left:2px dashed var(--c);margin:0 4px}
.key.dot{border-left-style:dotted}.key.solid{border-left-style:solid}
.plot{display:grid;grid-template-columns:var(--y) minmax(0,1fr);grid-template-rows:auto 220px 20px auto;font-size:12px;line-height:16px;color:var(--soft);margin-bottom:10px}
.plot.tall{grid-template-rows:auto 300px 20px auto}
.y-title{grid-column:1/-1;margin-bottom:8px}
.ys,.xs{position:relative}
.ys span{position:absolute;right:8px;transform:translateY(-50%);white-space:nowrap}
.drawing{min-width:0;border-bottom:1px solid var(--soft)}
.drawing svg{display:block;width:100%;height:100%;overflow:visible}
.xs{grid-column:2;margin-top:4px}
.xs span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.xs .first{transform:none}.xs .last{transform:translateX(-100%)}
.x-title{grid-column:2;text-align:right;margin-top:2px}
path{vector-effect:non-scaling-stroke}
.grid{stroke:var(--rule);stroke-width:1px;fill:none}
.fill{fill:var(--c)}.flat{shape-rendering:crispEdges}
.wash{fill:var(--c);opacity:.2;shape-rendering:crispEdges}
.stroke{fill:none;stroke:var(--c);stroke-width:2px;stroke-linejoin:round;stroke-linecap:round}
.stroke.see{opacity:.45}
.shade{fill:var(--shade)}
.mark{fill:none;stroke:var(--ink);stroke-width:1.5px;stroke-dasharray:6 4}
.mark.dot{stroke-dasharray:1.5 3.5}.mark.solid{stroke-dasharray:none}
.hit{fill:transparent;pointer-events:all}.hit:hover{fill:var(--ink);fill-opacity:.13}
.bands{display:grid;gap:5px;margin-bottom:12px}
.row{display:grid;grid-template-columns:9ch minmax(0,1fr);align-items:center;font-size:12px;color:var(--soft)}
.row span{text-align:right;padding-right:10px;white-space:nowrap}
.band{display:block;width:100%;height:22px}.band.with-rug{height:28px}
figcaption .kind{margin:0;font-size:12px;letter-spacing:.04em;text-transform:uppercase}
.stroke.dash{stroke-dasharray:7 4;stroke-linecap:butt}
.key.dashes{width:20px;height:0;border-radius:0;background:none;border-top:2px dashed var(--c)}.key.point{border-radius:50%}
.ladder{display:grid;margin-bottom:12px;font-size:13px}
.step,.foot{display:grid;grid-template-columns:minmax(11rem,17rem) minmax(0,1fr) 6.5rem;column-gap:14px;align-items:center}
.what,.much{display:flex;flex-direction:column;padding:5px 0;line-height:1.35;color:var(--soft)}
.step b{color:var(--ink);font-weight:600}.much{text-align:right}.much b{font-size:15px;white-space:nowrap}
.beam{display:block;width:100%;height:100%;min-height:46px}
.joint{stroke:var(--soft);stroke-width:1px;stroke-dasharray:2 3;fill:none}
.wash.edged{stroke:var(--c);stroke-width:1px;shape-rendering:auto;opacity:1;fill-opacity:.2;stroke-dasharray:4 3}
.halo{stroke:var(--card);stroke-width:5px;fill:none}.whisker{stroke:var(--ink);stroke-width:2px;fill:none}
.foot .xs{height:20px;font-size:12px;line-height:16px;color:var(--soft)}
.unit{margin:0;text-align:right;padding-right:calc(6.5rem + 14px);font-size:12px;color:var(--soft)}
.matrix{display:grid;grid-template-columns:minmax(5rem,26%) minmax(0,1fr);font-size:12px;color:var(--soft);margin-bottom:12px}
.columns{grid-column:2;display:grid;grid-template-columns:repeat(var(--n),minmax(0,1fr));text-align:center}
.rows{display:grid;grid-template-rows:repeat(var(--n),var(--cell));align-items:center;padding-right:10px;min-width:0}
.rows span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;line-height:16px;min-width:0}
.square{position:relative;height:calc(var(--n)*var(--cell))}
.square svg{display:block;width:100%;height:100%}
.square span{position:absolute;transform:translate(-50%,-50%);pointer-events:none;white-space:nowrap;color:var(--ink);font-size:clamp(10px,2.6vw,12px)}
.square .on{color:var(--card)}
.cell{stroke:var(--card);stroke-width:1px}
.strip{margin:7px 0 0;font-size:13px;line-height:1.4;color:var(--soft);overflow-wrap:anywhere}.strip:first-child{margin-top:0}.strip b{color:var(--ink);font-weight:600}
.keys{display:flex;flex-wrap:wrap;align-items:end;gap:6px 32px;margin-bottom:12px}
.keys .legend{margin:0}
.ramps{display:grid;grid-template-columns:max-content repeat(4,minmax(3.4rem,4.6rem));gap:3px;align-items:center;font-size:12px;line-height:15px;color:var(--soft)}
.ramps i{height:12px;background:var(--c)}.hue{padding-right:10px}.level{text-align:center;align-self:end}
.inbar{display:block;width:100%;min-width:110px;height:11px;border-radius:3px}
.scroll.open .inbar{max-width:220px}.scroll.open{max-height:430px;margin:0 0 6px}
th.text,td.text{text-align:left}td.wrap,.scroll td .wrap{white-space:normal}
details{font-size:13px;color:var(--soft)}
summary{cursor:pointer;width:fit-content;padding:2px 0}
summary:hover{color:var(--ink)}
.scroll{max-height:320px;overflow:auto;margin-top:6px;border:1px solid var(--rule);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:12.5px}
th,td{padding:4px 12px;text-align:right;white-space:nowrap;font-weight:400}
thead th{position:sticky;top:0;background:var(--faint);color:var(--ink);font-weight:560}
tbody tr+tr{border-top:1px solid var(--faint)}
th:first-child{text-align:left}
td{color:var(--ink)}
.nothing{margin:4px 0 14px;padding:34px 20px;text-align:center;color:var(--soft);background:var(--faint);border-radius:8px}
.facts dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 20px;margin:8px 0 4px;font-size:13.5px}
.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere}
footer{padding-top:18px;padding-bottom:36px;font-size:12.5px;color:var(--soft)}
#tip{position:fixed;z-index:9;pointer-events:none;max-width:300px;padding:7px 11px;font-size:12.5px;line-height:1.45;white-space:pre-line;color:var(--page);background:var(--ink);border-radius:7px;opacity:0;transition:opacity .08s}
#tip.on{opacity:.96}
@media (max-width:860px){.tiles{grid-template-columns:repeat(3,minmax(0,1fr))}}
@media (max-width:760px){.figures{grid-template-columns:minmax(0,1fr)}figure.half{grid-column:1/-1}}
@media (max-width:560px){
main,header,footer{padding-left:12px;padding-right:12px}header{padding-top:22px}#theme{top:14px;right:12px}h1{margin-top:.7rem}
.lead{font-size:15.5px}.tiles{grid-template-columns:repeat(2,minmax(0,1fr));margin:20px 0 14px}.tile{padding:11px 13px 10px}.tile .value{font-size:19px}.tile:last-child:nth-child(odd){grid-column:1/-1}
figure,.facts{padding:16px 14px 12px}.figures{gap:14px}.xs .odd{display:none}.row{grid-template-columns:8ch minmax(0,1fr);font-size:11px}
.row span{padding-right:7px}.plot{grid-template-rows:auto 180px 20px auto}.plot.tall{grid-template-rows:auto 240px 20px auto}
.step{grid-template-columns:minmax(0,1fr) max-content;row-gap:0}.beam{grid-column:1/-1;grid-row:2;min-height:40px}.what span{display:none}.much{flex-direction:row;gap:8px;align-items:baseline}
.foot{grid-template-columns:minmax(0,1fr)}.foot .xs{grid-column:1}.unit{padding-right:0}.ramps{grid-template-columns:max-content repeat(4,minmax(0,4.6rem))}
.columns .odd{visibility:hidden}
.facts dl{grid-template-columns:minmax(0,1fr);gap:0}.facts dd{margin-bottom:7px}
}
@media print{body{background:#fff}#theme,details{display:none}figure{break-inside:avoid}}
@media (prefers-reduced-motion:reduce){#tip{transition:none}}
"""
)

SCRIPT = """
(function(){
var root=document.documentElement,button=document.getElementById("theme"),dark=matchMedia("(prefers-color-scheme:dark)");
function isDark(){return(root.dataset.theme||(dark.matches?"dark":"light"))==="dark"}
function name(){button.textContent=isDark()?"Light theme":"Dark theme"}
button.hidden=false;name();dark.addEventListener("change",name);
button.addEventListener("click",function(){root.dataset.theme=isDark()?"light":"dark";name()});
var tip=document.createElement("div");tip.id="tip";tip.setAttribute("aria-hidden","true");document.body.appendChild(tip);
function show(event){
var shape=event.target.closest?event.target.closest(".hit,.mark"):null;
if(!shape){tip.className="";return}
var title=shape.querySelector("title");
if(title){shape.dataset.tip=title.textContent;title.remove()}
tip.textContent=shape.dataset.tip;tip.className="on";
var x=event.clientX+14,y=event.clientY+14;
if(x+tip.offsetWidth+8>innerWidth)x=Math.max(8,event.clientX-tip.offsetWidth-12);
if(y+tip.offsetHeight+8>innerHeight)y=Math.max(8,event.clientY-tip.offsetHeight-12);
tip.style.left=x+"px";tip.style.top=y+"px"}
document.addEventListener("pointermove",show);document.addEventListener("pointerdown",show);
document.addEventListener("scroll",function(){tip.className=""},{passive:true});
})();
"""
