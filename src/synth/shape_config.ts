import { decoderConfig } from "../../models/config.ts";
import type { ModelConfig } from "../../models/config.ts";
import { familyOf } from "../../models/registry.ts";
import { SPECIAL_TOKENS } from "./shapes.ts";
import type { SynthShape } from "./shapes.ts";

/** The tokenizer is made up, and so are its special tokens. */
const SPECIAL_IDS = {
  bos_token_id: SPECIAL_TOKENS.indexOf("</s>"),
  eos_token_id: SPECIAL_TOKENS.indexOf("</s>"),
  pad_token_id: SPECIAL_TOKENS.indexOf("<pad>"),
};

/** The config of a shape, as its family reads it. */
export function configOf({ architecture, json }: SynthShape): ModelConfig {
  const path = "synth";
  const read = familyOf(architecture, path).readConfig({ ...json, ...SPECIAL_IDS }, path);
  return decoderConfig(read); // Its order of keys stands in files: equal seeds give equal bytes.
}
