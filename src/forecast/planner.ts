import { prepare } from "../open.ts";
import type { Prepared } from "../open.ts";
import type { OpenOptions } from "../open_options.ts";
import type { Plan } from "../plan.ts";
import type { Probe } from "../probe/probe_result.ts";
import { residentBytes } from "../runtime.ts";
import { forecast, isProbed, smallestMemory } from "./forecast.ts";
import type { Forecast } from "./forecast.ts";

/** How the cache is set: a ceiling of the process in bytes, or a share of the FFN's neurons. */
export type Budget = { memory: number } | { ffnCache: number };

/**
 * Plans one file for any budgets, as `open` would do it, and foresees each. Memory of the process counts as it was when this was made:
 * a probe in between takes some that a run will not.
 */
export class Planner {
  readonly #path: string;
  readonly #options: OpenOptions;
  readonly #position: number;
  readonly #nowBytes = residentBytes();
  #probe: Probe | null = null;

  constructor(path: string, options: OpenOptions, { position }: { position: number }) {
    this.#path = path;
    this.#options = options;
    this.#position = position;
  }

  /** The probe that chooses how to read, and says how long things take. */
  use(probe: Probe): void {
    this.#probe = probe;
  }

  /** Throws `MemoryBudgetError` with the smallest budget that works, and whatever `open` throws. */
  prepare(budget: Budget): Prepared {
    const known = { probe: this.#probe, nowBytes: this.#nowBytes };
    return prepare(this.#path, { ...this.#options, ...budget }, known);
  }

  /** Whether a probe has the readers that would be used. */
  covers(probe: Probe): boolean {
    const known = { probe, nowBytes: this.#nowBytes };
    return isProbed(prepare(this.#path, { ...this.#options, ffnCache: 0.5 }, known), probe);
  }

  /** Throws as `prepare` does. */
  forecast(budget: Budget): Forecast {
    if (!this.#probe) throw new Error("A forecast needs a probe");
    const prepared = this.prepare(budget);
    const position = Math.min(this.#position, prepared.settings.wishes.contextLength - 1);
    return forecast(prepared, this.#probe, { position });
  }

  /** The smallest memory by which the file runs so, in bytes. */
  get smallestBytes(): number {
    return smallestMemory((memory) => this.prepare({ memory }));
  }

  /** So many ceilings in even steps, from the smallest that works to one by which all neurons are in memory. */
  budgets(count: number): Budget[] {
    const smallest = this.smallestBytes;
    const largest = this.prepare({ ffnCache: 1 }).plan.bytes.total;
    return Array.from({ length: count }, (_, k) => {
      const bytes = smallest + (largest - smallest) * k / (count - 1);
      return { memory: MEBIBYTE * Math.ceil(bytes / MEBIBYTE) };
    });
  }

  /** The model and how it would be run, in a line. */
  describe({ bytes }: Pick<Forecast, "bytes">): string {
    const { header, plan, settings } = this.prepare({ memory: bytes.total });
    const { numLayers, hiddenSize } = header.config, { wishes, policy, gapBytes } = settings;
    const { backend, readerCount, depth, laneCount, contextLength } = wishes;
    const readers = backend === "pread" ? `${readerCount}` : `${readerCount} x ${depth}`;
    return `${header.architecture}, ${numLayers} layers of ${hiddenSize}, ${header.quantization}; ` +
      `ffn ${plan.mode}${leftOut(plan)}, context ${contextLength}, policy ${policy.name}, ` +
      `${laneCount} ${laneCount === 1 ? "lane" : "lanes"}, ${backend} ${readers}, gaps up to ` +
      `${(gapBytes / 1024).toFixed(0)} KiB${settings.isProbed ? " (by the probe)" : ""}`;
  }
}

function leftOut({ sparsity }: Plan): string {
  return sparsity === null ? "" : ` (${(100 * sparsity).toFixed(0)} % left out)`;
}

const MEBIBYTE = 2 ** 20;
