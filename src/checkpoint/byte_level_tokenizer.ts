/** Makes tokenizer.json, in the format of Hugging Face's `tokenizers`, of what other formats keep of a tokenizer. */

export interface AddedToken {
  readonly content: string;
  readonly id: number;
  /** Left out of text: an end, a beginning, a role. */
  readonly isSpecial: boolean;
}

export interface ByteLevelParts {
  readonly vocab: Readonly<Record<string, number>>;
  /** "a b": the pair of tokens that become one, the first ones first. */
  readonly merges: readonly string[];
  readonly added: readonly AddedToken[];
  /** Tokens before each text. */
  readonly begin: readonly AddedToken[];
  /** What splits a text before it is merged, one after the other; none: as GPT-2 does. */
  readonly patterns: readonly string[];
  /** Whether a word that is a token is one, whatever merges would make of it. */
  readonly ignoreMerges: boolean;
}

/** Byte pair encoding of bytes, as GPT-2 has it (Radford et al. 2019). */
export function byteLevelTokenizer(parts: ByteLevelParts): Record<string, unknown> {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
  const split = parts.patterns.map((Regex) => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false,
  }));
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: parts.added.map(addedToken),
    normalizer: null,
    pre_tokenizer: split.length === 0 ? { ...byteLevel, use_regex: true } : {
      type: "Sequence",
      pretokenizers: [...split, { ...byteLevel, use_regex: false }],
    },
    post_processor: beginning(parts.begin) ?? { ...byteLevel, use_regex: true },
    decoder: { ...byteLevel, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: parts.ignoreMerges,
      vocab: parts.vocab,
      merges: parts.merges,
    },
  };
}

export function addedToken({ content, id, isSpecial }: AddedToken): Record<string, unknown> {
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return { id, content, ...plain, special: isSpecial };
}

/** Puts tokens before each text; null for none. */
export function beginning(tokens: readonly AddedToken[]): Record<string, unknown> | null {
  if (tokens.length === 0) return null;
  const template = (sequence: string) => [
    ...tokens.map(({ content: id }) => ({ SpecialToken: { id, type_id: 0 } })),
    { Sequence: { id: sequence, type_id: 0 } },
  ];
  return {
    type: "TemplateProcessing",
    single: template("A"),
    pair: [...template("A"), { Sequence: { id: "B", type_id: 1 } }],
    special_tokens: Object.fromEntries(
      tokens.map(({ content, id }) => [content, { id: content, ids: [id], tokens: [content] }]),
    ),
  };
}
