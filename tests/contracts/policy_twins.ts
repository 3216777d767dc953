/** An exact twin of a policy in plain words, told what the policy is told, of neurons in place of slots. */
export interface PolicyTwin {
  admit(neuron: number, step: number, slot: number): void;
  use(neuron: number, step: number): void;
  expect(neuron: number, step: number): void;
  remove(neuron: number): void;
  endPass(): void;
  endStep(step: number): void;
  /** Neurons in memory, the first to go first. */
  order(): number[];
  isExpired(neuron: number, step: number): boolean;
}

/** The sliding window. The `Map` (neuron to step of its last use) is in order of use. */
export class WindowTwin implements PolicyTwin {
  readonly #window: number;
  readonly #lastUse = new Map<number, number>();

  constructor(window: number) {
    this.#window = window;
  }

  admit(neuron: number, step: number): void {
    this.use(neuron, step);
  }

  use(neuron: number, step: number): void {
    this.#lastUse.delete(neuron);
    this.#lastUse.set(neuron, step);
  }

  expect(neuron: number, step: number): void {
    this.use(neuron, step);
  }

  remove(neuron: number): void {
    this.#lastUse.delete(neuron);
  }

  endPass(): void {}
  endStep(): void {}

  order(): number[] {
    return [...this.#lastUse.keys()];
  }

  isExpired(neuron: number, step: number): boolean {
    return step - this.#lastUse.get(neuron)! >= this.#window;
  }
}

/** Decayed frequency: sums by their definition, ranked in sixteenths of a halving. */
export class FrequencyTwin implements PolicyTwin {
  readonly #halfLife: number;
  /** Every step in which a neuron was used, in memory or not. */
  readonly #uses = new Map<number, number[]>();
  /** Rank of each neuron in memory, and its slot. */
  readonly #ranks = new Map<number, number>();
  readonly #slots = new Map<number, number>();

  constructor(halfLife: number) {
    this.#halfLife = halfLife;
  }

  admit(neuron: number, _step: number, slot: number): void {
    this.#slots.set(neuron, slot);
    this.expect(neuron);
  }

  use(neuron: number, step: number): void {
    const uses = this.#uses.get(neuron) ?? [];
    if (uses.at(-1) !== step) uses.push(step);
    this.#uses.set(neuron, uses);
    this.#ranks.set(neuron, USED);
  }

  expect(neuron: number): void {
    this.#ranks.set(neuron, EXPECTED);
  }

  remove(neuron: number): void {
    this.#ranks.delete(neuron);
  }

  endPass(): void {
    this.#rank(USED);
  }

  endStep(): void {
    this.#rank(USED);
    this.#rank(EXPECTED);
  }

  order(): number[] {
    const slotOf = (neuron: number) => this.#slots.get(neuron)!;
    return [...this.#ranks]
      .sort(([x, a], [y, b]) => a - b || slotOf(x) - slotOf(y))
      .map(([neuron]) => neuron);
  }

  isExpired(): boolean {
    return false;
  }

  #rank(waiting: number): void {
    for (const [neuron, rank] of [...this.#ranks]) {
      if (rank === waiting) this.#ranks.set(neuron, this.#rankOf(neuron));
    }
  }

  #rankOf(neuron: number): number {
    const uses = this.#uses.get(neuron) ?? [];
    if (uses.length === 0) return 0;
    const last = uses[uses.length - 1];
    const sum = uses.reduce((sum, step) => sum + 2 ** ((step - last) / this.#halfLife), 0);
    const eighths = Math.floor(8 * (sum + 1e-9)) / 8;
    return Math.floor(16 * last / this.#halfLife) + Math.floor(16 * Math.log2(eighths));
  }
}

const USED = 1e9;
const EXPECTED = 2e9;

/** Segmented LRU: neurons with their rank (0 on probation, 1 protected, or waiting), in the order in which they got it. */
export class SegmentedTwin implements PolicyTwin {
  readonly #protectedMax: number;
  readonly #ranks = new Map<number, number>();
  readonly #lastUse = new Map<number, number>();
  readonly #protected = new Set<number>();

  constructor(slotCount: number) {
    this.#protectedMax = Math.floor(0.8 * slotCount);
  }

  admit(neuron: number): void {
    this.expect(neuron);
  }

  use(neuron: number, step: number): void {
    if ((this.#lastUse.get(neuron) ?? step) !== step) this.#protected.add(neuron);
    this.#lastUse.set(neuron, step);
    this.#place(neuron, USED);
  }

  expect(neuron: number): void {
    this.#place(neuron, EXPECTED);
  }

  remove(neuron: number): void {
    this.#ranks.delete(neuron);
    this.#lastUse.delete(neuron);
    this.#protected.delete(neuron);
  }

  endPass(): void {
    this.#rank(USED);
  }

  endStep(): void {
    this.#rank(USED);
    this.#rank(EXPECTED);
  }

  order(): number[] {
    return [...this.#ranks].sort(([, a], [, b]) => a - b).map(([neuron]) => neuron);
  }

  isExpired(): boolean {
    return false;
  }

  #place(neuron: number, rank: number): void {
    this.#ranks.delete(neuron);
    this.#ranks.set(neuron, rank);
  }

  #rank(waiting: number): void {
    for (const [neuron, rank] of [...this.#ranks]) {
      if (rank === waiting) this.#place(neuron, this.#protected.has(neuron) ? 1 : 0);
    }
    while (this.#protected.size > this.#protectedMax) {
      const oldest = [...this.#ranks].find(([, rank]) => rank === 1)?.[0];
      if (oldest === undefined) return;
      this.#protected.delete(oldest);
      this.#place(oldest, 0);
    }
  }
}

/** Pinned hot neurons plus a window: hot are those with the most uses, halved each epoch, if all with as many fit. */
export class PinnedTwin implements PolicyTwin {
  readonly #window: number;
  readonly #pinnedMax: number;
  readonly #ranks = new Map<number, number>();
  readonly #lastTold = new Map<number, number>();
  /** Per neuron: uses in each epoch. */
  readonly #uses = new Map<number, number[]>();
  readonly #counted = new Map<number, number>();
  #hot = new Set<number>();
  #steps = 0;

  constructor(slotCount: number, window: number) {
    this.#window = window;
    this.#pinnedMax = Math.floor(slotCount / 2);
  }

  admit(neuron: number, step: number): void {
    this.expect(neuron, step);
  }

  use(neuron: number, step: number): void {
    if (this.#counted.get(neuron) !== step) {
      const uses = this.#uses.get(neuron) ?? [];
      const epoch = Math.floor(this.#steps / 128);
      uses[epoch] = (uses[epoch] ?? 0) + 1;
      this.#uses.set(neuron, uses);
    }
    this.#counted.set(neuron, step);
    this.#place(neuron, USED);
    this.#lastTold.set(neuron, step);
  }

  expect(neuron: number, step: number): void {
    this.#place(neuron, EXPECTED);
    this.#lastTold.set(neuron, step);
  }

  remove(neuron: number): void {
    this.#ranks.delete(neuron);
  }

  endPass(): void {
    this.#rank(USED);
  }

  endStep(): void {
    if (++this.#steps % 128 === 0) this.#settle();
    this.#rank(USED);
    this.#rank(EXPECTED);
  }

  order(): number[] {
    return [...this.#ranks].sort(([, a], [, b]) => a - b).map(([neuron]) => neuron);
  }

  isExpired(neuron: number, step: number): boolean {
    return this.#ranks.get(neuron) === 0 && step - this.#lastTold.get(neuron)! >= this.#window;
  }

  #place(neuron: number, rank: number): void {
    this.#ranks.delete(neuron);
    this.#ranks.set(neuron, rank);
  }

  #rank(waiting: number): void {
    for (const [neuron, rank] of [...this.#ranks]) {
      if (rank === waiting) this.#place(neuron, this.#hot.has(neuron) ? 1 : 0);
    }
  }

  #settle(): void {
    const epochs = this.#steps / 128;
    const quarters = (neuron: number) => {
      const uses = this.#uses.get(neuron) ?? [];
      const sum = uses.reduce((sum, count, epoch) => sum + count / 2 ** (epochs - 1 - epoch), 0);
      return Math.floor(4 * sum);
    };
    const levels = new Set([...this.#uses.keys()].map(quarters).filter((level) => level > 0));
    this.#hot = new Set();
    for (const level of [...levels].sort((a, b) => b - a)) {
      const same = [...this.#uses.keys()].filter((neuron) => quarters(neuron) === level);
      if (this.#hot.size + same.length > this.#pinnedMax) break;
      for (const neuron of same) this.#hot.add(neuron);
    }
    for (const [neuron, rank] of [...this.#ranks]) {
      if (rank === 1 && !this.#hot.has(neuron)) this.#place(neuron, 0);
    }
  }
}
