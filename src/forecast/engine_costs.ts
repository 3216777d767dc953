/**
 * What the engine takes beside kernels and disk, and how its cache and early look differ from a file's miss curves: figures that no
 * probe measures. They lie between those of the embedded model and those of a synthetic opt-6.7b, on two cores of a cloud server
 * (`bench plan`, docs/decisions.md).
 */

/** Of each layer, whatever its size: threads that meet, norms, the handing over of a list. */
export const SECONDS_PER_LAYER = 28e-6;

/** Lanes that meet wait for the slower one, and a run's kernels find colder caches than a probe's: their time over that of even shares. */
export const LANES_UNEVEN = 1.35;

/** A bundle without its zeros takes so much longer to compute with than one that has them (`bench kernels`: f16 1.25, q8 1.5). */
export const PRUNED_COST = 1.4;

/** The predictor's list: of each neuron that is named, and of each that gets a slot and a ticket. */
export const SECONDS_PER_LISTED = 60e-9;
export const SECONDS_PER_MISS = 700e-9;
/** The same where the tables of slots are larger than a core's own caches, as from so many neurons on. */
export const SECONDS_PER_LISTED_FAR = 500e-9;
export const SECONDS_PER_MISS_FAR = 800e-9;
export const FAR_NEURONS = 2 ** 17;
/** With everything in memory nothing but the list itself is kept. */
export const SECONDS_PER_LISTED_RESIDENT = 80e-9;

/** Where lanes take all cores, of a large model: the predictor's time of a layer beside looks, list and reads: early books, wake-ups. */
export const DISPLACED_SECONDS_PER_LAYER = 1e-3;

/** Reads take so much longer than a probe's, as the thread that begins and lands them does other things, too, and cores are busy. */
export const READS_IN_RUN = 1.12;

/** Copying a merged read's record to its slot, a byte. */
export const SECONDS_PER_SCATTERED_BYTE = 1 / 8e9;

/** Keys and values are gone through at this share of the speed of an f32 product. */
export const ATTENTION_SHARE = 0.5;

/** The early look finds so many of the misses, where rings and slots have room ... */
export const EARLY_FOUND = 0.35;
/** ... of the room in its rings this share brings what is wanted ... */
export const EARLY_USED = 0.8;
/** ... and for each one found so many more are read: guesses in vain, and what they pushed out. */
export const EARLY_VAIN = 0.4;

/**
 * Misses that the policy spares, against the LRU of the curves: this share of what LRU hits (decisions: 16 % of the tales where hardly
 * anything is missed, none of a planted text).
 */
export const POLICY_GAIN = { frequency: 0.08, pinned: 0.06, segmented: 0.06, lru: 0, window: 0 };

/** Where co-activation orders the neurons on flash, another read is needed this much less often than with neurons anywhere ... */
export const ORDERED_READS = 0.62;
/** ... and what is merged by that lies so many bundles apart. */
export const ORDERED_GAP_BUNDLES = 0.75;

/** A list longer than its slots comes in passes, which cannot be merged much: reads for a miss, at least. */
export const PASSES_READS_PER_MISS = 0.4;

/** Without predictors in the file: active neurons, as a share (LLM in a flash, section 3: OPT 6.7B), and how misses fall with slots. */
export const UNKNOWN_ACTIVE_SHARE = 0.033;
export const UNKNOWN_MISS_DECAY = 5.95;
