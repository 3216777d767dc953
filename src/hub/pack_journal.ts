import { createHash } from "node:crypto";
import {
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { z } from "zod";
import type { FlashContent, FlashWriter, WholePart } from "../format/flash_writer.ts";
import { partialPath } from "../format/flash_writer.ts";
import type { HubFile, HubFileState } from "./hub_file.ts";

/** Written at most so often, as each time the disk is waited for. */
const EVERY_MS = 5000;

const journalSchema = z.object({
  key: z.string(),
  parts: z.array(z.object({
    index: z.int().nonnegative(),
    checksums: z.union([z.number(), z.string()]),
  })),
  files: z.array(z.object({ position: z.int().nonnegative(), hash: z.string().nullable() })),
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
    this.#found = found?.key === this.#key ? found : null;
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
    writeWhole(this.#path, JSON.stringify(journal));
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

/** A journal that is not whole is none. */
function readJournal(path: string): Journal | null {
  try {
    return journalSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return null;
  }
}

function writeWhole(path: string, text: string): void {
  const temporary = `${path}.tmp`, descriptor = openSync(temporary, "w");
  try {
    writeSync(descriptor, text);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(temporary, path);
}
