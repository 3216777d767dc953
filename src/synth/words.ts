import type { Tokenizer } from "../format/header.ts";
import { SPECIAL_TOKENS } from "./shapes.ts";

const CONSONANTS = "bdfghjklmnprstvz";
const VOWELS = "aeiou";
const SYLLABLES = CONSONANTS.length * VOWELS.length;
/** Words of three syllables: more than any vocabulary has. */
const WORD_COUNT = SYLLABLES ** 3;
/** Without a divisor in common with the number of words, so that no word comes twice. */
const STRIDE = 123_457;

/** How ByteLevel writes the space that each word begins with. */
const SPACE = "\u0120";

/** A made-up word for each place of the chain of tokens: "bafuko". */
export function wordAt(place: number): string {
  let rest = (place * STRIDE + 54_321) % WORD_COUNT, word = "";
  for (let syllable = 0; syllable < 3; syllable++) {
    const index = rest % SYLLABLES;
    word += CONSONANTS[Math.floor(index / VOWELS.length)] + VOWELS[index % VOWELS.length];
    rest = Math.floor(rest / SYLLABLES);
  }
  return word;
}

/**
 * A tokenizer of whole made-up words, separated by spaces; any other word is `<unk>`.
 * @param chain the token of each place
 */
export function wordTokenizer(chain: Int32Array): NonNullable<Tokenizer> {
  const vocab: Record<string, number> = {};
  SPECIAL_TOKENS.forEach((name, id) => vocab[name] = id);
  chain.forEach((token, place) => vocab[`${SPACE}${wordAt(place)}`] = token);
  const json = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    // Whole words only: pieces would begin with ##, and none does.
    model: {
      type: "WordPiece",
      unk_token: "<unk>",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab,
    },
  };
  return { json: JSON.stringify(json), config: null };
}
