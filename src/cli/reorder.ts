import { Command } from "commander";
import { basename } from "node:path";
import process from "node:process";
import type { ReorderResult } from "../reorder.ts";
import { givenFile } from "./given_path.ts";
import { share, wholeNumber } from "./option_values.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";
import { readText } from "./text_file.ts";

const AFTER_HELP = `
Puts neurons that are read for the same token side by side in the file, layer by layer, so that one read
brings several. Changes no result, bit for bit; the header grows by four bytes a neuron. The file is checked, then
rewritten aside, which needs as much free room again; and left as it was if the new order would not read less often on a quarter
of the text that it was not made from.

Example:
  flashpipe reorder opt-6.7b.flash --text sample.txt --ffn-cache 20%`;

interface ReorderFlags {
  text: string;
  tokens?: number;
  ffnCache?: number;
}

export function reorderCommand(): Command {
  return new Command("reorder")
    .description("order the neurons of a .flash file so that fewer reads are needed")
    .argument("<file>", "the .flash file, with predictors")
    .requiredOption("--text <file>", "plain text like that of your use")
    .option(
      "-n, --tokens <count>",
      "stop after so many (default: 12000)",
      wholeNumber({ min: 32, max: 1e9 }),
    )
    .option(
      "--ffn-cache <share>",
      "share of the FFN's neurons that will be kept in memory (default: 20%)",
      share,
    )
    .addHelpText("after", AFTER_HELP)
    .action(reorderFile);
}

async function reorderFile(
  path: string,
  { text, tokens: tokensMax, ffnCache: cacheShare }: ReorderFlags,
): Promise<void> {
  givenFile(path);
  givenFile(text);
  using interrupt = new Interrupt();
  using progress = new Progress();
  // Loaded when needed only: it would slow the start of every other command.
  const { reorder } = await import("../reorder.ts");
  const result = await reorder({
    path,
    text: readText(text),
    textName: basename(text),
    tokensMax,
    cacheShare,
    onProgress: ({ phase, ...state }) => progress.update(phase, state),
    signal: interrupt.signal,
  });
  progress.stop();
  process.stdout.write(renderOrder(result));
}

/** What a new order gained, in a line or two. */
export function renderOrder({ before, after, tokens, isApplied }: ReorderResult): string {
  const kib = (bytes: number) => `${(bytes / 1024).toFixed(1)} KiB`;
  const cost = `reads per token ${before.readsPerToken.toFixed(1)} before, ${
    after.readsPerToken.toFixed(1)
  } after; ${kib(before.bytesPerToken)} before, ${
    kib(after.bytesPerToken)
  } after (${tokens.judged} other tokens of the text, replayed)\n`;
  return isApplied
    ? cost
    : `The order is left as it was: another would read no less often.\n${cost}`;
}
