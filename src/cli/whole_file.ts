import fs from "node:fs";
import process from "node:process";
import { FlashWriteError } from "../errors.ts";
import { givenTarget } from "./given_path.ts";

/**
 * A file that is there wholly or not at all: begun aside at once, so that a place where nothing can be written is found
 * before the work and not after it, and renamed when finished.
 */
export class WholeFile {
  readonly #path: string;
  readonly #aside: string;
  #descriptor: number | undefined;

  constructor(path: string) {
    this.#path = givenTarget(path, { mayExist: true });
    this.#aside = `${path}.tmp-${process.pid}`;
    this.#descriptor = fs.openSync(this.#aside, "w");
  }

  append(data: string | Uint8Array): void {
    try {
      fs.appendFileSync(this.#descriptor!, data);
    } catch (error) {
      const byteOffset = fs.fstatSync(this.#descriptor!).size;
      throw new FlashWriteError({ path: this.#path, byteOffset, cause: error as Error });
    }
  }

  /** The file takes its name, with `text` as its end. */
  finish(text = ""): void {
    this.append(text);
    this.#close();
    fs.renameSync(this.#aside, this.#path);
  }

  [Symbol.dispose](): void {
    this.#close();
    fs.rmSync(this.#aside, { force: true });
  }

  #close(): void {
    if (this.#descriptor !== undefined) fs.closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }
}
