import { closeSync, fsyncSync, mkdirSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeFully } from "../../src/format/write_whole.ts";
import { NoisePool, randomFor } from "../../src/synth/noise.ts";

/** Sizes of a Llama. */
export interface LlamaSizes {
  hiddenSize: number;
  intermediateSize: number;
  numLayers: number;
  numHeads: number;
  vocabSize: number;
}

/** What can be made, by name. */
export const LLAMAS: Readonly<Record<string, LlamaSizes>> = {
  "llama-7b": {
    hiddenSize: 4096,
    intermediateSize: 11_008,
    numLayers: 32,
    numHeads: 32,
    vocabSize: 32_000,
  },
  tiny: { hiddenSize: 64, intermediateSize: 192, numLayers: 2, numHeads: 4, vocabSize: 128 },
};

interface Tensor {
  name: string;
  shape: number[];
}

/** Numbers that are made at a time. */
const CHUNK_NUMBERS = 1 << 20;
const DEVIATION = 0.02;

/**
 * Writes a folder as a hub has it: config.json and f16 weights in safetensors files of `layersPerFile` layers. All numbers are noise;
 * of the FFN's a share of `zeros` is zero, here and there, as in a pruned model. Without tokenizer.
 */
export function makeCheckpoint(
  folder: string,
  sizes: LlamaSizes,
  { zeros = 0, layersPerFile = 8 }: { zeros?: number; layersPerFile?: number } = {},
): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(configOf(sizes), null, 2));
  const noise = new NoisePool(1), layers = Array.from({ length: sizes.numLayers }, (_, i) => i);
  const files: Tensor[][] = [];
  for (let from = 0; from < layers.length; from += layersPerFile) {
    files.push(layers.slice(from, from + layersPerFile).flatMap((i) => layerTensors(sizes, i)));
  }
  files[0].unshift({
    name: "model.embed_tokens.weight",
    shape: [sizes.vocabSize, sizes.hiddenSize],
  });
  files.at(-1)!.push(
    { name: "model.norm.weight", shape: [sizes.hiddenSize] },
    { name: "lm_head.weight", shape: [sizes.vocabSize, sizes.hiddenSize] },
  );
  const index: Record<string, string> = {};
  for (const [at, tensors] of files.entries()) {
    const place = `${String(at + 1).padStart(5, "0")}-of-${String(files.length).padStart(5, "0")}`;
    const file = `model-${place}.safetensors`;
    for (const { name } of tensors) index[name] = file;
    writeSafetensors(join(folder, file), tensors, { noise, zeros, seed: at });
  }
  const indexPath = join(folder, "model.safetensors.index.json");
  writeFileSync(indexPath, JSON.stringify({ metadata: {}, weight_map: index }));
}

function configOf({ hiddenSize, intermediateSize, numLayers, numHeads, vocabSize }: LlamaSizes) {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_act: "relu",
    hidden_size: hiddenSize,
    intermediate_size: intermediateSize,
    num_hidden_layers: numLayers,
    num_attention_heads: numHeads,
    num_key_value_heads: numHeads,
    vocab_size: vocabSize,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 2,
  };
}

function layerTensors({ hiddenSize: d, intermediateSize: n }: LlamaSizes, layer: number): Tensor[] {
  const square = ["q_proj", "k_proj", "v_proj", "o_proj"];
  return [
    { name: "input_layernorm.weight", shape: [d] },
    ...square.map((name) => ({ name: `self_attn.${name}.weight`, shape: [d, d] })),
    { name: "post_attention_layernorm.weight", shape: [d] },
    { name: "mlp.gate_proj.weight", shape: [n, d] },
    { name: "mlp.up_proj.weight", shape: [n, d] },
    { name: "mlp.down_proj.weight", shape: [d, n] },
  ].map(({ name, shape }) => ({ name: `model.layers.${layer}.${name}`, shape }));
}

function writeSafetensors(
  path: string,
  tensors: readonly Tensor[],
  { noise, zeros, seed }: { noise: NoisePool; zeros: number; seed: number },
): void {
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const { name, shape } of tensors) {
    const begin = end;
    end += 2 * lengthOf(shape);
    header[name] = { dtype: "F16", shape, data_offsets: [begin, end] };
  }
  const json = JSON.stringify(header), padded = json.padEnd(Math.ceil(json.length / 8) * 8);
  const start = new Uint8Array(8 + padded.length);
  new DataView(start.buffer).setBigUint64(0, BigInt(padded.length), true);
  new TextEncoder().encodeInto(padded, start.subarray(8));
  const values = new Float32Array(CHUNK_NUMBERS), halves = new Float16Array(CHUNK_NUMBERS);
  const random = randomFor(seed), descriptor = openSync(path, "w");
  try {
    writeFully(descriptor, start, { path, byteOffset: 0 });
    let at = start.byteLength;
    for (const { name, shape } of tensors) {
      const length = lengthOf(shape), isNorm = shape.length === 1;
      const share = name.includes(".mlp.") ? zeros : 0;
      for (let done = 0; done < length; done += CHUNK_NUMBERS) {
        const count = Math.min(CHUNK_NUMBERS, length - done);
        values.fill(isNorm ? 1 : 0, 0, count);
        if (!isNorm) noise.add(values, { from: 0, length: count, deviation: DEVIATION }, random);
        if (share > 0) prune(values.subarray(0, count), share);
        halves.set(values.subarray(0, count));
        writeFully(descriptor, new Uint8Array(halves.buffer, 0, 2 * count), {
          path,
          byteOffset: at,
        });
        at += 2 * count;
      }
    }
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** The smallest ones of every 64 numbers become zero, as pruning by magnitude does. */
function prune(values: Float32Array, share: number): void {
  const group = 64, gone = Math.round(share * group), magnitudes = new Float32Array(group);
  for (let from = 0; from + group <= values.length; from += group) {
    for (let i = 0; i < group; i++) magnitudes[i] = Math.abs(values[from + i]);
    magnitudes.sort();
    const least = gone < group ? magnitudes[gone] : Infinity;
    for (let i = from; i < from + group; i++) if (Math.abs(values[i]) < least) values[i] = 0;
  }
}

function lengthOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
