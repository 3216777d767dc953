/** A flash reader: takes tickets, reads, raises landing flags. The loop is in src/flash/reader.ts. */
import { Reader } from "../src/flash/reader.ts";
import type { ReaderOptions } from "../src/flash/reader.ts";
import { serveWorker } from "../src/pipeline/worker_shell.ts";

serveWorker((options: ReaderOptions) => new Reader(options));
