import { mkdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { crc32 } from "node:zlib";
import { FlashFile } from "../format/flash_file.ts";
import { FORMAT_VERSION } from "../format/prelude.ts";
import { cacheFolder } from "../runtime.ts";
import { VERSION } from "../version.ts";
import { Progress } from "./terminal/progress.ts";

/** The model that comes with flashpipe; models/tales/README.md tells what it is. */
const SOURCE = new URL("../../models/tales/", import.meta.url);
/** Share of its FFN that the demo caches. */
export const DEMO_FFN_CACHE = 0.2;

/**
 * How the demo's predictors are fitted: ranks weighed at the demo's cache; 98 % of the active neurons found; and few early
 * reads in vain, as attention is so short here that an early read gains little.
 */
export const DEMO_CALIBRATION = {
  method: "closed-form",
  recall: 0.9745,
  tokensMax: 5500,
  cacheShares: [DEMO_FFN_CACHE],
  earlyCost: 4,
} as const;

/** Tokens of the calibration text that order its neurons on flash: more take longer and gain little. */
export const DEMO_ORDER_TOKENS = 4000;

/** Everything that the packed file is made from. */
const SOURCE_FILES = [
  "config.json",
  "model.safetensors",
  "tokenizer.json",
  "tokenizer_config.json",
  "calibration.txt",
];

/**
 * Path of the embedded model, packed (f16) and calibrated, in the user's cache folder; made if it is not there. Its
 * name holds all versions and the checksum of its source, so that a stale one is never taken for a fresh one. It is
 * made aside and takes its name when it is whole.
 *
 * @param note told what is being done, line by line
 */
export async function prepareEmbeddedModel(
  { note, isSilent, signal }: {
    note: (line: string) => void;
    isSilent: boolean;
    signal: AbortSignal;
  },
): Promise<string> {
  const folder = folderOfModels();
  const path = join(folder, `tales-f16-${VERSION}-${FORMAT_VERSION}-${sourceChecksum()}.flash`);
  if (isUsable(path)) return path;
  note(`Preparing the embedded model (once): ${path}\n`);
  mkdirSync(folder, { recursive: true });
  const unfinished = `${path}.${process.pid}`;
  const startedAt = performance.now();
  using progress = new Progress({ isSilent });
  let aside = "";
  try {
    // What makes files is loaded when needed only: it would slow the start of every other run.
    const { pack } = await import("../format/pack.ts");
    await pack({
      source: fileURLToPath(SOURCE),
      target: unfinished,
      quant: "f16",
      onProgress: ({ doneBytes: done, totalBytes: total }) =>
        progress.update("packing", { done, total }),
      signal,
    });
    const { calibrate, calibrationFolder } = await import("../calibrate.ts");
    aside = calibrationFolder(unfinished);
    const source = {
      path: unfinished,
      text: readFileSync(new URL("calibration.txt", SOURCE), "utf8"),
      textName: "calibration.txt",
    };
    await calibrate({
      ...source,
      ...DEMO_CALIBRATION,
      onProgress: ({ phase, done, total }) =>
        progress.update("calibrating", { done, total }, phase),
      signal,
    });
    const { reorder } = await import("../reorder.ts");
    await reorder({
      ...source,
      tokensMax: DEMO_ORDER_TOKENS,
      cacheShare: DEMO_FFN_CACHE,
      onProgress: ({ phase, ...state }) => progress.update(phase, state),
      signal,
    });
    renameSync(unfinished, path);
  } finally {
    rmSync(unfinished, { force: true });
    if (aside) rmSync(aside, { recursive: true, force: true });
  }
  progress.stop();
  note(`Packed and calibrated in ${((performance.now() - startedAt) / 1000).toFixed(1)} s\n`);
  return path;
}

function folderOfModels(): string {
  const folder = cacheFolder();
  if (folder !== null) return folder;
  throw new RangeError(
    "Cannot keep the embedded model: neither XDG_CACHE_HOME nor HOME is set (or use --model FILE)",
  );
}

/** Of the sources, and of how the file is made from them. */
function sourceChecksum(): string {
  let checksum = crc32(JSON.stringify({ DEMO_CALIBRATION, DEMO_ORDER_TOKENS }));
  for (const name of SOURCE_FILES) checksum = crc32(readFileSync(new URL(name, SOURCE)), checksum);
  return checksum.toString(16).padStart(8, "0");
}

/** Whole and calibrated; anything else is made anew. */
function isUsable(path: string): boolean {
  if (!statSync(path, { throwIfNoEntry: false })) return false;
  try {
    using file = FlashFile.open(path);
    return file.header.predictors !== null;
  } catch {
    return false;
  }
}
