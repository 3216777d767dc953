/**
 * What rows of logits (f32[vocabulary]) say in probabilities, in nats. A row at a time, sums in f64.
 */

/** log of the sum of exp(logit): what is subtracted from a logit to get the logarithm of its probability. */
export function logSumExp(logits: Float32Array): number {
  const largest = logits[indexOfLargest(logits)];
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - largest);
  return Math.log(sum) + largest;
}

/** The likeliest token; the first one of equals. */
export function indexOfLargest(logits: Float32Array): number {
  let index = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[index]) index = i;
  return index;
}

/**
 * KL(P || Q), P and Q being the probabilities by `reference` and by `logits`, whose `logSumExp` are known. 0 for the same
 * bits; never negative.
 */
export function divergence(
  reference: Float32Array,
  logits: Float32Array,
  logSums: { reference: number; logits: number },
): number {
  let sum = 0;
  for (let i = 0; i < logits.length; i++) {
    const logP = reference[i] - logSums.reference;
    sum += Math.exp(logP) * (logP - (logits[i] - logSums.logits));
  }
  return Math.max(0, sum);
}
