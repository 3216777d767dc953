import { AUDIT, AUDIT_FIELDS } from "./board.ts";

/** An estimate with its 95 % confidence interval. */
export interface Interval {
  value: number;
  low: number;
  high: number;
}

/** What prediction missed in the tokens of a request, as far as a sample of the other neurons can tell. */
export interface AuditReport {
  /** Tokens that were looked at. */
  tokens: number;
  /** Active neurons that were predicted / active ones. */
  recall: Interval;
  /** Predicted neurons that were active / predicted ones: counted, not estimated. */
  precision: number;
  /** Activation that was not computed / all activation. */
  lostMass: Interval;
  /** The same for each layer, without intervals. */
  layers: LayerAudit[];
}

export interface LayerAudit {
  recall: number;
  precision: number;
  lostMass: number;
  /** Neurons per token. */
  predicted: number;
  active: number;
}

/** Sums over layers, or over tokens, of the numbers of `AUDIT`. */
type Sums = Float64Array;

/**
 * Makes the report of a board's rows, f32[tokens][numLayers][AUDIT_FIELDS].
 *
 * @param largestWeight how many neurons one sampled neuron stands for at most
 */
export function reportAudit(
  rows: Float32Array,
  { numLayers, largestWeight }: { numLayers: number; largestWeight: number },
): AuditReport {
  const perToken = numLayers * AUDIT_FIELDS, tokens = rows.length / perToken;
  const ofTokens = Array.from({ length: tokens }, () => new Float64Array(AUDIT_FIELDS));
  const ofLayers = Array.from({ length: numLayers }, () => new Float64Array(AUDIT_FIELDS));
  rows.forEach((value, i) => {
    const field = i % AUDIT_FIELDS;
    ofTokens[Math.floor(i / perToken)][field] += value;
    ofLayers[Math.floor(i / AUDIT_FIELDS) % numLayers][field] += value;
  });
  const all = new Float64Array(AUDIT_FIELDS);
  for (const sums of ofLayers) sums.forEach((value, field) => all[field] += value);
  const [missed, missedMass] = [
    sumInterval(seriesOf(ofTokens, AUDIT.found, AUDIT.missed), largestWeight),
    sumInterval(
      seriesOf(ofTokens, AUDIT.foundMass, AUDIT.missedMass),
      largestWeight * share(all[AUDIT.foundMass], all[AUDIT.found], 0),
    ),
  ];
  const found = all[AUDIT.found], foundMass = all[AUDIT.foundMass];
  return {
    tokens,
    recall: {
      value: share(found, found + missed.value, 1),
      low: share(found, found + missed.high, 1),
      high: share(found, found + missed.low, 1),
    },
    precision: share(found, all[AUDIT.predicted], 1),
    lostMass: {
      value: share(missedMass.value, foundMass + missedMass.value, 0),
      low: share(missedMass.low, foundMass + missedMass.low, 0),
      high: share(missedMass.high, foundMass + missedMass.high, 0),
    },
    layers: ofLayers.map((sums) => layerAudit(sums, tokens)),
  };
}

function layerAudit(sums: Sums, tokens: number): LayerAudit {
  const active = sums[AUDIT.found] + sums[AUDIT.missed];
  const mass = sums[AUDIT.foundMass] + sums[AUDIT.missedMass];
  return {
    recall: share(sums[AUDIT.found], active, 1),
    precision: share(sums[AUDIT.found], sums[AUDIT.predicted], 1),
    lostMass: share(sums[AUDIT.missedMass], mass, 0),
    predicted: share(sums[AUDIT.predicted], tokens, 0),
    active: share(active, tokens, 0),
  };
}

function share(part: number, whole: number, ofNothing: number): number {
  return whole > 0 ? part / whole : ofNothing;
}

/** Of each token: what was found, and what was missed as its sample lets expect. */
interface Series {
  found: number[];
  missed: number[];
}

function seriesOf(tokens: Sums[], found: number, missed: number): Series {
  return {
    found: tokens.map((sums) => sums[found]),
    missed: tokens.map((sums) => sums[missed]),
  };
}

/** Tokens that follow each other are alike: their sum's variance is also taken from so many batches of them. */
const BATCHES = 16;

/**
 * An interval for the sum of what was missed. The sum is of few and weighted events, so it is the gamma interval of Fay and Feuer
 * (1997), which holds for small counts and for none; its variance is that of what each token missed beyond its part
 * (a ratio estimate), token by token or in batches of neighbours, whichever is larger.
 */
export function sumInterval({ found, missed }: Series, largestWeight: number): Interval {
  const total = (values: number[]) => values.reduce((sum, value) => sum + value, 0);
  const value = total(missed), whole = total(found);
  const ratio = whole > 0 ? value / whole : 0;
  const beyond = missed.map((number, token) => number - ratio * found[token]);
  const batchLength = Math.ceil(beyond.length / BATCHES);
  const batches = Array.from(
    { length: Math.ceil(beyond.length / Math.max(1, batchLength)) },
    (_, batch) => total(beyond.slice(batch * batchLength, (batch + 1) * batchLength)),
  );
  const variance = Math.max(
    varianceOfSum(beyond),
    batches.length === BATCHES ? varianceOfSum(batches) : 0,
  );
  const sure = variance > 0 && value > 0;
  const upper = value + largestWeight, upperVariance = variance + largestWeight ** 2;
  return {
    value,
    low: sure ? gammaQuantile(-1, value, variance) : 0,
    high: upper > 0 ? gammaQuantile(1, upper, upperVariance) : 0,
  };
}

/** Variance of the sum of independent numbers whose expectation is about 0. */
function varianceOfSum(values: number[]): number {
  const { length } = values;
  return length > 1
    ? values.reduce((sum, value) => sum + value * value, 0) * length / (length - 1)
    : 0;
}

/** The 97.5 % quantile of the normal distribution. */
const Z = 1.959964;

/** The 2.5 % (`side` -1) or 97.5 % (1) quantile of a gamma distribution, by Wilson and Hilferty's cube (1931). */
function gammaQuantile(side: -1 | 1, mean: number, variance: number): number {
  const spread = variance / (9 * mean * mean);
  return mean * Math.max(0, 1 - spread + side * Z * Math.sqrt(spread)) ** 3;
}
