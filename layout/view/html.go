package view

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/docker/go-units"
)

// WriteHTML writes a page that shows the files of the image as a treemap, with a
// colour for each layer. It is one file that loads nothing and works offline.
// What the image says is escaped, and cannot run: the page's policy allows its
// own script only.
func (l *Layers) WriteHTML(w io.Writer, title string) error {
	page, err := template.New("page").Parse(pageText)
	if err != nil {
		return err
	}
	return page.Execute(w, l.page(title))
}

// page is what the template shows.
type page struct {
	Title, Digest, Platform     string
	Policy                      string
	Style                       template.CSS
	Script                      template.JS
	Files, Bytes, Wasted, Score string
	Width, Height               int
	Boxes                       []boxView
	Layers                      []layerView
	Waste                       []wasteView
}

type boxView struct {
	X, Y, W, H   string
	TextX, TextY string
	Class        string
	Label, Title string
}

type layerView struct {
	N                                                int
	Class, Digest, Packed, Unpacked, Wasted, Created string
	Added, Changed, Removed                          int
}

type wasteView struct {
	Bytes, Path string
	Count       int
}

const (
	colours  = 10
	maxTable = 30 // wasteful paths
)

func (l *Layers) page(title string) page {
	p := page{
		Title: visible(title), Digest: l.Digest.String(), Platform: visible(l.Platform), Policy: policy(),
		Style: template.CSS(pageStyle), Script: template.JS(pageScript),
		Files: fmt.Sprint(l.Files), Bytes: sizeText(l.Bytes), Wasted: sizeText(l.Wasted), Score: fmt.Sprintf("%.1f %%", 100*l.Efficiency),
		Width: mapWidth, Height: mapHeight,
	}
	for _, b := range l.tree.treemap() {
		p.Boxes = append(p.Boxes, b.view())
	}
	for i, y := range l.Layers {
		p.Layers = append(p.Layers, layerView{
			N: i + 1, Class: colour(i), Digest: y.Digest.Encoded()[:12], Packed: sizeText(y.Packed), Unpacked: sizeText(y.Unpacked),
			Wasted: sizeText(y.Wasted), Created: visible(y.CreatedBy), Added: y.Added, Changed: y.Changed, Removed: y.Removed,
		})
	}
	for _, w := range l.Waste[:min(len(l.Waste), maxTable)] {
		p.Waste = append(p.Waste, wasteView{Bytes: sizeText(w.Bytes), Path: visible("/" + w.Path), Count: w.Count})
	}
	return p
}

// colour is the class of a layer.
func colour(layer int) string { return fmt.Sprintf("c%d", layer%colours) }

// view makes the words of a box.
func (b box) view() boxView {
	v := boxView{X: coord(b.X), Y: coord(b.Y), W: coord(b.W), H: coord(b.H), TextX: coord(b.X + 4), TextY: coord(b.Y + 12)}
	p := visible(b.Path)
	name := p
	if i := strings.LastIndex(strings.TrimSuffix(p, "/"), "/"); i >= 0 && p != "/" {
		name = p[i+1:]
	}
	switch {
	case b.Rest:
		v.Class, v.Title = "rest", fmt.Sprintf("%s: %d small files, %s", p, b.Files, sizeText(b.Bytes))
		name = ""
	case b.Layer < 0:
		v.Class, v.Title = "dir", fmt.Sprintf("%s: %d files, %s", p, b.Files, sizeText(b.Bytes))
	default:
		v.Class, v.Title = colour(b.Layer), fmt.Sprintf("%s: %s, layer %d", p, sizeText(b.Bytes), b.Layer+1)
	}
	if b.H >= mapHead {
		v.Label = fit(name, b.W-8)
	}
	return v
}

// fit cuts a name to a width; nothing is left when it has no room.
func fit(name string, width float64) string {
	const letter = 6.2 // about, at the size of the text
	room := int(width / letter)
	runes := []rune(name)
	switch {
	case len(runes) <= room:
		return name
	case room < 4:
		return ""
	}
	return string(runes[:room-1]) + "…"
}

func coord(f float64) string { return fmt.Sprintf("%.1f", f) }

func sizeText(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// visible replaces what could hide or reorder text: control and formatting
// characters, and bytes that are no UTF-8.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < ' ', r >= 0x7f && r < 0xa0, r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2060 && r <= 0x206f, r == 0xfeff:
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// policy is the page's Content-Security-Policy.
func policy() string {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + hash(pageStyle) + "; script-src " + hash(pageScript)
}

const pageStyle = `
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#59636e;--line:#d1d9e0;--dir:#eef1f4;--rest:#dde2e7}
@media(prefers-color-scheme:dark){:root{--bg:#16191d;--fg:#e6e9ed;--soft:#9aa4af;--line:#363d45;--dir:#22272d;--rest:#343b43}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1280px;padding:24px;background:var(--bg);color:var(--fg);font:14px/1.45 system-ui,sans-serif}
h1{font-size:20px;margin:0;overflow-wrap:anywhere}
h2{font-size:15px;margin:28px 0 8px}
p{margin:4px 0}
.soft{color:var(--soft);overflow-wrap:anywhere}
.facts{display:flex;flex-wrap:wrap;gap:8px 32px;margin:16px 0}
.facts b{display:block;font-size:18px}
svg{display:block;width:100%;height:auto;border:1px solid var(--line)}
svg text{font:11px system-ui,sans-serif;fill:#14181d;pointer-events:none}
svg .dir+text,svg .rest+text{fill:var(--fg)}
rect{stroke:var(--bg);stroke-width:.6}
rect.dir{fill:var(--dir);stroke:var(--line)}
rect.rest{fill:var(--rest)}
g{outline:none}
g:hover>rect,g:focus>rect{stroke:var(--fg);stroke-width:2}
#say{min-height:2.9em;padding:6px 0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:4px 12px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft)}
td.n,th.n{width:1%;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.w{overflow-wrap:anywhere}
code{font:12px ui-monospace,monospace}
.key{display:inline-block;width:14px;height:14px;vertical-align:-2px;border-radius:3px}
.key rect{stroke:none}
svg.key{border:0;display:inline-block;width:14px;height:14px}
.c0{fill:#7fb3e6}.c1{fill:#f2b56b}.c2{fill:#8ccf8f}.c3{fill:#e58f8f}.c4{fill:#b9a3e3}
.c5{fill:#d6b48c}.c6{fill:#eaa3cf}.c7{fill:#b5bcc4}.c8{fill:#d7d56e}.c9{fill:#7fd3d6}
`

const pageScript = `
var say = document.getElementById("say");
function show(e) {
  var g = e.target.closest("g");
  if (g) say.textContent = g.querySelector("title").textContent;
}
var map = document.getElementById("map");
map.addEventListener("mouseover", show);
map.addEventListener("focusin", show);
`

const pageText = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{.Policy}}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>{{.Style}}</style>
</head>
<body>
<h1>{{.Title}}</h1>
<p class="soft">{{.Platform}} <code>{{.Digest}}</code></p>
<div class="facts">
<div><b>{{.Bytes}}</b>in {{.Files}} files</div>
<div><b>{{len .Layers}}</b>layers</div>
<div><b>{{.Wasted}}</b>wasted</div>
<div><b>{{.Score}}</b>efficiency</div>
</div>
<svg id="map" viewBox="0 0 {{.Width}} {{.Height}}" role="img" aria-label="Files of the image by size">
{{range .Boxes}}<g tabindex="0"><title>{{.Title}}</title><rect class="{{.Class}}" x="{{.X}}" y="{{.Y}}" width="{{.W}}" height="{{.H}}"/>{{if .Label}}<text x="{{.TextX}}" y="{{.TextY}}">{{.Label}}</text>{{end}}</g>
{{end}}</svg>
<p id="say" class="soft" aria-live="polite">Point at a box, or go from box to box with the Tab key, to see what it is.</p>
<h2>Layers</h2>
<table>
<tr><th></th><th class="n">Layer</th><th>Digest</th><th class="n">Packed</th><th class="n">Unpacked</th><th class="n">Added</th><th class="n">Changed</th><th class="n">Removed</th><th class="n">Wasted</th><th>Created by</th></tr>
{{range .Layers}}<tr><td><svg class="key" viewBox="0 0 14 14"><rect class="{{.Class}}" width="14" height="14"/></svg></td><td class="n">{{.N}}</td><td><code>{{.Digest}}</code></td><td class="n">{{.Packed}}</td><td class="n">{{.Unpacked}}</td><td class="n">{{.Added}}</td><td class="n">{{.Changed}}</td><td class="n">{{.Removed}}</td><td class="n">{{.Wasted}}</td><td class="w"><code>{{.Created}}</code></td></tr>
{{end}}</table>
{{if .Waste}}<h2>Replaced or removed by later layers</h2>
<table>
<tr><th class="n">Bytes</th><th class="n">Times</th><th>Path</th></tr>
{{range .Waste}}<tr><td class="n">{{.Bytes}}</td><td class="n">{{.Count}}</td><td class="w"><code>{{.Path}}</code></td></tr>
{{end}}</table>
{{end}}<script>{{.Script}}</script>
</body>
</html>
`
