import type { AuditOptions } from "./audit_options.ts";
import type { LayerSlots } from "../cache/layer_slots.ts";
import { PASS_COUNT, passIndex } from "../pipeline/control.ts";
import { arenaIndexOf } from "../pipeline/options.ts";
import type { PredictorSeat } from "../predict/predictor_seat.ts";
import { AuditDesk } from "./audit_desk.ts";
import { AUDIT, AuditBoard } from "./board.ts";
import { SampleDraw, slotStride, windowWeight } from "./sample.ts";
import type { AuditSample } from "./sample.ts";

/**
 * Looks, in every layer of every token, at a few neurons that the late look did not name, and writes down how many of them would have
 * been active. Nothing of it reaches a result. It lives in the predictor worker, between that worker's own tasks:
 *
 *   lanes have their mask, and wait       `sample`: dots of slots, at once; picks a window
 *   lanes compute the list                `read`: the window's read goes out, behind those of the list
 *   lanes are through with the layer      `complete`: dots of the window
 *   the step's end                        `endStep`: what is left, and the step's row is final
 */
export class Auditor {
  readonly #seat: PredictorSeat;
  /** What it has in each arena. */
  readonly #desks: AuditDesk[];
  readonly #sample: AuditSample;
  readonly #draw: SampleDraw;
  readonly #board: AuditBoard;
  readonly #flag: number;
  readonly #flagWord: number;
  /** Of each pass that is not counted yet: how many neurons of which layer. */
  readonly #passCounts = new Int32Array(PASS_COUNT);
  readonly #passLayers = new Int32Array(PASS_COUNT);
  #countedPasses = 0;
  #step = 0;
  /** The window that is read: its layer, its first position, and how many of its neurons are looked at. */
  #slots: LayerSlots | undefined;
  #windowFirst = 0;
  #windowCount = 0;
  #isReading = false;

  constructor(seat: PredictorSeat, { sample, seed, board, flag }: AuditOptions) {
    const { arenas } = seat.options;
    this.#seat = seat;
    this.#desks = arenas.map((arena) => new AuditDesk(arena, seat.options));
    this.#sample = sample;
    this.#draw = new SampleDraw(sample, seed);
    this.#board = new AuditBoard(board);
    this.#flag = flag;
    this.#flagWord = seat.control.layout.flags + flag;
  }

  beginStep(step: number): void {
    this.#step = step;
    this.#board.begin(step);
  }

  /** The late look's mask is there, and no lane goes on before the list is published: its input stands still. */
  sample(slots: LayerSlots): void {
    const desk = this.#desks[slots.arena];
    this.complete();
    this.#sampleSlots(slots, desk);
    this.#chooseWindow(slots, desk);
    if (this.#windowCount > 0) desk.keepInput();
  }

  /** Neurons that lie in slots and are not predicted: every k-th slot. */
  #sampleSlots(slots: LayerSlots, desk: AuditDesk): void {
    const { cache } = slots;
    const stride = slotStride(this.#sample, cache.slotCount);
    let count = 0;
    for (let slot = this.#draw.firstSlot(stride); slot < cache.slotCount; slot += stride) {
      const neuron = cache.neuronIn(slot);
      if (neuron < 0 || desk.isPredicted(neuron) || !cache.hasLanded(slot)) continue;
      desk.neurons[count] = neuron;
      desk.addresses[count++] = slots.addressOf(neuron, slot);
    }
    this.#compute(slots, count, { weight: stride, input: "present" });
  }

  /** Picks a window, and of it the neurons that are neither predicted nor in a slot. */
  #chooseWindow(slots: LayerSlots, desk: AuditDesk): void {
    const { cache } = slots, { intermediateSize } = this.#seat.options.sizes;
    const { windowNeurons } = this.#sample;
    const window = this.#draw.window();
    this.#windowCount = 0;
    if (window < 0) return;
    const first = window * windowNeurons;
    const end = Math.min(intermediateSize, first + windowNeurons);
    let count = 0;
    for (let position = first; position < end; position++) {
      const neuron = slots.neuronAt(position);
      const slot = cache.find(neuron);
      if (desk.isPredicted(neuron) || (slot >= 0 && cache.hasLanded(slot))) continue;
      desk.neurons[count++] = neuron;
    }
    this.#slots = slots;
    this.#windowFirst = first;
    this.#windowCount = count;
  }

  /** The list is out: reads the window that was picked. */
  read(): void {
    if (this.#windowCount === 0) return;
    const { readPlan, control, options: { sizes } } = this.#seat;
    const first = this.#windowFirst;
    const count = Math.min(this.#sample.windowNeurons, sizes.intermediateSize - first);
    Atomics.store(control.words, this.#flagWord, 0);
    const slots = this.#slots!, { window } = this.#desks[slots.arena].plan;
    readPlan.begin("late", slots.arena);
    slots.readRun({ first, count }, window, this.#flag);
    readPlan.finish();
    readPlan.ring();
    this.#isReading = true;
  }

  /** Looks at the window that was read, waiting for it if need be. */
  complete(): void {
    if (!this.#isReading) return;
    this.#awaitWindow();
    this.#isReading = false;
    const slots = this.#slots!, count = this.#windowCount;
    const { addresses, neurons, plan } = this.#desks[slots.arena];
    for (let i = 0; i < count; i++) {
      addresses[i] = slots.addressInRun(this.#windowFirst, neurons[i], plan.window);
    }
    this.#windowCount = 0;
    this.#compute(slots, count, { weight: windowWeight(this.#sample), input: "kept" });
  }

  #awaitWindow(): void {
    const { readPlan, control } = this.#seat;
    while (Atomics.load(control.words, this.#flagWord) === 0) readPlan.awaitLanding();
  }

  /** Activations of `count` sampled neurons, each of which stands for `weight` of its kind. */
  #compute({ layer, arena }: LayerSlots, count: number, { weight, input }: SampleWeight): void {
    if (count === 0) return;
    const desk = this.#desks[arena], { activations } = desk;
    desk.compute(layer, count, input);
    let active = 0, mass = 0;
    for (let i = 0; i < count; i++) {
      if (activations[i] !== 0) active++;
      mass += Math.abs(activations[i]);
    }
    this.#board.add(this.#step, layer, AUDIT.missed, weight * active);
    this.#board.add(this.#step, layer, AUDIT.missedMass, weight * mass);
  }

  /** A pass of `count` neurons was published, number `pass`. */
  published(pass: number, layer: number, count: number): void {
    this.#passLayers[passIndex(pass)] = layer;
    this.#passCounts[passIndex(pass)] = count;
  }

  /** Lanes are done with all passes up to number `done`: their activations stand until the arrays are filled again. */
  countPasses(done: number): void {
    for (; ((done - this.#countedPasses) | 0) >= 0; this.#countedPasses++) {
      const index = passIndex(this.#countedPasses);
      const layer = this.#passLayers[index], count = this.#passCounts[index];
      const arena = arenaIndexOf(this.#seat.options.arenas, layer);
      const activations = this.#desks[arena].passActivations[index];
      let active = 0, mass = 0;
      for (let i = 0; i < count; i++) {
        if (activations[i] !== 0) active++;
        mass += Math.abs(activations[i]);
      }
      this.#board.add(this.#step, layer, AUDIT.predicted, count);
      this.#board.add(this.#step, layer, AUDIT.found, active);
      this.#board.add(this.#step, layer, AUDIT.foundMass, mass);
    }
  }

  /** All layers have their lists. Waits until the lanes are through, which is when the step's row is final. */
  endStep(): void {
    const { passes } = this.#seat, last = (passes.number - 1) | 0;
    this.complete();
    passes.awaitDone(last);
    this.countPasses(last);
    this.#board.complete(this.#step);
  }
}

interface SampleWeight {
  weight: number;
  /** The layer's FFN input as it stands, or as it was kept. */
  input: "present" | "kept";
}
