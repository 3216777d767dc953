import fs from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { z } from "zod";
import { writeWhole } from "../format/write_whole.ts";
import { cacheFolder } from "../runtime.ts";
import { differenceOf, placeOf } from "./probe_place.ts";
import { PROBE_VERSION, probeSchema } from "./probe_result.ts";
import type { Probe } from "./probe_result.ts";

/**
 * Probes are kept beside the models that they were made for, in one file a folder: `.flashpipe-probe.json`, one probe a runtime. All
 * models of a folder lie on one disk. Where that folder cannot be written, they are kept in the user's cache folder, one file a disk.
 */
const NAME = ".flashpipe-probe.json";

/** A larger file is none of ours. */
const KEPT_BYTES_MAX = 4 * 2 ** 20;
/** Probes in a file: runtimes and machines that share a disk. */
const KEPT_MAX = 16;

const keptSchema = z.strictObject({ probes: z.array(z.unknown()).max(KEPT_MAX) });

/** What was found for a file. */
export interface KeptProbe {
  probe: Probe | null;
  /** The file that it is in. */
  path: string | null;
  /** Why one that was found is not used, in words for the user; empty if there was none, or it is used. */
  reason: string;
}

/**
 * The probe that holds for the file (or folder) at `path`, here and with this runtime. A damaged or foreign one is not used, and
 * said why; nothing is thrown, as everything runs without one.
 */
export function findProbe(path: string): KeptProbe {
  let reason = "";
  for (const kept of placesFor(path)) {
    const text = textOf(kept);
    if (text === null) continue;
    const found = probesIn(text);
    if (found === null) {
      reason = `${kept} is damaged`;
      continue;
    }
    const here = placeOf(path);
    const differences: string[] = [];
    for (const candidate of found) {
      const parsed = probeSchema.safeParse(candidate);
      if (!parsed.success) {
        differences.push(versionOf(candidate) === PROBE_VERSION ? "damaged" : "of another version");
        continue;
      }
      const difference = differenceOf(parsed.data.place, here);
      if (difference === null) return { probe: parsed.data, path: kept, reason: "" };
      differences.push(difference);
    }
    if (differences.length > 0) reason = `${kept} is ${[...new Set(differences)].join(", ")}`;
  }
  return { probe: null, path: null, reason };
}

/**
 * Keeps a probe beside what was probed, in place of the one before of the same runtime and machine; or in the cache folder. Returns the
 * file, or null if neither can be written.
 */
export function keepProbe(probe: Probe, path: string): string | null {
  for (const kept of placesFor(path)) {
    const others = (probesIn(textOf(kept) ?? "") ?? []).filter((other) => {
      const parsed = probeSchema.safeParse(other);
      return parsed.success && differenceOf(parsed.data.place, probe.place) !== null;
    });
    const probes = [probe, ...others].slice(0, KEPT_MAX);
    try {
      fs.mkdirSync(dirname(kept), { recursive: true });
      const bytes = new TextEncoder().encode(`${JSON.stringify({ probes })}\n`);
      // Another process may probe a model of the same folder.
      writeWhole(kept, bytes, `${kept}.tmp-${process.pid}`);
      return kept;
    } catch {
      // A folder that is not ours to write: the next one.
    }
  }
  return null;
}

/** Where a probe may be kept: beside the file first. */
function placesFor(path: string): string[] {
  const stat = fs.statSync(path);
  const places = [join(stat.isDirectory() ? path : dirname(path), NAME)];
  const cache = cacheFolder();
  if (cache !== null) places.push(join(cache, `probe-${stat.dev}.json`));
  return places;
}

function textOf(path: string): string | null {
  try {
    if (fs.statSync(path).size > KEPT_BYTES_MAX) return "";
    return fs.readFileSync(path, "utf8");
  } catch {
    // None there, or not for us to read.
    return null;
  }
}

/** The probes in a file's text; null if it is not what we write. */
function probesIn(text: string): unknown[] | null {
  try {
    const parsed = keptSchema.safeParse(JSON.parse(text));
    return parsed.success ? parsed.data.probes : null;
  } catch {
    return null;
  }
}

function versionOf(candidate: unknown): unknown {
  return (candidate as { version?: unknown } | null)?.version;
}
