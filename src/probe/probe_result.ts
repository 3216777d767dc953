import { z } from "zod";
import { QUANTIZATIONS } from "../format/layout.ts";
import { READER_BACKENDS } from "../flash/reader_options.ts";
import type { ReaderBackend } from "../flash/reader_options.ts";

/**
 * What `probe` measures, as it is kept (probe_folder.ts). A kept probe of another version is not used: raise it when what is measured
 * changes its meaning.
 */
export const PROBE_VERSION = 2;

const positive = z.number().gt(0).max(1e15);
const count = z.int().min(1).max(2 ** 40);
const text = z.string().max(300);

const readerRowSchema = z.strictObject({
  backend: z.enum(READER_BACKENDS as [ReaderBackend, ...ReaderBackend[]]),
  readerCount: count,
  /** Reads in flight of all readers together. */
  depth: count,
  readBytes: count,
  isSequential: z.boolean(),
  readsPerSecond: positive,
  /** CPU time of the whole process a read, in us. */
  cpuUsPerRead: z.number().min(0).max(1e9),
});

const kernelRowSchema = z.strictObject({
  kernel: z.enum(["matvec", "up", "down", "planes"]),
  dtype: z.enum([...QUANTIZATIONS, "u1"]),
  cols: count,
  /** Weights that it went round in: what caches hold is faster. */
  workingBytes: count,
  /** Bytes of weights, scales included, by one core. */
  bytesPerSecond: positive,
});

/** What a probe was measured with: it tells nothing of another. */
const placeSchema = z.strictObject({
  /** Number of the device that the file lies on, as the system counts them (`st_dev`). */
  device: z.number().min(0),
  /** Name and version. */
  runtime: text,
  platform: text,
  /** Model of the processor; null where nobody may ask. */
  processor: text.nullable(),
  coreCount: count,
});

export const probeSchema = z.strictObject({
  version: z.literal(PROBE_VERSION),
  createdAt: text,
  place: placeSchema,
  disk: z.strictObject({
    direct: z.boolean(),
    blockByteLength: count,
    bypassed: z.enum(["yes", "no", "asked", "unknown"]),
    rows: z.array(readerRowSchema).min(1).max(1000),
  }),
  memory: z.strictObject({
    /** Plain reads of memory that caches do not hold. */
    oneCoreBytesPerSecond: positive,
    allCoresBytesPerSecond: positive,
  }),
  kernels: z.strictObject({
    build: z.enum(["relaxed", "plain"]),
    rows: z.array(kernelRowSchema).min(1).max(1000),
  }),
  /** What could not be measured, in words for the user. */
  missing: z.array(text).max(20),
});

/** A whole probe. */
export type Probe = z.infer<typeof probeSchema>;
export type ProbePlace = Probe["place"];
export type DiskProbe = Probe["disk"];
export type MemoryProbe = Probe["memory"];
/** One kind of readers at one size of read. */
export type ReaderRow = z.infer<typeof readerRowSchema>;
/** One kernel on rows of one length. */
export type KernelRow = z.infer<typeof kernelRowSchema>;
