import { FileSource, readRange } from "../format/byte_source.ts";

const TEXT_BYTES_MAX = 64 * 2 ** 20;

/** The text, or the beginning of it that is more than anybody looks at. */
export function readText(path: string): string {
  const source = new FileSource(path);
  try {
    const byteLength = Math.min(TEXT_BYTES_MAX, source.byteLength);
    return new TextDecoder().decode(readRange(source, { byteOffset: 0, byteLength }));
  } finally {
    source.close();
  }
}
