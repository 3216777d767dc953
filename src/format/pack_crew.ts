import { parentPort, Worker } from "node:worker_threads";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { openModelSource } from "../checkpoint/model_source.ts";
import type { ModelSource } from "../checkpoint/model_source.ts";
import { errorOf, failureOf, workerUrl } from "../pipeline/worker_shell.ts";
import type { WorkerFailure } from "../pipeline/worker_shell.ts";
import { FileSource } from "./byte_source.ts";
import { DirectWriter } from "./direct_writer.ts";
import { planParts } from "./flash_writer.ts";
import type { FlashPart, WholePart } from "./flash_writer.ts";
import type { Quantization } from "./layout.ts";
import { PartPacker } from "./part_packer.ts";
import { checksumsOf, PartSink } from "./part_sink.ts";

/** What all threads make parts of, and where they go. */
export interface PackJob {
  /** A folder or a GGUF file of this machine. */
  readonly source: string;
  readonly configPath: string | undefined;
  /** The file that grows, and what it is called in messages. */
  readonly path: string;
  readonly target: string;
  readonly quantization: Quantization;
  readonly ffnQuantization: Quantization;
  /** Of bundles that are stored without their zeros. */
  readonly ffnCapacities: number[] | undefined;
  readonly stripBytesMax: number;
}

/** What a thread is sent: how to begin, then parts, by their index; in the end, to let go of its files. */
type Order = { begin: PackJob } | { index: number } | { end: true };
/** What it says: bytes that it wrote, then that the part is whole; that it has ended. */
type Answer =
  | { wrote: number }
  | { whole: WholePart }
  | { ended: true }
  | { failure: WorkerFailure };

/** Serves a thread of `pack`. */
export function servePacker(): void {
  const port = parentPort;
  if (!port) throw new Error("This file is a worker: it is started by pack");
  const say = (answer: Answer) => port.postMessage(answer);
  let desk: Promise<PackDesk>;
  port.on("message", async (order: Order) => {
    try {
      if ("begin" in order) await (desk = PackDesk.open(order.begin));
      else if ("end" in order) {
        (await desk).close();
        say({ ended: true });
      } else say({ whole: (await desk).pack(order.index, (wrote) => say({ wrote })) });
    } catch (error) {
      say({ failure: failureOf(error) });
    }
  });
}

/** A thread's own view of the model and of the file. */
class PackDesk {
  readonly #weights: Checkpoint;
  readonly #packer: PartPacker;
  readonly #parts: readonly FlashPart[];
  readonly #file: DirectWriter;

  static async open(job: PackJob): Promise<PackDesk> {
    const { source, configPath } = job;
    const openSource = (path: string) => new FileSource(path);
    return new PackDesk(job, await openModelSource(source, { configPath, openSource }));
  }

  private constructor(job: PackJob, { weights, names, config }: ModelSource) {
    const { quantization, ffnQuantization, ffnCapacities, stripBytesMax, path, target } = job;
    this.#weights = weights;
    const form = { config, quantization, ffnQuantization };
    this.#packer = new PartPacker({ weights, names, ...form, stripBytesMax });
    if (ffnCapacities) this.#packer.storeWithoutZeros(ffnCapacities);
    this.#parts = planParts({ ...form, ffnCapacities });
    this.#file = new DirectWriter(path, target);
  }

  pack(index: number, wrote: (bytes: number) => void): WholePart {
    const part = this.#parts[index], sink = new PartSink(this.#file, part);
    for (const bytes of this.#packer.bytesOf(part)) {
      sink.write(bytes);
      wrote(bytes.byteLength);
    }
    return { index, checksums: checksumsOf(part) };
  }

  close(): void {
    this.#weights.close();
    this.#file.close();
  }
}

/** Told of what is done: bytes of a part, or all of it. */
export interface PackListener {
  wrote(index: number, bytes: number): void;
  whole(part: WholePart): void;
}

/** Threads that make parts of a file, each reading and writing for itself. */
export class PackCrew {
  readonly #workers: Worker[];

  constructor(job: PackJob, threads: number) {
    const url = workerUrl("packer");
    this.#workers = Array.from({ length: threads }, (_, index) => {
      const worker = new Worker(url, { name: `packer ${index}`, env: {} });
      worker.postMessage({ begin: job } satisfies Order);
      return worker;
    });
  }

  /** Has all parts made, begun in this order. Throws the first failure, or what the signal was aborted with; `close` ends the others. */
  async run(
    indices: readonly number[],
    listener: PackListener,
    signal?: AbortSignal,
  ): Promise<void> {
    const left = [...indices], ended = Promise.withResolvers<void>();
    const abort = () => ended.reject(signal!.reason);
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    let endedCount = 0;
    for (const [number, worker] of this.#workers.entries()) {
      let current = -1;
      const next = () => {
        const index = left.shift();
        if (index === undefined) return worker.postMessage({ end: true } satisfies Order);
        worker.postMessage({ index: current = index } satisfies Order);
      };
      worker.on("message", (answer: Answer) => {
        if ("wrote" in answer) return listener.wrote(current, answer.wrote);
        if ("failure" in answer) return ended.reject(errorOf(answer.failure));
        if ("ended" in answer) {
          if (++endedCount === this.#workers.length) ended.resolve();
          return;
        }
        listener.whole(answer.whole);
        next();
      });
      worker.on("error", (error: Error) => ended.reject(error));
      worker.on("exit", (code: number) => {
        ended.reject(new Error(`Packing thread ${number} ended with code ${code}`));
      });
      next();
    }
    try {
      await ended.promise;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Ends all threads, whatever they do; then nobody writes any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const worker of this.#workers) worker.removeAllListeners("exit");
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}
