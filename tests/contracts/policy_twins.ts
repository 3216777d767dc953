/** An exact twin of a policy in plain words, told what the policy is told, of neurons in place of slots. */
export interface PolicyTwin {
  admit(neuron: number, step: number): void;
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
  /** Rank of each neuron in memory, in the order in which they got it. */
  readonly #ranks = new Map<number, number>();

  constructor(halfLife: number) {
    this.#halfLife = halfLife;
  }

  admit(neuron: number): void {
    this.expect(neuron);
  }

  use(neuron: number, step: number): void {
    const uses = this.#uses.get(neuron) ?? [];
    if (uses.at(-1) !== step) uses.push(step);
    this.#uses.set(neuron, uses);
    this.#place(neuron, USED);
  }

  expect(neuron: number): void {
    this.#place(neuron, EXPECTED);
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
      if (rank === waiting) this.#place(neuron, this.#rankOf(neuron));
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
