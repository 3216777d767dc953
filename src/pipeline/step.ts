import type { Control } from "./control.ts";

/** A step: neighbouring positions that go through the model together: a token, a part of a prompt, or drafts. */
export interface Step {
  /** How many positions. */
  positions: number;
  /** The first of them. */
  position: number;
  /** How many of the last positions want logits. */
  logits: number;
  /** Row of the logits (or of the observations) that the first of those fills; the others follow, around the ring. */
  row: number;
  /** Write down what each layer saw. */
  wantsObservation: boolean;
}

/** Words of the step that lane 0 announces to other lanes and to the predictor. */
const POSITIONS = 0, POSITION = 1, LOGITS = 2, ROW = 3, WANTS_OBSERVATION = 4;
/** Layers of the step that are done, for who wants to see a long one go on. */
const LAYERS_DONE = 5;

/** Lane 0: writes the step down, before any sequence tells of it. */
export function writeStep({ words, layout }: Control, step: Step): void {
  const at = layout.step;
  words[at + POSITIONS] = step.positions;
  words[at + POSITION] = step.position;
  words[at + LOGITS] = step.logits;
  words[at + ROW] = step.row;
  words[at + WANTS_OBSERVATION] = step.wantsObservation ? 1 : 0;
  words[at + LAYERS_DONE] = 0;
}

/** Lane 0: a layer of the step at hand is done. */
export function countLayer({ words, layout }: Control): void {
  Atomics.add(words, layout.step + LAYERS_DONE, 1);
}

/** Positions that are through all layers, those of the step at hand in part. A moment old. */
export function positionsDone({ words, layout }: Control, numLayers: number): number {
  const at = layout.step, layers = Atomics.load(words, at + LAYERS_DONE);
  return words[at + POSITION] + words[at + POSITIONS] * layers / numLayers;
}

/** Reads the step at hand into `step`, which is reused, so that a token allocates nothing. */
export function readStep({ words, layout }: Control, step: Step): void {
  const at = layout.step;
  step.positions = words[at + POSITIONS];
  step.position = words[at + POSITION];
  step.logits = words[at + LOGITS];
  step.row = words[at + ROW];
  step.wantsObservation = words[at + WANTS_OBSERVATION] === 1;
}

/** A step to be filled by `readStep`. */
export function emptyStep(): Step {
  return { positions: 1, position: 0, logits: 0, row: 0, wantsObservation: false };
}
