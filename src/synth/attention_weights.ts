import { STREAM } from "./noise.ts";
import { ENERGY } from "./planted.ts";
import type { ResidualLayout } from "./residual_layout.ts";
import type { Chunk, WeightDesk } from "./weight_desk.ts";

/** How far above the scores of other positions that of the own position lies, in units of the softmax. */
const OWN_POSITION_SCORE = 80;
/** Noise of the query, key and value matrices against what is planted in them. */
const PROJECTION_NOISE = 0.05;

/**
 * Rows of attention matrices. Each position attends to itself: queries and keys are the coordinates of a word's identity, so that no
 * other word's score comes near. So are the values, from which the output matrix reads.
 */
export class AttentionWeights {
  readonly #desk: WeightDesk;

  constructor(desk: WeightDesk) {
    this.#desk = desk;
  }

  fillQueries(layer: number, chunk: Chunk): void {
    const { layout } = this.#desk.blueprint;
    const scale = this.#queryScale(layer);
    this.#fillProjection(chunk, [STREAM.queries, layer], scale, (row) => layout.coordinateOf(row));
  }

  fillKeys(layer: number, chunk: Chunk): void {
    this.#fillProjection(chunk, [STREAM.keys, layer], this.#queryScale(layer));
  }

  fillValues(layer: number, chunk: Chunk): void {
    this.#fillProjection(chunk, [STREAM.values, layer], 1);
  }

  /** Row m looks at the coordinate of the identity that number m of the heads stands for: unless told, of those with keys and values. */
  #fillProjection(
    { rowFrom, rows, cols }: Chunk,
    keys: number[],
    scale: number,
    coordinateOf = (row: number) => row % this.#desk.blueprint.layout.identitySize,
  ): void {
    const { basis, layout: { identityAt } } = this.#desk.blueprint;
    const values = this.#desk.values.values;
    for (let row = 0; row < rows; row++) {
      const direction = identityAt + coordinateOf(rowFrom + row);
      basis.write(direction, values, row * cols, scale);
    }
    const deviation = scale * PROJECTION_NOISE / Math.sqrt(cols);
    this.#desk.addNoise({ rows, cols, deviation }, (row) => [...keys, rowFrom + row]);
  }

  /** Queries' and keys' own norms, where they have some, take their scale away and give this one. */
  get ownNorm(): number {
    const { headDim } = this.#desk.blueprint.config;
    return Math.sqrt(OWN_POSITION_SCORE / Math.sqrt(headDim));
  }

  /** Queries and keys are scaled so that the score of the own position is large. */
  #queryScale(layer: number): number {
    const { config, layout } = this.#desk.blueprint;
    const { hiddenSize: d, headDim: headSize } = config;
    const headEnergy = ENERGY.identity * d * (headSize / layout.identitySize) /
      layout.energyBefore(layer).attention;
    return Math.sqrt(OWN_POSITION_SCORE * Math.sqrt(headSize) / headEnergy);
  }

  /** Rows of the output matrix: its layer's attention directions, noise, and in the last layer the step to the next token. */
  fillOutput(
    layer: number,
    { rowFrom, rows, cols }: Chunk,
  ): void {
    const blueprint = this.#desk.blueprint, { basis, layout, config } = blueprint;
    const depth = layout.attentionSize, direction = new Float32Array(cols);
    const deviation = layout.deviationOf("attention"), left = this.#desk.left.values;
    this.#desk.hold(`output ${layer}`, () => {
      for (let k = 0; k < depth; k++) {
        blueprint.attentionReading(layer, k, direction);
        this.#desk.right.values.set(direction, k * cols);
      }
    });
    for (let k = 0; k < depth; k++) {
      basis.write(layout.attentionAt(layer) + k, direction, 0, deviation);
      for (let row = 0; row < rows; row++) left[row * depth + k] = direction[rowFrom + row];
    }
    this.#desk.multiply({ rows, cols, depth });
    const noise = blueprint.outputNoise(layer);
    this.#desk.addNoise(
      { rows, cols, deviation: noise },
      (row) => [STREAM.output, layer, rowFrom + row],
    );
    if (layer === config.numLayers - 1) this.#addStep(layer, { rowFrom, rows, cols });
  }

  /** Takes the token's identity away and adds that of the next token: a rotation in each plane. */
  #addStep(
    layer: number,
    { rowFrom, rows, cols }: Chunk,
  ): void {
    const { basis, layout, tokens } = this.#desk.blueprint, values = this.#desk.values.values;
    const { identitySize, identityAt } = layout;
    const scale = Math.sqrt(layout.energyBefore(layer).attention);
    const columns = columnsByCoordinate(layout, cols);
    const one = new Float32Array(cols), other = new Float32Array(cols);
    for (let plane = 0; plane < identitySize / 2; plane++) {
      const { cosine, sine } = tokens.stepOf(plane);
      basis.write(identityAt + 2 * plane, one, 0);
      basis.write(identityAt + 2 * plane + 1, other, 0);
      for (let coordinate = 2 * plane; coordinate < 2 * plane + 2; coordinate++) {
        const repeats = columns[coordinate].length;
        const isFirst = coordinate % 2 === 0;
        const toOwn = (cosine - 1) * scale / repeats;
        const toOther = (isFirst ? sine : -sine) * scale / repeats;
        const toOne = isFirst ? toOwn : toOther, toOtherOne = isFirst ? toOther : toOwn;
        for (let row = 0; row < rows; row++) {
          const added = toOne * one[rowFrom + row] + toOtherOne * other[rowFrom + row];
          for (const col of columns[coordinate]) values[row * cols + col] += added;
        }
      }
    }
  }
}

/** Which numbers of what attention hands to its output stand for each coordinate of the identity. */
function columnsByCoordinate(layout: ResidualLayout, cols: number): number[][] {
  const columns: number[][] = Array.from({ length: layout.identitySize }, () => []);
  for (let col = 0; col < cols; col++) columns[layout.coordinateOf(col)].push(col);
  return columns;
}
