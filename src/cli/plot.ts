import type { TopLevelSpec } from "vega-lite";

/**
 * Draws a vega-lite specification as SVG, without a browser or a canvas. vega is loaded here only, so that no other
 * command pays for it.
 */
export async function renderPlot(spec: TopLevelSpec): Promise<string> {
  const [vega, { compile }] = await Promise.all([import("vega"), import("vega-lite")]);
  const view = new vega.View(vega.parse(compile(spec).spec), { renderer: "none" });
  try {
    return `${await view.toSVG()}\n`;
  } finally {
    view.finalize();
  }
}
