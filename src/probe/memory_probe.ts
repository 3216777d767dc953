import { instantiateKernels, loadKernelModule, STATICS_BYTE_LENGTH } from "../kernels.ts";
import type { KernelModule } from "../kernels.ts";
import { Control } from "../pipeline/control.ts";
import type { ControlShare } from "../pipeline/control.ts";
import { Crew } from "../pipeline/crew.ts";
import type { MemoryProbe } from "./probe_result.ts";

export interface MemoryProbeOptions {
  /** What is read, more than the caches hold; each core has its share of it. Overwritten. */
  memory: WebAssembly.Memory;
  coreCount: number;
  /** Of each figure. */
  seconds: number;
}

/** What a worker (workers/prober.ts) is started with. */
export interface ProberOptions {
  control: ControlShare;
  memory: WebAssembly.Memory;
  kernels: KernelModule;
  /** Its part of the memory. */
  address: number;
  byteLength: number;
  seconds: number;
  /** Workers that begin together. */
  workerCount: number;
  /** i32: workers that have come, and that have finished. */
  gate: SharedArrayBuffer;
  /** f64[workerCount]: bytes a second of each. */
  rates: SharedArrayBuffer;
  index: number;
}

const COME = 0, FINISHED = 1;
const WAIT_MS_MAX = 10_000;

/** How fast one core, and all cores at once, read memory: the exclusive or of all its words, by a kernel. */
export async function probeMemory(options: MemoryProbeOptions): Promise<MemoryProbe> {
  // Pages that were never written may all be one page of zeros.
  new Uint8Array(options.memory.buffer).fill(1, STATICS_BYTE_LENGTH);
  return {
    oneCoreBytesPerSecond: await readTogether({ ...options, coreCount: 1 }),
    allCoresBytesPerSecond: await readTogether(options),
  };
}

/** Sum of what so many workers read in a second, all at once. */
async function readTogether(
  { memory, coreCount: workerCount, seconds }: MemoryProbeOptions,
): Promise<number> {
  const byteLength = memory.buffer.byteLength - STATICS_BYTE_LENGTH;
  const share = Math.floor(byteLength / workerCount / 4096) * 4096;
  const style = { spins: 100, flashSpins: 100, waitMsMax: WAIT_MS_MAX };
  const control = Control.create({ laneCount: 1, readerCount: 0, flagCount: 0 }, style);
  const gate = new SharedArrayBuffer(8), rates = new SharedArrayBuffer(8 * workerCount);
  const kernels = loadKernelModule();
  const crew = new Crew(new Control(control));
  try {
    await crew.start(Array.from({ length: workerCount }, (_, index) => {
      const address = STATICS_BYTE_LENGTH + index * share;
      const place = { address, byteLength: share, index, workerCount };
      const options: ProberOptions = { ...place, control, memory, kernels, seconds, gate, rates };
      return { name: `prober ${index}`, file: "prober" as const, options };
    }));
    await allFinished(new Int32Array(gate), workerCount, crew);
  } finally {
    await crew.close();
  }
  return new Float64Array(rates).reduce((sum, rate) => sum + rate, 0);
}

async function allFinished(gate: Int32Array, workerCount: number, crew: Crew): Promise<void> {
  const until = performance.now() + WAIT_MS_MAX;
  while (Atomics.load(gate, FINISHED) < workerCount) {
    if (crew.failure) throw crew.failure;
    if (performance.now() > until) {
      throw new Error(`Waited ${WAIT_MS_MAX} ms for ${workerCount} workers to read memory`);
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A worker's part: waits for the others, then reads its share of the memory again and again. */
export class MemoryProber {
  readonly #options: ProberOptions;

  constructor(options: ProberOptions) {
    this.#options = options;
  }

  run(): void {
    const { memory, kernels, address, byteLength, seconds, workerCount, index } = this.#options;
    const gate = new Int32Array(this.#options.gate);
    const { fold } = instantiateKernels(kernels, memory);
    fold(address, byteLength);
    Atomics.add(gate, COME, 1);
    const since = performance.now();
    while (Atomics.load(gate, COME) < workerCount && performance.now() - since < WAIT_MS_MAX);
    const began = performance.now(), until = began + 1000 * seconds;
    let bytes = 0;
    do {
      fold(address, byteLength);
      bytes += byteLength;
    } while (performance.now() < until);
    const elapsed = (performance.now() - began) / 1000;
    new Float64Array(this.#options.rates)[index] = bytes / elapsed;
    Atomics.add(gate, FINISHED, 1);
  }
}
