import { CommanderError } from "commander";
import process from "node:process";
import { inspect } from "node:util";
import { printable } from "../../errors.ts";

/**
 * Tells people about an error on stderr and returns the exit code: 2 for the caller's mistakes, 1 for the world's,
 * what the error says itself if it has an `exitCode`. A stack trace only with `debug`.
 */
export function reportError(error: unknown, { debug }: { debug: boolean }): number {
  if (error instanceof CommanderError) { // It has said so already; help and version are no errors.
    return error.exitCode === 0 ? 0 : 2;
  }
  process.stderr.write(debug ? `${inspect(error)}\n` : `error: ${explanationOf(error)}\n`);
  return exitCodeOf(error);
}

export function exitCodeOf(error: unknown): number {
  const { exitCode } = error as { exitCode?: unknown };
  if (typeof exitCode === "number") return exitCode;
  return error instanceof RangeError || error instanceof TypeError ? 2 : 1;
}

function explanationOf(error: unknown): string {
  if (!(error instanceof Error)) return printable(String(error));
  const message = error.message.split("\n").map(printable).join("\n") || error.name;
  if (error.name === "NotCapable") {
    return `${message} (deno tasks ask for no more than they need; give a path they may use, ` +
      "or call `deno run` with permissions of your own)";
  }
  return isExpected(error) ? message : `${error.name}: ${message} (--debug shows where)`;
}

/** Ours, an argument's, or the system's; anything else may be a bug, for which the place matters. */
function isExpected(error: Error): boolean {
  return "exitCode" in error || "code" in error || error instanceof RangeError;
}
