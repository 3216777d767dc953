import { spawn } from "node:child_process";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { RUNTIME } from "../../src/runtime.ts";
import type { RunRequest, RunResult } from "./one_run.ts";

export type RuntimeName = typeof RUNTIME;

/** A runtime that is there. */
export interface Runtime {
  name: RuntimeName;
  execPath: string;
}

/** What a fresh process did, and when it was asked for. */
export type FreshRun = RunResult & { spawnedAt: number };

/** The runtime that this is. */
export const THIS_RUNTIME: Runtime = { name: RUNTIME, execPath: process.execPath };

/** Where no such command is, npx brings these. */
const PINNED: Record<RuntimeName, string> = {
  deno: "deno@2.9.6",
  bun: "bun@1.4.5",
  node: "node@26",
};

/** Older ones cannot run flashpipe. */
const VERSIONS_LEAST: Record<RuntimeName, number> = { deno: 2, bun: 1, node: 24 };

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const ONE_RUN = fileURLToPath(new URL("./one_run.ts", import.meta.url));

/** Runs a request in a fresh process and waits for its end. Throws what the process said if it failed. */
export async function runFresh(request: RunRequest, runtime = THIS_RUNTIME): Promise<FreshRun> {
  const flags = runtime.name === "deno" ? ["run", "--allow-all", "--no-prompt"] : [];
  const spawnedAt = performance.timeOrigin + performance.now();
  const args = [...flags, ONE_RUN, JSON.stringify(request)];
  const { exitCode, stdout, stderr } = await finish(runtime.execPath, args);
  if (exitCode === 0) return { spawnedAt, ...JSON.parse(stdout) };
  throw new Error(
    `A run of ${request.modelPath} with ${JSON.stringify(request.open)} failed: ${stderr.trim()}`,
  );
}

/** The runtime of this name: this one, the command, or what npx brings. Undefined if there is none that is new enough. */
export async function findRuntime(name: RuntimeName): Promise<Runtime | undefined> {
  if (name === RUNTIME) return THIS_RUNTIME;
  const script = `console.log(process.execPath, process.versions.${name})`;
  const evaluate = name === "deno" ? ["eval", script] : ["-e", script];
  for (const [command, ...args] of [[name], ["npx", "--yes", PINNED[name]]]) {
    const found = await finish(command, [...args, ...evaluate]).catch(() => undefined);
    const [, execPath, version] = /^(.+) (\d+)\.\S+$/.exec(found?.stdout.trim() ?? "") ?? [];
    if (execPath && Number(version) >= VERSIONS_LEAST[name]) return { name, execPath };
  }
  return undefined;
}

/** Rejects if the command cannot be started. */
function finish(
  command: string,
  args: string[],
): Promise<{ exitCode: number; stdout: string; stderr: string }> {
  const child = spawn(command, args, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
  const { promise, resolve, reject } = Promise.withResolvers<
    { exitCode: number; stdout: string; stderr: string }
  >();
  let stdout = "", stderr = "";
  child.stdout!.setEncoding("utf8").on("data", (text: string) => stdout += text);
  child.stderr!.setEncoding("utf8").on("data", (text: string) => stderr += text);
  child.on("error", reject);
  child.on("close", (code) => resolve({ exitCode: code ?? -1, stdout, stderr }));
  return promise;
}
