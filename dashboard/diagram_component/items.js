// The boxes of a diagram as things that can be found, selected and coloured.

class Item {
  constructor(element) {
    this.element = element;
    this.isFrame = element.classList.contains("frame");
    this.shape = element.querySelector(":scope > rect");
    const { label, module, key } = element.dataset;
    this.name = element.classList.contains("layer") ? key : element.classList.contains("module") ? module : label;
    this.label = label || "";
    this.tip = element.querySelector(":scope > title")?.textContent ?? this.name;
    this.group = [...element.classList].find((c) => c.startsWith("on-")) ?? "on-page";
    element.classList.add("item");
    this.shape.classList.add("shape");
  }

  /** A fill of `#rrggbb`, with text that can be read on it; nothing restores what was drawn. */
  paint(fill) {
    const safe = /^#[0-9a-f]{6}$/i.test(fill || "") ? fill : "";
    this.shape.style.fill = safe;
    const lum = safe ? luminance(safe) : 0;
    const group = !safe ? this.group : (lum + 0.05) / 0.055 > 1.05 / (lum + 0.05) ? "on-light" : "on-dark";
    this.element.classList.remove("on-page", "on-light", "on-dark");
    this.element.classList.add(group);
  }

  /** The value in the box: a text of its own at the right, or the one that was drawn. */
  print(text) {
    let line = this.element.querySelector(":scope > text.vl.end, :scope > text.mb.end");
    if (!line) {
      if (!text || !this.element.classList.contains("block")) return;
      line = document.createElementNS(NAMESPACE, "text");
      line.setAttribute("class", "vl end");
      line.setAttribute("x", this.shape.x.baseVal.value + this.shape.width.baseVal.value - 12);
      line.setAttribute("y", this.shape.y.baseVal.value + 57);
      this.element.append(line);
      this.drawn = "";
    }
    this.drawn ??= line.textContent;
    line.textContent = text ?? this.drawn;
  }

  centre() {
    const b = this.shape.getBBox();
    return [b.x + b.width / 2, b.y + b.height / 2];
  }
}

class Items {
  constructor(svg) {
    this.byName = new Map();
    this.list = [];
    for (const element of svg.querySelectorAll("g.block[data-label], g.module[data-module], g.layer[data-key], g.frame[data-label]")) {
      if (!element.querySelector(":scope > rect")) continue;
      const item = new Item(element);
      this.list.push(item);
      if (!this.byName.has(item.name)) this.byName.set(item.name, item);
      element.setAttribute("role", "button");
      element.setAttribute("tabindex", item.isFrame ? "-1" : "0");
      element.setAttribute("aria-label", item.tip);
    }
    this.byElement = new Map(this.list.map((item) => [item.element, item]));
    this.byId = new Map(this.list.map((item) => [item.element.id, item]));
  }

  at(target) {
    const element = target.closest?.(".item");
    return element ? this.byElement.get(element) : undefined;
  }

  named(name) {
    return this.byName.get(name) ?? this.byId.get(name);
  }

  recolour(fills, printed) {
    for (const item of this.list) {
      const id = item.element.id;
      item.paint(fills[item.name] ?? fills[id]);
      const text = printed[item.name] ?? printed[id];
      if (text !== undefined || item.drawn !== undefined) item.print(text);
    }
  }

  mark(selected) {
    for (const item of this.list) {
      const on = selected.has(item.name);
      item.element.classList.toggle("selected", on);
      item.element.setAttribute("aria-pressed", String(on));
    }
  }

  /** The items that a search finds: by name, and by all that their tooltips say when no name fits. */
  search(text) {
    let fits;
    try {
      const pattern = new RegExp(text, "i");
      fits = (line) => pattern.test(line);
    } catch {
      fits = (line) => line.toLowerCase().includes(text.toLowerCase());
    }
    const named = text ? this.list.filter((item) => fits(item.name)) : [];
    const found = named.length || !text ? named : this.list.filter((item) => fits(item.tip));
    const set = new Set(found);
    for (const item of this.list) item.element.classList.toggle("found", set.has(item));
    return found;
  }

  /** The nearest item in the direction of an arrow key. */
  beside(item, key) {
    const along = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    const [x, y] = item.centre();
    let best, least = Infinity;
    for (const other of this.list) {
      if (other === item || other.isFrame) continue;
      const [ox, oy] = other.centre();
      const ahead = (ox - x) * along[0] + (oy - y) * along[1];
      const aside = Math.abs((ox - x) * along[1]) + Math.abs((oy - y) * along[0]);
      if (ahead > 1 && ahead + 2.5 * aside < least) [best, least] = [other, ahead + 2.5 * aside];
    }
    return best;
  }
}
