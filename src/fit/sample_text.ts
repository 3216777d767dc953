import { chunksOf, documentsOf } from "../documents.ts";
import { seededRandom } from "../random.ts";

/** Longer documents are cut, at the end of a line where there is one, so that a sample has many places of a text. */
const PIECE_CHARACTERS = 4096;

/**
 * Chunks of ids from places all over a text, in an order of their own, until there are `tokensMax` ids or no more. The
 * same for the same text and seed; no more of it is tokenized than is taken.
 */
export function sampleText(
  text: string,
  { encode, chunkLength, tokensMax, seed }: {
    encode: (text: string) => number[];
    chunkLength: number;
    tokensMax: number;
    seed: number;
  },
): number[][] {
  const pieces = documentsOf(text).flatMap(piecesOf);
  shuffle(pieces, seededRandom(seed));
  const chunks: number[][] = [];
  let left = tokensMax;
  for (const chunk of chunksOf(pieces, encode, chunkLength)) {
    if (left <= 0) break;
    chunks.push(chunk.slice(0, left));
    left -= chunk.length;
  }
  return chunks;
}

function piecesOf(document: string): string[] {
  const pieces: string[] = [];
  for (let from = 0; from < document.length;) {
    let to = from + PIECE_CHARACTERS;
    if (to >= document.length) to = document.length;
    else {
      const line = document.lastIndexOf("\n", to);
      if (line > from) to = line;
    }
    const piece = document.slice(from, to).trim();
    if (piece !== "") pieces.push(piece);
    from = to;
  }
  return pieces;
}

/** Fisher and Yates. */
export function shuffle<T>(items: T[], random: () => number): void {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
}
