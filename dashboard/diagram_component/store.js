// Receives an SVG under its digest and keeps it for the diagrams of this browser tab.
const KEPT = 12;

export default function ({ data }) {
  const svgs = (globalThis.unetscopeSvgs ??= new Map());
  svgs.delete(data.digest);
  svgs.set(data.digest, data.svg);
  while (svgs.size > KEPT) svgs.delete(svgs.keys().next().value);
  globalThis.dispatchEvent(new CustomEvent("unetscope-svg", { detail: data.digest }));
}
