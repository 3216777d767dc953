import { expose, wrap } from "comlink";
import type { Remote } from "comlink";
import { parentPort, Worker } from "node:worker_threads";
import { endpointOf } from "../pipeline/endpoint.ts";
import type { MessagePortLike } from "../pipeline/endpoint.ts";
import { errorOf, failureOf, workerUrl } from "../pipeline/worker_shell.ts";
import type { WorkerFailure } from "../pipeline/worker_shell.ts";
import { FitTasks } from "./fit_tasks.ts";
import type { FitTask, FitTasksOptions, RankTrials } from "./fit_tasks.ts";

/** A fitting thread as the main thread sees it. */
interface FitterShell {
  prepare(options: FitTasksOptions, progress: SharedArrayBuffer): void;
  /** Does a task; an error comes back as data, as the system's have fields that a message would lose. */
  run(task: FitTask): { result: RankTrials | null } | { failure: WorkerFailure };
}

/** Shares of a task are told in parts of this. */
const PROGRESS_PARTS = 1_000_000;

/** Serves a fitting worker. */
export function serveFitter(): void {
  if (!parentPort) throw new Error("This file is a worker: it is started by calibrate");
  let tasks: FitTasks | undefined, progress: Int32Array | undefined;
  const shell: FitterShell = {
    prepare(options, buffer) {
      tasks = new FitTasks(options);
      progress = new Int32Array(buffer);
    },
    run(task) {
      try {
        const report = (share: number) => {
          Atomics.store(progress!, 0, Math.round(share * PROGRESS_PARTS));
        };
        return { result: tasks!.run(task, report) };
      } catch (error) {
        return { failure: failureOf(error) };
      }
    },
  };
  expose(shell, endpointOf(parentPort as unknown as MessagePortLike));
}

interface Hand {
  worker: Worker;
  remote: Remote<FitterShell>;
  /** Rejects when the worker dies. */
  died: Promise<never>;
  progress: Int32Array;
  task: FitTask | undefined;
}

/** Called when a task is done, in the order in which they were given. */
export type TaskDone = (task: FitTask, result: RankTrials | null) => void;

/** Threads that do the tasks of a calibration. Ended at any moment by `close`: the working folder bears it. */
export class FitCrew {
  readonly #hands: Hand[] = [];
  /** Tasks that are done before one that was begun earlier. */
  readonly #untold = new Map<number, FitTask>();

  /** Starts `count` threads. */
  static async start(options: FitTasksOptions, count: number): Promise<FitCrew> {
    const crew = new FitCrew();
    try {
      for (let index = 0; index < count; index++) crew.#hands.push(spawn(index));
      await Promise.all(crew.#hands.map(({ remote, progress, died }) => {
        const buffer = progress.buffer as SharedArrayBuffer;
        return Promise.race([remote.prepare(options, buffer), died]);
      }));
      return crew;
    } catch (error) {
      await crew.close();
      throw error;
    }
  }

  /** Tasks that are being done or were not told of yet, and the share of each that is done. */
  get running(): { task: FitTask; share: number }[] {
    const running = this.#hands.filter(({ task }) => task !== undefined).map((hand) => ({
      task: hand.task!,
      share: Atomics.load(hand.progress, 0) / PROGRESS_PARTS,
    }));
    return [...running, ...[...this.#untold.values()].map((task) => ({ task, share: 1 }))];
  }

  /** Does all tasks, begun in their order. Throws the first failure; the others then go on until `close`. */
  async run(tasks: readonly FitTask[], done: TaskDone, signal?: AbortSignal): Promise<void> {
    const results = new Map<number, RankTrials | null>();
    let next = 0, told = 0;
    const work = async (hand: Hand) => {
      while (next < tasks.length) {
        signal?.throwIfAborted();
        const index = next++;
        results.set(index, await this.#runOne(hand, tasks[index]));
        this.#untold.set(index, tasks[index]);
        for (; results.has(told); told++) {
          this.#untold.delete(told);
          done(tasks[told], results.get(told)!);
        }
      }
    };
    const all = Promise.all(this.#hands.map(work));
    const { promise: aborted, reject } = Promise.withResolvers<never>();
    const abort = () => reject(signal!.reason);
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    all.catch(() => {});
    aborted.catch(() => {});
    try {
      await Promise.race([all, aborted]);
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  async #runOne(hand: Hand, task: FitTask): Promise<RankTrials | null> {
    Atomics.store(hand.progress, 0, 0);
    hand.task = task;
    try {
      const answer = await Promise.race([hand.remote.run(task), hand.died]);
      if ("failure" in answer) throw errorOf(answer.failure);
      return answer.result;
    } finally {
      hand.task = undefined;
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#hands.map(({ worker }) => worker.terminate()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function spawn(index: number): Hand {
  const worker = new Worker(workerUrl("fitter"), {
    name: `fitter ${index}`,
    env: {},
    stdout: true,
    stderr: true,
  });
  const { promise: died, reject } = Promise.withResolvers<never>();
  died.catch(() => {});
  worker.on("error", (error: Error) => reject(error));
  worker.on("exit", (code: number) => {
    reject(new Error(`Fitting thread ${index} ended with code ${code}`));
  });
  const remote = wrap<FitterShell>(endpointOf(worker as unknown as MessagePortLike));
  const progress = new Int32Array(new SharedArrayBuffer(4));
  return { worker, remote, died, progress, task: undefined };
}
