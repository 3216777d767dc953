import { spawn } from "node:child_process";
import type { ChildProcessWithoutNullStreams } from "node:child_process";
import { readFileSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";

/** What a process left behind. */
export interface Finished {
  /** 128 + number for a signal that killed it. */
  exitCode: number;
  stdout: string;
  stderr: string;
}

export interface ScriptOptions {
  /** The task of deno.json whose permissions the script gets under Deno; undefined: all. */
  task?: string;
  /** Standard input; it ends after this. */
  input?: string;
  /** Called once, when the first output comes. */
  onOutput?: (child: ChildProcessWithoutNullStreams) => void;
  /** Called at once. */
  onStart?: (child: ChildProcessWithoutNullStreams) => void;
  /** The same of standard error. */
  onError?: (child: ChildProcessWithoutNullStreams) => void;
}

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Runs a script of this repository by the same runtime as the test, and waits for its end. */
export function runScript(
  path: string,
  args: string[],
  { task, input = "", onOutput, onError, onStart }: ScriptOptions = {},
): Promise<Finished> {
  const isDeno = "deno" in process.versions;
  const flags = isDeno ? ["run", ...(task ? permissionsOf(task) : ["--allow-all"])] : [];
  const child = spawn(process.execPath, [...flags, path, ...args], { cwd: ROOT });
  const { promise, resolve, reject } = Promise.withResolvers<Finished>();
  const finished: Finished = { exitCode: -1, stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    if (finished.stdout === "") onOutput?.(child);
    finished.stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    if (finished.stderr === "") onError?.(child);
    finished.stderr += text;
  });
  child.on("error", reject);
  child.on("close", (code, signal) => {
    resolve({ ...finished, exitCode: code ?? (signal === "SIGINT" ? 130 : 128) });
  });
  child.stdin.on("error", () => {}); // It may end without reading.
  child.stdin.end(input);
  onStart?.(child);
  return promise;
}

/** The permissions of a task, so that tests find it out when they are too narrow. */
function permissionsOf(task: string): string[] {
  const { tasks } = JSON.parse(readFileSync(new URL("../deno.json", import.meta.url), "utf8"));
  const { HOME = "", XDG_CACHE_HOME = "" } = process.env;
  const command: string = tasks[task].command
    .replaceAll("$HOME", HOME).replaceAll("$XDG_CACHE_HOME", XDG_CACHE_HOME);
  const words = command.match(/"[^"]*"|\S+/g) ?? [];
  return words.map((word) => word.replaceAll('"', "")).filter((word) => word.startsWith("--"));
}
