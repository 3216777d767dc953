/**
 * What the audit saw, token by token: the predictor worker writes a row of each layer in every step, the main thread reads the rows of
 * the request at hand. Rows of the last `stepCount` steps are kept; no request takes more steps than that.
 *
 *   | i32: steps that are complete | pad to 64 bytes | f32[stepCount][numLayers][AUDIT_FIELDS] |
 */
export interface AuditBoardShare {
  buffer: SharedArrayBuffer;
  stepCount: number;
  numLayers: number;
}

/** Numbers of one layer in one step. */
export const AUDIT_FIELDS = 5;
export const AUDIT = {
  /** Neurons that the late look named. */
  predicted: 0,
  /** ... and whose activation was not zero. */
  found: 1,
  /** Active neurons that it did not name, as the sample lets expect. */
  missed: 2,
  /** Sum of the activations found, and of those missed as expected from the sample. */
  foundMass: 3,
  missedMass: 4,
} as const;

const ROWS_BYTE_OFFSET = 64;

/** Bytes of a board. */
export function auditBoardByteLength(stepCount: number, numLayers: number): number {
  return ROWS_BYTE_OFFSET + 4 * stepCount * numLayers * AUDIT_FIELDS;
}

/** One thread's view of the board. */
export class AuditBoard {
  readonly #complete: Int32Array;
  readonly #rows: Float32Array;
  readonly #stepCount: number;
  readonly #numLayers: number;

  constructor({ buffer, stepCount, numLayers }: AuditBoardShare) {
    this.#complete = new Int32Array(buffer, 0, 1);
    this.#rows = new Float32Array(buffer, ROWS_BYTE_OFFSET);
    this.#stepCount = stepCount;
    this.#numLayers = numLayers;
  }

  static create(stepCount: number, numLayers: number): AuditBoardShare {
    const byteLength = auditBoardByteLength(stepCount, numLayers);
    return { buffer: new SharedArrayBuffer(byteLength), stepCount, numLayers };
  }

  /** The writer begins a step: its rows become zero. */
  begin(step: number): void {
    const from = this.#at(step, 0, 0);
    this.#rows.fill(0, from, from + this.#numLayers * AUDIT_FIELDS);
  }

  /** The writer adds to a number of the step that it began. */
  add(step: number, layer: number, field: number, value: number): void {
    this.#rows[this.#at(step, layer, field)] += value;
  }

  /** The writer says that the step's rows are final. */
  complete(step: number): void {
    Atomics.store(this.#complete, 0, (step + 1) | 0);
  }

  /** Steps whose rows are final; wraps at 2^32. */
  get completeCount(): number {
    return Atomics.load(this.#complete, 0);
  }

  /** A copy of the rows of `count` steps from `first` on, f32[count][numLayers][AUDIT_FIELDS]. */
  rows(first: number, count: number): Float32Array {
    const perStep = this.#numLayers * AUDIT_FIELDS;
    const rows = new Float32Array(count * perStep);
    for (let i = 0; i < count; i++) {
      const from = this.#at((first + i) | 0, 0, 0);
      rows.set(this.#rows.subarray(from, from + perStep), i * perStep);
    }
    return rows;
  }

  #at(step: number, layer: number, field: number): number {
    return (((step >>> 0) % this.#stepCount) * this.#numLayers + layer) * AUDIT_FIELDS + field;
  }
}
