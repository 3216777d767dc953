/**
 * flashpipe inside a script of your own.
 *
 *   bun examples/embed.ts [FILE.flash] [PROMPT]
 *
 * (Deno and Node run it as well: `deno run --allow-read ... examples/embed.ts`, `node examples/embed.ts`.) Without a
 * file, the embedded model is packed into a temporary folder first.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { open, pack } from "flashpipe";

const [file, prompt = "Once upon a time"] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "flashpipe-"));

try {
  const path = file ?? join(folder, "tales.flash");
  if (file === undefined) {
    // A Hugging Face folder becomes one .flash file: f32, f16 or q8.
    const source = fileURLToPath(new URL("../models/tales", import.meta.url));
    await pack({ source, target: path, quant: "f16" });
  }

  // Plans the memory, loads what must be resident, starts the workers; `await using` ends them again. `exact` needs no
  // predictors: `flashpipe calibrate` adds those, and then `predicted` is the default.
  await using model = await open(path, { ffn: "exact", ffnCache: "20%" });

  // Tokens come one by one. A seed repeats a text; an AbortSignal, or leaving the loop, stops it.
  for await (const token of model.generate(prompt, { maxTokens: 60, temperature: 0.7, seed: 7 })) {
    process.stdout.write(token.text);
  }

  // What it cost: times in ms, sizes in bytes, averages per token.
  const { decode, peakBytes } = model.stats();
  console.error(
    `\n${decode.tokensPerSecond.toFixed(0)} tokens/s, ` +
      `${Math.round(decode.bytesPerToken / 1024)} KiB in ${decode.readsPerToken.toFixed(0)} ` +
      `reads per token, ${(100 * decode.hitRate).toFixed(0)} % of the active neurons in memory, ` +
      `peak ${Math.round(peakBytes / 2 ** 20)} MiB`,
  );
} finally {
  rmSync(folder, { recursive: true });
}
