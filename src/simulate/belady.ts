import type { CachePolicy, PolicyShape } from "../cache/policy.ts";
import { SlotLists } from "../cache/slot_lists.ts";
import type { NeuronTrace } from "./neuron_trace.ts";

/**
 * The step in which each neuron of a layer is used next: `next[step * n + neuron]`, after that step; the token count
 * if never again.
 */
export function nextUses(trace: NeuronTrace, layer: number): Int32Array {
  const { tokenCount, header: { intermediateSize: n }, listed } = trace;
  const next = new Int32Array(tokenCount * n);
  const coming = new Int32Array(n).fill(tokenCount);
  for (let token = tokenCount - 1; token >= 0; token--) {
    next.set(coming, token * n);
    for (const neuron of trace.neurons(listed, token, layer)) coming[neuron] = token;
  }
  return next;
}

/**
 * Belady's MIN: what is used again last leaves first (Belady 1966). It knows the trace, so it is a limit and no choice. A
 * token's list is needed as a whole, so what the list at hand uses or wants is named last, as by every policy.
 */
export class BeladyPolicy implements CachePolicy {
  readonly #rows: SlotLists;
  readonly #rowCount: number;
  readonly #next: Int32Array;
  readonly #neuronCount: number;
  readonly #neuronOf: Int32Array;
  #step = 0;
  /** Below this row all are empty. */
  #lowest: number;

  /** @param next see `nextUses` */
  constructor({ slotCount, neuronCount }: PolicyShape, next: Int32Array) {
    this.#rowCount = next.length / neuronCount + 1;
    // A row for each step of a next use, the last step first; then what was used in the pass, and what is expected.
    this.#rows = new SlotLists(slotCount, this.#rowCount + 2);
    this.#next = next;
    this.#neuronCount = neuronCount;
    this.#neuronOf = new Int32Array(slotCount);
    this.#lowest = this.#rowCount;
  }

  admit(slot: number, neuron: number, step: number): void {
    this.#neuronOf[slot] = neuron;
    this.expect(slot, step);
  }

  use(slot: number, step: number): void {
    this.#step = step;
    this.#rows.append(slot, this.#rowCount);
  }

  expect(slot: number, step: number): void {
    this.#step = step;
    this.#rows.append(slot, this.#rowCount + 1);
  }

  remove(slot: number): void {
    this.#rows.remove(slot);
  }

  first(): number {
    while (this.#lowest < this.#rowCount && this.#rows.isEmpty(this.#lowest)) this.#lowest++;
    return this.#rows.firstFrom(this.#lowest);
  }

  after(slot: number): number {
    return this.#rows.afterInRows(slot);
  }

  endPass(): void {
    this.#sort(this.#rowCount);
  }

  endStep(step: number): void {
    this.#step = step;
    this.#sort(this.#rowCount);
    this.#sort(this.#rowCount + 1);
  }

  expired(): number {
    return -1;
  }

  #sort(from: number): void {
    for (let slot; (slot = this.#rows.first(from)) >= 0;) {
      const use = this.#next[this.#step * this.#neuronCount + this.#neuronOf[slot]];
      const row = this.#rowCount - 1 - use;
      this.#rows.append(slot, row);
      if (row < this.#lowest) this.#lowest = row;
    }
  }
}
