/**
 * How sensitive are results to the ratio of attention and FFN? Models of as many weights as OPT 6.7B, with other widths of the
 * FFN, shared keys and values, a gate; and with longer contexts, whose keys and values are read for each token.
 */
import { tokenTime } from "../../src/simulate/cost_model.ts";
import type { Machine } from "../../src/simulate/cost_model.ts";
import { bytesOf, keyValueBytes, SHAPES } from "../../src/simulate/model_shape.ts";
import type { ModelShape } from "../../src/simulate/model_shape.ts";
import { figure, gibibytes, milliseconds, percent } from "./table.ts";
import type { Table } from "./table.ts";
import type { Workbench } from "./workbench.ts";
import { halfMemory, speedupInHalf } from "./workloads.ts";

const RATIOS = [1, 2, 4, 8, 16];
const CONTEXTS = [0, 2048, 8192, 32_768, 131_072];

/** OPT 6.7B with other parts; layers are so many that the weights are about as many. */
export function reshaped(name: string, parts: Partial<ModelShape>): ModelShape {
  const shape = { ...SHAPES.opt6_7b, name, ...parts };
  const { attention, ffn, embedding } = bytesOf(shape);
  const perLayer = (attention + ffn) / shape.numLayers;
  const numLayers = Math.round((bytesOf(SHAPES.opt6_7b).total - embedding) / perLayer);
  return { ...shape, numLayers };
}

export const RESHAPED: readonly ModelShape[] = [
  ...RATIOS.map((ratio) => reshaped(`FFN of ${ratio}d`, { intermediateSize: ratio * 4096 })),
  reshaped("FFN of 4d, keys shared by 8", { keyValueShare: 1 / 8 }),
  reshaped("gated, 2.7d (Llama 2)", { intermediateSize: 11_008, ffnMatrices: 3 }),
  reshaped("gated, 3.5d, keys shared by 4 (Llama 3)", {
    intermediateSize: 14_336,
    ffnMatrices: 3,
    keyValueShare: 1 / 4,
  }),
];

export interface AttentionRow {
  shape: ModelShape;
  ffnShare: number;
  cachedShare: number;
  tokenSeconds: number;
  speedup: number;
  fits: boolean;
}

export function attentionRow(shape: ModelShape, machine: Machine): AttentionRow {
  const { ffn, total } = bytesOf(shape);
  const { cachedShare, tokenSeconds, speedup, streamedBytes } = speedupInHalf(shape, machine);
  return {
    shape,
    ffnShare: ffn / total,
    cachedShare,
    tokenSeconds,
    speedup,
    fits: streamedBytes === 0,
  };
}

// deno-lint-ignore require-await -- every question answers with a promise
export async function ask({ machine }: Workbench): Promise<Table[]> {
  return [
    {
      title: `As many weights as OPT 6.7B, half of them in memory (${machine.name}, cost model)`,
      head: [
        "shape",
        "layers",
        "FFN of all",
        "FFN in memory",
        "attention fits",
        "ms a token",
        "x over naive",
      ],
      rows: RESHAPED.map((shape) => {
        const row = attentionRow(shape, machine);
        return [
          shape.name,
          `${shape.numLayers}`,
          percent(row.ffnShare),
          percent(row.cachedShare),
          row.fits ? "yes" : "no",
          milliseconds(row.tokenSeconds),
          figure(row.speedup),
        ];
      }),
    },
    contextTable(machine),
  ];
}

/** Keys and values take part in each token, as attention's weights do, beside the memory that is divided. */
function contextTable(machine: Machine): Table {
  const shapes = [
    SHAPES.opt6_7b,
    reshaped("keys shared by 8", { keyValueShare: 1 / 8 }),
  ];
  return {
    title: "Longer contexts beside half of the weights: keys and values (f32), GiB; ms a token",
    head: [
      "positions",
      ...shapes.flatMap(({ name }) => [`${name}: GiB`, "ms", "waiting for reads"]),
    ],
    rows: CONTEXTS.map((positions) => [
      `${positions}`,
      ...shapes.flatMap((shape) => {
        const { work } = halfMemory(shape, machine);
        const bytes = keyValueBytes(shape, positions);
        const time = tokenTime({ ...work, layerBytes: work.layerBytes + bytes }, machine);
        return [
          gibibytes(bytes),
          milliseconds(time.total),
          percent((time.reading - time.hidden) / time.total),
        ];
      }),
    ]),
  };
}
