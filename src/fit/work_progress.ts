import type { CalibrateOptions, CalibrateProgress } from "./calibrate_options.ts";
import type { FitCrew } from "./fit_crew.ts";
import { observeFlops, trainFlops } from "./fit_plan.ts";
import type { FitPlan, FitSizes } from "./fit_plan.ts";

const PROGRESS_EVERY_MS = 200;

/** How far the text is: layers before `layer` are done, and of this one the first `chunks` chunks. */
export interface Observed {
  layer: number;
  chunks: number;
}

/** Counts work over all phases, in floating-point operations. */
export class WorkProgress {
  readonly #plan: FitPlan;
  readonly #sizes: FitSizes;
  readonly #tell: CalibrateOptions["onProgress"];
  readonly #perObservation: number;
  readonly #perTrial: number;
  #phase: CalibrateProgress["phase"] = "observing";
  #observed = 0;
  readonly #tried = new Set<number>();
  readonly #fitted = new Set<number>();
  #perFit: number[];

  constructor(plan: FitPlan, sizes: FitSizes, tell: CalibrateOptions["onProgress"]) {
    const { ranks, batchSize, trialSteps, byteLimit, identity } = plan;
    const { d, n, numLayers } = sizes;
    const isTrained = identity.method === "trained";
    this.#plan = plan;
    this.#sizes = sizes;
    this.#tell = tell;
    this.#perObservation = observeFlops(sizes) / numLayers;
    // In closed form or bit planes a layer costs about as much as a few thousand positions.
    this.#perTrial = ranks.length === 0
      ? 0
      : isTrained
      ? trialSteps * batchSize * ranks.reduce((sum, rank) => sum + trainFlops(sizes, rank), 0)
      : 2000 * this.#perObservation;
    const rank = byteLimit / numLayers / (1.0625 * (d + n));
    this.#perFit = new Array(numLayers).fill(this.#fitWork(rank));
  }

  #fitWork(rank: number): number {
    const { identity, steps, batchSize } = this.#plan;
    if (identity.method === "magnitudes") return 0;
    if (identity.method !== "trained") return 2000 * this.#perObservation;
    return steps * batchSize * trainFlops(this.#sizes, rank);
  }

  observed({ layer, chunks }: Observed): void {
    const { chunkLengths, tokens } = this.#plan;
    const inLayer = chunkLengths.slice(0, chunks).reduce((sum, length) => sum + length, 0);
    this.#observed = layer * tokens + inLayer;
  }

  tried(layer: number): void {
    this.#tried.add(layer);
  }

  chosen(ranks: number[]): void {
    this.#perFit = ranks.map((rank) => this.#fitWork(rank));
  }

  fitted(layer: number): void {
    this.#fitted.add(layer);
  }

  /** Tells while in scope. */
  tick(crew: FitCrew): Disposable {
    const tell = () => this.#report(crew);
    const timer = setInterval(tell, PROGRESS_EVERY_MS);
    return {
      [Symbol.dispose]() {
        clearInterval(timer);
        tell();
      },
    };
  }

  #report(crew: FitCrew): void {
    const { tokens } = this.#plan, { numLayers } = this.#sizes;
    let done = this.#observed * this.#perObservation + this.#tried.size * this.#perTrial;
    for (const layer of this.#fitted) done += this.#perFit[layer];
    for (const { task: { kind, layer }, share } of crew.running) {
      if (kind === "try") this.#phase = "trying", done += share * this.#perTrial;
      if (kind === "fit") this.#phase = "fitting", done += share * this.#perFit[layer];
    }
    const total = numLayers * (tokens * this.#perObservation + this.#perTrial) +
      this.#perFit.reduce((sum, work) => sum + work, 0);
    this.#tell?.({ phase: this.#phase, done, total });
  }
}
