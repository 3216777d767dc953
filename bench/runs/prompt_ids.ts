import { readFileSync } from "node:fs";
import { FlashFile } from "../../src/format/flash_file.ts";
import { TokenChain } from "../../src/synth/token_chain.ts";
import { TextCodec } from "../../src/text_stream.ts";

const TALES = new URL("../../models/tales/calibration.txt", import.meta.url);

/** Ids of a prompt of `count` tokens: a stretch of a synthetic model's chain, or the beginning of a text (the tales'). */
export function promptIds(modelPath: string, count: number, text?: string): number[] {
  using file = FlashFile.open(modelPath);
  const { header, path } = file;
  if (header.provenance.synthetic && text === undefined) {
    return TokenChain.of(header).stretch({ start: 0, count });
  }
  if (!header.tokenizer) throw new RangeError(`Cannot use text as ${path} has no tokenizer`);
  // A token has rarely more than 16 characters.
  const begin = (text ?? readFileSync(TALES, "utf8")).slice(0, 16 * count);
  const ids = new TextCodec(header.tokenizer, path).encode(begin).slice(0, count);
  if (ids.length === count) return ids;
  throw new RangeError(`Cannot begin with ${count} tokens: the text has ${ids.length}`);
}
