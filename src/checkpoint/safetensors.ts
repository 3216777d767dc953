import { z } from "zod";
import { ModelFileError } from "../errors.ts";
import { type ByteSource, loadRange } from "../format/byte_source.ts";
import { decodeText, parseJson } from "../format/strict_json.ts";
import type { SourceTensor } from "./source_tensor.ts";

/**
 * The header of a file in the safetensors format (https://huggingface.co/docs/safetensors).
 *
 *   0          u64 little-endian: length N of the header
 *   8          header: JSON, { name: { dtype, shape, data_offsets: [begin, end] }, __metadata__: { ... } }
 *   8 + N      the tensors' bytes, without gaps; offsets count from here
 *
 * Nothing in a header is believed: sizes must follow from shape and dtype, and the tensors must tile the rest of the
 * file exactly, as the format demands.
 */

/** Bytes of one number, by the format's names of types. */
export const DTYPE_BYTES: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8,
};

/** Headers of real models are below 1 MiB; more than this is not read into memory. */
export const HEADER_BYTES_MAX = 32 * 2 ** 20;

const entrySchema = z.strictObject({
  dtype: z.string(),
  shape: z.array(z.int().nonnegative()).max(32),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
});

/** Reads and checks the header of one safetensors file; the result is in the order of the offsets. */
export async function readSafetensorsHeader(source: ByteSource): Promise<SourceTensor[]> {
  const { path } = source;
  const headerLength = await readHeaderLength(source);
  const bytes = await loadRange(source, { byteOffset: 8, byteLength: headerLength });
  const json = parseJson(decodeText(bytes, { path, byteOffset: 8 }), { path, byteOffset: 8 });
  if (json === null || typeof json !== "object" || Array.isArray(json)) {
    throw new ModelFileError("the header is not an object", {
      path,
      field: "header",
      byteOffset: 8,
    });
  }
  const dataOffset = 8 + headerLength;
  const tensors = Object.entries(json)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, entry]) => readEntry(source, name, entry, dataOffset))
    .sort((a, b) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength);
  checkTiling(source, tensors, dataOffset);
  return tensors;
}

async function readHeaderLength(source: ByteSource): Promise<number> {
  const place = { path: source.path, field: "header length", byteOffset: 0 };
  if (source.byteLength < 8) {
    throw new ModelFileError(`the file has only ${source.byteLength} bytes`, place);
  }
  const bytes = await loadRange(source, { byteOffset: 0, byteLength: 8 });
  const length = new DataView(bytes.buffer).getBigUint64(0, true);
  if (length > BigInt(source.byteLength - 8)) {
    throw new ModelFileError(`a header of ${length} bytes goes beyond the end of the file`, place);
  }
  if (length > BigInt(HEADER_BYTES_MAX)) {
    throw new ModelFileError(`a header of ${length} bytes is too long`, place);
  }
  return Number(length);
}

function readEntry(
  source: ByteSource,
  name: string,
  entry: unknown,
  dataOffset: number,
): SourceTensor {
  const fail = (field: string, problem: string): never => {
    const place = { path: source.path, field: `${name}.${field}`, byteOffset: 8 };
    throw new ModelFileError(problem, place);
  };
  const parsed = entrySchema.safeParse(entry);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    return fail(issue.path.join("."), issue.message);
  }
  const { dtype, shape, data_offsets: [begin, end] } = parsed.data;
  if (!Object.hasOwn(DTYPE_BYTES, dtype)) fail("dtype", `unknown type ${JSON.stringify(dtype)}`);
  const length = shape.reduce((product, size) => product * size, 1);
  const byteLength = length * DTYPE_BYTES[dtype];
  if (!Number.isSafeInteger(byteLength) || end - begin !== byteLength) {
    fail("data_offsets", `[${shape}] of ${dtype} takes ${byteLength} bytes, not ${end - begin}`);
  }
  if (dataOffset + end > source.byteLength) {
    fail("data_offsets", `ends at byte ${dataOffset + end} of ${source.byteLength}`);
  }
  return { name, dtype, shape, length, byteOffset: dataOffset + begin, byteLength, source };
}

/** The tensors, in order, must cover the data exactly: neither overlap nor leave a gap. */
function checkTiling(source: ByteSource, tensors: SourceTensor[], dataOffset: number): void {
  let end = dataOffset;
  for (const { name, byteOffset, byteLength } of tensors) {
    if (byteOffset !== end) {
      const problem = byteOffset < end ? "overlaps the tensor before it" : "leaves a gap before it";
      const field = `${name}.data_offsets`;
      throw new ModelFileError(`tensor ${name} ${problem}`, {
        path: source.path,
        field,
        byteOffset,
      });
    }
    end += byteLength;
  }
  if (end === source.byteLength) return;
  const problem = `${source.byteLength - end} bytes after the last tensor`;
  throw new ModelFileError(problem, { path: source.path, field: "data", byteOffset: end });
}
