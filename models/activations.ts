import type { Activation, ModelConfig } from "./config.ts";
import { refuse } from "./read_json.ts";

type Ffn = Pick<ModelConfig["ffn"], "activation" | "threshold">;

/** Names of `transformers`' activations. */
const NAMES: Readonly<Record<string, Activation>> = {
  relu: "relu",
  relu2: "relu2",
  relu_squared: "relu2",
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "gelu-tanh",
  gelu_fast: "gelu-tanh",
  gelu_pytorch_tanh: "gelu-tanh",
};

/** An activation by its name in config.json (`field`). */
export function readActivation(name: string, path: string, field = "hidden_act"): Ffn {
  if (Object.hasOwn(NAMES, name)) return { activation: NAMES[name], threshold: 0 };
  return refuse(path, field, `one of ${Object.keys(NAMES).join(", ")}`, name);
}

/** The same of a gate, which may be ProSparse's `fatrelu`, whose threshold stands in `hidden_act_param`. */
export function readGatedActivation(
  name: string,
  parameter: number | null | undefined,
  path: string,
): Ffn {
  if (name !== "fatrelu") return readActivation(name, path);
  return { activation: "fatrelu", threshold: Math.fround(parameter ?? 0) };
}
