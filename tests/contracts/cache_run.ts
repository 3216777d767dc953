import assert from "node:assert/strict";
import { NeuronCache, NO_LIST } from "../../src/cache/neuron_cache.ts";
import type { PolicyFactory } from "../../src/cache/policy.ts";
import { seededRandom } from "../../src/random.ts";
import type { PolicyTwin } from "./policy_twins.ts";

/** What a plain `Map` knows of a neuron that is in memory. */
interface Entry {
  slot: number;
  isInFlight: boolean;
  /** The pass that used it last. */
  pass: number;
  wantedBy: number;
}

/**
 * Drives a `NeuronCache` as the predictor does, at random, beside a plain `Map`: early looks, lists in passes, reads that land
 * late, lanes that are slow. Each decision is checked as it is made; without a twin, only what must never happen.
 */
export class CacheRun {
  readonly #cache: NeuronCache;
  readonly #words: Int32Array;
  readonly #random: () => number;
  readonly #entries = new Map<number, Entry>();
  readonly #where: string;
  readonly #neuronCount: number;
  readonly #slotCount: number;
  readonly #twin?: PolicyTwin;
  #step = 0;
  #list = 0;
  #pass = 0;
  #passesDone = -1;
  admissions = 0;
  refusals = 0;

  constructor({ seed, neuronCount, slotCount, makePolicy, twin }: {
    seed: number;
    neuronCount: number;
    slotCount: number;
    makePolicy: PolicyFactory;
    twin?: PolicyTwin;
  }) {
    const flagWord = 3;
    this.#words = new Int32Array(new SharedArrayBuffer(4 * (flagWord + slotCount + 1)));
    this.#words.fill(77);
    const slots = { count: slotCount, flagWord };
    const policy = makePolicy({ slotCount, neuronCount });
    this.#cache = new NeuronCache(neuronCount, slots, policy, this.#words);
    this.#random = seededRandom(seed);
    this.#neuronCount = neuronCount;
    this.#slotCount = slotCount;
    this.#twin = twin;
    this.#where = `seed ${seed}, ${slotCount} slots`;
  }

  /** One token: an early look, then a list. */
  step(): void {
    this.#list++;
    for (const neuron of this.#pick(0.1)) this.#lookEarly(neuron);
    this.#land(0.5);
    const list = this.#pick(0.05 + 0.3 * this.#random());
    for (const neuron of list) {
      const entry = this.#entries.get(neuron);
      if (!entry) continue;
      this.#cache.want(entry.slot, this.#step, this.#list);
      this.#twin?.expect(neuron, this.#step);
      entry.wantedBy = this.#list;
    }
    for (let at = 0; at < list.length;) {
      at = this.#servePass(list, at);
      if (at === list.length) break;
      this.#cache.endPass();
      this.#twin?.endPass();
    }
    this.#land(0.7);
    this.#advancePasses();
    this.#endStep();
    this.#step++;
    this.#compare();
    assert.equal(this.#words[2], 77, "the word before the flags");
    assert.equal(this.#words.at(-1), 77, "the word after the flags");
  }

  #pick(share: number): number[] {
    const all = Array.from({ length: this.#neuronCount }, (_, neuron) => neuron);
    return all.filter(() => this.#random() < share);
  }

  #lookEarly(neuron: number): void {
    const entry = this.#entries.get(neuron);
    if (!entry) return void this.#admit(neuron, NO_LIST, false);
    this.#cache.refresh(entry.slot, this.#step);
    this.#twin?.expect(neuron, this.#step);
  }

  /** As many neurons as find slots; the first must find one in the end. */
  #servePass(list: number[], at: number): number {
    let count = 0;
    for (; at < list.length; at++, count++) {
      const neuron = list[at];
      while (!this.#entries.has(neuron)) {
        const isDesperate = count === 0 && this.#passesDone === this.#pass - 1;
        if (this.#admit(neuron, this.#list, isDesperate)) break;
        if (count > 0) {
          this.#pass++;
          return at;
        }
        if (isDesperate) this.#land(1);
        else this.#passesDone++;
      }
      const entry = this.#entries.get(neuron)!;
      this.#cache.use(entry.slot, this.#step, this.#pass);
      this.#twin?.use(neuron, this.#step);
      Object.assign(entry, { pass: this.#pass, wantedBy: -1 });
      if (this.#random() < 0.3) this.#land(0.3);
    }
    this.#pass++;
    return at;
  }

  #mayGo(entry: Entry, list: number): boolean {
    return !entry.isInFlight && entry.pass <= this.#passesDone && entry.wantedBy !== list;
  }

  #admit(neuron: number, list: number, desperate: boolean): boolean {
    const before = this.#entries;
    const mayGo = (wanted: number) =>
      (this.#twin?.order() ?? [...before.keys()]).filter((other) => {
        return this.#mayGo(before.get(other)!, wanted);
      });
    const isFull = before.size === this.#slotCount;
    let victims = isFull ? mayGo(list) : [];
    if (isFull && victims.length === 0 && desperate) victims = mayGo(NO_LIST);
    const where = `${this.#where}, step ${this.#step}, neuron ${neuron}`;
    const eviction = { passesDone: this.#passesDone, list, desperate };
    const slot = this.#cache.admit(neuron, this.#step, eviction);
    if (isFull && victims.length === 0) {
      assert.equal(slot, -1, `${where}: nothing may go`);
      this.refusals++;
      return false;
    }
    assert.ok(slot >= 0 && slot < this.#slotCount, `${where}: there was a slot, received ${slot}`);
    const evicted = [...before].find(([, entry]) => entry.slot === slot)?.[0];
    if (isFull) {
      assert.ok(
        evicted !== undefined && victims.includes(evicted),
        `${where}: ${evicted} had to stay`,
      );
      if (this.#twin) assert.equal(evicted, victims[0], `${where}: who goes first`);
      before.delete(evicted);
      this.#twin?.remove(evicted);
    } else assert.equal(evicted, undefined, `${where}: free slots come first`);
    assert.equal(this.#cache.hasLanded(slot), false, `${where}: its flag is down`);
    assert.equal(this.#cache.admittedStep(slot), this.#step);
    this.#entries.set(neuron, {
      slot,
      isInFlight: true,
      pass: -1,
      wantedBy: -1,
    });
    this.#twin?.admit(neuron, this.#step, slot);
    this.admissions++;
    return true;
  }

  /** Some of the reads in flight land. */
  #land(share: number): void {
    for (const entry of this.#entries.values()) {
      if (!entry.isInFlight || this.#random() >= share) continue;
      entry.isInFlight = false;
      this.#words[3 + entry.slot] = 1;
    }
  }

  /** Lanes are done with some of the passes, whose reads have landed then. */
  #advancePasses(): void {
    const done = this.#passesDone + Math.floor(this.#random() * (this.#pass - this.#passesDone));
    for (const entry of this.#entries.values()) {
      if (entry.pass > done || !entry.isInFlight || entry.pass < 0) continue;
      entry.isInFlight = false;
      this.#words[3 + entry.slot] = 1;
    }
    this.#passesDone = done;
  }

  #endStep(): void {
    this.#twin?.endStep(this.#step);
    const expired = this.#twin && this.#expired(this.#twin);
    this.#cache.endStep(this.#step, this.#passesDone);
    const gone = [...this.#entries.keys()].filter((neuron) => this.#cache.find(neuron) < 0);
    for (const neuron of gone) {
      const entry = this.#entries.get(neuron)!;
      assert.ok(this.#mayGo(entry, NO_LIST), `${this.#where}: neuron ${neuron} left too early`);
    }
    const ascending = (a: number, b: number) => a - b;
    if (expired) assert.deepEqual(gone.toSorted(ascending), expired.toSorted(ascending));
    for (const neuron of gone) {
      this.#entries.delete(neuron);
      this.#twin?.remove(neuron);
    }
  }

  /** In the twin's order, up to the first that must stay. */
  #expired(twin: PolicyTwin): number[] {
    const expired: number[] = [];
    for (const neuron of twin.order()) {
      if (!twin.isExpired(neuron, this.#step)) break;
      if (!this.#mayGo(this.#entries.get(neuron)!, NO_LIST)) break;
      expired.push(neuron);
    }
    return expired;
  }

  #compare(): void {
    const where = `${this.#where}, step ${this.#step}`;
    const slots = new Set<number>();
    for (let neuron = 0; neuron < this.#neuronCount; neuron++) {
      const slot = this.#cache.find(neuron);
      assert.equal(slot, this.#entries.get(neuron)?.slot ?? -1, `${where}, neuron ${neuron}`);
      if (slot < 0) continue;
      assert.ok(!slots.has(slot), `${where}: slot ${slot} holds two neurons`);
      slots.add(slot);
    }
  }
}
