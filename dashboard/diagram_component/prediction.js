// The distance of a merge to its parents before it is run, from Gram matrices: x'Gx - 2 (Gx)_j + G_jj.

function squaredDistance(gram, x, j) {
  let own = 0, cross = 0;
  for (let a = 0; a < x.length; a++) {
    cross += gram[j][a] * x[a];
    for (let b = 0; b < x.length; b++) own += x[a] * gram[a][b] * x[b];
  }
  return Math.max(own - 2 * cross + gram[j][j], 0);
}

/** Relative distances of the merge to model j: per label, and over all of them. */
function predicted(gram, weights, j) {
  const labels = new Map();
  let distance = 0, norm = 0;
  for (const [label, matrix] of Object.entries(gram.labels)) {
    const weight = weights[label];
    if (weight === undefined) continue;
    const x = gram.at_zero.map((share, i) => share + weight * gram.per_weight[i]);
    const squared = squaredDistance(matrix, x, j);
    labels.set(label, matrix[j][j] > 0 ? Math.sqrt(squared / matrix[j][j]) : NaN);
    distance += squared;
    norm += matrix[j][j];
  }
  return { labels, total: norm > 0 ? Math.sqrt(distance / norm) : NaN };
}

/** The largest relative distance between two parents in any block: the upper end of the scale. */
function furthest(gram) {
  let most = 0;
  for (const matrix of Object.values(gram.labels)) {
    for (let i = 0; i < matrix.length; i++) {
      const unit = matrix[i].map((_, k) => (k === i ? 1 : 0));
      for (let j = 0; j < matrix.length; j++) {
        if (matrix[j][j] > 0) most = Math.max(most, Math.sqrt(squaredDistance(matrix, unit, j) / matrix[j][j]));
      }
    }
  }
  return most;
}

function colourAt(palette, fraction) {
  const at = Math.min(Math.max(fraction, 0), 1) * (palette.length - 1), low = Math.min(Math.floor(at), palette.length - 2);
  const channel = (n, i) => parseInt(palette[n].slice(1 + 2 * i, 3 + 2 * i), 16);
  const mixed = [0, 1, 2].map((i) => Math.round(channel(low, i) + (channel(low + 1, i) - channel(low, i)) * (at - low)));
  return "#" + mixed.map((c) => c.toString(16).padStart(2, "0")).join("");
}

const percent = (value) => (Number.isFinite(value) ? `${(100 * value).toPrecision(3)} %` : "undefined");

class Prediction {
  constructor(element, changed) {
    this.element = element;
    this.target = element.querySelector(".target");
    this.gram = null;
    this.target.addEventListener("change", changed);
  }

  adopt(gram) {
    this.element.hidden = !gram;
    const same = JSON.stringify(this.gram) === JSON.stringify(gram);
    if (same) return;
    this.gram = gram;
    if (!gram) return;
    this.most = furthest(gram);
    const options = gram.models.map((name, i) => {
      const option = document.createElement("option");
      Object.assign(option, { value: i, textContent: name });
      return option;
    });
    this.target.replaceChildren(...options);
    this.target.value = String(gram.target);
    this.element.querySelector(".ramp").style.background = `linear-gradient(to right, ${gram.palette.join(",")})`;
    this.element.querySelector(".high").textContent = `${percent(this.most)} of its norm`;
  }

  /** Colour every block whose weight is known. */
  show(items, weights) {
    const { labels } = predicted(this.gram, weights, Number(this.target.value));
    for (const [label, value] of labels) {
      const item = items.named(label);
      if (!item) continue;
      item.paint(Number.isFinite(value) ? colourAt(this.gram.palette, this.most > 0 ? value / this.most : 0) : "");
      item.print(percent(value));
    }
    const totals = this.gram.models.map((name, j) => `${name} ${percent(predicted(this.gram, weights, j).total)}`);
    this.element.querySelector(".totals").textContent = `All blocks: ${totals.join(" · ")}`;
  }
}
