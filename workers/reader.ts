/** A flash reader: takes tickets, reads, raises landing flags. The loops are in src/flash/. */
import { makeReader } from "../src/flash/reader.ts";
import { serveWorker } from "../src/pipeline/worker_shell.ts";

serveWorker(makeReader);
