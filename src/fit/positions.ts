import { seededRandom } from "../random.ts";
import { shuffle } from "./sample_text.ts";
import type { Table, WorkFolder } from "./work_folder.ts";

/** What one layer saw at the observed positions, which is read block by block. */
export interface Positions {
  readonly count: number;
  /** FFN inputs after the norm into `target`, f32[count][d]. */
  readInputs(target: Float32Array, first: number): void;
  /** What the early look sees, likewise. */
  readEarlyInputs(target: Float32Array, first: number): void;
  /** Active neurons, u32[count][n / 32]. */
  readActive(target: Uint32Array, first: number): void;
}

/** Positions in memory: f32[count][d] each, and u32[count][ceil(n / 32)]. */
export class ArrayPositions implements Positions {
  readonly count: number;
  readonly #arrays: { inputs: Float32Array; earlyInputs: Float32Array; active: Uint32Array };

  constructor(
    arrays: { inputs: Float32Array; earlyInputs: Float32Array; active: Uint32Array },
    d: number,
  ) {
    this.count = arrays.inputs.length / d;
    this.#arrays = arrays;
  }

  readInputs(target: Float32Array, first: number): void {
    copyRows(this.#arrays.inputs, this.count, target, first);
  }

  readEarlyInputs(target: Float32Array, first: number): void {
    copyRows(this.#arrays.earlyInputs, this.count, target, first);
  }

  readActive(target: Uint32Array, first: number): void {
    copyRows(this.#arrays.active, this.count, target, first);
  }
}

/** Copies as many rows as fill `target`; how long a row is follows from how many there are. */
function copyRows<T extends Float32Array | Uint32Array>(
  rows: T,
  rowCount: number,
  target: T,
  first: number,
): void {
  const width = rows.length / rowCount;
  target.set(rows.subarray(first * width, first * width + target.length));
}

/** Numbers that a table of inputs is converted by at a time. */
const SCRATCH_LENGTH = 1 << 16;

/**
 * A layer's tables in the working folder: inputs are f16 (the error is a hundredth of what rounding a predictor to q8
 * does), activity is a bit a neuron.
 */
export class TablePositions implements Positions {
  readonly count: number;
  readonly #inputs: Table;
  readonly #earlyInputs: Table;
  readonly #active: Table;
  readonly #d: number;
  readonly #first: number;
  readonly #halves = new Float16Array(SCRATCH_LENGTH);

  constructor(
    folder: WorkFolder,
    layer: number,
    { d, n, rowCount }: { d: number; n: number; rowCount: number },
    range: { first: number; count: number } = { first: 0, count: rowCount },
  ) {
    const inputs = { rowByteLength: 2 * d, rowCount };
    this.#inputs = folder.openTable(`layer-${layer}.inputs`, inputs);
    this.#earlyInputs = folder.openTable(`layer-${layer}.early`, inputs);
    this.#active = folder.openTable(`layer-${layer}.active`, { rowByteLength: n / 8, rowCount });
    this.#d = d;
    this.#first = range.first;
    this.count = range.count;
  }

  readInputs(target: Float32Array, first: number): void {
    this.#readHalves(this.#inputs, target, first);
  }

  readEarlyInputs(target: Float32Array, first: number): void {
    this.#readHalves(this.#earlyInputs, target, first);
  }

  readActive(target: Uint32Array, first: number): void {
    this.#active.read(target, this.#first + first);
  }

  /** Writes what a group of positions saw, from row `first` on. */
  write(
    { inputs, earlyInputs, active }: {
      inputs: Float32Array;
      earlyInputs: Float32Array;
      active: Uint32Array;
    },
    first: number,
  ): void {
    this.#inputs.write(new Float16Array(inputs), this.#first + first);
    this.#earlyInputs.write(new Float16Array(earlyInputs), this.#first + first);
    this.#active.write(active, this.#first + first);
  }

  sync(): void {
    for (const table of [this.#inputs, this.#earlyInputs, this.#active]) table.sync();
  }

  [Symbol.dispose](): void {
    for (const table of [this.#inputs, this.#earlyInputs, this.#active]) table.close();
  }

  #readHalves(table: Table, target: Float32Array, first: number): void {
    const step = Math.floor(SCRATCH_LENGTH / this.#d) * this.#d;
    for (let done = 0; done < target.length; done += step) {
      const halves = this.#halves.subarray(0, Math.min(step, target.length - done));
      table.read(halves, this.#first + first + done / this.#d);
      target.set(halves, done);
    }
  }
}

/** Positions that a batch takes in a row: reading runs is cheaper than reading rows. */
export const RUN_LENGTH = 32;

/**
 * Batches of positions in seeded order: each epoch takes all whole runs once, in another order. What batch number k has
 * depends on k alone.
 */
export class Batches {
  readonly #positions: Positions;
  readonly #runCount: number;
  readonly #runsPerBatch: number;
  readonly #seed: number;
  #epoch = -1;
  #order: number[] = [];

  constructor(
    positions: Positions,
    { count, batchSize, seed }: { count: number; batchSize: number; seed: number },
  ) {
    this.#positions = positions;
    this.#runCount = Math.max(1, Math.floor(count / RUN_LENGTH));
    this.#runsPerBatch = batchSize / RUN_LENGTH;
    this.#seed = seed;
  }

  /** Fills f32[batch][d] and u32[batch][n / 32] with batch number `batch`. */
  read(batch: number, inputs: Float32Array, active: Uint32Array): void {
    const inputLength = inputs.length / this.#runsPerBatch;
    const activeLength = active.length / this.#runsPerBatch;
    for (let k = 0; k < this.#runsPerBatch; k++) {
      const first = this.#runAt(batch * this.#runsPerBatch + k) * RUN_LENGTH;
      const into = inputs.subarray(k * inputLength, (k + 1) * inputLength);
      this.#positions.readInputs(into, first);
      this.#positions.readActive(active.subarray(k * activeLength, (k + 1) * activeLength), first);
    }
  }

  #runAt(index: number): number {
    const epoch = Math.floor(index / this.#runCount);
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#order = Array.from({ length: this.#runCount }, (_, run) => run);
      shuffle(this.#order, seededRandom(Math.imul(this.#seed + 1, 0x9e3779b1) + epoch));
    }
    return this.#order[index % this.#runCount];
  }
}
