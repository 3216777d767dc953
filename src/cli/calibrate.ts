import { Command } from "commander";
import { basename } from "node:path";
import process from "node:process";
import { FlashFile } from "../format/flash_file.ts";
import { givenFile } from "./given_path.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { share } from "./option_values.ts";
import { Progress } from "./terminal/progress.ts";
import { readText } from "./text_file.ts";

const AFTER_HELP = `
The text is run through the model, and a predictor is fitted to each layer: the smallest that finds
the wanted share of the active neurons. Text like that of your use serves best; some ten thousand
tokens do; <|endoftext|> ends a document. The file is changed at the end, all at once.

Example:
  flashpipe calibrate opt-6.7b.flash --text sample.txt`;

export function calibrateCommand(): Command {
  return new Command("calibrate")
    .description("fit the predictors of a .flash file to a text")
    .argument("<file>", "the .flash file")
    .requiredOption("--text <file>", "plain text to learn from")
    .option(
      "--recall <share>",
      "share of the active neurons to be found (default: 98.5%)",
      share,
    )
    .option(
      "--bytes-share <share>",
      "most bytes of all predictors, as a share of the FFN's (default: 10%)",
      share,
    )
    .addHelpText("after", AFTER_HELP)
    .action(calibrateFile);
}

async function calibrateFile(
  path: string,
  { text, recall, bytesShare }: { text: string; recall?: number; bytesShare?: number },
): Promise<void> {
  givenFile(path);
  givenFile(text);
  using interrupt = new Interrupt();
  using progress = new Progress();
  // Loaded when needed only: it would slow the start of every other command.
  const { calibrate } = await import("../calibrate.ts");
  await calibrate({
    path,
    text: readText(text),
    textName: basename(text),
    recall,
    byteShare: bytesShare,
    onProgress: ({ phase, done, total }) => progress.update(phase, { done, total }),
    signal: interrupt.signal,
  });
  progress.stop();
  process.stdout.write(renderPredictors(path));
}

function renderPredictors(path: string): string {
  using file = FlashFile.open(path);
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`.padStart(8);
  const rows = (file.header.predictors?.layers ?? []).map((layer, index) => {
    const { rank, recall, predictedShare, activeShare } = layer;
    return `${String(index).padStart(5)} ${String(rank).padStart(5)} ${percent(recall)} ` +
      `${percent(predictedShare)} ${percent(activeShare)}\n`;
  });
  return `layer  rank   recall predicted  active\n${rows.join("")}`;
}
