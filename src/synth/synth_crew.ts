import { parentPort, Worker } from "node:worker_threads";
import { errorOf, failureOf, workerUrl } from "../pipeline/worker_shell.ts";
import type { WorkerFailure } from "../pipeline/worker_shell.ts";
import type { BlueprintOptions } from "./blueprint.ts";
import { SynthTasks } from "./synth_tasks.ts";
import type { SynthResult, SynthTask } from "./synth_tasks.ts";

/** What a worker is sent: how to begin, then tasks; and what it answers. */
type Order = { begin: BlueprintOptions } | { id: number; task: SynthTask };
type Answer = { id: number } & ({ result: SynthResult } | { failure: WorkerFailure });

/** Tasks that a worker has at a time: one that it does, one that waits. */
const TASKS_AHEAD = 2;

/** Serves a worker of `synth`. */
export function serveSynthesizer(): void {
  const port = parentPort;
  if (!port) throw new Error("This file is a worker: it is started by synth");
  let tasks: SynthTasks | undefined;
  port.on("message", (order: Order) => {
    if ("begin" in order) {
      tasks = new SynthTasks(order.begin);
      return;
    }
    const { id, task } = order;
    try {
      const result = tasks!.run(task);
      port.postMessage({ id, result } satisfies Answer, buffersOf(result));
    } catch (error) {
      port.postMessage({ id, failure: failureOf(error) } satisfies Answer);
    }
  });
}

/** Buffers that change hands instead of being copied. */
function buffersOf(result: SynthResult): ArrayBuffer[] {
  if (result instanceof Uint8Array) return [result.buffer];
  return [result.a.buffer, result.b.buffer, result.bias.buffer, result.earlyBias.buffer];
}

/** Threads that make pieces of a model ahead of whoever writes them, in order. */
export class SynthCrew implements Disposable {
  readonly #workers: Worker[];
  readonly #waiting = new Map<number, PromiseWithResolvers<SynthResult>>();
  #given = 0;

  constructor(options: BlueprintOptions, threads: number) {
    const url = workerUrl("synthesizer");
    this.#workers = Array.from({ length: threads }, (_, index) => {
      const worker = new Worker(url, { name: `synthesizer ${index}`, env: {} });
      worker.on("message", (answer: Answer) => this.#take(answer));
      worker.on("error", (error: Error) => this.#failAll(error));
      worker.on("exit", () => this.#failAll(new Error("A worker of synth ended too soon")));
      worker.postMessage({ begin: options } satisfies Order);
      return worker;
    });
  }

  /** Yields each task's result in the order of the tasks. */
  async *results(tasks: Iterable<SynthTask>): AsyncGenerator<SynthResult, void, void> {
    const queue: Promise<SynthResult>[] = [];
    for (const task of tasks) {
      queue.push(this.#give(task));
      if (queue.length >= TASKS_AHEAD * this.#workers.length) yield await queue.shift()!;
    }
    for (const result of queue) yield await result;
  }

  #give(task: SynthTask): Promise<SynthResult> {
    const id = this.#given++, waiting = Promise.withResolvers<SynthResult>();
    this.#waiting.set(id, waiting);
    // Whoever stops asking must not end the process by an error that nobody hears.
    waiting.promise.catch(() => {});
    this.#workers[id % this.#workers.length].postMessage({ id, task } satisfies Order);
    return waiting.promise;
  }

  #take(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if ("result" in answer) return waiting?.resolve(answer.result);
    waiting?.reject(errorOf(answer.failure));
  }

  #failAll(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  [Symbol.dispose](): void {
    for (const worker of this.#workers) {
      worker.removeAllListeners("exit");
      void worker.terminate();
    }
  }
}
