/**
 * The door to the WebAssembly kernels: which build runs here, and what each of its functions is called with.
 *
 * Memory is shared, imported, and at most 4 GiB; its first page (`STATICS_BYTE_LENGTH`) belongs to the module. All
 * arguments are byte addresses, or sizes as 32-bit integers; an address may be any number below 2^32. Vectors are f32
 * and 16-byte aligned; bundles may lie at any even address. No kernel allocates or keeps state, so that each lane can
 * instantiate the module over the same memory.
 *
 * What kernels promise (and tests/kernels_test.ts checks): for each dtype a dot product has one order of operations,
 * whether computed by `matvec` or `up`; column sums are chained one neuron at a time in list order (f32, f16), or exact
 * in any order (q8, q4). So bits never depend on how rows, columns or lists are split. Bits of the plain build are the same in every runtime; those of
 * the relaxed build depend on whether the runtime fuses multiply and add.
 */
import fs from "node:fs";
import { isPrunable } from "./format/layout.ts";
import type { PrunableQuantization, Quantization } from "./format/layout.ts";
import type { KvQuantization } from "./kv_page.ts";

/** `relaxed` uses relaxed SIMD, `plain` does without. */
export type KernelBuild = "relaxed" | "plain";

/** Bytes at the start of each memory that belong to the kernels' constants. */
export const STATICS_BYTE_LENGTH = 65_536;

/** The largest memory that the kernels accept: 4 GiB. Memories are created with this as `maximum` or less. */
export const MEMORY_PAGES_MAX = 65_536;

/** Bytes that prepared activations of `cols` columns need at most, whichever the dtype. */
export function preparedByteLength(cols: number): number {
  return 4 * cols + cols / 8 + 64;
}

/** Bytes of the accumulator of `down`; q8 and q4 keep exact sums, drawn in kernels/sparse/grid.ts. */
export function accumulatorByteLength(quantization: Quantization, cols: number): number {
  if (quantization === "f32" || quantization === "f16") return 4 * cols;
  const digits = 18 * 4 * cols, desks = cols / 32 * 80;
  return digits + desks;
}

/** Bytes of scratch that `down` needs, whichever the dtype: neurons that wait, drawn in kernels/sparse/queues.ts. */
export function downScratchByteLength(cols: number): number {
  return 64 * 4 + 64 * 16 * 8 + 9 * cols / 8;
}

/** Bytes of scratch that `matmat` needs, whichever the dtype: sums, a panel's scales or weights, 32 packed positions. */
export function matmatScratchByteLength(cols: number): number {
  return 4096 + 16_384 + 4 * 544 * (cols / 32);
}

/** What becomes of a dot product; numbers as in kernels/activation.ts. */
export const ACTIVATION = {
  relu: 0,
  relu2: 1,
  fatrelu: 2,
  silu: 3,
  gelu: 4,
  "gelu-tanh": 5,
  /** What stands there already, times the dot product ... */
  times: 6,
  /** ... or times its ReLU. */
  timesRelu: 7,
} as const;

/** A compiled module, which can be posted to workers. */
export interface KernelModule {
  module: WebAssembly.Module;
  build: KernelBuild;
}

type PerQuantization<F> = Record<Quantization, F>;
type PerKv<F> = Record<KvQuantization, F>;

/** The kernels over one memory. `cols`, and columns and rows to split at, are multiples of 32 unless said otherwise. */
export interface Kernels {
  readonly build: KernelBuild;

  /** Activations x (f32[cols]) into the form that `matvec` and `up` of this dtype read, `preparedByteLength(cols)`. */
  prepare: PerQuantization<(x: number, xp: number, cols: number) => void>;

  /**
   * `y[row] = dot(w[row], x) + bias[row]` for rows of a tiled matrix; `rowFrom` and `rowTo` are multiples of 8, `bias`
   * (0: none) and `y` have padded length.
   */
  matvec: PerQuantization<
    (
      w: number,
      xp: number,
      bias: number,
      y: number,
      rowFrom: number,
      rowTo: number,
      cols: number,
    ) => void
  >;

  /**
   * `matvec` for `count` positions at once: `y_t[row] = dot(w[row], x_t) + bias[row]`, x_t prepared at
   * `xs + t * xStride`, y_t at `y + t * yStride`; strides in bytes. A weight is read from memory once (from 33 positions
   * on in q8, 17 in the others, again from L2), and each y_t has the bits that `matvec` gives it. `scratch`:
   * `matmatScratchByteLength(cols)` bytes of the caller's own, aligned to 16. Each call packs x anew, which costs about
   * as much as two rows: give it many.
   */
  matmat: PerQuantization<
    (
      w: number,
      xs: number,
      xStride: number,
      count: number,
      bias: number,
      y: number,
      yStride: number,
      rowFrom: number,
      rowTo: number,
      cols: number,
      scratch: number,
    ) => void
  >;

  /**
   * For j in [from, to), with k = order[j] (order 0: k = j):
   * `activations[k] = activation(dot(row at addresses[k] + rowOffset, x) + bias[neurons[k]])`; bias 0: none. `kind`: of
   * `ACTIVATION`. `addresses`, `neurons`, `order`: u32. Returns how many of these activations are not zero (NaN is not).
   */
  up: PerQuantization<
    (
      addresses: number,
      neurons: number,
      order: number,
      from: number,
      to: number,
      rowOffset: number,
      xp: number,
      bias: number,
      activations: number,
      cols: number,
      kind: number,
      threshold: number,
    ) => number
  >;

  /**
   * `accumulator[c] += activations[k] * (column at addresses[k] + downOffset)[c]` for k = 0 .. count - 1 in this order
   * and columns [colFrom, colTo). Bundles whose activation is zero are not read. The accumulator
   * (`accumulatorByteLength`, in an order of its own) is zero before the first call and may take a list in several
   * calls, all with the same columns. `scratch`: `downScratchByteLength(cols)` bytes of the caller's own, aligned to 16,
   * in which nothing is kept from call to call; f32 and f16 leave it alone.
   */
  down: PerQuantization<
    (
      addresses: number,
      downOffset: number,
      activations: number,
      count: number,
      accumulator: number,
      colFrom: number,
      colTo: number,
      cols: number,
      scratch: number,
    ) => void
  >;

  /**
   * `up` and `down` of pruned bundles, which are stored without their zeros (docs/model_format.md): the same bits. They
   * read up to 16 bytes behind a vector.
   */
  upPruned: Record<PrunableQuantization, Kernels["up"][Quantization]>;
  downPruned: Record<PrunableQuantization, Kernels["down"][Quantization]>;

  /**
   * Pruned bundles for several positions: for j in [from, to), with k = order[j]
   * (order 0: k = j), columns [colFrom, colTo) of the vector at `addresses[k] + offset`, as the other kernels read it, go
   * to `target + (j - from) * stride`, whose address becomes `expanded[k]`. Reads up to 16 bytes behind the vector.
   * Returns how many vectors that were.
   */
  expand: Record<
    PrunableQuantization,
    (
      addresses: number,
      order: number,
      from: number,
      to: number,
      offset: number,
      target: number,
      stride: number,
      expanded: number,
      colFrom: number,
      colTo: number,
      cols: number,
    ) => number
  >;

  /**
   * `residual[c] += sum[c] + bias[c]` for columns [colFrom, colTo), those that `down` was called with; bias 0: none.
   * Zeroes the accumulator there.
   */
  finishDown: PerQuantization<
    (
      accumulator: number,
      bias: number,
      residual: number,
      colFrom: number,
      colTo: number,
      cols: number,
    ) => void
  >;

  /** `y[c] = w[row][c]` of a tiled matrix, as f32. */
  embedRow: PerQuantization<(w: number, row: number, y: number, cols: number) => void>;

  /** `y = (x - mean) / sqrt(variance + eps) * weight + bias` over n f32, n a multiple of 4. */
  layerNorm(x: number, weight: number, bias: number, y: number, n: number, eps: number): void;

  /** `y = x / sqrt(mean of squares + eps) * weight` over n f32, n a multiple of 4. */
  rmsNorm(x: number, weight: number, y: number, n: number, eps: number): void;

  /**
   * Turns the first `dims` (a multiple of 8) numbers of each of f32[heads][headDim], number i with number i + dims / 2;
   * `angles`: f32[dims], cosines and then sines.
   */
  rotate(x: number, angles: number, heads: number, headDim: number, dims: number): void;

  /** In place over n >= 1 f32; there is room for n rounded up to a multiple of 4, and the rest becomes zero. */
  softmax(x: number, n: number): void;

  /**
   * `out = softmax(scale * keys q) values` for one head; q, out: f32[headDim], headDim a multiple of 4; keys, values:
   * f32[count][headDim]; scores: scratch, f32[count rounded up to a multiple of 4].
   */
  attentionHead(
    q: number,
    keys: number,
    values: number,
    out: number,
    scores: number,
    headDim: number,
    count: number,
    scale: number,
  ): void;

  /**
   * Stores a key of one head and position, f32[headDim], in its place (position % PAGE_POSITIONS) of a block of keys:
   * `page + keysOffset`. headDim is a multiple of 16.
   */
  storeKey: PerKv<(row: number, block: number, place: number, headDim: number) => void>;

  /** The same for a value, in a block of values: `page + valuesOffset`. */
  storeValue: PerKv<(row: number, block: number, place: number, headDim: number) => void>;

  /**
   * Attention of one position over pages (src/kv_page.ts), for heads [headFrom, headTo) of `numHeads` key/value heads
   * and each of the `group` queries that share one: `out = softmax(scale * keys q) values`; q, out:
   * f32[(headTo - headFrom) * group][headDim]. `table`: u32 addresses of the pages of `count` positions, multiples of
   * 16. `scratch`: `pagedScratchByteLength`, aligned to 16. f32 gives the bits of `attentionHead`; no bit depends on
   * where pages lie or how heads are split. All of a lane's heads in one call are up to twice as fast as one by one.
   * `first`: positions of the first page that are left out, fewer than a page has. `cap` c: scores become c tanh(score / c); 0: they
   * do not.
   */
  attentionPages: PerKv<
    (
      q: number,
      table: number,
      numHeads: number,
      headFrom: number,
      headTo: number,
      group: number,
      out: number,
      scratch: number,
      headDim: number,
      count: number,
      first: number,
      scale: number,
      cap: number,
    ) => void
  >;

  /** Bit `row % 32` of the u32 `mask[row / 32]`: `scores[row] + bias[row] > 0`, or NaN. Returns how many are set. */
  thresholdMask(
    scores: number,
    bias: number,
    mask: number,
    rowFrom: number,
    rowTo: number,
  ): number;

  /**
   * x (f32[cols]) less `mean` (f32[cols]) in levels of 5 bits, into the tables that `planeScores` reads:
   * `preparedByteLength(cols)` bytes.
   */
  preparePlanes(x: number, mean: number, tables: number, cols: number): void;

  /**
   * `y[row] = dot(weights of row, levels) * scale * rowScales[row]`, the dot product in integers, for rows of `bits` bit
   * planes (docs/model_format.md); `rowFrom` and `rowTo` are multiples of 16.
   */
  planeScores(
    planes: number,
    tables: number,
    rowScales: number,
    y: number,
    rowFrom: number,
    rowTo: number,
    bits: number,
    cols: number,
  ): void;

  /**
   * `values[row]` becomes its activation, of `ACTIVATION`, or zero where its magnitude is below `cut` (0: nowhere); its bit, if that is
   * not zero. Returns how many bits are set.
   */
  activeMask(
    values: number,
    mask: number,
    rowFrom: number,
    rowTo: number,
    kind: number,
    threshold: number,
    cut: number,
  ): number;

  /** Stores x (f32[cols], all finite) as row bytes; cols a multiple of 32. The definitions are in src/format/quantize.ts. */
  storeRow: Record<"q8" | "q4", (x: number, row: number, cols: number) => void>;

  /** `y[i] += x[i]` for i in [from, to), multiples of 4. */
  add(y: number, x: number, from: number, to: number): void;

  /** `y[i] += factor * x[i]` for i in [from, to), multiples of 4; each product is rounded first. */
  addScaled(y: number, x: number, factor: number, from: number, to: number): void;

  /** `x[i] *= factor` for i in [from, to), multiples of 4. */
  scale(x: number, factor: number, from: number, to: number): void;

  /** `x[i] = cap * tanh(x[i] / cap)` for i in [from, to), multiples of 4. */
  softcap(x: number, cap: number, from: number, to: number): void;

  copy(target: number, source: number, byteLength: number): void;

  zero(address: number, byteLength: number): void;

  /** `out[i] = values[indices[i]]` for i in [from, to); f32 values, u32 indices. */
  gather(values: number, indices: number, out: number, from: number, to: number): void;

  /**
   * For j in [from, to), with k = order[j]: appends k to `picked` if bit `neurons[k]` of `mask` is set, else
   * `activations[k] = 0`. Returns how many were picked. All but f32 `activations` u32.
   */
  pickNamed(
    order: number,
    from: number,
    to: number,
    neurons: number,
    mask: number,
    picked: number,
    activations: number,
  ): number;

  /**
   * For j in [from, to), with k = order[j] (order 0: k = j): appends k to `picked`, which may be `order`, if `activations[k]` is not zero. Returns
   * how many were picked.
   */
  pickActive(
    order: number,
    from: number,
    to: number,
    activations: number,
    picked: number,
  ): number;

  /**
   * For k in [0, count): appends k to `picked` if `activations[k]` of any of the positions is not zero, whose activations
   * are `stride` bytes apart. Returns how many were picked.
   */
  pickAny(
    count: number,
    activations: number,
    stride: number,
    positions: number,
    picked: number,
  ): number;

  /** Writes the numbers of the `wanted` largest of `count` f32 to `chosen`, u32, the largest first. */
  chooseExperts(scores: number, count: number, wanted: number, chosen: number): void;

  /** `weights[e]` becomes `shares[e]` of those that are chosen, divided by their sum if so wished, and 0 of the others. */
  weighExperts(
    shares: number,
    count: number,
    chosen: number,
    wanted: number,
    isNormalized: number,
    weights: number,
  ): void;

  /** Sets the bits of the neurons, `each` an expert, of those that are chosen, and no others; returns how many. */
  markExperts(
    chosen: number,
    wanted: number,
    each: number,
    mask: number,
    rowFrom: number,
    rowTo: number,
  ): number;

  /** For j in [from, to), with k = order[j] (order 0: k = j): `activations[k] *= weights[neurons[k] / each]`. */
  scaleByExpert(
    activations: number,
    neurons: number,
    order: number,
    from: number,
    to: number,
    weights: number,
    each: number,
  ): void;

  /** The index of the largest of n f32, the first of equals. */
  argmax(x: number, n: number): number;

  /** The exclusive or of all u32 in a range, a multiple of 128 bytes: for benches, the speed of reading. */
  fold(address: number, byteLength: number): number;
}

/** The kernels that read bundles as they are stored. */
export function bundleKernels(
  kernels: Kernels,
  { ffnQuantization: quantization, isPruned }: { ffnQuantization: Quantization; isPruned: boolean },
): { up: Kernels["up"][Quantization]; down: Kernels["down"][Quantization] } {
  if (isPruned && isPrunable(quantization)) {
    return { up: kernels.upPruned[quantization], down: kernels.downPruned[quantization] };
  }
  return { up: kernels.up[quantization], down: kernels.down[quantization] };
}

/**
 * Reads and compiles the kernels.
 *
 * @param build default: `relaxed` where the runtime accepts it, else `plain`
 * @throws {Error} if the kernels have not been built
 */
export function loadKernelModule(build?: KernelBuild): KernelModule {
  if (build === undefined) return loadKernelModule(acceptsRelaxed() ? "relaxed" : "plain");
  return { module: new WebAssembly.Module(readBuild(build)), build };
}

/** Instantiates the kernels over a shared memory. */
export function instantiateKernels(
  { module, build }: KernelModule,
  memory: WebAssembly.Memory,
): Kernels {
  // deno-lint-ignore no-explicit-any
  const e = new WebAssembly.Instance(module, { env: { memory } }).exports as any;
  return {
    build,
    prepare: { f32: e.prepareF32, f16: e.prepareF16, q8: e.prepareQ8, q4: e.prepareQ4 },
    matvec: { f32: e.matvecF32, f16: e.matvecF16, q8: e.matvecQ8, q4: e.matvecQ4 },
    up: { f32: e.upF32, f16: e.upF16, q8: e.upQ8, q4: e.upQ4 },
    down: { f32: e.downF32, f16: e.downF16, q8: e.downQ8, q4: e.downQ4 },
    upPruned: { f16: e.upPrunedF16, q8: e.upPrunedQ8 },
    downPruned: { f16: e.downPrunedF16, q8: e.downPrunedQ8 },
    expand: { f16: e.expandF16, q8: e.expandQ8 },
    finishDown: {
      f32: e.finishDownF32,
      f16: e.finishDownF16,
      q8: e.finishDownQ8,
      q4: e.finishDownQ8,
    },
    storeRow: { q8: e.storeRowQ8, q4: e.storeRowQ4 },
    embedRow: { f32: e.embedRowF32, f16: e.embedRowF16, q8: e.embedRowQ8, q4: e.embedRowQ4 },
    layerNorm: e.layerNorm,
    rmsNorm: e.rmsNorm,
    rotate: e.rotate,
    softmax: e.softmax,
    attentionHead: e.attentionHead,
    matmat: { f32: e.matmatF32, f16: e.matmatF16, q8: e.matmatQ8, q4: e.matmatQ4 },
    storeKey: { f32: e.storeKeyF32, f16: e.storeKeyF16, q8: e.storeKeyQ8 },
    storeValue: { f32: e.storeValueF32, f16: e.storeValueF16, q8: e.storeValueQ8 },
    attentionPages: {
      f32: e.attentionPagesF32,
      f16: e.attentionPagesF16,
      q8: e.attentionPagesQ8,
    },
    thresholdMask: e.thresholdMask,
    preparePlanes: e.preparePlanes,
    planeScores: e.planeScores,
    activeMask: e.activeMask,
    add: e.add,
    addScaled: e.addScaled,
    scale: e.scale,
    softcap: e.softcap,
    copy: e.copy,
    zero: e.zero,
    gather: e.gather,
    pickNamed: e.pickNamed,
    pickActive: e.pickActive,
    pickAny: e.pickAny,
    chooseExperts: e.chooseExperts,
    weighExperts: e.weighExperts,
    markExperts: e.markExperts,
    scaleByExpert: e.scaleByExpert,
    argmax: e.argmax,
    fold: e.fold,
  };
}

function acceptsRelaxed(): boolean {
  return WebAssembly.validate(readBuild("relaxed"));
}

function readBuild(build: KernelBuild): Uint8Array<ArrayBuffer> {
  const url = new URL(`../kernels/build/${build}.wasm`, import.meta.url);
  try {
    return new Uint8Array(fs.readFileSync(url));
  } catch (cause) {
    throw new Error(
      `Cannot read the kernels at ${url.pathname}: build them with \`deno task kernels\``,
      { cause },
    );
  }
}
