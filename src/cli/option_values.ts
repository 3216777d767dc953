import { InvalidArgumentError } from "commander";
import { parseByteSize, parseShare } from "../byte_size.ts";

/**
 * Parsers of option values for commander, which puts the option's name in front of what they complain about.
 */

export function wholeNumber({ min, max }: { min: number; max: number }): (text: string) => number {
  return (text) => {
    const value = /^[+-]?\d+$/.test(text.trim()) ? Number(text) : NaN;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It takes a whole number from ${min} to ${max}.`);
  };
}

/** A number within bounds; with `isAbove` it must be more than `min`. */
export function realNumber(
  { min, max, isAbove = false }: { min: number; max: number; isAbove?: boolean },
): (text: string) => number {
  return (text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    if ((isAbove ? value > min : value >= min) && value <= max) return value;
    const from = isAbove ? `above ${min}` : `from ${min}`;
    throw new InvalidArgumentError(
      `It takes a number ${from}${max < Infinity ? ` to ${max}` : ""}.`,
    );
  };
}

/** "3.5GiB" into bytes. */
export const byteSize = checked(parseByteSize);

/** "20%" into 0.2. */
export const share = checked(parseShare);

/** Values with commas between them. */
export function listOf<T>(parse: (text: string) => T): (text: string) => T[] {
  return checked((text) => text.split(",").map((part) => parse(part.trim())));
}

function checked<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message);
    }
  };
}
