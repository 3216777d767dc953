import { statSync } from "node:fs";
import { dirname } from "node:path";

/**
 * Paths that the caller gave, checked before anything starts. A path that does not exist, or names the wrong kind of
 * thing, is the caller's mistake (`RangeError`, exit code 2); one that exists and cannot be read is the world's.
 */
export function givenFile(path: string): string {
  const stat = statOf(path);
  if (stat === undefined) throw new RangeError(`Cannot open ${path}: there is no such file`);
  if (stat.isDirectory()) throw new RangeError(`Cannot open ${path}: it is a folder, not a file`);
  return path;
}

export function givenFolder(path: string): string {
  const stat = statOf(path);
  if (stat === undefined) throw new RangeError(`Cannot open ${path}: there is no such folder`);
  if (!stat.isDirectory()) throw new RangeError(`Cannot open ${path}: it is not a folder`);
  return path;
}

/** A file to be written; with `mayExist` it is replaced. */
export function givenTarget(path: string, { mayExist }: { mayExist: boolean }): string {
  const stat = statOf(path);
  if (stat?.isDirectory()) throw new RangeError(`Cannot write ${path}: it is a folder`);
  if (stat && !mayExist) {
    throw new RangeError(`Cannot write ${path}: it exists already (--force replaces it)`);
  }
  if (!stat && !statOf(dirname(path))?.isDirectory()) {
    throw new RangeError(`Cannot write ${path}: there is no folder ${dirname(path)}`);
  }
  return path;
}

function statOf(path: string) {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if ((error as { code?: string }).code === "ENOTDIR") return undefined;
    throw error;
  }
}
