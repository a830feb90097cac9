// The component: what Python sends comes in by `update`, what people do goes out by `send`.

class Diagram {
  constructor(root, name) {
    const find = (selector) => root.querySelector(selector);
    this.root = root;
    this.stage = find(".stage");
    this.view = new View(this.stage, name);
    this.items = null;
    this.selected = new Set();
    this.turn = 0;
    this.weights = new Weights(this.view, () => this.recolour(), () => this.send());
    this.prediction = new Prediction(find(".prediction"), () => this.recolour());
    this.field = find(".search");
    this.field.addEventListener("input", () => this.search());
    this.field.addEventListener("keydown", (event) => this.searchKey(event));
    find(".zoom-in").addEventListener("click", () => this.view.zoom(0.75));
    find(".zoom-out").addEventListener("click", () => this.view.zoom(1 / 0.75));
    find(".fit").addEventListener("click", () => this.view.fit());
    find(".wide").addEventListener("click", () => this.view.wide());
    find(".clear").addEventListener("click", () => this.select(null));
    this.stage.addEventListener("click", (event) => this.click(event));
    this.stage.addEventListener("pointerdown", (event) => this.down(event), { capture: true });
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { capture: true, passive: false });
    this.stage.addEventListener("keydown", (event) => this.key(event));
    this.arrived = () => this.data && this.update(this.data, this.report);
    addEventListener("unetscope-svg", this.arrived);
  }

  close() {
    removeEventListener("unetscope-svg", this.arrived);
    this.weights.release();
  }

  update(data, report) {
    this.data = data;
    this.report = report;
    this.stage.style.height = `${data.height}px`;
    const text = globalThis.unetscopeSvgs?.get(data.svg);
    if (this.shown !== data.svg && text === undefined) return;
    if (this.shown !== data.svg || this.editable !== data.editable) this.load(text ?? this.text, data);
    if (data.turn >= this.turn) {
      this.turn = data.turn;
      this.selected = new Set(data.selected);
      this.weights.adopt(data.weights, data.limits);
    }
    this.prediction.adopt(data.gram);
    drawLegend(this.root.querySelector(".legend"), data.legend);
    this.view.theme();
    this.mark();
    this.recolour();
  }

  load(text, data) {
    this.view.show(text, data.editable ? 0.7 : 0.3); // handles must be large enough to be grasped
    [this.shown, this.text, this.editable] = [data.svg, text, data.editable];
    this.items = new Items(this.view.svg);
    this.weights.build(this.items, data.editable ? data.weights : {}, data.limits);
    if (this.field.value) this.search();
    this.root.querySelector(".hint").textContent = data.editable
      ? "Drag a handle, turn the wheel over it, or click its number to type. Shift-click selects several, which move together; arrow keys change the selected by 0.01, with Shift by 0.1."
      : "Click a box to select it, Shift-click for several, Esc for none. Drag to pan, wheel to zoom, double-click to see all.";
  }

  recolour() {
    if (!this.items) return;
    this.items.recolour(this.data.fills, this.data.printed);
    drawShares(this.items, this.data.shares);
    if (this.prediction.gram) this.prediction.show(this.items, this.weights.handles.size ? this.weights.values() : this.data.weights);
  }

  mark() {
    if (!this.items) return;
    this.items.mark(this.selected);
    this.weights.selected = this.selected;
    const names = [...this.selected];
    this.root.querySelector(".chosen").textContent = names.length > 3 ? `${names.length} selected` : names.join(", ");
    this.root.querySelector(".clear").hidden = !names.length;
  }

  send() {
    this.turn = Math.max(this.turn, this.data.turn) + 1;
    this.report("page", { turn: this.turn, selected: [...this.selected], weights: this.weights.values() });
  }

  /** Select an item, none (null), or add and remove one. */
  select(item, several = false) {
    const next = new Set(several ? this.selected : []);
    if (item && !(several && next.delete(item.name))) next.add(item.name);
    const same = next.size === this.selected.size && [...next].every((name) => this.selected.has(name));
    this.selected = next;
    this.mark();
    if (!same) this.send();
  }

  click(event) {
    if (!this.items || this.view.moved || event.target.closest(".weight, .typed")) return;
    const item = this.items.at(event.target);
    if (item) this.select(item, event.shiftKey || event.ctrlKey || event.metaKey);
  }

  down(event) {
    const item = this.items?.at(event.target);
    if (!item || event.button !== 0 || !event.target.closest(".weight")) return;
    event.stopPropagation();
    event.preventDefault();
    item.element.focus({ preventScroll: true });
    this.view.moved = true; // what follows is no click on the box
    this.weights.down(event, item);
  }

  wheel(event) {
    const item = event.target.closest?.(".weight") && this.items?.at(event.target);
    if (!item) return;
    event.stopPropagation();
    event.preventDefault();
    this.weights.step(item.name, (event.deltaY < 0 || event.deltaX < 0 ? 1 : -1) * (event.shiftKey ? 0.1 : 0.01));
  }

  key(event) {
    const item = this.items?.at(event.target);
    if (event.key === "Escape") {
      this.select(null);
    } else if (!item) {
      return;
    } else if (event.key === "Enter" || event.key === " ") {
      this.select(item, event.shiftKey || event.ctrlKey || event.metaKey);
    } else if (event.key.startsWith("Arrow")) {
      this.arrow(event, item);
    } else if (/^[\d.]$/.test(event.key) && this.weights.handles.has(item.name)) {
      this.weights.type(item, event.key);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** An arrow key changes weights where there are some to change, and moves the focus elsewhere. */
  arrow(event, item) {
    const name = this.selected.has(item.name) ? item.name : [...this.selected].find((n) => this.weights.handles.has(n));
    if (name !== undefined && this.weights.handles.has(name)) {
      const up = event.key === "ArrowRight" || event.key === "ArrowUp";
      this.weights.step(name, (up ? 1 : -1) * (event.shiftKey ? 0.1 : 0.01));
      return;
    }
    const next = this.items.beside(item, event.key);
    if (!next) return;
    next.element.focus({ preventScroll: true });
    this.view.reveal(next.element);
  }

  search() {
    if (!this.items) return;
    const text = this.field.value.trim();
    const found = this.items.search(text);
    this.stage.classList.toggle("searching", Boolean(text));
    this.root.querySelector(".found-count").textContent = text ? `${found.length} found` : "";
    if (found.length === 1) this.view.reveal(found[0].element);
    return found;
  }

  searchKey(event) {
    event.stopPropagation();
    if (event.key === "Escape") this.field.value = "";
    const found = this.search();
    if (event.key !== "Enter" || !found?.length) return;
    this.selected = new Set(found.map((item) => item.name));
    this.mark();
    this.send();
  }
}

const diagrams = new WeakMap();

export default function ({ data, parentElement, setStateValue }) {
  let diagram = diagrams.get(parentElement);
  if (!diagram) diagrams.set(parentElement, (diagram = new Diagram(parentElement, data.name)));
  diagram.update(data, setStateValue);
  // Streamlit also calls this for a run that was overtaken by the next one; then the page still shows the diagram.
  return () => {
    if ((parentElement.host ?? parentElement).isConnected) return;
    diagram.close();
    diagrams.delete(parentElement);
  };
}
