import type { ModelConfig } from "./config.ts";

/** Fields of `config.json` that mean the same in every family. Not all families know the optional ones. */
interface CommonJson {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads?: number | null;
  readonly head_dim?: number | null;
  readonly max_position_embeddings: number;
  readonly bos_token_id: number | null;
  readonly eos_token_id: number[];
  readonly pad_token_id: number | null;
  readonly tie_word_embeddings: boolean;
}

type CommonFields = Pick<
  ModelConfig,
  | "vocabSize"
  | "hiddenSize"
  | "intermediateSize"
  | "numLayers"
  | "numAttentionHeads"
  | "numKeyValueHeads"
  | "headDim"
  | "maxPositionEmbeddings"
  | "bosTokenId"
  | "eosTokenIds"
  | "padTokenId"
  | "tiedEmbedding"
>;

/**
 * Sizes, special tokens and whether embeddings are tied, by our names. A family whose `config.json` has another name for
 * a size passes it by the common one. Unless told, each head has keys and values of its own, and `headDim` is its share
 * of the hidden size.
 */
export function readCommonFields(json: CommonJson): CommonFields {
  return {
    vocabSize: json.vocab_size,
    hiddenSize: json.hidden_size,
    intermediateSize: json.intermediate_size,
    numLayers: json.num_hidden_layers,
    numAttentionHeads: json.num_attention_heads,
    numKeyValueHeads: json.num_key_value_heads ?? json.num_attention_heads,
    headDim: json.head_dim ?? json.hidden_size / json.num_attention_heads,
    maxPositionEmbeddings: json.max_position_embeddings,
    bosTokenId: json.bos_token_id,
    eosTokenIds: json.eos_token_id,
    padTokenId: json.pad_token_id,
    tiedEmbedding: json.tie_word_embeddings,
  };
}
