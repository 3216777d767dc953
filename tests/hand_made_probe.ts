import { placeOf } from "../src/probe/probe_place.ts";
import { PROBE_VERSION } from "../src/probe/probe_result.ts";
import type { Probe, ReaderRow } from "../src/probe/probe_result.ts";

/** A row of readers: so many reads a second. */
export function readerRow(
  row: Pick<ReaderRow, "backend" | "readerCount" | "depth" | "readBytes" | "readsPerSecond">,
  cpuUsPerRead = 5,
): ReaderRow {
  return { ...row, isSequential: false, cpuUsPerRead };
}

/**
 * A machine of round numbers: a core goes through weights with 1 GB/s, whatever the kernel; all cores read 1.5 GB/s. A lone read takes
 * 100 us up to 16 KiB (with 32 in flight 20 us), and 400 us (200 us) of 256 KiB.
 */
export function handMadeProbe(path: string): Probe {
  const kinds = [
    { backend: "pread", readerCount: 8, depth: 8 },
    { backend: "io_uring", readerCount: 1, depth: 32 },
  ] as const;
  const kernels = ["matvec", "up", "down"] as const;
  return {
    version: PROBE_VERSION,
    createdAt: "2026-01-01T00:00:00.000Z",
    place: placeOf(path),
    disk: {
      direct: true,
      blockByteLength: 512,
      bypassed: "yes",
      rows: [
        ...kinds.flatMap(({ backend, readerCount, depth }) =>
          [4096, 16_384, 262_144].flatMap((readBytes) => [
            readerRow({
              backend,
              readerCount: 1,
              depth: 1,
              readBytes,
              readsPerSecond: readBytes > 16_384 ? 2500 : 10_000,
            }),
            readerRow({
              backend,
              readerCount,
              depth,
              readBytes,
              readsPerSecond: readBytes > 16_384 ? 5000 : 50_000,
            }, backend === "pread" ? 40 : 5),
          ])
        ),
      ],
    },
    memory: { oneCoreBytesPerSecond: 1e9, allCoresBytesPerSecond: 1.5e9 },
    kernels: {
      build: "plain",
      rows: kernels.flatMap((kernel) =>
        (["f32", "f16", "q8"] as const).map((dtype) => ({
          kernel,
          dtype,
          cols: 1024,
          workingBytes: 2 ** 27,
          bytesPerSecond: 1e9,
        }))
      ),
    },
    missing: [],
  };
}
