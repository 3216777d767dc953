import { llama } from "./llama.ts";
import type { ModelFamily } from "../family.ts";

/** ProSparse (Song et al. 2024): Llama with FATReLU, `x > threshold ? x : 0`, under a name of its own. */
export const sparsellama: ModelFamily = {
  ...llama,
  modelType: "sparsellama",
  title: "ProSparse (Llama, FATReLU)",
  fixtures: ["llama_fatrelu"],
};
