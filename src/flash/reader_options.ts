import type { ControlShare } from "../pipeline/control.ts";
import type { DiskOptions } from "./disk.ts";

/**
 * How a reader asks the kernel: `pread`, one read in flight a worker, works everywhere; `io_uring`, many in flight in one worker
 * at half the processor time a read, needs Linux, a runtime with FFI, and a kernel that allows it.
 */
export type ReaderBackend = "pread" | "io_uring";

export const READER_BACKENDS: readonly ReaderBackend[] = ["pread", "io_uring"];

/** What a reader worker is started with. */
export interface ReaderOptions {
  readerIndex: number;
  backend: ReaderBackend;
  /** Reads in flight: 1 for `pread`, a power of two for `io_uring`. */
  depth: number;
  control: ControlShare;
  /** All arenas; a ticket says which. */
  arenas: WebAssembly.Memory[];
  disk: DiskOptions;
  /** Bounce buffers for merged reads: in each arena `depth` of them side by side from its address, each of `byteLength`. */
  bounce: { addresses: number[]; byteLength: number };
  /** Where reads go, bounce buffers too: what io_uring may have registered with the kernel. */
  registered?: { arena: number; address: number; byteLength: number };
  trace?: SharedArrayBuffer;
  timeOrigin: number;
}

/**
 * A flash reader: takes tickets, reads, raises landing flags. It has no policy but one: late tickets
 * overtake early ones.
 */
export interface Reader {
  /** Reads until the pipeline closes (then `PipelineStoppedError`) or the disk fails (`FlashReadError`). */
  run(): void;
}
