/**
 * The errors that carry data.
 *
 * Each class says with `exitCode` whose mistake it is, so that the command line need not know the classes:
 *
 * - 2, the caller's: another argument would have worked (`UnsupportedModelError`, `MemoryBudgetError`). So are the
 *   built-in `RangeError` and `TypeError`, which we throw for impossible arguments.
 * - 1, the world's: the file is damaged, or the disk failed or is full (`ModelFileError`, `FlashReadError`, `FlashWriteError`), or
 *   a model hub does not answer (`HubError`).
 */

/** Where in which file something was found that should not be there. */
export interface ModelFilePlace {
  /** The file. */
  readonly path: string;
  /** The field that is wrong, as a path from the file's root: `layers.3.bundles.byteOffset`. */
  readonly field: string;
  /** First byte of the wrong thing, counted from the start of the file. */
  readonly byteOffset: number;
}

/** A model file or its header is not what its format says. The world's mistake: exit code 1. */
export class ModelFileError extends Error {
  override readonly name = "ModelFileError";
  readonly exitCode = 1;
  readonly path: string;
  readonly field: string;
  readonly byteOffset: number;

  constructor(problem: string, place: ModelFilePlace, options?: ErrorOptions) {
    const { path, field, byteOffset } = place;
    super(`${path}: ${printable(problem)} (${printable(field)}, byte ${byteOffset})`, options);
    this.path = place.path;
    this.field = place.field;
    this.byteOffset = place.byteOffset;
  }
}

/**
 * A range of a file could not be read, or (when `byteLength` is 0) the file could not be opened. The world's mistake: exit code 1; `cause`
 * is the system's error.
 */
export class FlashReadError extends Error {
  override readonly name = "FlashReadError";
  readonly exitCode = 1;
  readonly path: string;
  readonly byteOffset: number;
  readonly byteLength: number;

  constructor(
    problem: string,
    range: { path: string; byteOffset: number; byteLength: number },
    options?: ErrorOptions,
  ) {
    const { path, byteOffset, byteLength } = range;
    const tried = byteLength === 0
      ? `Cannot open ${path}`
      : `Cannot read ${byteLength} bytes at byte ${byteOffset} of ${path}`;
    super(`${tried}: ${problem}`, options);
    this.path = range.path;
    this.byteOffset = range.byteOffset;
    this.byteLength = range.byteLength;
  }
}

/** What the system's codes mean for whoever waits for a file. */
const WRITE_PROBLEMS: Record<string, string> = {
  ENOSPC: "the disk is full",
  EDQUOT: "the quota of disk space is used up",
  EFBIG: "files may not be so large here",
};

/** A file could not be written further, as when the disk is full. The world's mistake: exit code 1; `cause` is the system's error. */
export class FlashWriteError extends Error {
  override readonly name = "FlashWriteError";
  readonly exitCode = 1;
  readonly path: string;
  /** Bytes of the file before those that could not be written. */
  readonly byteOffset: number;
  /** What the system says: `ENOSPC`. */
  readonly code: string | undefined;

  constructor({ path, byteOffset, cause }: { path: string; byteOffset: number; cause: Error }) {
    const { code } = cause as { code?: string };
    const problem = WRITE_PROBLEMS[code ?? ""] ?? cause.message;
    super(`Cannot write ${path}: ${problem} after ${byteOffset} bytes`, { cause });
    this.path = path;
    this.byteOffset = byteOffset;
    this.code = code;
  }
}

/** A model hub did not give what was asked for. The world's mistake: exit code 1. */
export class HubError extends Error {
  override readonly name = "HubError";
  readonly exitCode = 1;
  readonly url: string;
  /** Of the answer; undefined where there was none. */
  readonly status: number | undefined;

  constructor(
    problem: string,
    { url, status }: { url: string; status?: number },
    options?: ErrorOptions,
  ) {
    super(`${url}: ${printable(problem)}`, options);
    this.url = url;
    this.status = status;
  }
}

/** A file that a hub gave is not what it says that it is. */
export class HubChecksumError extends HubError {}

/** The model is sound, but of a kind that flashpipe does not run. The caller's mistake: exit code 2. */
export class UnsupportedModelError extends Error {
  override readonly name = "UnsupportedModelError";
  readonly exitCode = 2;
}

/** The memory asked for is too small. The caller's mistake: exit code 2; `requiredBytes` would have been enough. */
export class MemoryBudgetError extends Error {
  override readonly name = "MemoryBudgetError";
  readonly exitCode = 2;
  readonly requiredBytes: number;

  constructor(message: string, { requiredBytes }: { requiredBytes: number }) {
    super(message);
    this.requiredBytes = requiredBytes;
  }
}

/**
 * Text from a file, made fit to be shown: a hostile name must neither steer a terminal nor fill it.
 */
export function printable(text: string): string {
  const clean = text.replaceAll(/\p{Cc}/gu, "\ufffd");
  return clean.length <= 300 ? clean : `${clean.slice(0, 300)}...`;
}

/** What an error says. Not all that is thrown is an `Error`. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
