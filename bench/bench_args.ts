import { parseArgs } from "node:util";
import type { ParseArgsConfig } from "node:util";

/** The options of a bench as `parseArgs` takes them, and how many arguments without a name there may be. */
interface BenchArgs<O> {
  options: O;
  positionals?: number;
}

/**
 * Reads the arguments of a bench. With `--help` among them it prints `help` and returns null. Throws `RangeError` for an
 * option that the bench does not have: a misspelt one would else measure something else than was asked for.
 */
export function parseBenchArgs<const O extends NonNullable<ParseArgsConfig["options"]>>(
  args: string[],
  help: string,
  { options, positionals = 0 }: BenchArgs<O>,
) {
  if (args.includes("--help") || args.includes("-h")) {
    console.log(help);
    return null;
  }
  const parsed = parse(args, options);
  if (parsed.positionals.length > positionals) {
    const extra = parsed.positionals[positionals];
    throw new RangeError(
      `Cannot use "${extra}": the bench takes ${positionals} arguments (--help)`,
    );
  }
  return parsed;
}

function parse<const O extends NonNullable<ParseArgsConfig["options"]>>(
  args: string[],
  options: O,
) {
  try {
    return parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    throw new RangeError(`Cannot run the bench: ${(error as Error).message} (--help)`, {
      cause: error,
    });
  }
}

/** The whole number of option `--name`. Throws `RangeError` for anything else, or less than `least`. */
export function wholeNumber(name: string, text: string, least = 1): number {
  const number = Number(text);
  if (Number.isInteger(number) && number >= least) return number;
  throw new RangeError(`Cannot run with --${name} ${text}: a whole number, at least ${least}`);
}
