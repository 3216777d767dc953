import { pagesOfLayer, slotsBeside } from "../arena.ts";
import { pageCount } from "../kv_page.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import type { PredictorSeat } from "../predict/predictor_seat.ts";
import type { LayerSlots } from "./layer_slots.ts";
import { limitSlots } from "./limit_slots.ts";

/**
 * Sees to it that slots and pages of the KV cache do not lie on each other: when a step needs more pages than the one before, slots
 * are given up for them; when it needs fewer, as another request began, they come back. Lanes wait for it then
 * (`PageWaiter`), and only then.
 */
export class PoolKeeper {
  readonly #seat: PredictorSeat;
  readonly #layers: LayerSlots[];
  readonly #ready: Sequence;
  #pages = 0;

  constructor(seat: PredictorSeat, layers: LayerSlots[]) {
    this.#seat = seat;
    this.#layers = layers;
    this.#ready = seat.control.sequence("poolsReady");
  }

  /** A step is about to begin whose last position is `positions - 1`; all passes of the one before are done. */
  makeRoom(positions: number): void {
    const pages = pageCount(positions);
    if (pages === this.#pages) return;
    this.#pages = pages;
    for (const slots of this.#layers) this.#limit(slots, pages);
    this.#ready.advance();
  }

  #limit({ layer, arena, cache }: LayerSlots, pages: number): void {
    const { arenas, flash, pages: shape } = this.#seat.options, { plan } = arenas[arena];
    const pool = plan.layers[layer - plan.range.from];
    const sizes = { slotByteLength: flash.slotByteLength, pages: shape };
    const own = Math.min(pages, pagesOfLayer(shape, layer));
    const limit = Math.min(cache.slotCount, slotsBeside(own, pool, sizes));
    limitSlots(this.#seat, cache, limit);
  }
}

/** A lane's side: waits until the pages of a step are the KV cache's alone. */
export class PageWaiter {
  readonly #ready: Sequence;
  #pages = 0;
  #changes = 0;

  constructor(ready: Sequence) {
    this.#ready = ready;
  }

  /** Before a step whose last position is `positions - 1`. */
  await(positions: number): void {
    const pages = pageCount(positions);
    if (pages === this.#pages) return;
    this.#pages = pages;
    this.#changes = (this.#changes + 1) | 0;
    this.#ready.waitFor(this.#changes, "the predictor to make room for the KV cache");
  }
}
