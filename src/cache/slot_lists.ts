/**
 * Rows of slots, each slot in one row at most, in which any slot is moved in O(1): circular lists with links in both
 * directions. Node `slotCount + row` stands for both ends of a row.
 */
export class SlotLists {
  readonly #slotCount: number;
  /** The node after each node; -1 for a slot that is in no row. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;

  constructor(slotCount: number, rowCount: number) {
    this.#slotCount = slotCount;
    this.#next = new Int32Array(slotCount + rowCount).fill(-1);
    this.#previous = new Int32Array(slotCount + rowCount).fill(-1);
    for (let end = slotCount; end < slotCount + rowCount; end++) {
      this.#next[end] = end;
      this.#previous[end] = end;
    }
  }

  has(slot: number): boolean {
    return this.#next[slot] !== -1;
  }

  isEmpty(row: number): boolean {
    const end = this.#slotCount + row;
    return this.#next[end] === end;
  }

  /** The first slot of `row`, or -1. */
  first(row: number): number {
    return this.#slotOr(this.#next[this.#slotCount + row]);
  }

  /** The slot after `slot` in its row, or -1. */
  after(slot: number): number {
    return this.#slotOr(this.#next[slot]);
  }

  /** The first slot of `row` or, if it is empty, of the rows behind it, or -1. */
  firstFrom(row: number): number {
    for (let end = this.#slotCount + row; end < this.#next.length; end++) {
      if (this.#next[end] < this.#slotCount) return this.#next[end];
    }
    return -1;
  }

  /** The slot after `slot` in its row or, if it is the last one there, in the rows behind it, or -1. */
  afterInRows(slot: number): number {
    const next = this.#next[slot];
    return next < this.#slotCount ? next : this.firstFrom(next - this.#slotCount + 1);
  }

  /** The row whose last slot is `slot`. */
  rowEndedBy(slot: number): number {
    return this.#next[slot] - this.#slotCount;
  }

  /** Puts `slot` at the end of `row`, wherever it was. */
  append(slot: number, row: number): void {
    if (this.has(slot)) this.remove(slot);
    const end = this.#slotCount + row, last = this.#previous[end];
    this.#next[last] = slot;
    this.#previous[slot] = last;
    this.#next[slot] = end;
    this.#previous[end] = slot;
  }

  remove(slot: number): void {
    const next = this.#next[slot], previous = this.#previous[slot];
    this.#next[previous] = next;
    this.#previous[next] = previous;
    this.#next[slot] = -1;
    this.#previous[slot] = -1;
  }

  /** Puts all slots of `row` in front of those of `target`. */
  prepend(row: number, target: number): void {
    if (this.isEmpty(row)) return;
    const from = this.#slotCount + row, to = this.#slotCount + target;
    const head = this.#next[from], tail = this.#previous[from], first = this.#next[to];
    this.#next[to] = head;
    this.#previous[head] = to;
    this.#next[tail] = first;
    this.#previous[first] = tail;
    this.#next[from] = from;
    this.#previous[from] = from;
  }

  #slotOr(node: number): number {
    return node < this.#slotCount ? node : -1;
  }
}
