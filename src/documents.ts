/** What separates documents in a text file. */
export const DOCUMENT_END = "<|endoftext|>";

/**
 * The documents of a text: split at `<|endoftext|>`, stripped, empty ones left out. A text without the mark is one document.
 */
export function documentsOf(text: string): string[] {
  return text.split(DOCUMENT_END).map((document) => document.trim()).filter((document) =>
    document !== ""
  );
}

/**
 * The ids of documents in chunks of at most `chunkLength`: each chunk is run with an empty cache. A document's ids (with what the
 * tokenizer puts in front) are cut every `chunkLength`.
 */
export function* chunksOf(
  documents: Iterable<string>,
  encode: (text: string) => number[],
  chunkLength: number,
): Generator<number[]> {
  for (const document of documents) {
    const ids = encode(document);
    for (let at = 0; at < ids.length; at += chunkLength) yield ids.slice(at, at + chunkLength);
  }
}
