import { closeSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import process from "node:process";
import { setImmediate } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { ModelFileError } from "../errors.ts";
import { FlashFile } from "./flash_file.ts";
import { updateFlash } from "./flash_update.ts";
import type { FlashHeader, LayerBundles } from "./header.ts";
import { NeuronOrder } from "./neuron_order.ts";
import { writeFully } from "./write_whole.ts";

export interface ReorderOptions {
  onProgress?: (progress: { doneBytes: number; totalBytes: number }) => void;
  /** Aborting leaves the file as it was. */
  signal?: AbortSignal;
}

/** Bytes copied at a time. */
const RUN_BYTES = 4 << 20;

/**
 * Rewrites a `.flash` file with the bundles of each layer in another order. Nothing else of it changes, and no result: neurons keep
 * their numbers, and their columns are added in the order of those.
 *
 * The new file grows aside as `NAME.tmp-PID` and takes the name when all of it is on disk. Needs as much room as the file has.
 * All checksums are compared first, as new ones are made: damage must not come to look sound. Returns the new header.
 *
 * Throws `RangeError` for orders that do not fit, `ModelFileError` for damage, and what `FlashFile.open` throws.
 */
export async function reorderFlash(
  path: string,
  orders: readonly NeuronOrder[],
  { onProgress, signal }: ReorderOptions = {},
): Promise<FlashHeader> {
  using source = FlashFile.open(path);
  const { layers } = source.header;
  checkOrders(orders, layers);
  await checkSource(source, { onProgress, signal });
  const temporary = `${path}.tmp-${process.pid}`;
  const descriptor = openSync(temporary, "w");
  let isOpen = true;
  let doneBytes = 0;
  const step = async (byteLength: number) => {
    doneBytes += byteLength;
    onProgress?.({ doneBytes: source.byteLength + doneBytes, totalBytes: 2 * source.byteLength });
    await setImmediate();
    signal?.throwIfAborted();
  };
  try {
    for (const range of rangesBeside(layers, source.byteLength)) {
      for (let at = range.begin; at < range.end; at += RUN_BYTES) {
        const byteLength = Math.min(RUN_BYTES, range.end - at);
        const bytes = source.readRange({ byteOffset: at, byteLength });
        writeFully(descriptor, bytes, { path, byteOffset: at });
        await step(byteLength);
      }
    }
    const checksums: Uint8Array<ArrayBuffer>[] = [];
    for (const [index, { bundles }] of layers.entries()) {
      checksums.push(
        await writeBundles(source, descriptor, { bundles, order: orders[index] }, step),
      );
    }
    fsyncSync(descriptor);
    closeSync(descriptor);
    isOpen = false;
    const reordered = ({ header }: { header: FlashHeader }) => ({
      ...header,
      layers: layers.map(({ bundles }, index) => ({
        bundles: { ...bundles, order: orders[index].encode(), checksums: checksums[index] },
      })),
    });
    // Both header slots: the one before must not describe bundles that are no longer there.
    updateFlash(temporary, reordered);
    const header = updateFlash(temporary, reordered);
    renameSync(temporary, path);
    return header;
  } finally {
    if (isOpen) closeSync(descriptor);
    rmSync(temporary, { force: true });
  }
}

function checkOrders(orders: readonly NeuronOrder[], layers: FlashHeader["layers"]): void {
  const fits = orders.length === layers.length &&
    layers.every(({ bundles }, index) => orders[index].neuronAt.length === bundles.count);
  if (fits) return;
  throw new RangeError(
    `Cannot reorder ${layers.length} layers of ${
      layers[0].bundles.count
    } neurons: received orders of ` +
      `${orders.map(({ neuronAt }) => neuronAt.length).join(", ")}`,
  );
}

async function checkSource(
  source: FlashFile,
  { onProgress, signal }: ReorderOptions,
): Promise<void> {
  const { failures } = await source.verify({
    onProgress: ({ doneBytes }) => onProgress?.({ doneBytes, totalBytes: 2 * source.byteLength }),
    signal,
  });
  if (failures.length === 0) return;
  const [{ field, byteOffset }] = failures;
  throw new ModelFileError("Cannot reorder as its checksum is wrong", {
    path: source.path,
    field,
    byteOffset,
  });
}

/** What of the file is no bundle. */
function rangesBeside(layers: FlashHeader["layers"], byteLength: number) {
  const ranges: { begin: number; end: number }[] = [];
  let begin = 0;
  const bundles = layers.map((layer) => layer.bundles).sort((a, b) => a.byteOffset - b.byteOffset);
  for (const { byteOffset, bundleByteLength, count } of bundles) {
    if (byteOffset > begin) ranges.push({ begin, end: byteOffset });
    begin = byteOffset + bundleByteLength * count;
  }
  if (byteLength > begin) ranges.push({ begin, end: byteLength });
  return ranges;
}

/** Writes a layer's bundles in their new order; returns the checksums of its groups. */
async function writeBundles(
  source: FlashFile,
  descriptor: number,
  { bundles, order }: { bundles: LayerBundles; order: NeuronOrder },
  step: (byteLength: number) => Promise<void>,
): Promise<Uint8Array<ArrayBuffer>> {
  const { byteOffset, bundleByteLength: stride, count, groupCount } = bundles;
  const { positionOf } = NeuronOrder.of(bundles);
  const checksums = new Uint8Array(bundles.checksums.byteLength);
  const view = new DataView(checksums.buffer);
  const buffer = new Uint8Array(groupCount * stride);
  let waiting = 0;
  for (let first = 0; first < count; first += groupCount) {
    const group = buffer.subarray(0, Math.min(groupCount, count - first) * stride);
    for (let at = 0; at < group.byteLength; at += stride) {
      const neuron = order.neuronAt[first + at / stride];
      source.read(group.subarray(at, at + stride), byteOffset + positionOf[neuron] * stride);
    }
    view.setUint32(first / groupCount * 4, crc32(group), true);
    writeFully(descriptor, group, { path: source.path, byteOffset: byteOffset + first * stride });
    waiting += group.byteLength;
    if (waiting >= RUN_BYTES || first + groupCount >= count) {
      await step(waiting);
      waiting = 0;
    }
  }
  return checksums;
}
