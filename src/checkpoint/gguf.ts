import { GGMLQuantizationType, gguf } from "@huggingface/gguf";
import type { GGUFParseOutput } from "@huggingface/gguf";
import { messageOf, ModelFileError } from "../errors.ts";
import { type ByteSource, loadRange } from "../format/byte_source.ts";
import { BLOCK_TYPES } from "./ggml_blocks.ts";
import { DTYPE_BYTES } from "./safetensors.ts";
import type { SourceTensor } from "./source_tensor.ts";

/** What a GGUF file says of its model: `llama.block_count`, `tokenizer.ggml.tokens`. */
export type GgufMetadata = Readonly<Record<string, unknown>>;

export interface GgufHeader {
  readonly metadata: GgufMetadata;
  readonly tensors: SourceTensor[];
}

/**
 * Reads the header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) with `@huggingface/gguf`, which
 * bounds counts and lengths. What it does not check is checked here: that each tensor is of a type that we know, and lies in the file.
 *
 * Dimensions are the other way round there: the first is the one whose numbers lie side by side.
 *
 * @throws {ModelFileError}
 */
export async function readGgufHeader(source: ByteSource): Promise<GgufHeader> {
  const { metadata, tensorInfos, tensorDataOffset, littleEndian } = await parse(source);
  const fail = (field: string, problem: string): never => {
    throw new ModelFileError(problem, { path: source.path, field, byteOffset: 0 });
  };
  if (!littleEndian) fail("version", "its numbers are big-endian");
  const tensors = new Map<string, SourceTensor>();
  for (const { name, shape: sizes, dtype: type, offset } of tensorInfos) {
    const dtype = GGMLQuantizationType[type];
    const place = layoutOf(dtype, sizes.map(Number).reverse());
    if (typeof place === "string") fail(name, place);
    else {
      const byteOffset = Number(tensorDataOffset) + Number(offset);
      if (!Number.isSafeInteger(byteOffset) || byteOffset + place.byteLength > source.byteLength) {
        fail(name, `it would end at byte ${byteOffset + place.byteLength} of ${source.byteLength}`);
      }
      if (tensors.has(name)) fail(name, `tensor ${name} stands twice`);
      tensors.set(name, { name, dtype, ...place, byteOffset, source });
    }
  }
  return { metadata, tensors: [...tensors.values()] };
}

/** Bytes and numbers of a tensor, or what is wrong. */
function layoutOf(
  dtype: string,
  shape: number[],
): { shape: number[]; length: number; byteLength: number } | string {
  const length = shape.reduce((product, size) => product * size, 1);
  if (!Number.isSafeInteger(length)) return `its shape [${shape}] is too large`;
  const block = Object.hasOwn(BLOCK_TYPES, dtype) ? BLOCK_TYPES[dtype] : null;
  if (block === null) {
    return Object.hasOwn(DTYPE_BYTES, dtype)
      ? { shape, length, byteLength: length * DTYPE_BYTES[dtype] }
      : `its type ${dtype} is not supported: F32, F16, BF16, ${
        Object.keys(BLOCK_TYPES).join(", ")
      }`;
  }
  const cols = shape.at(-1) ?? 0;
  if (cols % block.length !== 0) return `rows of ${cols} numbers have no whole blocks of ${dtype}`;
  return { shape, length, byteLength: length / block.length * block.byteLength };
}

/** Any address will do: the library asks only the `fetch` that it is given. */
const ADDRESS = "http://model.invalid/";

async function parse(source: ByteSource): Promise<GGUFParseOutput<{ strict: false }>> {
  let isPastEnd = false;
  const fetchRange = async (_: unknown, init?: RequestInit): Promise<Response> => {
    const [, begin, end] = /^bytes=(\d+)-(\d+)$/.exec(new Headers(init?.headers).get("range")!)!;
    const from = Number(begin), length = Math.min(Number(end) + 1, source.byteLength) - from;
    // It looks ahead once; who asks again wants more than there is.
    if (length <= 0 && isPastEnd) throw new Error("the file ends in its header");
    isPastEnd = length <= 0;
    const bytes = isPastEnd
      ? new Uint8Array(0)
      : await loadRange(source, { byteOffset: from, byteLength: length });
    const total = `bytes ${begin}-${end}/${source.byteLength}`;
    return new Response(bytes, { headers: { "content-range": total } });
  };
  try {
    const fetch = fetchRange as typeof globalThis.fetch;
    return await gguf(ADDRESS, { fetch, computeParametersCount: true });
  } catch (cause) {
    const problem = messageOf(cause);
    const place = { path: source.path, field: "header", byteOffset: 0 };
    throw new ModelFileError(`its header cannot be read: ${problem}`, place, { cause });
  }
}
