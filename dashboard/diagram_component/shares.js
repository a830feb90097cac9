// Stacked bars: what a block is made of, in the room that a badge leaves; and the legend of their colours.

const COLOUR = /^#[0-9a-f]{6}$/i;

function drawShares(items, shares) {
  for (const item of items.list) {
    const parts = (shares[item.name] ?? []).filter(([, colour]) => COLOUR.test(colour));
    item.element.querySelector(":scope > g.shares")?.remove();
    if (!parts.length) continue;
    item.room ??= barRoom(item);
    if (!item.room) continue;
    const { x, y, width } = item.room;
    const whole = parts.reduce((sum, [share]) => sum + Math.abs(share), 0) || 1;
    const group = made("g", { class: "shares" }, item.element);
    let at = x;
    for (const [share, colour] of parts) {
      const wide = (width * Math.abs(share)) / whole;
      made("rect", { x: at.toFixed(1), y, width: wide.toFixed(1), height: 10, fill: colour, class: share < 0 ? "below" : "" }, group);
      at += wide;
    }
  }
}

/** Where the bar of a badge was drawn, its number included; what was drawn goes. */
function barRoom(item) {
  const track = item.element.querySelector(":scope > rect.bar.track");
  if (!track) return null;
  const y = Number(track.getAttribute("y")), right = Number(track.getAttribute("x")) + Number(track.getAttribute("width"));
  const number = [...item.element.querySelectorAll(":scope > text.sb")].find((t) => Math.abs(Number(t.getAttribute("y")) - y - 7) < 1);
  const x = Number((number ?? track).getAttribute("x"));
  for (const element of [...item.element.querySelectorAll(":scope > rect.bar"), number]) element?.remove();
  return { x, y: y - 3, width: right - x };
}

function drawLegend(list, legend) {
  list.hidden = !legend.length;
  list.replaceChildren(
    ...legend.map(([colour, words]) => {
      const line = document.createElement("li"), swatch = document.createElement("i"), text = document.createElement("span");
      if (COLOUR.test(colour)) swatch.style.background = colour;
      text.textContent = text.title = words;
      line.append(swatch, text);
      return line;
    }),
  );
}
