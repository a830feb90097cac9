// Weight handles: a track with a knob and a number in every box that was drawn with room for one.

const RELEASE = 350; // milliseconds after the last turn of the wheel or press of a key

function made(name, attributes, parent) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

class Handle {
  constructor(item, weight, limits) {
    this.item = item;
    const drawn = item.element.querySelector(":scope > rect.bar.track");
    const at = (name) => Number(drawn.getAttribute(name));
    [this.x, this.y, this.width] = [at("x"), at("y"), at("width")];
    const number = [...item.element.querySelectorAll(":scope > text.sb")].find((t) => Math.abs(Number(t.getAttribute("y")) - this.y - 7) < 1);
    this.drawn = [...item.element.querySelectorAll(":scope > rect.bar"), number].filter(Boolean);
    const left = Number(number?.getAttribute("x") ?? this.x - 40);
    for (const element of this.drawn) element.remove();
    this.group = made("g", { class: "weight" }, item.element);
    made("rect", { class: "bar track", x: this.x, y: this.y, width: this.width, height: 6, rx: 3 }, this.group);
    this.bar = made("rect", { class: "bar", x: this.x, y: this.y, width: 0, height: 6, rx: 3 }, this.group);
    made("rect", { class: "grip", x: this.x - 8, y: this.y - 9, width: this.width + 16, height: 22 }, this.group);
    this.knob = made("circle", { class: "knob", cx: this.x, cy: this.y + 3, r: 8 }, this.group);
    this.amount = made("text", { class: "sb amount", x: left, y: this.y + 7 }, this.group);
    this.show(weight, limits);
  }

  show(weight, [low, high]) {
    this.weight = weight;
    const share = Math.min(Math.max((weight - low) / (high - low), 0), 1);
    this.bar.setAttribute("width", (this.width * share).toFixed(1));
    this.knob.setAttribute("cx", (this.x + this.width * share).toFixed(1));
    this.amount.textContent = String(+weight.toFixed(3));
    this.item.element.setAttribute("aria-label", `${this.item.tip}; weight ${this.amount.textContent}`);
  }
}

/** All weights of a diagram. `changed` is told of every move, `released` when it is over. */
class Weights {
  constructor(view, changed, released) {
    this.view = view;
    this.changed = changed;
    this.released = released;
    this.handles = new Map();
    this.limits = [0, 1];
    this.busy = false; // between a move and its release, the page's values count, not Python's
    this.selected = new Set();
  }

  build(items, weights, limits) {
    this.handles.clear();
    this.limits = limits;
    for (const item of items.list) {
      if (item.name in weights && item.element.querySelector(":scope > rect.bar.track")) {
        this.handles.set(item.name, new Handle(item, weights[item.name], limits));
      }
    }
  }

  adopt(weights, limits) {
    this.limits = limits;
    if (this.busy) return;
    for (const [name, handle] of this.handles) if (name in weights) handle.show(weights[name], limits);
  }

  values() {
    return Object.fromEntries([...this.handles].map(([name, handle]) => [name, handle.weight]));
  }

  /** The handles that move with one: all selected ones if it is among them. */
  together(name) {
    const names = this.selected.has(name) ? [...this.selected] : [name];
    return names.map((n) => this.handles.get(n)).filter(Boolean);
  }

  put(handles, weightOf) {
    const [low, high] = this.limits;
    for (const handle of handles) {
      const value = Math.round(Math.min(Math.max(weightOf(handle), low), high) * 1000) / 1000;
      if (Number.isFinite(value)) handle.show(value, this.limits);
    }
    this.changed();
  }

  step(name, amount) {
    const handles = this.together(name);
    if (!handles.length) return;
    this.busy = true;
    this.put(handles, (h) => Math.round((h.weight + amount) * 100) / 100);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.release(), RELEASE);
  }

  release() {
    clearTimeout(this.timer);
    if (!this.busy) return;
    this.busy = false;
    this.released();
  }

  /** A pointer went down on a handle: drag, or a click on the track, or on the number to type. */
  down(event, item) {
    const handle = this.handles.get(item.name);
    if (event.target === handle.amount) return this.type(item);
    const handles = this.together(item.name), first = new Map(handles.map((h) => [h, h.weight]));
    const [low, high] = this.limits, start = event.clientX;
    const unit = (high - low) / (handle.width * this.view.svg.getScreenCTM().a);
    if (event.target !== handle.knob) {
      const wanted = low + ((this.view.point(event).x - handle.x) / handle.width) * (high - low);
      const jump = Math.round(wanted * 100) / 100 - handle.weight;
      for (const h of handles) first.set(h, h.weight + jump);
    }
    this.busy = true;
    const move = (moving) => {
      const by = Math.round((moving.clientX - start) * unit * 100) / 100;
      this.put(handles, (h) => first.get(h) + by);
    };
    const up = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", up);
      removeEventListener("pointercancel", up);
      this.release();
    };
    move(event);
    addEventListener("pointermove", move);
    addEventListener("pointerup", up);
    addEventListener("pointercancel", up);
  }

  /** A field over the number: Enter takes it, Escape leaves it. */
  type(item, begin = "") {
    const handle = this.handles.get(item.name), stage = this.view.stage;
    if (!handle || stage.querySelector(".typed")) return;
    const field = document.createElement("input");
    Object.assign(field, { className: "typed", type: "text", inputMode: "decimal", value: begin || handle.amount.textContent });
    field.setAttribute("aria-label", `Weight of ${item.name}`);
    const at = handle.amount.getBoundingClientRect(), around = stage.getBoundingClientRect();
    field.style.left = `${at.left - around.left - 4}px`;
    field.style.top = `${at.top - around.top - 4}px`;
    let over = false;
    const finish = (take) => {
      if (over) return;
      over = true;
      const value = parseFloat(field.value.replace(",", "."));
      field.remove();
      item.element.focus({ preventScroll: true });
      if (!take || !Number.isFinite(value)) return;
      this.busy = true;
      this.put(this.together(item.name), () => value);
      this.release();
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    });
    field.addEventListener("blur", () => finish(true));
    stage.append(field);
    field.focus({ preventScroll: true });
    if (begin) field.setSelectionRange(1, 1);
    else field.select();
  }
}
