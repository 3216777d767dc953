import type { RereadPiece } from "../pipeline/options.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import { REREAD_CHUNKS } from "../plan.ts";
import type { PredictorSeat } from "./predictor_seat.ts";

/**
 * The baseline of an engine that keeps nothing (`OpenOptions.naive`): what is resident is read anew for each token, by the
 * engine's readers, piece after piece to scratch, as far ahead as that reaches; and a layer's FFN waits until the pieces before it are
 * there. Lanes compute from what was loaded, so the numbers stay right.
 */
export class Rereads {
  readonly #seat: PredictorSeat;
  readonly #pieces: RereadPiece[];
  readonly #landed: Sequence;
  /** Pieces whose reads were begun, and that were waited for, through all steps. */
  #issued = 0;
  #done = 0;
  /** The first piece of the step at hand, counted the same way; and pieces of a step up to each layer. */
  #stepFirst = 0;
  readonly #through: number[];
  /** What is read next: reused, so that a read allocates nothing. */
  readonly #record = { byteOffset: 0, byteLength: 0 };

  constructor(seat: PredictorSeat) {
    this.#seat = seat;
    this.#pieces = seat.options.flash.rereads;
    this.#landed = seat.control.sequence("landed");
    this.#through = seat.options.flash.layers.map((_, layer) =>
      this.#pieces.filter((piece) => piece.layer <= layer).length
    );
  }

  /** Begins reads to the buffers that are free. */
  readAhead(): void {
    while (this.#issued < this.#done + REREAD_CHUNKS) this.#read(this.#issued++);
  }

  /** Waits until all pieces of the step that come before layer `layer` is computed have landed. Called for each layer in turn. */
  await(layer: number): void {
    const { readPlan } = this.#seat, target = this.#stepFirst + this.#through[layer];
    for (;;) {
      const seen = this.#landed.value;
      while (this.#done < target && this.#hasLanded(this.#done)) this.#done++;
      this.readAhead();
      readPlan.ring();
      if (this.#done === target) break;
      this.#landed.waitFor((seen + 1) | 0, `what is resident to be read again for layer ${layer}`);
    }
    if (layer === this.#through.length - 1) this.#stepFirst += this.#pieces.length;
  }

  #hasLanded(piece: number): boolean {
    const { words, layout } = this.#seat.control;
    return Atomics.load(words, layout.flags + this.#flagOf(piece)) !== 0;
  }

  #read(piece: number): void {
    const { control, readPlan, options } = this.#seat, { flash, arenas } = options;
    const { layer, byteOffset, byteLength } = this.#pieces[piece % this.#pieces.length];
    const { arena } = flash.layers[layer], { chunkByteLength } = flash.staging;
    const flag = this.#flagOf(piece), record = this.#record;
    Atomics.store(control.words, control.layout.flags + flag, 0);
    record.byteOffset = byteOffset;
    record.byteLength = byteLength;
    readPlan.begin("late", arena);
    readPlan.add(
      record,
      arenas[arena].plan.staging + this.#bufferOf(piece) * chunkByteLength,
      flag,
    );
    readPlan.finish();
  }

  #flagOf(piece: number): number {
    const { flag, flagsPerChunk } = this.#seat.options.flash.staging;
    return flag + this.#bufferOf(piece) * flagsPerChunk;
  }

  /** Staging buffers behind those of the stream. */
  #bufferOf(piece: number): number {
    return this.#seat.options.flash.staging.chunkCount + piece % REREAD_CHUNKS;
  }
}
