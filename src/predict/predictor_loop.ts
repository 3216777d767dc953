import { NeuronCache, NO_LIST } from "../cache/neuron_cache.ts";
import { ReadPlan } from "../cache/read_plan.ts";
import { SlidingWindow } from "../cache/sliding_window.ts";
import { instantiateKernels } from "../kernels.ts";
import type { Kernels } from "../kernels.ts";
import {
  Control,
  PASS_COUNT,
  PASS_HIT_COUNT,
  PASS_IS_LAST,
  PASS_LAYER,
  PASS_NEURON_COUNT,
  PASS_TICKETS,
  passIndex,
} from "../pipeline/control.ts";
import type { LayerFlash, PipelineOptions } from "../pipeline/options.ts";
import type { Sequence } from "../pipeline/sequence.ts";
import { PREDICTOR } from "../pipeline/statistics.ts";
import { sharedClock, Trace } from "../pipeline/trace.ts";
import type { Clock } from "../pipeline/trace.ts";
import { bitsOf } from "./mask.ts";

/**
 * The predictor worker's loop. For each layer of each token: an early look, which only starts reads; then, when the
 * lanes have the late look's mask, the list of what is computed: slots of hits, tickets for misses. It owns the neuron
 * cache and the read plan; nobody else writes them.
 */
export class PredictorLoop {
  readonly #options: PipelineOptions;
  readonly #control: Control;
  readonly #kernels: Kernels;
  readonly #readPlan: ReadPlan;
  readonly #caches: NeuronCache[];
  readonly #layerReady: Sequence;
  readonly #maskReady: Sequence;
  readonly #published: Sequence;
  readonly #landed: Sequence;
  readonly #passDone: Sequence[];
  readonly #statistics: Float64Array;
  readonly #clock: Clock;
  readonly #trace?: Trace;
  readonly #lateMask: Uint32Array;
  readonly #earlyMask: Uint32Array;
  readonly #passArrays: PassArrays[];
  /** The list at hand, unpacked; and the misses of the pass at hand. */
  readonly #list: Int32Array;
  readonly #misses: Int32Array;
  readonly #missFlags: Int32Array;
  /** Number of the next pass. */
  #pass = 0;

  constructor(options: PipelineOptions) {
    const control = new Control(options.control);
    const { sizes, plan, flash } = options;
    const memory = options.arena.buffer;
    this.#options = options;
    this.#control = control;
    this.#kernels = instantiateKernels(options.kernels, options.arena);
    this.#readPlan = new ReadPlan(control, flash.readPlan);
    this.#caches = flash.layers.map((layer) => this.#makeCache(layer));
    this.#layerReady = control.sequence("layerReady");
    this.#maskReady = control.sequence("maskReady");
    this.#published = control.sequence("passPublished");
    this.#landed = control.sequence("landed");
    this.#passDone = control.layout.passDone.map((at) => control.sequenceAt(at));
    this.#statistics = control.statistics(control.shape.laneCount);
    this.#clock = sharedClock(options.timeOrigin);
    if (options.trace) this.#trace = new Trace(new Float64Array(options.trace));
    const maskWords = Math.ceil(sizes.intermediateSize / 32);
    this.#lateMask = new Uint32Array(memory, plan.mask, maskWords);
    this.#earlyMask = new Uint32Array(memory, plan.predictor.mask, maskWords);
    const words = (address: number) => new Uint32Array(memory, address, options.passNeuronsMax);
    this.#passArrays = plan.passes.map((pass) => ({
      addresses: words(pass.addresses),
      neurons: words(pass.neurons),
      order: words(pass.order),
      flags: words(pass.flags),
    }));
    this.#list = new Int32Array(sizes.intermediateSize);
    this.#misses = new Int32Array(options.passNeuronsMax);
    this.#missFlags = new Int32Array(options.passNeuronsMax);
  }

  #makeCache({ slotCount, flag }: LayerFlash): NeuronCache {
    const { sizes, flash, window } = this.#options;
    const slots = { count: slotCount, flagWord: this.#control.layout.flags + flag };
    const policy = new SlidingWindow(slotCount, window);
    const cache = new NeuronCache(sizes.intermediateSize, slots, policy, this.#control.words);
    if (flash.isResident) cache.fillCompletely();
    return cache;
  }

  /** Runs until the pipeline stops (`PipelineStoppedError`). */
  run(): never {
    const { mode, flash, sizes } = this.#options;
    if (mode === "dense") {
      if (!flash.isResident) return this.#streamDense();
      this.#lateMask.fill(0xffffffff);
    }
    for (let step = 0;; step = (step + 1) | 0) {
      for (let layer = 0; layer < sizes.numLayers; layer++) this.#serveLayer(step, layer);
      if (!flash.isResident) {
        for (const cache of this.#caches) cache.endStep(step, this.#passesDone());
      }
    }
  }

  #serveLayer(step: number, layer: number): void {
    const { mode, sizes, earlyLook } = this.#options;
    const target = (Math.imul(step, sizes.numLayers) + layer + 1) | 0;
    const began = this.#clock();
    if (layer === 0) this.#layerReady.waitIdle(target);
    else this.#layerReady.waitFor(target, `the input of layer ${layer}`);
    const early = this.#clock();
    if (layer !== 0) this.#trace?.span("wait: lanes' layer", began, early, layer);
    if (earlyLook) this.#lookEarly(step, layer);
    const waiting = this.#clock();
    if (mode !== "dense") this.#maskReady.waitFor(target, `the late look at layer ${layer}`);
    const late = this.#clock();
    const neuronCount = this.#unpack(this.#lateMask);
    this.#publishList(step, layer, target, neuronCount);
    const done = this.#clock();
    const statistics = this.#statistics;
    statistics[PREDICTOR.listed] += neuronCount;
    statistics[PREDICTOR.earlyMs] += waiting - early;
    statistics[PREDICTOR.lateMs] += done - late;
    if (this.#trace) {
      this.#trace.span("early look", early, waiting, layer);
      this.#trace.span("wait: lanes' scores", waiting, late, layer);
      this.#trace.span("plan late reads", late, done, neuronCount);
    }
  }

  /** Predicts from the layer's input, with the late look's matrices, and starts reads of what is not there. */
  #lookEarly(step: number, layer: number): void {
    const predictor = this.#options.weights.layers[layer].predictor;
    if (!predictor) return;
    const { sizes, plan } = this.#options;
    const { hiddenSize: d, intermediateSize: n } = sizes;
    const kernels = this.#kernels, scratch = plan.predictor;
    const norm = this.#options.weights.layers[layer].ffnNorm;
    const input = plan.layerInput[layer & 1];
    kernels.layerNorm(input, norm.weight, norm.bias, scratch.normed, d, sizes.layerNormEpsilon);
    kernels.prepare.q8(scratch.normed, scratch.prepared, d);
    kernels.matvec.q8(predictor.a, scratch.prepared, 0, scratch.lowRank, 0, predictor.rank, d);
    kernels.prepare.q8(scratch.lowRank, scratch.lowRankPrepared, predictor.rank);
    kernels.matvec.q8(
      predictor.b,
      scratch.lowRankPrepared,
      0,
      scratch.scores,
      0,
      n,
      predictor.rank,
    );
    kernels.thresholdMask(scratch.scores, predictor.earlyBias, scratch.mask, 0, n);
    this.#startReads(step, layer, this.#unpack(this.#earlyMask));
  }

  #startReads(step: number, layer: number, neuronCount: number): void {
    const cache = this.#caches[layer], plan = this.#readPlan, list = this.#list;
    let missCount = 0;
    for (let i = 0; i < neuronCount; i++) {
      const slot = cache.find(list[i]);
      // What is likely wanted must not make room for what is likely wanted.
      if (slot >= 0) cache.refresh(slot, step);
      else list[missCount++] = list[i];
    }
    if (missCount === 0) return;
    const eviction = { passesDone: this.#passesDone(), list: NO_LIST, desperate: false };
    const taken = Math.min(missCount, plan.earlyRoom, cache.slotCount >> 1);
    let issued = 0;
    plan.begin("early");
    while (issued < taken) {
      const slot = cache.admit(list[issued], step, eviction);
      if (slot < 0) break;
      this.#read(layer, list[issued], slot);
      issued++;
    }
    plan.finish();
    plan.ring();
    this.#statistics[PREDICTOR.earlyIssued] += issued;
    this.#statistics[PREDICTOR.earlyDropped] += missCount - issued;
  }

  #read(layer: number, neuron: number, slot: number): void {
    const { flash, plan } = this.#options;
    const { byteOffset, flag } = flash.layers[layer];
    const record = {
      byteOffset: byteOffset + neuron * flash.strideBytes + flash.record.offset,
      byteLength: flash.record.byteLength,
    };
    this.#readPlan.add(record, plan.slots[layer] + slot * flash.slotByteLength, flag + slot);
  }

  /** Address of a neuron's record in its slot: at the offset that it has in its block. */
  #recordAddress(layer: number, neuron: number, slot: number): number {
    const { flash, plan } = this.#options;
    const byteOffset = flash.layers[layer].byteOffset + neuron * flash.strideBytes +
      flash.record.offset;
    // In a resident layer neurons lie side by side, as in the file.
    const phase = byteOffset % flash.readPlan.blockByteLength;
    return plan.slots[layer] + slot * flash.slotByteLength + phase;
  }

  /** Publishes the first `neuronCount` neurons of the list, in one pass or, if slots are few, in several. */
  #publishList(step: number, layer: number, list: number, neuronCount: number): void {
    const cache = this.#caches[layer];
    for (let i = 0; i < neuronCount; i++) {
      const slot = cache.find(this.#list[i]);
      if (slot >= 0) cache.want(slot, list);
    }
    let at = 0;
    do {
      this.#awaitPassBuffer();
      at = this.#buildPass(step, layer, list, { at, neuronCount });
      this.#pass = (this.#pass + 1) | 0;
      this.#published.advance();
      this.#readPlan.ring();
    } while (at < neuronCount);
  }

  /** Fills the next pass with neurons from `at` on, as many as find slots; returns where it ended. */
  #buildPass(
    step: number,
    layer: number,
    list: number,
    { at, neuronCount }: { at: number; neuronCount: number },
  ): number {
    const cache = this.#caches[layer], pass = this.#pass;
    const { addresses, neurons, order, flags } = this.#passArrays[passIndex(pass)];
    const flagBase = this.#options.flash.layers[layer].flag;
    const countMax = this.#options.passNeuronsMax;
    const statistics = this.#statistics;
    const eviction = { passesDone: this.#passesDone(), list, desperate: false };
    let count = 0, hitCount = 0, missCount = 0;
    this.#readPlan.begin("late");
    while (at < neuronCount && count < countMax) {
      const neuron = this.#list[at];
      let slot = cache.find(neuron);
      if (slot >= 0) {
        if (cache.admittedStep(slot) === step) statistics[PREDICTOR.earlyStarted]++;
        else statistics[PREDICTOR.hits]++;
      } else {
        slot = this.#admit(cache, neuron, step, eviction, count === 0);
        if (slot < 0) break;
        this.#read(layer, neuron, slot);
        statistics[PREDICTOR.lateMisses]++;
      }
      cache.use(slot, step, pass);
      if (cache.hasLanded(slot)) order[hitCount++] = count;
      else {
        this.#misses[missCount] = count;
        this.#missFlags[missCount++] = flagBase + slot;
      }
      neurons[count] = neuron;
      addresses[count] = this.#recordAddress(layer, neuron, slot);
      count++;
      at++;
    }
    this.#readPlan.finish();
    for (let miss = 0; miss < missCount; miss++) {
      order[hitCount + miss] = this.#misses[miss];
      flags[hitCount + miss] = this.#missFlags[miss];
    }
    this.#describe(layer, {
      count,
      hitCount,
      isLast: at === neuronCount,
      tickets: this.#readPlan.ticketCount,
    });
    return at;
  }

  /** A slot for `neuron`; -1 if the pass must end first. The first of a pass waits until it gets one. */
  #admit(
    cache: NeuronCache,
    neuron: number,
    step: number,
    eviction: { passesDone: number; list: number; desperate: boolean },
    isFirst: boolean,
  ): number {
    for (;;) {
      const landed = this.#landed.value;
      eviction.passesDone = this.#passesDone();
      eviction.desperate = isFirst && eviction.passesDone === ((this.#pass - 1) | 0);
      const slot = cache.admit(neuron, step, eviction);
      if (slot >= 0 || !isFirst) return slot;
      const began = this.#clock();
      if (eviction.desperate) this.#landed.waitFor((landed + 1) | 0, "a slot's read to land");
      else this.#awaitPass((this.#pass - 1) | 0);
      this.#trace?.span("wait: slots", began, this.#clock());
    }
  }

  #describe(
    layer: number,
    { count, hitCount, isLast, tickets }: PassFacts,
  ): void {
    const at = this.#control.passAt(this.#pass), words = this.#control.words;
    words[at + PASS_LAYER] = layer;
    words[at + PASS_NEURON_COUNT] = count;
    words[at + PASS_HIT_COUNT] = hitCount;
    words[at + PASS_IS_LAST] = isLast ? 1 : 0;
    words[at + PASS_TICKETS] = tickets;
    this.#statistics[PREDICTOR.passes]++;
  }

  /** Number of the last pass that all lanes are done with. */
  #passesDone(): number {
    let least = this.#passDone[0].value;
    for (let lane = 1; lane < this.#passDone.length; lane++) {
      const done = this.#passDone[lane].value;
      if (((done - least) | 0) < 0) least = done;
    }
    return (least - 1) | 0;
  }

  /** Waits until all lanes are done with pass number `pass`. */
  #awaitPass(pass: number): void {
    for (const done of this.#passDone) done.waitFor((pass + 1) | 0, `lanes to finish pass ${pass}`);
  }

  /** Waits until the arrays of the next pass are free. */
  #awaitPassBuffer(): void {
    this.#awaitPass((this.#pass - PASS_COUNT) | 0);
  }

  #unpack(mask: Uint32Array): number {
    return bitsOf(mask, this.#list);
  }

  /**
   * Dense from flash: what will be read is known, so chunks of neighbouring bundles stream through the staging buffers as far
   * ahead as these reach, past the end of a token too. One chunk is one pass.
   */
  #streamDense(): never {
    const { flash, plan, sizes } = this.#options;
    const { chunkCount, chunkByteLength, neuronsPerChunk, flag } = flash.staging;
    const chunksPerLayer = Math.ceil(sizes.intermediateSize / neuronsPerChunk);
    const chunkAt = (pass: number) => {
      const layer = Math.floor(pass / chunksPerLayer) % sizes.numLayers;
      const first = (pass % chunksPerLayer) * neuronsPerChunk;
      const count = Math.min(neuronsPerChunk, sizes.intermediateSize - first);
      const byteOffset = flash.layers[layer].byteOffset + first * flash.strideBytes;
      return { layer, first, count, byteOffset };
    };
    let issued = 0;
    for (let pass = 0;; pass++) {
      for (const done of this.#passDone) done.waitIdle((pass - PASS_COUNT + 1) | 0);
      for (; ((issued - this.#passesDone()) | 0) <= chunkCount; issued++) {
        const { count, byteOffset } = chunkAt(issued);
        const chunk = issued % chunkCount;
        Atomics.store(this.#control.words, this.#control.layout.flags + flag + chunk, 0);
        this.#readPlan.begin("late");
        const record = { byteOffset, byteLength: count * flash.strideBytes };
        this.#readPlan.add(record, plan.staging + chunk * chunkByteLength, flag + chunk);
        this.#readPlan.finish();
      }
      this.#readPlan.ring();
      const { layer, first, count, byteOffset } = chunkAt(pass);
      const chunk = pass % chunkCount;
      const base = plan.staging + chunk * chunkByteLength +
        (byteOffset % flash.readPlan.blockByteLength);
      const { addresses, neurons, order, flags } = this.#passArrays[passIndex(pass)];
      for (let i = 0; i < count; i++) {
        addresses[i] = base + i * flash.strideBytes;
        neurons[i] = first + i;
        order[i] = i;
        flags[i] = flag + chunk;
      }
      this.#pass = pass;
      const isLast = first + count === sizes.intermediateSize;
      this.#describe(layer, { count, hitCount: 0, isLast, tickets: pass + 1 });
      this.#statistics[PREDICTOR.listed] += count;
      this.#statistics[PREDICTOR.lateMisses] += count;
      this.#published.advance();
    }
  }
}

/** What lanes must know of a pass beside its arrays. */
interface PassFacts {
  count: number;
  hitCount: number;
  isLast: boolean;
  tickets: number;
}

/** Views of a pass's arrays in the arena; see `PassPlan`. */
interface PassArrays {
  addresses: Uint32Array;
  neurons: Uint32Array;
  order: Uint32Array;
  flags: Uint32Array;
}
