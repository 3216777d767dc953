import { Command } from "commander";
import process from "node:process";
import { families } from "../../models/registry.ts";

const AFTER_HELP = `
A family is proved by tiny models of random weights (tests/fixtures): their logits and greedy ids are those that an
independent implementation, transformers in float32, computes of the same weights (tests/families_test.ts).`;

export function familiesCommand(): Command {
  return new Command("families")
    .description("list the model families that can be packed, and how each was proved")
    .option("--json", "as JSON, for machines")
    .addHelpText("after", AFTER_HELP)
    .action(listFamilies);
}

function listFamilies({ json = false }: { json?: boolean }): void {
  const all = Object.values(families)
    .map(({ modelType, title, fixtures }) => ({ modelType, title, fixtures }));
  if (json) {
    process.stdout.write(`${JSON.stringify(all)}\n`);
    return;
  }
  const rows = [
    ["model_type", "models", "proved with"],
    ...all.map(({ modelType, title, fixtures }) => [modelType, title, fixtures.join(", ")]),
  ];
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => row[column].length)));
  for (const [type, title, proof] of rows) {
    process.stdout.write(`${type.padEnd(widths[0])}  ${title.padEnd(widths[1])}  ${proof}\n`);
  }
}
