import fs from "node:fs";
import { FlashReadError, messageOf } from "../errors.ts";
import { seededRandom } from "../random.ts";
import { askNotToCache } from "./no_cache.ts";

/**
 * The one door to flash. A disk reads whole blocks at block-aligned offsets straight into shared memory; what it
 * read may be short, as with `pread`. The simulated disk of the tests stands behind the same door.
 */
export interface FlashDisk {
  /** Reads into `target` from `byteOffset`; returns the bytes read, 0 at the end of the file. */
  read(target: Uint8Array, byteOffset: number): number;
  close(): void;
}

/** How to open a disk; travels to the reader workers. */
export interface DiskOptions {
  path: string;
  /** Ask the kernel to bypass its cache (O_DIRECT). */
  direct: boolean;
  /** Stand-in for tests: a disk that is slow, short and faulty by seed. */
  simulation?: DiskSimulation;
}

/** A disk's misbehaviour, drawn from `seed`. Rates are probabilities of a read, from 0 to 1. */
export interface DiskSimulation {
  seed: number;
  /** Each read is delayed by a random time up to this, in ms. */
  delayMsMax?: number;
  /** Share of reads that return fewer blocks than asked for. */
  shortRate?: number;
  /** The number of the read (of one reader, from 0) that fails. */
  failAtRead?: number;
}

/** Opens the file at `options.path` for reading, past the system's cache where that can be. Throws what the system says. */
export function openDisk(options: DiskOptions): FlashDisk {
  const flags = fs.constants.O_RDONLY | (options.direct ? fs.constants.O_DIRECT : 0);
  const descriptor = fs.openSync(options.path, flags);
  askNotToCache(descriptor);
  const disk = new FileDisk(descriptor);
  return options.simulation ? new SimulatedDisk(disk, options.simulation) : disk;
}

class FileDisk implements FlashDisk {
  readonly #descriptor: number;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  read(target: Uint8Array, byteOffset: number): number {
    return fs.readSync(this.#descriptor, target, 0, target.length, byteOffset);
  }

  close(): void {
    fs.closeSync(this.#descriptor);
  }
}

class SimulatedDisk implements FlashDisk {
  readonly #disk: FlashDisk;
  readonly #simulation: DiskSimulation;
  readonly #bell = new Int32Array(new SharedArrayBuffer(4));
  readonly #random: () => number;
  #readCount = 0;

  constructor(disk: FlashDisk, simulation: DiskSimulation) {
    this.#disk = disk;
    this.#simulation = simulation;
    this.#random = seededRandom(simulation.seed);
  }

  read(target: Uint8Array, byteOffset: number): number {
    const { delayMsMax = 0, shortRate = 0, failAtRead = -1 } = this.#simulation;
    if (this.#readCount++ === failAtRead) {
      throw Object.assign(new Error("EIO: simulated fault of the disk"), { code: "EIO" });
    }
    if (delayMsMax > 0) Atomics.wait(this.#bell, 0, 0, this.#random() * delayMsMax);
    const isShort = this.#random() < shortRate && target.length > 4096;
    return this.#disk.read(isShort ? target.subarray(0, 4096) : target, byteOffset);
  }

  close(): void {
    this.#disk.close();
  }
}

/**
 * Reads until `target` is full; a short read goes on where it ended. Throws `FlashReadError` with file and
 * offset if the disk fails or the file ends.
 */
export function readFully(
  disk: FlashDisk,
  path: string,
  target: Uint8Array,
  byteOffset: number,
): void {
  const range = { path, byteOffset, byteLength: target.length };
  let done = 0;
  while (done < target.length) {
    let count: number;
    try {
      count = disk.read(done === 0 ? target : target.subarray(done), byteOffset + done);
    } catch (cause) {
      throw new FlashReadError(messageOf(cause), range, { cause });
    }
    if (count <= 0) throw new FlashReadError(`the file ended after ${done} of them`, range);
    done += count;
  }
}
