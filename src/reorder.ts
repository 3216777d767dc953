import { orderByCoActivation } from "./cache/co_activation_order.ts";
import type { TokenMasks } from "./cache/miss_curve.ts";
import { DEFAULT_POLICY } from "./cache/policies.ts";
import { FlashFile } from "./format/flash_file.ts";
import { NeuronOrder } from "./format/neuron_order.ts";
import { reorderFlash } from "./format/reorder.ts";
import type { NeuronTrace } from "./simulate/neuron_trace.ts";
import { traceInMemory } from "./simulate/record_trace.ts";
import { replay } from "./simulate/replay.ts";
import { slotCountsOf, warmupOf } from "./simulate/simulate.ts";

/** How to reorder. */
export interface ReorderOptions {
  /** The `.flash` file, with predictors; its bundles get a new order. Needs as much free room on the disk again. */
  path: string;
  /** Text like the one that will be generated. Documents end with `<|endoftext|>`. */
  text: string;
  textName?: string;
  /** Tokens to look at. Default 12 000, or as many as 512 MiB hold the neurons of. */
  tokensMax?: number;
  /** The cache that reads will miss, as a share of the FFN. Default 0.2. */
  cacheShare?: number;
  onProgress?: (progress: ReorderProgress) => void;
  /** Aborting leaves the file as it was. */
  signal?: AbortSignal;
}

/** How far it is. `phase`: "tracing" (tokens), "ordering" (layers), "rewriting" (bytes). */
export interface ReorderProgress {
  phase: "tracing" | "ordering" | "rewriting";
  done: number;
  total: number;
}

/** What reads cost with an order, by replaying tokens that it was not made from. */
export interface OrderCost {
  readsPerToken: number;
  bytesPerToken: number;
}

export interface ReorderResult {
  before: OrderCost;
  after: OrderCost;
  /** Tokens that the order was made from, and those that it was judged by. */
  tokens: { learned: number; judged: number };
  /** Whether the file was rewritten: only if the new order reads less often. */
  isApplied: boolean;
}

const TOKENS_MAX = 12_000;
const TRACE_BYTES_MAX = 512 << 20;
const CACHE_SHARE = 0.2;
/** Part of the tokens that judge the order. */
const HELD_OUT_SHARE = 0.25;
/** Pairs are counted in a table of n x n: 2 GiB. */
const NEURONS_MAX = 32_768;

/**
 * Puts neurons that are read for the same token side by side on flash, in each layer, so that one read brings several.
 * Which ones are read depends on the cache, so a trace of the text is replayed through the engine's own cache first. Changes
 * no result, bit for bit.
 *
 * @throws {RangeError} the file has no predictors, the text is too short, layers are too wide, or the cache is no share
 * @throws {ModelFileError} the file is damaged; it stays as it was
 */
export async function reorder(options: ReorderOptions): Promise<ReorderResult> {
  const { path, onProgress, signal, cacheShare = CACHE_SHARE } = options;
  if (!(cacheShare > 0 && cacheShare <= 1)) {
    throw new RangeError(
      `Cannot reorder for a cache of ${cacheShare} of the FFN: above 0, up to 1`,
    );
  }
  const trace = await traceOf(options);
  const { numLayers, intermediateSize } = trace.header;
  const learned = trace.tokenCount - Math.floor(trace.tokenCount * HELD_OUT_SHARE);
  const settings = {
    slotCounts: slotCountsOf(trace, cacheShare),
    policy: { name: DEFAULT_POLICY, window: Infinity },
  } as const;
  const reads = readsByLayer(trace, settings, learned);
  const orders: NeuronOrder[] = [];
  for (const masks of reads) {
    const counted = { masks, tokenCount: learned, neuronCount: intermediateSize };
    orders.push(orderByCoActivation(counted));
    onProgress?.({ phase: "ordering", done: orders.length, total: numLayers });
    await new Promise((resolve) => setTimeout(resolve, 0));
    signal?.throwIfAborted();
  }
  const cost = (orders?: NeuronOrder[]): OrderCost => {
    const { reads, bytes, tokens } = replay(trace, { ...settings, orders, warmupTokens: learned });
    return { readsPerToken: reads / tokens, bytesPerToken: bytes / tokens };
  };
  const before = cost(), after = cost(orders);
  const isApplied = after.readsPerToken < before.readsPerToken;
  if (isApplied) {
    await reorderFlash(path, orders, {
      signal,
      onProgress: ({ doneBytes: done, totalBytes: total }) =>
        onProgress?.({ phase: "rewriting", done, total }),
    });
  }
  const tokens = { learned, judged: trace.tokenCount - learned };
  return { before, after, tokens, isApplied };
}

/** Runs the text and keeps which neurons it used. */
async function traceOf(
  { path, text, textName = "text", tokensMax = TOKENS_MAX, onProgress, signal }: ReorderOptions,
): Promise<NeuronTrace> {
  const { numLayers, intermediateSize: n } = checkedConfig(path);
  // Three sets in the trace, and the neurons that were read.
  const bytesPerToken = 4 * numLayers * Math.ceil(n / 8);
  const trace = await traceInMemory({
    path,
    text,
    textName,
    tokensMax: Math.min(tokensMax, Math.floor(TRACE_BYTES_MAX / bytesPerToken)),
    onProgress: ({ done, total }) => onProgress?.({ phase: "tracing", done, total }),
    signal,
  });
  if (warmupOf(trace) < 8) {
    throw new RangeError(`Cannot reorder by ${trace.tokenCount} tokens of text: at least 32`);
  }
  return trace;
}

/** Throws `RangeError` if layers are too wide to count all pairs of neurons. */
export function checkWidth(intermediateSize: number): void {
  if (intermediateSize <= NEURONS_MAX) return;
  throw new RangeError(
    `Cannot reorder layers of ${intermediateSize} neurons: at most ${NEURONS_MAX}`,
  );
}

function checkedConfig(path: string): FlashFile["header"]["config"] {
  using file = FlashFile.open(path);
  const { config, predictors } = file.header;
  if (!predictors) {
    throw new RangeError(
      `Cannot reorder ${path} as it has no predictors: run \`flashpipe calibrate\``,
    );
  }
  checkWidth(config.intermediateSize);
  return config;
}

/** Of each layer, the neurons that were read for each of the first `tokenCount` tokens: u32[tokenCount][n / 32]. */
export function readsByLayer(
  trace: NeuronTrace,
  settings: Pick<Parameters<typeof replay>[1], "slotCounts" | "policy">,
  tokenCount: number,
): TokenMasks["masks"][] {
  const { wordCount, header: { numLayers } } = trace;
  const masks = Array.from({ length: numLayers }, () => new Uint32Array(tokenCount * wordCount));
  let calls = 0;
  replay(trace, {
    ...settings,
    onMisses: (layer, neurons) => {
      const token = Math.floor(calls++ / numLayers);
      if (token >= tokenCount) return;
      for (const neuron of neurons) {
        masks[layer][token * wordCount + (neuron >>> 5)] |= 1 << (neuron & 31);
      }
    },
  });
  return masks;
}
