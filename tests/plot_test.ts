import assert from "node:assert/strict";
import { test } from "node:test";
import { renderPlot } from "../src/cli/plot.ts";
import { policyPlot, windowPlot } from "../src/simulate/plots.ts";
import { simulate, windowCurve } from "../src/simulate/simulate.ts";
import { makeTrace, parseTrace } from "./random_trace.ts";

const trace = parseTrace(makeTrace({ seed: 1, tokens: 60 }));

test("renderPlot() draws policies over cache sizes, without a browser", async () => {
  const options = { cacheShares: [0.3, 0.6], policies: ["frequency", "belady"] } as const;
  const svg = await renderPlot(policyPlot([...simulate(trace, options)], "a title & more"));
  assert.match(svg, /^<svg [^]*<\/svg>\n$/);
  for (const text of ["a title &amp; more", "frequency", "belady", "KiB read a token"]) {
    assert.ok(svg.includes(text), text);
  }
});

test("renderPlot() draws the window curve", async () => {
  const svg = await renderPlot(windowPlot([...windowCurve(trace, [1, 2, 3])], "windows"));
  assert.ok(svg.includes("read for each token"));
});
