/**
 * Walks MessagePack bytes without decoding them, to learn whether decoding is safe.
 *
 * A decoder allocates what a length prefix claims: five hostile bytes can ask for an array of four billion. After
 * this walk every prefix is known to be covered by bytes, nesting is shallow, and the number of values is bounded, so
 * that decoding costs memory in proportion to the header. Extension types, which we never write, are refused.
 */

/** Values (numbers, strings, arrays, ...) in a header. A layer needs some 500. */
const VALUES_MAX = 1 << 18;
const DEPTH_MAX = 16;

/** What is wrong with these bytes and where, or null if they are one sound value. */
export function findMsgpackProblem(
  bytes: Uint8Array,
): { problem: string; byteOffset: number } | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const pending: number[] = [1]; // Values still to come, for each open container.
  let at = 0;
  let valueCount = 0;
  while (pending.length > 0) {
    if (pending[pending.length - 1] === 0) {
      pending.pop();
      continue;
    }
    pending[pending.length - 1]--;
    const start = at;
    const fail = (problem: string) => ({ problem, byteOffset: start });
    if (++valueCount > VALUES_MAX) return fail(`more than ${VALUES_MAX} values`);
    if (at >= bytes.byteLength) return fail("the bytes end within a value");
    const type = bytes[at++];
    const shape = shapeOf(type);
    if (shape === null) return fail(`type byte 0x${type.toString(16)} is not used in headers`);
    if (at + shape.prefixBytes > bytes.byteLength) return fail("the bytes end within a length");
    const length = shape.prefixBytes === 0 ? shape.fixed : readPrefix(view, at, shape.prefixBytes);
    at += shape.prefixBytes;
    if (length * Math.max(1, shape.children) > bytes.byteLength - at) {
      return fail(`a length of ${length} goes beyond the end`);
    }
    if (shape.children === 0) at += length;
    else if (pending.length >= DEPTH_MAX) return fail(`nested deeper than ${DEPTH_MAX}`);
    else pending.push(length * shape.children);
  }
  if (at === bytes.byteLength) return null;
  return { problem: `${bytes.byteLength - at} bytes after the end`, byteOffset: at };
}

interface Shape {
  /** Bytes of the length that follows the type byte; 0: the length is `fixed`. */
  readonly prefixBytes: 0 | 1 | 2 | 4;
  readonly fixed: number;
  /** Values for each unit of length: 0 for plain bytes, 1 for arrays, 2 for maps. */
  readonly children: 0 | 1 | 2;
}

const plain = (fixed: number): Shape => ({ prefixBytes: 0, fixed, children: 0 });
const prefixed = (prefixBytes: 1 | 2 | 4, children: 0 | 1 | 2 = 0): Shape => ({
  prefixBytes,
  fixed: 0,
  children,
});

/** The type bytes 0xc0 to 0xdf (https://github.com/msgpack/msgpack/blob/master/spec.md); null: not for us. */
const SHAPES: readonly (Shape | null)[] = [
  plain(0),
  null,
  plain(0),
  plain(0), // nil, never used, false, true
  prefixed(1),
  prefixed(2),
  prefixed(4), // bin
  null,
  null,
  null, // ext
  plain(4),
  plain(8), // floats
  plain(1),
  plain(2),
  plain(4),
  plain(8), // unsigned
  plain(1),
  plain(2),
  plain(4),
  plain(8), // signed
  null,
  null,
  null,
  null,
  null, // fixext
  prefixed(1),
  prefixed(2),
  prefixed(4), // str
  prefixed(2, 1),
  prefixed(4, 1), // array
  prefixed(2, 2),
  prefixed(4, 2), // map
];

function shapeOf(type: number): Shape | null {
  if (type < 0x80 || type >= 0xe0) return plain(0);
  if (type < 0x90) return { prefixBytes: 0, fixed: type & 15, children: 2 };
  if (type < 0xa0) return { prefixBytes: 0, fixed: type & 15, children: 1 };
  if (type < 0xc0) return plain(type & 31);
  return SHAPES[type - 0xc0];
}

function readPrefix(view: DataView, at: number, prefixBytes: 1 | 2 | 4): number {
  if (prefixBytes === 1) return view.getUint8(at);
  return prefixBytes === 2 ? view.getUint16(at) : view.getUint32(at);
}
