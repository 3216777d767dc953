#!/usr/bin/env node
/**
 * The command line: `flashpipe run | pack | calibrate | eval | reorder | inspect | trace | simulate | synth | probe | plan | families | bench`, one
 * file a command.
 *
 * Exit codes: 0 all went well; 1 the world failed (a damaged file, a disk, a worker); 2 the caller's mistake (an
 * option, a path that does not exist, memory too small); 130 ended by Ctrl-C.
 *
 * The end of the process is left to the runtime (`process.exitCode`), as `process.exit` cuts off pipes.
 */
import { Command } from "commander";
import process from "node:process";
import { VERSION } from "../version.ts";
import { benchCommand } from "./bench.ts";
import { calibrateCommand } from "./calibrate.ts";
import { evalCommand } from "./eval.ts";
import { familiesCommand } from "./families.ts";
import { inspectCommand } from "./inspect.ts";
import { packCommand } from "./pack.ts";
import { planCommand } from "./plan.ts";
import { probeCommand } from "./probe.ts";
import { reorderCommand } from "./reorder.ts";
import { reportError } from "./terminal/report_error.ts";
import { runCommand } from "./run.ts";
import { simulateCommand } from "./simulate.ts";
import { synthCommand } from "./synth.ts";
import { traceCommand } from "./trace.ts";

const DESCRIPTION = "Runs language models larger than memory: FFN neurons are read from flash " +
  "when a predictor names them.";

const AFTER_HELP = `
Examples:
  flashpipe run "Once upon a time"                    the embedded model tells a tale
  flashpipe pack ./opt-1.3b opt.flash --quant q8      a Hugging Face folder becomes a .flash file
  flashpipe calibrate opt.flash --text sample.txt     fits its predictors to your kind of text
  flashpipe eval opt.flash --text other.txt           says what they cost: perplexity, divergence, reads
  flashpipe plan opt.flash --memory 1GiB              foresees what a token costs
  flashpipe run --model opt.flash --memory 1GiB "The sea"

Exit codes: 0 well; 1 the world failed (damaged file, disk); 2 a wrong argument or a path that does
not exist; 130 ended by Ctrl-C.
From a clone, \`deno task run\`, \`deno task pack\` and so on stand for \`flashpipe run\`, ...`;

function createProgram(): Command {
  const program = new Command("flashpipe")
    .description(DESCRIPTION)
    .version(VERSION)
    .enablePositionalOptions()
    .exitOverride()
    .showHelpAfterError("(--help tells which arguments and options there are)")
    // No colour in help; asking the environment about it would need a permission.
    .configureOutput({ getOutHasColors: () => false, getErrHasColors: () => false })
    .addHelpText("after", AFTER_HELP);
  const commands = [
    runCommand,
    packCommand,
    calibrateCommand,
    evalCommand,
    reorderCommand,
    inspectCommand,
    traceCommand,
    simulateCommand,
    synthCommand,
    probeCommand,
    planCommand,
    familiesCommand,
    benchCommand,
  ];
  for (const make of commands) {
    const command = make().copyInheritedSettings(program);
    command.option("--debug", "show stack traces of errors");
    program.addCommand(command);
  }
  return program;
}

async function main(args: string[]): Promise<void> {
  try {
    await createProgram().parseAsync(args, { from: "user" });
  } catch (error) {
    process.exitCode = reportError(error, { debug: args.includes("--debug") });
  }
}

// In Node each worker that is piped to a stream listens on it, which is no leak.
for (const stream of [process.stdout, process.stderr]) stream.setMaxListeners(0);

// Whoever reads a pipe may leave (`| head`): no error. Text that is generated then ends (text_output.ts).
process.stdout.on("error", (error: Error & { code?: string }) => {
  if (error.code !== "EPIPE") throw error;
});

await main(process.argv.slice(2));
