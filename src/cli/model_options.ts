import { Option } from "commander";
import { FFN_CHOICES } from "../pipeline/options.ts";
import { share } from "./option_values.ts";

/** Options of every command that opens a model: made anew each time, as a command keeps its own. */
export function ffnOption(): Option {
  return new Option(
    "--ffn <mode>",
    "which neurons are computed: those predicted, the exact active set, those not small (approximate), or all",
  ).choices([...FFN_CHOICES]);
}

export function sparsityOption(): Option {
  return new Option(
    "--sparsity <share>",
    "share of the neurons that --ffn magnitude leaves out, such as 50%; eval says what it costs",
  ).argParser(share);
}

export function recallOption(): Option {
  return new Option(
    "--recall <share>",
    "share of the active neurons that prediction finds, such as 99.5% (default: as calibrated)",
  ).argParser(share);
}

export function ffnCacheOption(): Option {
  return new Option(
    "--ffn-cache <share>",
    "share of the FFN's neurons kept in memory, such as 20%",
  ).argParser(share);
}
