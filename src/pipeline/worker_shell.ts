import { expose } from "comlink";
import { parentPort } from "node:worker_threads";
import { FlashReadError, FlashWriteError, ModelFileError } from "../errors.ts";
import { Control } from "./control.ts";
import type { ControlShare } from "./control.ts";
import { endpointOf } from "./endpoint.ts";
import type { MessagePortLike } from "./endpoint.ts";
import { PipelineStoppedError } from "./sequence.ts";

/** What a worker says when its loop ended by a failure: an error as plain data. */
export interface WorkerFailure {
  name: string;
  message: string;
  stack?: string;
  /** What the system said, such as code EIO, if the error has such a cause. */
  cause?: { message: string; code?: string };
  /** Fields of our error classes, such as a read's path and offset. */
  data: Record<string, string | number>;
}

/** A worker as the main thread sees it through comlink: control only, nothing on a token's way. */
export interface WorkerShell<Options> {
  /** Makes the worker ready; rejects if it cannot. */
  prepare(options: Options): void;
  /** Runs until the pipeline stops; null if it was asked to, else what failed. */
  run(): WorkerFailure | null;
}

/** The file of `workers/` that a worker runs, by its name: as source, or as what was built of it. */
export function workerUrl(name: string): URL {
  const suffix = import.meta.url.endsWith(".ts") ? "ts" : "js";
  return new URL(`../../workers/${name}.${suffix}`, import.meta.url);
}

/** Serves a worker: `make` builds the loop from the start message. */
export function serveWorker<Options extends { control: ControlShare }>(
  make: (options: Options) => { run(): void },
): void {
  if (!parentPort) throw new Error("This file is a worker: it is started by the pipeline");
  let loop: { run(): void } | undefined;
  let control: Control | undefined;
  const shell: WorkerShell<Options> = {
    prepare(options) {
      control = new Control(options.control);
      loop = make(options);
    },
    run() {
      try {
        loop!.run();
        return null;
      } catch (error) {
        if (error instanceof PipelineStoppedError) return null;
        // First wake all who wait for this worker, then say why.
        control!.fail();
        return failureOf(error);
      }
    },
  };
  expose(shell, endpointOf(parentPort as unknown as MessagePortLike));
}

/** An error as data that can be posted. */
export function failureOf(error: unknown): WorkerFailure {
  if (!(error instanceof Error)) return { name: "Error", message: String(error), data: {} };
  const data: Record<string, string | number> = {};
  for (const [key, value] of Object.entries(error)) {
    if (typeof value === "string" || typeof value === "number") data[key] = value;
  }
  return {
    name: error.name,
    message: error.message,
    stack: error.stack,
    cause: causeOf(error),
    data,
  };
}

/** Errors that keep their class when they come from a thread: what callers ask for by `instanceof`. */
const CLASSES = { RangeError, ModelFileError, FlashReadError, FlashWriteError };

/** Brings back an error of the system with its code, and the caller's mistakes and those of files as such. */
export function errorOf({ name, message, stack, cause, data }: WorkerFailure): Error {
  const options = cause &&
    { cause: Object.assign(new Error(cause.message), cause.code && { code: cause.code }) };
  const error = new Error(message, options);
  if (Object.hasOwn(CLASSES, name)) {
    Object.setPrototypeOf(error, CLASSES[name as keyof typeof CLASSES].prototype);
  }
  if (error.name !== name) error.name = name;
  if (stack) error.stack = stack;
  return Object.assign(error, data);
}

function causeOf({ cause }: Error): WorkerFailure["cause"] {
  if (!(cause instanceof Error)) return undefined;
  const { code } = cause as { code?: unknown };
  return { message: cause.message, code: typeof code === "string" ? code : undefined };
}
