// The SVG on its stage: parsing, panning, zooming, light and dark.

const views = new Map(); // name of a diagram -> {size, box}: survives reruns, and leaving the page and coming back
const CLICK = 4; // pixels that the pointer may move in a click
const NAMESPACE = "http://www.w3.org/2000/svg";

/** An SVG text as an element without scripts, handlers, links or anything foreign: our own pictures have none. */
function parsed(text) {
  const svg = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  if (svg.nodeName !== "svg") throw new Error("the diagram is not an SVG");
  for (const element of [...svg.querySelectorAll("*")]) {
    if (/^(script|style|foreignObject|iframe|image|a|use)$/i.test(element.localName)) element.remove();
  }
  for (const element of [svg, ...svg.querySelectorAll("*")]) {
    for (const { name } of [...element.attributes]) if (/^on|href$/i.test(name)) element.removeAttribute(name);
  }
  svg.removeAttribute("width");
  svg.removeAttribute("height");
  return document.importNode(svg, true);
}

function luminance(colour) {
  const found = colour.startsWith("#")
    ? colour.slice(1).match(colour.length > 5 ? /../g : /./g).map((x) => parseInt(x.length > 1 ? x : x + x, 16))
    : (colour.match(/[\d.]+/g) || [255, 255, 255]).map(Number);
  const [r, g, b] = found.slice(0, 3).map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

class View {
  constructor(stage, name) {
    this.stage = stage;
    this.name = name;
    this.svg = null;
    this.box = null;
    this.fitted = null; // "fit" or "wide" as long as nobody panned or zoomed: then a new size of the stage fits it anew
    this.moved = false;
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("dblclick", (event) => event.target.closest(".weight, .typed") || this.fit());
    new ResizeObserver(() => this.resized()).observe(stage);
  }

  /** Show a picture; the first time all of it, or its whole width from the top if it would be smaller than `legible`. */
  show(text, legible = 0.3) {
    const svg = parsed(text);
    this.stage.replaceChildren(svg);
    this.svg = svg;
    const [, , w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
    this.size = { w, h };
    svg.setAttribute("preserveAspectRatio", "xMidYMid meet");
    const kept = views.get(this.name);
    this.legible = legible;
    this.waiting = false;
    if (kept && kept.size.w === w && kept.size.h === h) this.set(kept.box);
    else this.start();
  }

  /** The first look, taken again when the stage has no size yet. */
  start() {
    const scale = Math.min(this.stage.clientWidth / this.size.w, this.stage.clientHeight / this.size.h);
    this.waiting = !scale;
    if (scale && scale < this.legible) this.wide();
    else this.fit();
  }

  /** Light or dark, as the page around is. */
  theme() {
    const background = getComputedStyle(this.stage).getPropertyValue("--st-background-color").trim() || "#ffffff";
    const name = luminance(background) < 0.4 ? "dark" : "light";
    this.stage.classList.toggle("dark", name === "dark");
    this.stage.classList.toggle("light", name === "light");
    if (this.svg) this.svg.setAttribute("class", `unetscope-${name}`);
  }

  set(box) {
    this.box = box;
    if (!this.waiting) views.set(this.name, { size: this.size, box, fitted: this.fitted });
    this.svg.setAttribute("viewBox", [box.x, box.y, box.w, box.h].map((n) => n.toFixed(2)).join(" "));
  }

  /** All of it, or, where that would be too small to read, its whole width from the top. */
  fit() {
    if (!this.svg) return;
    const { clientWidth: w, clientHeight: h } = this.stage;
    this.fitted = "fit";
    if (w && Math.min(w / this.size.w, h / this.size.h) < 0.3) this.top();
    else this.set({ x: 0, y: 0, w: this.size.w, h: this.size.h });
  }

  /** Its whole width, from the top. */
  wide() {
    if (!this.svg) return;
    this.fitted = "wide";
    this.top();
  }

  top() {
    const { clientWidth: w, clientHeight: h } = this.stage;
    this.set({ x: 0, y: 0, w: this.size.w, h: w ? (this.size.w * h) / w : this.size.h });
  }

  resized() {
    if (!this.svg || !this.box || !this.stage.clientWidth) return; // a stage that is taken off the page has no size
    if (this.waiting) this.start();
    else if (this.fitted) this[this.fitted]();
  }

  /** A pointer's place in the picture. */
  point(event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
  }

  zoom(factor, at) {
    if (!this.svg) return;
    const { x, y, w, h } = this.box;
    const scale = Math.min(Math.max(w * factor, this.size.w / 60), this.size.w * 3) / w;
    const [px, py] = at ? [at.x, at.y] : [x + w / 2, y + h / 2];
    this.fitted = null;
    this.set({ x: px - (px - x) * scale, y: py - (py - y) * scale, w: w * scale, h: h * scale });
  }

  wheel(event) {
    if (!this.svg) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : 1;
    this.zoom(Math.exp(Math.max(-120, Math.min(120, event.deltaY * lines)) * 0.0022), this.point(event));
  }

  down(event) {
    this.moved = false;
    if (!this.svg || event.button !== 0 || event.target.closest(".typed")) return;
    const start = { x: event.clientX, y: event.clientY, box: this.box };
    const unit = 1 / this.svg.getScreenCTM().a;
    const move = (moving) => {
      const dx = moving.clientX - start.x, dy = moving.clientY - start.y;
      if (!this.moved && Math.hypot(dx, dy) <= CLICK) return;
      this.moved = true;
      this.fitted = null;
      this.stage.classList.add("panning");
      this.set({ ...start.box, x: start.box.x - dx * unit, y: start.box.y - dy * unit });
    };
    const up = () => {
      this.stage.classList.remove("panning");
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", up);
      removeEventListener("pointercancel", up);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", up);
    addEventListener("pointercancel", up);
  }

  /** Bring an element into sight when it is outside. */
  reveal(element) {
    const seen = this.stage.getBoundingClientRect(), at = element.getBoundingClientRect();
    if (at.left >= seen.left && at.right <= seen.right && at.top >= seen.top && at.bottom <= seen.bottom) return;
    const unit = 1 / this.svg.getScreenCTM().a;
    const dx = (at.left + at.right - seen.left - seen.right) / 2, dy = (at.top + at.bottom - seen.top - seen.bottom) / 2;
    this.fitted = null;
    this.set({ ...this.box, x: this.box.x + dx * unit, y: this.box.y + dy * unit });
  }
}
