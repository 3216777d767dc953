import type { Quantization } from "../format/layout.ts";
import type { KernelRow, Probe } from "../probe/probe_result.ts";
import { between } from "../probe/read_costs.ts";
import { ATTENTION_SHARE, LANES_UNEVEN } from "./engine_costs.ts";

/** Weights that a kernel goes through for a token. */
export interface KernelWork {
  kernel: KernelRow["kernel"] | "attention";
  dtype: KernelRow["dtype"];
  /** Length of a row. */
  cols: number;
  byteLength: number;
}

/** What this machine's cores do, as a probe measured it. */
export class Speeds {
  readonly #probe: Pick<Probe, "kernels" | "memory">;
  readonly #workingBytes: number;

  /** @param workingBytes weights that a token goes through: what caches hold is faster */
  constructor(probe: Pick<Probe, "kernels" | "memory">, workingBytes: number) {
    this.#probe = probe;
    this.#workingBytes = workingBytes;
  }

  /** Seconds of one core. */
  secondsOf({ kernel, dtype, cols, byteLength }: KernelWork): number {
    if (byteLength === 0) return 0;
    if (kernel === "attention") {
      return byteLength / (ATTENTION_SHARE * this.#rate("matvec", "f32", cols));
    }
    return byteLength / this.#rate(kernel, dtype, cols);
  }

  /** Seconds of so many lanes together: each its share, and not faster than memory serves them all; the slowest counts. */
  laneSeconds(works: readonly KernelWork[], laneCount: number): number {
    const alone = this.coreSeconds(works);
    if (laneCount === 1) return alone;
    const bytes = works.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const isCached = this.#workingBytes <= CACHED_BYTES;
    const together = isCached ? 0 : bytes / this.#probe.memory.allCoresBytesPerSecond;
    return LANES_UNEVEN * Math.max(alone / laneCount, together);
  }

  coreSeconds(works: readonly KernelWork[]): number {
    return works.reduce((sum, work) => sum + this.secondsOf(work), 0);
  }

  /** Between the row lengths and working sets that were measured. */
  #rate(kernel: KernelRow["kernel"], dtype: Quantization | "u1", cols: number): number {
    const rows = this.#probe.kernels.rows.filter((row) =>
      row.kernel === kernel && row.dtype === dtype
    );
    if (rows.length === 0) {
      throw new RangeError(
        `Cannot tell a time as the probe has no ${kernel} of ${dtype}: probe again`,
      );
    }
    const sets = ascending(rows.map(({ workingBytes }) => workingBytes));
    const rates = sets.map((set) => {
      const of = rows.filter(({ workingBytes }) => workingBytes === set)
        .sort((a, b) => a.cols - b.cols);
      return between(of.map((row) => row.cols), of.map((row) => row.bytesPerSecond), cols);
    });
    return between(sets, rates, this.#workingBytes);
  }
}

/** Weights that caches hold for sure. */
const CACHED_BYTES = 2 ** 22;

function ascending(values: readonly number[]): number[] {
  return [...new Set(values)].sort((a, b) => a - b);
}
