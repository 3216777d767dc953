import { limitSlots } from "../cache/limit_slots.ts";
import type { LimitSeat } from "../cache/limit_slots.ts";
import type { LayerSlots } from "../cache/layer_slots.ts";
import type { PipelineOptions } from "../pipeline/options.ts";
import type { StagingBuffer } from "./staging.ts";

/** One of so many layers lends its slots, at most. */
const LAYERS_PER_LENDER = 6;

/** What it needs of the predictor's place. */
export interface LendingSeat extends LimitSeat {
  readonly options: {
    sizes: { intermediateSize: number };
    flash: Pick<PipelineOptions["flash"], "strideBytes" | "slotByteLength" | "staging">;
  };
}

/** What it needs of a layer. */
export type Lender = Pick<LayerSlots, "layer" | "address" | "flag" | "cache">;

/**
 * Slots that serve a stream of bundles as staging buffers: those of an arena's last layers, until the stream comes to these. It
 * brings their neurons back then, so nothing is lost. Buffers lie side by side from a pool's first slot on, each behind the
 * landing flags of the slots that it covers:
 *
 *   | buffer 0          | buffer 1          | ...     | pages of the KV cache |
 *   | slot 0 | slot 1 | ...                           |
 */
export class LentPools {
  readonly #seat: LendingSeat;
  /** In the order of layers. */
  readonly #lenders: Lender[];
  /** How many slots each has had. */
  readonly #limits: Int32Array;
  /** What `lend` gave. */
  readonly buffers: StagingBuffer[] = [];

  /** @param layers of one arena, in order */
  constructor(seat: LendingSeat, layers: Lender[]) {
    this.#seat = seat;
    const most = Math.floor(layers.length / LAYERS_PER_LENDER);
    this.#lenders = layers.slice(layers.length - Math.min(most, this.#lendersWanted(layers)));
    this.#limits = new Int32Array(this.#lenders.length);
  }

  /** The first of the layers that lend, or Infinity. */
  get firstLayer(): number {
    return this.#lenders[0]?.layer ?? Infinity;
  }

  /**
   * Takes the slots, which lose their neurons. No pass may be under way. False, and nothing is taken, if that would give fewer than
   * `countMin` buffers.
   */
  lend(countMin: number): boolean {
    let count = 0;
    for (const slots of this.#lenders) count += this.#countOf(slots);
    if (count < countMin || count === 0) return false;
    this.buffers.length = 0;
    this.#lenders.forEach((slots, i) => {
      this.#add(slots);
      this.#limits[i] = slots.cache.limit;
      limitSlots(this.#seat, slots.cache, 0);
    });
    return true;
  }

  /** The layers have their slots again, all of them free. No buffer may be in use. */
  giveBack(): void {
    this.#lenders.forEach(({ cache }, i) => cache.setLimit(this.#limits[i]));
  }

  /** More than a whole layer cannot be read before the one at hand is done with. */
  #lendersWanted(layers: Lender[]): number {
    const { sizes, flash } = this.#seat.options;
    const layerBytes = sizes.intermediateSize * flash.strideBytes;
    let count = 0;
    for (let bytes = 0; bytes < layerBytes && count < layers.length; count++) {
      bytes += layers[layers.length - 1 - count].cache.slotCount * flash.slotByteLength;
    }
    return count;
  }

  /** Buffers that the layer's slots hold. */
  #countOf({ cache }: Lender): number {
    const { slotByteLength, staging } = this.#seat.options.flash;
    return Math.floor(cache.limit * slotByteLength / staging.chunkByteLength);
  }

  #add(slots: Lender): void {
    const { slotByteLength, staging } = this.#seat.options.flash;
    const count = this.#countOf(slots);
    for (let i = 0; i < count; i++) {
      const at = i * staging.chunkByteLength;
      this.buffers.push({
        address: slots.address + at,
        flag: slots.flag + Math.ceil(at / slotByteLength),
      });
    }
  }
}
