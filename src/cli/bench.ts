import { Command } from "commander";
import { existsSync } from "node:fs";

/** The benches, each a file in bench/ whose `main` takes the arguments after its name. */
const BENCHES: Record<string, string> = {
  kernels: "How near do the kernels come to the speed of memory?",
  positions: "What does another position cost?",
  readers: "How near do the flash readers come to what the disk can do?",
  generate: "What does one cold generation cost, from opening to the last token?",
  versus: "Who is faster, this engine or another?",
  bounds: "How near does each part come to what bounds it?",
  speculation: "Do drafts pay?",
  tokens: "How many tokens per second, and where does the time of one go?",
  plan: "Does the plan foresee what a run costs?",
  ladder: "What does each technique buy? The paper's table, measured.",
  models: "What do all techniques together buy each kind of model? The paper's Table 3.",
  runtimes: "What does the same work cost under Deno, Bun and Node?",
  pack: "Does `pack` keep up with the disk, and in how little memory?",
  low_bits: "What would an FFN of fewer bits cost in perplexity?",
  predictors: "What do a predictor's bytes buy in recall, reads and perplexity?",
  questions: "What do the ten questions of docs/questions.md come to?",
  statistics: "Does a synthetic model run as it was planted?",
  audit: "Does the live audit hold what it promises, and what does it cost?",
  fuzz: "Does any damaged file do worse than a clear error?",
  fuzz_inputs: "Does any damaged checkpoint do worse than a clear error?",
};

interface Bench {
  main(args: string[]): Promise<void> | void;
}

export function benchCommand(): Command {
  const list = namesOfBenches().map((name) => `  ${name.padEnd(11)} ${BENCHES[name]}`);
  return new Command("bench")
    .description("measure this machine: kernels, disk, tokens per second")
    .argument("<name>", "which bench")
    .argument("[arguments...]", "for the bench (`flashpipe bench NAME --help`)")
    .passThroughOptions()
    .allowUnknownOption()
    .addHelpText("after", `\nBenches:\n${list.join("\n")}\n\nExample:\n  flashpipe bench kernels`)
    .action(bench);
}

async function bench(name: string, args: string[]): Promise<void> {
  if (!namesOfBenches().includes(name)) {
    throw new RangeError(`Cannot run bench "${name}": there are ${namesOfBenches().join(", ")}`);
  }
  const { main } = await import(urlOf(name).href) as Partial<Bench>;
  if (main === undefined) throw new Error(`bench/${name}.ts has no main that could be called`);
  // `--debug` is ours (main.ts), wherever it stands.
  await main(args.filter((argument) => argument !== "--debug"));
}

function namesOfBenches(): string[] {
  return Object.keys(BENCHES).filter((name) => existsSync(urlOf(name)));
}

function urlOf(name: string): URL {
  return new URL(`../../bench/${name}.ts`, import.meta.url);
}
