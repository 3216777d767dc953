import type { ModelConfig } from "./config.ts";
import type { SourceNames } from "./family.ts";

/** Where a router and its experts are in the checkpoints of OLMoE and of Qwen3 with experts. */
export const EXPERT_SOURCES: SourceNames = {
  "layers.N.ffn.router": "model.layers.N.mlp.gate",
  "layers.N.ffn.experts.E.gate": "model.layers.N.mlp.experts.E.gate_proj",
  "layers.N.ffn.experts.E.up": "model.layers.N.mlp.experts.E.up_proj",
  "layers.N.ffn.experts.E.down": "model.layers.N.mlp.experts.E.down_proj",
};

/** A description with experts, of one whose neurons are those of a single one. */
export function withExperts(
  config: ModelConfig,
  experts: NonNullable<ModelConfig["experts"]>,
): ModelConfig {
  return { ...config, intermediateSize: experts.count * config.intermediateSize, experts };
}
