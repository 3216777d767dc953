import type { Step } from "../pipeline/step.ts";
import type { LaneArena } from "./lane_arena.ts";
import type { LaneSeat } from "./lane_seat.ts";

/** Lane 0 writes down what each layer of a step saw, for who asked for it: a row a position, in the first arena. */
export class Observer {
  readonly #seat: LaneSeat;
  /** Rows of the ring. */
  readonly #rowCount: number;

  constructor(seat: LaneSeat) {
    const { logitsRows, observationRows } = seat.options;
    this.#seat = seat;
    this.#rowCount = Math.min(logitsRows, observationRows);
  }

  /** The residual stream before the layer. */
  seeInput({ buffer, plan }: LaneArena, layer: number, step: Step): void {
    for (let position = 0; position < step.positions; position++) {
      const source = plan.residual + position * plan.strides.hidden;
      this.#copy(buffer, source, { layer, row: step.row + position, part: 0 });
    }
  }

  /** The input of the FFN: after attention and norm. */
  seeFfnInput(arena: LaneArena, layer: number, step: Step): void {
    const { normed } = arena.inputs(step.positions), { hidden } = arena.plan.strides;
    for (let position = 0; position < step.positions; position++) {
      const source = normed + position * hidden;
      this.#copy(arena.buffer, source, { layer, row: step.row + position, part: 1 });
    }
  }

  #copy(
    buffer: ArrayBufferLike,
    source: number,
    { layer, row, part }: { layer: number; row: number; part: number },
  ): void {
    const { arenas: [{ memory, plan }], sizes: { hiddenSize: d } } = this.#seat.options;
    const at = plan.observations + (row % this.#rowCount) * plan.observationStride;
    const target = new Float32Array(memory.buffer, at + (2 * layer + part) * 4 * d, d);
    target.set(new Float32Array(buffer, source, d));
  }
}
