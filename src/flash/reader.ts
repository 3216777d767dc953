import { PreadReader } from "./pread_reader.ts";
import type { Reader, ReaderOptions } from "./reader_options.ts";
import { UringReader } from "./uring_reader.ts";

/** Makes the reader of the wanted backend. Throws if the file or the backend cannot be opened. */
export function makeReader(options: ReaderOptions): Reader {
  return options.backend === "io_uring" ? new UringReader(options) : new PreadReader(options);
}
