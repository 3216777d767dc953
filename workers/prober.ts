/** Reads memory as fast as one core can, for `probe`. The loop is in src/probe/memory_probe.ts. */
import { serveWorker } from "../src/pipeline/worker_shell.ts";
import { MemoryProber } from "../src/probe/memory_probe.ts";
import type { ProberOptions } from "../src/probe/memory_probe.ts";

serveWorker((options: ProberOptions) => new MemoryProber(options));
