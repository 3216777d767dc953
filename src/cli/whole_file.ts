import { renameSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { givenTarget } from "./given_path.ts";

/**
 * A file that is there wholly or not at all: begun aside at once, so that a place where nothing can be written is found
 * before the work and not after it, and renamed when finished.
 */
export class WholeFile {
  readonly #path: string;
  readonly #aside: string;

  constructor(path: string) {
    this.#path = givenTarget(path, { mayExist: true });
    this.#aside = `${path}.tmp-${process.pid}`;
    writeFileSync(this.#aside, "");
  }

  finish(text: string): void {
    writeFileSync(this.#aside, text);
    renameSync(this.#aside, this.#path);
  }

  [Symbol.dispose](): void {
    rmSync(this.#aside, { force: true });
  }
}
