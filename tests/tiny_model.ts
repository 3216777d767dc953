import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { seededRandom } from "../src/random.ts";

/** A folder that is removed when it goes out of scope. */
export class TemporaryFolder {
  readonly path: string = mkdtempSync(join(tmpdir(), "flashpipe-"));
  file(name: string): string {
    return join(this.path, name);
  }
  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

export interface SourceTensor {
  name: string;
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}

/** The bytes of a safetensors file. */
export function encodeSafetensors(tensors: SourceTensor[]): Uint8Array<ArrayBuffer> {
  let end = 0;
  const entries = tensors.map(({ name, dtype, shape, bytes }) => {
    const begin = end;
    end += bytes.byteLength;
    return [name, { dtype, shape, data_offsets: [begin, end] }];
  });
  return joinSafetensors(JSON.stringify(Object.fromEntries(entries)), tensors.map((t) => t.bytes));
}

/** A safetensors file with any text as its header. */
export function joinSafetensors(header: string, data: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(header);
  const dataLength = data.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const file = new Uint8Array(8 + text.byteLength + dataLength);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.byteLength), true);
  file.set(text, 8);
  let at = 8 + text.byteLength;
  for (const bytes of data) {
    file.set(bytes, at);
    at += bytes.byteLength;
  }
  return file;
}

/** A tensor of f32 values, stored as `dtype`. */
export function floatTensor(
  name: string,
  dtype: "F32" | "F16" | "BF16",
  shape: number[],
  values: Float32Array<ArrayBuffer>,
): SourceTensor {
  let bytes = new Uint8Array(values.buffer);
  if (dtype === "F16") bytes = new Uint8Array(new Float16Array(values).buffer);
  if (dtype === "BF16") {
    const halves = Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16);
    bytes = new Uint8Array(halves.buffer);
  }
  return { name, dtype, shape, bytes };
}

export const TINY_CONFIG = {
  model_type: "opt",
  vocab_size: 43,
  hidden_size: 32,
  ffn_dim: 96,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 6,
  word_embed_proj_dim: 32,
};

export interface TinyModelOptions {
  config?: Record<string, unknown>;
  dtype?: "F32" | "F16" | "BF16";
  prefix?: string;
  seed?: number;
  /** More than one: model-00001-of-0000N.safetensors and so on, with an index. */
  shards?: number;
  /** Changes the tensors before they are written. */
  change?: (tensors: SourceTensor[]) => SourceTensor[];
}

/** Writes a tiny OPT model of random weights as a Hugging Face folder; returns its tensors. */
export function writeTinyModel(folder: string, options: TinyModelOptions = {}): SourceTensor[] {
  mkdirSync(folder, { recursive: true });
  const config = { ...TINY_CONFIG, ...options.config };
  const tensors = (options.change ?? ((all) => all))(tinyTensors(config, options));
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  const shards = options.shards ?? 1;
  if (shards === 1) {
    writeFileSync(join(folder, "model.safetensors"), encodeSafetensors(tensors));
    return tensors;
  }
  const weightMap: Record<string, string> = {};
  for (let shard = 0; shard < shards; shard++) {
    const file = `model-0000${shard + 1}-of-0000${shards}.safetensors`;
    const own = tensors.filter((_, index) => index % shards === shard);
    for (const { name } of own) weightMap[name] = file;
    writeFileSync(join(folder, file), encodeSafetensors(own));
  }
  const index = JSON.stringify({ metadata: { total_size: 0 }, weight_map: weightMap });
  writeFileSync(join(folder, "model.safetensors.index.json"), index);
  return tensors;
}

function tinyTensors(config: typeof TINY_CONFIG, options: TinyModelOptions): SourceTensor[] {
  const random = seededRandom(options.seed ?? 1);
  const { hidden_size: d, ffn_dim: n } = config;
  const prefix = options.prefix ?? "model.";
  const shapes: Record<string, number[]> = {
    "decoder.embed_tokens.weight": [config.vocab_size, d],
    "decoder.embed_positions.weight": [config.max_position_embeddings + 2, d],
    "decoder.final_layer_norm.weight": [d],
    "decoder.final_layer_norm.bias": [d],
  };
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = `decoder.layers.${layer}`;
    for (const name of ["q_proj", "k_proj", "v_proj", "out_proj"]) {
      shapes[`${at}.self_attn.${name}.weight`] = [d, d];
      shapes[`${at}.self_attn.${name}.bias`] = [d];
    }
    for (const name of ["self_attn_layer_norm", "final_layer_norm"]) {
      shapes[`${at}.${name}.weight`] = [d];
      shapes[`${at}.${name}.bias`] = [d];
    }
    shapes[`${at}.fc1.weight`] = [n, d];
    shapes[`${at}.fc1.bias`] = [n];
    shapes[`${at}.fc2.weight`] = [d, n];
    shapes[`${at}.fc2.bias`] = [d];
  }
  return Object.entries(shapes).map(([name, shape]) => {
    const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
    for (let index = 0; index < values.length; index++) values[index] = random() - 0.5;
    return floatTensor(prefix + name, options.dtype ?? "F32", shape, values);
  });
}

/** The values of a tensor as f32, by means other than ours. */
export function floatsOf({ dtype, bytes }: SourceTensor): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = dtype === "F32" ? 4 : 2;
  return Float32Array.from({ length: bytes.byteLength / size }, (_, index) => {
    if (dtype === "F32") return view.getFloat32(index * 4, true);
    if (dtype === "F16") return view.getFloat16(index * 2, true);
    const word = new DataView(new ArrayBuffer(4));
    word.setUint16(2, view.getUint16(index * 2, true), true);
    return word.getFloat32(0, true);
  });
}
