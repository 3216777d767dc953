import { recordOf, slotByteLength } from "../arena.ts";
import { LayerSlots } from "../cache/layer_slots.ts";
import type { SlotsOptions } from "../cache/layer_slots.ts";
import type { PolicyChoice } from "../cache/policies.ts";
import type { CachePolicy, PolicyShape } from "../cache/policy.ts";
import { ReadPlan } from "../cache/read_plan.ts";
import { ticketCapacity } from "../flash/ticket.ts";
import { NeuronOrder } from "../format/neuron_order.ts";
import { GAP_BYTES } from "../open_options.ts";
import { Control, PASS_COUNT } from "../pipeline/control.ts";
import { PassWriter } from "../pipeline/pass_ring.ts";
import { LAYER, PREDICTOR } from "../pipeline/statistics.ts";
import { BOUNCE_BYTES } from "../plan.ts";
import { EarlyReads } from "../predict/early_reads.ts";
import { bitsOf } from "../predict/mask.ts";
import { PassBuilder } from "../predict/pass_builder.ts";
import type { NeuronTrace } from "./neuron_trace.ts";
import { SimulatedReader } from "./simulated_reader.ts";
import { vectorsOf } from "./trace_format.ts";

/** How to replay a trace. */
export interface ReplayOptions {
  /** Slots of each layer. */
  slotCounts: readonly number[];
  /** Layers that are in memory from the start, as `Plan` has them. Default: none. */
  residentLayers?: readonly boolean[];
  /** A policy by name, or one for each layer. */
  policy: PolicyChoice | ((layer: number, shape: PolicyShape) => CachePolicy);
  gapBytes?: number;
  /** Whether the early look starts reads. Default false. */
  earlyLook?: boolean;
  /** Tokens that only fill the cache. Default 0. */
  warmupTokens?: number;
  /** In which order the neurons of each layer lie on flash. Default: as the trace says. */
  orders?: readonly NeuronOrder[];
  /** Gets the neurons of each list that were not there, before they are read; a view that is valid during the call. */
  onMisses?: (layer: number, neurons: Int32Array) => void;
  /** Gets each read: whole blocks, neighbours merged; in order, those of the warm-up too. */
  onRead?: (byteOffset: number, byteLength: number) => void;
}

/** What the tokens after the warm-up cost. */
export interface ReplayResult {
  tokens: number;
  /** Neurons that were computed, those of them that lay in a slot, and those whose read the early look had begun. */
  listed: number;
  hits: number;
  earlyStarted: number;
  /** Neurons whose read the early look began, wanted or not. */
  earlyIssued: number;
  reads: number;
  /** Whole blocks, and gaps that are read over. */
  bytes: number;
  passes: number;
  /** Slots that held a neuron, in the mean over tokens. */
  residentNeurons: number;
  /** Of each layer: neurons that were not there when the late look came. */
  missesByLayer: number[];
}

const FAKE_STYLE = { spins: 1, flashSpins: 1, waitMsMax: 1000 };

/**
 * Replays a trace by the predictor's own parts: its pass builder, caches, policies and read plan run as they do in the
 * pipeline, on lists that come from the trace, with a reader that only counts. So nothing here can differ from the engine but what
 * depends on time: the moment at which early reads land, and how far lanes are with a list that comes in several passes.
 */
export function replay(trace: NeuronTrace, options: ReplayOptions): ReplayResult {
  const { header } = trace, { intermediateSize, numLayers } = header;
  const slotTotal = options.slotCounts.reduce((sum, count) => sum + count, 0);
  const shape = {
    laneCount: 1,
    readerCount: 1,
    layerCount: numLayers,
    tickets: ticketCapacity(intermediateSize, 1),
    flagCount: slotTotal,
  };
  const control = new Control(Control.create(shape, FAKE_STYLE));
  const slotsOptions = optionsOf(trace, options);
  const reader = new SimulatedReader(control, options.onRead);
  const readPlan = new ReadPlan(control, slotsOptions.flash.readPlan, reader);
  const { passOptions, sizes } = passOptionsOf(intermediateSize);
  const passes = new PassWriter(control, passOptions);
  const statistics = new Float64Array(16);
  const seat = {
    options: { sizes, passNeuronsMax: intermediateSize },
    control,
    passes,
    readPlan,
    statistics,
    clock: () => 0,
  };
  const passBuilder = new PassBuilder(seat);
  const earlyReads = new EarlyReads(seat, intermediateSize);
  const layers = options.slotCounts.map((_, layer) => {
    const { policy } = options;
    const make = typeof policy === "function"
      ? (shape: PolicyShape) => policy(layer, shape)
      : undefined;
    return new LayerSlots(control, slotsOptions, readPlan, layer, make);
  });
  const listed = trace.listed, { warmupTokens = 0, earlyLook = false } = options;
  const missing = new Int32Array(32 * trace.wordCount);
  const layerCounts = () => layers.map(({ statistics }) => statistics.slice());
  let before = statistics.slice(),
    layersBefore = layerCounts(),
    readsBefore = 0,
    bytesBefore = 0,
    residentNeurons = 0;
  for (let token = 0; token < trace.tokenCount; token++) {
    if (token === warmupTokens) {
      before = statistics.slice();
      layersBefore = layerCounts();
      readsBefore = reader.reads;
      bytesBefore = reader.bytes;
      residentNeurons = 0;
    }
    for (const [layer, slots] of layers.entries()) {
      const list = token * numLayers + layer + 1;
      if (earlyLook) earlyReads.start(trace.mask("early", token, layer), slots, token);
      const mask = trace.mask(listed, token, layer);
      if (options.onMisses) options.onMisses(layer, missingOf(mask, slots, missing));
      passBuilder.publish(mask, slots, token, list);
      readPlan.settle();
    }
    for (const { cache, isResident } of layers) {
      if (!isResident) cache.endStep(token, passes.done);
      residentNeurons += cache.residentCount;
    }
  }
  const of = (index: number) => statistics[index] - before[index];
  const ofLayers = (index: number) =>
    layers.map(({ statistics }, layer) => statistics[index] - layersBefore[layer][index]);
  const sum = (values: number[]) => values.reduce((all, value) => all + value, 0);
  const hits = ofLayers(LAYER.hits);
  const tokens = Math.max(0, trace.tokenCount - warmupTokens);
  return {
    tokens,
    listed: sum(ofLayers(LAYER.listed)),
    hits: sum(hits),
    earlyStarted: sum(ofLayers(LAYER.earlyStarted)),
    earlyIssued: of(PREDICTOR.earlyIssued),
    reads: reader.reads - readsBefore,
    bytes: reader.bytes - bytesBefore,
    passes: of(PREDICTOR.passes),
    residentNeurons: residentNeurons / tokens,
    missesByLayer: ofLayers(LAYER.listed).map((listed, layer) => listed - hits[layer]),
  };
}

/** The neurons of a mask that have no slot. */
function missingOf(mask: Uint32Array, { cache }: LayerSlots, neurons: Int32Array): Int32Array {
  const count = bitsOf(mask, neurons);
  let missing = 0;
  for (let i = 0; i < count; i++) {
    if (cache.find(neurons[i]) < 0) neurons[missing++] = neurons[i];
  }
  return neurons.subarray(0, missing);
}

/** The record that the traced lists make the engine read: whole bundles, or in `exact` what is behind the row that decides. */
function recordOfTrace({ header, listed }: NeuronTrace) {
  const { quantization, hiddenSize, capacities = null } = header;
  return recordOf(
    quantization,
    hiddenSize,
    listed === "active",
    vectorsOf(header) === 3,
    capacities,
  );
}

/** The orders of the file that was traced; none where all neurons lie in the order of their numbers. */
function ordersOf({ header: { orders } }: NeuronTrace): NeuronOrder[] {
  return orders.map((neuronAt) => new NeuronOrder(neuronAt));
}

function optionsOf(
  trace: NeuronTrace,
  { slotCounts, residentLayers, policy, gapBytes, orders = ordersOf(trace) }: ReplayOptions,
): SlotsOptions {
  const { strideBytes, blockByteLength, layerByteOffsets, intermediateSize } = trace.header;
  const record = recordOfTrace(trace);
  const perSlot = slotByteLength({ strideBytes, ...record }, blockByteLength);
  let flag = 0;
  const layers = layerByteOffsets.map((byteOffset, layer) => {
    const slotCount = slotCounts[layer], at = flag;
    flag += slotCount;
    const order = orders[layer];
    const positionOf = order === undefined || order.isPlain ? undefined : order.positionOf;
    // An address that nobody reads from; not 0, which means a bounce buffer.
    const isResident = residentLayers?.[layer] ?? false;
    const slots = blockByteLength;
    return { arena: 0, slots, byteOffset, slotCount, isResident, flag: at, positionOf };
  });
  return {
    policy: typeof policy === "function" ? { name: "lru", window: Infinity } : policy,
    sizes: { intermediateSize },
    arenas: [{ memory: { buffer: new ArrayBuffer(0) } }],
    flash: {
      layers,
      strideBytes,
      record,
      slotByteLength: perSlot,
      readPlan: {
        blockByteLength,
        gapBytesMax: gapBytes ?? GAP_BYTES,
        mergedBytesMax: BOUNCE_BYTES,
      },
      isResident: false,
      readsPerRecord: 1,
      rereads: [],
      staging: {
        chunkCount: 0,
        chunkByteLength: 0,
        placeByteLength: 0,
        neuronsPerChunk: 0,
        flag,
        flagsPerChunk: 0,
        flagsPerArena: 0,
      },
    },
  };
}

/** Arrays for passes, which nobody computes. */
function passOptionsOf(passNeuronsMax: number) {
  let next = 0;
  const take = () => {
    const at = next;
    next += 4 * passNeuronsMax;
    return at;
  };
  const passes = Array.from({ length: PASS_COUNT }, () => ({
    addresses: take(),
    neurons: take(),
    order: take(),
    flags: take(),
    activations: take(),
  }));
  const sizes = { intermediateSize: passNeuronsMax };
  return {
    sizes,
    passOptions: {
      arenas: [{ memory: { buffer: new ArrayBuffer(next) }, plan: { passes } }],
      passNeuronsMax,
    },
  };
}
