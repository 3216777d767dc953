import type { PipelineOptions } from "../pipeline/options.ts";

/** A place for a chunk of a stream of bundles, in the arena of the chunk's layer. */
export interface StagingBuffer {
  address: number;
  /** Its first landing flag, counted from the first of all. */
  flag: number;
}

/** The staging buffers of an arena, with flags of their own: a stream may be at two arenas at once. */
export function stagingBuffers(
  { arenas, flash }: Pick<PipelineOptions, "flash"> & {
    arenas: { plan: { staging: number } }[];
  },
  arena: number,
): StagingBuffer[] {
  const { chunkCount, chunkByteLength, flag, flagsPerChunk, flagsPerArena } = flash.staging;
  return Array.from({ length: chunkCount }, (_, i) => ({
    address: arenas[arena].plan.staging + i * chunkByteLength,
    flag: flag + arena * flagsPerArena + i * flagsPerChunk,
  }));
}
