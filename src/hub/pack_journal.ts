import { createHash } from "node:crypto";
import { closeSync, openSync, readFileSync, rmSync, statSync, utimesSync } from "node:fs";
import { z } from "zod";
import type { FlashContent, FlashWriter, WholePart } from "../format/flash_writer.ts";
import { partialPath, planParts } from "../format/flash_writer.ts";
import { writeWhole } from "../format/write_whole.ts";
import type { HubFile, HubFileState } from "./hub_file.ts";

/** Written at most so often, as each time the disk is waited for. */
const EVERY_MS = 5000;

const journalSchema = z.object({
  key: z.string(),
  parts: z.array(z.object({
    index: z.int().nonnegative(),
    checksums: z.union([z.number(), z.string()]),
  })),
  files: z.array(z.object({
    position: z.int().nonnegative(),
    hash: z.string().nullable(),
    checksums: z.array(z.tuple([z.string(), z.int().nonnegative()])),
  })),
});

type Journal = z.infer<typeof journalSchema>;

/**
 * What of a model from a hub is packed already, beside the unfinished file (`OUT.partial.json`): which parts are whole, and how far
 * each file went by. A process that begins the same work goes on there.
 */
export class PackJournal {
  readonly #path: string;
  readonly #partial: string;
  readonly #key: string;
  readonly #found: Journal | null;
  #savedAt = 0;

  /** @param commit of the model, which with all that is written says whether it is the same work */
  constructor(target: string, content: FlashContent, commit: string) {
    this.#partial = partialPath(target);
    this.#path = `${this.#partial}.json`;
    const { createdAt: _, ...provenance } = content.provenance;
    const work = JSON.stringify({ ...content, provenance, commit });
    this.#key = createHash("sha256").update(work).digest("hex");
    const found = readJournal(this.#path);
    this.#found = found?.key === this.#key && isThere(found, content, this.#partial) ? found : null;
    // A journal of other work must not be there when its file is begun anew.
    if (!this.#found) this.remove();
  }

  /** Parts that are whole. */
  get parts(): readonly WholePart[] {
    return this.#found?.parts ?? [];
  }

  /** How far file `index` went by. */
  stateOf(index: number): HubFileState | undefined {
    return this.#found?.files.at(index);
  }

  /** Writes down what is done, if that was long ago. The parts are on disk before the journal says so. */
  save(writer: FlashWriter, files: readonly HubFile[]): void {
    const now = performance.now();
    if (this.#savedAt !== 0 && now - this.#savedAt < EVERY_MS) return;
    writer.sync();
    const states = files.map(({ state }) => state);
    const journal: Journal = { key: this.#key, parts: writer.wholeParts, files: states };
    writeWhole(this.#path, new TextEncoder().encode(JSON.stringify(journal)));
    this.#savedAt = performance.now();
  }

  /** The work is done. */
  remove(): void {
    rmSync(this.#path, { force: true });
  }

  /** What was written is of no use. */
  discard(): void {
    this.remove();
    rmSync(this.#partial, { force: true });
  }
}

/** A lock is touched so often, and is nobody's when that was so long ago. */
const TOUCH_MS = 2000, ABANDONED_MS = 20_000;

/**
 * Keeps other processes from an unfinished file, until it is disposed of. It is a file whose time is kept new, as there is no way to ask
 * for a process in all runtimes without asking for more rights; so one that was killed keeps others away for a moment.
 *
 * @throws {RangeError} another process packs it now, or did a moment ago
 */
export class PackLock {
  readonly #path: string;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(target: string) {
    const path = `${partialPath(target)}.lock`;
    const touched = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
    if (touched !== undefined && Date.now() - touched < ABANDONED_MS) {
      throw new RangeError(
        `Cannot write ${target}: another process is packing it, or was killed a moment ago (${path}); ` +
          `try again in ${ABANDONED_MS / 1000} s`,
      );
    }
    rmSync(path, { force: true });
    closeSync(openSync(path, "wx"));
    this.#path = path;
    this.#timer = setInterval(() => this.#touch(), TOUCH_MS);
    this.#timer.unref?.();
  }

  #touch(): void {
    try {
      utimesSync(this.#path, new Date(), new Date());
    } catch {
      // Somebody removed it: who packs here goes on.
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    rmSync(this.#path, { force: true });
  }
}

/** A journal that is not whole is none. */
function readJournal(path: string): Journal | null {
  try {
    return journalSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return null;
  }
}

/** Whether the unfinished file has what its journal says. */
function isThere({ parts }: Journal, content: FlashContent, partial: string): boolean {
  const planned = planParts(content), size = statSync(partial, { throwIfNoEntry: false })?.size;
  return size !== undefined && parts.every(({ index }) => {
    const part = planned.at(index);
    return part !== undefined && part.byteOffset + part.byteLength <= size;
  });
}
