import { statSync } from "node:fs";
import process from "node:process";
import { coreCount, processorName, runtimeName } from "../runtime.ts";
import type { ProbePlace } from "./probe_result.ts";

/** Where a probe of what lies at `path` is made, and holds. */
export function placeOf(path: string): ProbePlace {
  return {
    device: statSync(path).dev,
    runtime: runtimeName(),
    platform: `${process.platform} ${process.arch}`,
    processor: processorName(),
    coreCount: coreCount(),
  };
}

/** Why figures of one place do not hold at another; null if they do. */
export function differenceOf(kept: ProbePlace, here: ProbePlace): string | null {
  if (kept.device !== here.device) return "of another disk";
  if (kept.runtime !== here.runtime) return `of ${kept.runtime}`;
  if (kept.platform !== here.platform) return `of ${kept.platform}`;
  if (kept.coreCount !== here.coreCount) return `of ${kept.coreCount} cores`;
  // Who may not ask for the processor's name takes the rest for enough.
  const areKnown = kept.processor !== null && here.processor !== null;
  return areKnown && kept.processor !== here.processor ? "of another processor" : null;
}
