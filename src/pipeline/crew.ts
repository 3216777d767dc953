import { releaseProxy, wrap } from "comlink";
import type { Remote } from "comlink";
import { Worker } from "node:worker_threads";
import type { Control } from "./control.ts";
import { endpointOf } from "./endpoint.ts";
import type { MessagePortLike } from "./endpoint.ts";
import { errorOf, failureOf, workerUrl } from "./worker_shell.ts";
import type { WorkerFailure, WorkerShell } from "./worker_shell.ts";

/** A worker to start. */
export interface CrewMember {
  /** Name for messages and traces: "lane 0", "predictor", "reader 3". */
  name: string;
  /** File in `workers/`. */
  file: "compute" | "predictor" | "reader" | "prober";
  options: unknown;
}

/** Thrown to callers when a worker failed in a way that has no class of its own. */
export class WorkerError extends Error {
  override readonly name = "WorkerError";
  readonly exitCode = 1;
  /** Which worker it was: "lane 0", "predictor", "reader 3". */
  readonly worker: string;

  constructor(worker: string, failure: WorkerFailure) {
    super(`${worker} failed: ${failure.name}: ${failure.message}`);
    this.worker = worker;
    if (failure.stack) this.stack = failure.stack;
  }
}

/** A worker that does not answer within this time while it starts or ends is given up. */
const START_MS_MAX = 30_000;
const END_MS_MAX = 2_000;

/** One worker of a crew. */
interface Hand {
  worker: Worker;
  /** Settles when the worker has come to rest: its loop returned, failed, or never began. */
  ended: Promise<void>;
  end: () => void;
  isRunning: boolean;
}

/**
 * The workers of a pipeline, from start to end. The first failure is kept in `failure`: the control memory's fault word is
 * raised, so that all others stop, whoever asks is told, and all workers are ended, so that none keeps the process alive.
 */
export class Crew {
  readonly #control: Control;
  readonly #hands: Hand[] = [];
  #closing: Promise<void> | undefined;
  failure: Error | undefined;
  /** Settles when the crew is of no use any more: it failed, or is being closed. Never rejects. */
  readonly stopped: Promise<void>;
  readonly #stop: () => void;

  constructor(control: Control) {
    this.#control = control;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.stopped = promise;
    this.#stop = resolve;
  }

  /** Starts all and waits until each is ready, then lets them run. Throws the first failure; nobody is left behind. */
  async start(members: CrewMember[]): Promise<void> {
    try {
      const started = members.map((member) => this.#spawn(member));
      await within(
        START_MS_MAX,
        "workers to start",
        Promise.all(started.map(({ ready }) => ready)),
      );
      for (const { run } of started) run();
    } catch (error) {
      await this.close();
      throw this.failure ?? error;
    }
  }

  #spawn({ name, file, options }: CrewMember): { ready: Promise<void>; run: () => void } {
    const worker = new Worker(workerUrl(file), {
      name,
      // Nothing of the environment is needed, and copying it would need a permission in Deno.
      env: {},
      // Workers print nothing; without their own streams Node hangs a listener a worker on ours.
      stdout: true,
      stderr: true,
    });
    const remote = wrap<WorkerShell<unknown>>(endpointOf(worker as unknown as MessagePortLike));
    // comlink's calls never settle when a worker dies: race them with its end.
    const { promise: died, reject: die } = Promise.withResolvers<never>();
    died.catch(() => {});
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    const hand: Hand = { worker, ended, end, isRunning: false };
    this.#hands.push(hand);
    let isOver = false;
    const fail = (failure: WorkerFailure) => {
      const error = this.#report(name, failure);
      die(error);
    };
    worker.on("error", (error: Error) => {
      fail(failureOf(error));
    });
    worker.on("exit", (code: number) => {
      // A worker whose loop is over may leave when it likes.
      if (!this.#closing && !isOver) {
        fail({ name: "Error", message: `it ended with code ${code}`, data: {} });
      }
      end();
    });
    const ready = Promise.race([remote.prepare(options), died]);
    const run = () => {
      hand.isRunning = true;
      Promise.race([remote.run(), died]).then(
        (failure) => {
          isOver = true;
          if (failure) this.#report(name, failure);
          release(remote);
          end();
        },
        () => end(),
      );
    };
    return { ready, run };
  }

  #report(name: string, failure: WorkerFailure): Error {
    const error = failure.name === "FlashReadError"
      ? errorOf(failure)
      : new WorkerError(name, failure);
    this.failure ??= error;
    this.#control.fail();
    void this.close();
    return error;
  }

  /** Ends all workers; waits a moment for them to come to rest, then terminates them. Never rejects. */
  close(): Promise<void> {
    return this.#closing ??= this.#endAll();
  }

  async #endAll(): Promise<void> {
    this.#control.close();
    this.#stop();
    for (const { isRunning, end } of this.#hands) if (!isRunning) end();
    const rest = Promise.all(this.#hands.map(({ ended }) => ended));
    await within(END_MS_MAX, "workers to end", rest).catch(() => {});
    // One that hangs in a read of a dead disk cannot be waited for.
    const gone = Promise.all(this.#hands.map(({ worker }) => worker.terminate()));
    await within(END_MS_MAX, "workers to be terminated", gone).catch(() => {});
  }
}

function release(remote: Remote<WorkerShell<unknown>>): void {
  try {
    remote[releaseProxy]();
  } catch {
    // The worker is gone already.
  }
}

async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`Waited ${ms} ms for ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
