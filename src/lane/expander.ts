import type { ExpansionPlan } from "../arena.ts";
import type { PrunableQuantization, Quantization } from "../format/layout.ts";
import type { Kernels } from "../kernels.ts";

/** Entries [from, to) of an order of a list; 0: its own. */
export interface Entries {
  order: number;
  from: number;
  to: number;
}

/** Rows of a list's entries: u32 addresses, one an entry, to each of which `offset` is added; and the kernel that reads them. */
export interface Rows {
  addresses: number;
  offset: number;
  dots: Kernels["up"][Quantization];
}

/** Which of a thread's two places vectors are expanded to: rows of gates must stay beside up rows. */
export type ExpansionPlace = 0 | 1;

/**
 * Expands vectors of pruned bundles to a lane's own scratch, as many at a time as its plan has room for, so that several positions
 * compute with what was expanded once, by the kernels of other bundles. (For one position kernels expand in registers.)
 */
export class Expander {
  readonly plan: ExpansionPlan;
  /** u32[passNeuronsMax], for the caller's use: entries that are active. */
  readonly active: Uint32Array;
  readonly #kernels: Kernels;
  readonly #quantization: PrunableQuantization;
  readonly #hiddenSize: number;

  constructor(
    plan: ExpansionPlan,
    { kernels, buffer, quantization, hiddenSize, entriesMax }: {
      kernels: Kernels;
      buffer: ArrayBufferLike;
      quantization: PrunableQuantization;
      hiddenSize: number;
      /** Entries of a list, at most. */
      entriesMax: number;
    },
  ) {
    this.plan = plan;
    this.active = new Uint32Array(buffer, plan.active, entriesMax);
    this.#kernels = kernels;
    this.#quantization = quantization;
    this.#hiddenSize = hiddenSize;
  }

  /** Rows of at most `plan.count` entries. They are there until the next call with this place. */
  rows(addresses: number, entries: Entries, offset: number, place: ExpansionPlace): Rows {
    const range = { offset, place, from: 0, to: this.#hiddenSize };
    const dots = this.#kernels.up[this.#quantization];
    return { addresses: this.columns(addresses, entries, range), offset: 0, dots };
  }

  /** The same, of columns [from, to) alone. Returns where addresses are. */
  columns(
    addresses: number,
    { order, from: first, to: end }: Entries,
    { offset, place, from, to }: {
      offset: number;
      place: ExpansionPlace;
      from: number;
      to: number;
    },
  ): number {
    const { vectors, stride, addresses: expanded } = this.plan, d = this.#hiddenSize;
    const target = vectors[place], found = expanded[place];
    const expand = this.#kernels.expand[this.#quantization];
    expand(addresses, order, first, end, offset, target, stride, found, from, to, d);
    return found;
  }
}
