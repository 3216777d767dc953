import assert from "node:assert/strict";
import { test } from "node:test";
import type { KernelBuild } from "../src/kernels.ts";
import {
  keysOffset,
  KV_QUANTIZATIONS,
  kvBlockByteLength,
  type KvHeads,
  type KvQuantization,
  PAGE_POSITIONS,
  pageByteLength,
  pageCount,
  pagedScratchByteLength,
  valuesOffset,
} from "../src/kv_page.ts";
import { bitsOf, BUILDS, bytesAt, floatsAt, KernelArena, kernelsOf } from "./kernel_arena.ts";
import { attentionPagesTwin, Random } from "./kernel_twins.ts";

interface Case extends KvHeads {
  count: number;
  /** Queries that share a head. */
  group?: number;
  /** Changes keys, values ([position][head][headDim]) or queries. */
  odd?: (keys: Float32Array, values: Float32Array, q: Float32Array) => void;
}

/** Keys, values and queries of a case, the same for each kind of page. */
function inputs({ numKeyValueHeads, headDim, count, group = 1, odd }: Case) {
  const random = new Random(numKeyValueHeads * headDim + count);
  const row = numKeyValueHeads * headDim;
  const keys = random.vector(count * row), values = random.vector(count * row);
  const q = random.vector(row * group);
  odd?.(keys, values, q);
  return { keys, values, q };
}

/** One head of [position][head][headDim]. */
function rowsOfHead(all: Float32Array, { numKeyValueHeads, headDim, count }: Case, head: number) {
  const rows = new Float32Array(count * headDim);
  for (let t = 0; t < count; t++) {
    const from = (t * numKeyValueHeads + head) * headDim;
    rows.set(all.subarray(from, from + headDim), t * headDim);
  }
  return rows;
}

/** Pages in random order, full of `garbage` before anything is stored. Returns the address of the table. */
function fillPages(
  arena: KernelArena,
  kv: KvQuantization,
  build: KernelBuild,
  shape: Case,
  { seed, garbage }: { seed: number; garbage: number },
): number {
  const { storeKey, storeValue } = kernelsOf(build);
  const { keys, values } = inputs(shape);
  const random = new Random(seed);
  const pages = Array.from({ length: pageCount(shape.count) }, () => ({
    address: arena.reserve(pageByteLength(kv, shape), { align: 16, offset: 16 * random.below(9) }),
    key: random.below(2 ** 30),
  })).sort((a, b) => a.key - b.key).map(({ address }) => address);
  for (const page of pages) bytesAt(page, pageByteLength(kv, shape)).fill(garbage);
  const { headDim, numKeyValueHeads } = shape, row = arena.reserve(4 * headDim);
  for (let t = 0; t < shape.count; t++) {
    for (let head = 0; head < numKeyValueHeads; head++) {
      const from = (t * numKeyValueHeads + head) * headDim, place = t % PAGE_POSITIONS;
      const page = pages[Math.floor(t / PAGE_POSITIONS)];
      floatsAt(row, headDim).set(keys.subarray(from, from + headDim));
      storeKey[kv](row, page + keysOffset(kv, shape, head), place, headDim);
      floatsAt(row, headDim).set(values.subarray(from, from + headDim));
      storeValue[kv](row, page + valuesOffset(kv, shape, head), place, headDim);
    }
  }
  return arena.words(pages);
}

/** The outputs of all queries, computed `width` heads at a time. */
function attend(
  kv: KvQuantization,
  build: KernelBuild,
  shape: Case,
  { width = shape.numKeyValueHeads, seed = 1, garbage = 0, runs = 1 } = {},
): Float32Array {
  const arena = new KernelArena();
  const table = fillPages(arena, kv, build, shape, { seed, garbage });
  const { numKeyValueHeads: heads, headDim, count, group = 1 } = shape;
  const q = arena.floats(inputs(shape).q);
  const out = arena.reserve(4 * heads * group * headDim);
  const scratch = arena.reserve(pagedScratchByteLength(width * group, headDim, count));
  const attention = kernelsOf(build).attentionPages[kv];
  for (let run = 0; run < runs; run++) {
    for (let head = 0; head < heads; head += width) {
      const first = 4 * head * group * headDim, to = Math.min(head + width, heads);
      const [from, at] = [q + first, out + first];
      attention(from, table, heads, head, to, group, at, scratch, headDim, count, 0, 0.25, 0);
    }
  }
  arena.assertCanaries();
  return floatsAt(out, heads * group * headDim).slice();
}

function expectedOf(kv: KvQuantization, shape: Case): Float32Array {
  const { keys, values, q } = inputs(shape), { headDim, group = 1 } = shape;
  const out = new Float32Array(q.length);
  for (let i = 0; i < q.length / headDim; i++) {
    const head = Math.floor(i / group), query = q.slice(i * headDim, (i + 1) * headDim);
    const [k, v] = [rowsOfHead(keys, shape, head), rowsOfHead(values, shape, head)];
    out.set(attentionPagesTwin(kv, query, k, v, 0.25), i * headDim);
  }
  return out;
}

function assertClose(actual: Float32Array, expected: Float32Array, tolerance: number): void {
  actual.forEach((value, i) => {
    const difference = Math.abs(value - expected[i]);
    assert(difference <= tolerance, `[${i}]: ${value} instead of ${expected[i]}`);
  });
}

const COUNTS = [1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 47, 100];

for (const build of BUILDS) {
  for (const kv of KV_QUANTIZATIONS) {
    const name = `${kv}, ${build}`;

    test(`attentionPages agrees with its twin (${name})`, () => {
      for (const headDim of [16, 32, 48, 64, 80, 128]) {
        for (const count of COUNTS) {
          const shape = { numKeyValueHeads: 2, headDim, count };
          const actual = attend(kv, build, shape), expected = expectedOf(kv, shape);
          if (build === "plain") assert.deepEqual(bitsOf(actual), bitsOf(expected));
          else assertClose(actual, expected, 1e-5);
        }
      }
    });

    test(`attentionPages does not see where pages lie, nor what is in no place (${name})`, () => {
      const shape = { numKeyValueHeads: 3, headDim: 48, count: 77 };
      const expected = bitsOf(attend(kv, build, shape));
      for (const [seed, garbage] of [[2, 0xff], [3, 0x7f], [4, 0x80], [5, 1]]) {
        assert.deepEqual(bitsOf(attend(kv, build, shape, { seed, garbage })), expected);
      }
    });

    test(`attentionPages does not see how heads are split (${name})`, () => {
      const shape = { numKeyValueHeads: 6, headDim: 32, count: 40, group: 3 };
      const expected = attend(kv, build, shape);
      assertClose(expected, expectedOf(kv, shape), 1e-5);
      for (const width of [1, 2, 4]) {
        assert.deepEqual(bitsOf(attend(kv, build, shape, { width })), bitsOf(expected));
      }
    });

    test(`attentionPages keeps its bits once it is optimized (${name})`, () => {
      const shape = { numKeyValueHeads: 2, headDim: 64, count: 61 };
      const first = bitsOf(attend(kv, build, shape));
      assert.deepEqual(bitsOf(attend(kv, build, shape, { runs: 3000 })), first);
    });

    test(`attentionPages carries odd numbers to the result (${name})`, () => {
      const shape = { numKeyValueHeads: 1, headDim: 32, count: 21 };
      const with_ = (odd: Case["odd"]) => attend(kv, build, { ...shape, odd });
      const isNaN = (out: Float32Array) => out.every(Number.isNaN);
      assert(isNaN(with_((_keys, _values, q) => q[7] = NaN)));
      if (kv !== "f16") { // f16 keeps what is beyond its range as 65536 and more.
        assert(isNaN(with_((keys) => keys[5 * 32 + 3] = NaN)));
        assert(Number.isNaN(with_((_keys, values) => values[20 * 32 + 9] = NaN)[9]));
      }
      // Nothing but zeros, or numbers that count as zero, gives equal weights and a sum of zero.
      const zeros = new Float32Array(32);
      assert.deepEqual(with_((...all) => all.forEach((x) => x.fill(0))), zeros);
      const tiny = with_((...all) => all.forEach((x) => x.fill(1e-42)));
      assert(tiny.every((value) => Math.abs(value) < 1e-41));
      // One key far above the others takes all weight, to which those of 2^-60 and less are nothing.
      const odd: Case["odd"] = (keys, _values, q) => {
        q.fill(4);
        keys.fill(-4).fill(4, 3 * 32, 4 * 32);
      };
      const taken = inputs({ ...shape, odd }).values.subarray(3 * 32, 4 * 32);
      const largest = taken.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const step = { f32: 0, f16: 2 ** -11, q8: 1 / 250 }[kv];
      assertClose(with_(odd), taken, step * largest);
    });
  }

  test(`attentionPages in f32 has the bits of attentionHead (${build})`, () => {
    const kernels = kernelsOf(build);
    for (const headDim of [16, 64, 80, 128]) {
      for (const count of COUNTS) {
        const shape = { numKeyValueHeads: 2, headDim, count };
        const { keys, values, q } = inputs(shape);
        const paged = attend("f32", build, shape);
        const arena = new KernelArena();
        const out = arena.reserve(4 * headDim), scores = arena.reserve(4 * count + 16);
        for (const head of [0, 1]) {
          kernels.attentionHead(
            arena.floats(q.slice(head * headDim, (head + 1) * headDim)),
            arena.floats(rowsOfHead(keys, shape, head)),
            arena.floats(rowsOfHead(values, shape, head)),
            out,
            scores,
            headDim,
            count,
            0.25,
          );
          const expected = bitsOf(floatsAt(out, headDim));
          assert.deepEqual(bitsOf(paged.subarray(head * headDim).slice(0, headDim)), expected);
        }
      }
    }
  });

  test(`storeKey and storeValue round to f16 as f16round does (${build})`, () => {
    const { storeKey, storeValue } = kernelsOf(build);
    const edges = [0, -0, 1, -1, 65504, 65519.99, 65520, 65536, 1e9, Infinity, -Infinity, NaN];
    const random = new Random(5);
    for (let exponent = -30; exponent < 17; exponent++) {
      for (let i = 0; i < 40; i++) edges.push((1 + random.below(8192) / 8192) * 2 ** exponent);
      // Ties, and what is next to them.
      for (const odd of [0, 1, 2, 3]) edges.push(-(1 + (2 * odd + 1) / 2048) * 2 ** exponent);
    }
    const numbers = Float32Array.from(edges);
    for (const store of [storeKey.f16, storeValue.f16]) {
      for (let i = 0; i + 16 <= numbers.length; i += 16) {
        const arena = new KernelArena();
        const row = numbers.slice(i, i + 16);
        const block = arena.bytes(new Uint8Array(kvBlockByteLength("f16", 16)));
        store(arena.floats(row), block, 0, 16);
        const bytes = bytesAt(block, kvBlockByteLength("f16", 16)).slice();
        const halves = new Float16Array(bytes.buffer);
        // Keys: 8 numbers of four positions in turn. Values: 16 columns.
        const stored = store === storeKey.f16
          ? [...halves.subarray(0, 8), ...halves.subarray(32, 40)]
          : [...halves.subarray(0, 16)];
        row.forEach((number, j) => {
          assert(Object.is(stored[j], Math.f16round(number)), `${number}: ${stored[j]}`);
        });
      }
    }
  });
}

test("a place is stored without touching the others", () => {
  const { storeKey, storeValue } = kernelsOf("plain");
  for (const kv of KV_QUANTIZATIONS) {
    for (const store of [storeKey[kv], storeValue[kv]]) {
      const arena = new KernelArena(), length = kvBlockByteLength(kv, 48);
      const block = arena.reserve(length);
      const rows = Array.from({ length: PAGE_POSITIONS }, (_, t) => new Random(t).vector(48));
      const inOrder = (places: readonly number[], before = 0) => {
        bytesAt(block, length).fill(before);
        for (const place of places) store(arena.floats(rows[place]), block, place, 48);
        return bytesAt(block, length).slice();
      };
      const places = [...rows.keys()], expected = inOrder(places);
      assert.deepEqual(inOrder(places.toReversed()), expected);
      assert.deepEqual(inOrder([...places, 7, 0, 15]), expected);
      // All places together are the whole block.
      assert.deepEqual(inOrder(places, 0xff), expected);
      arena.assertCanaries();
    }
  }
});

test("pageByteLength() counts keys, values and scales, and refuses odd heads", () => {
  const heads = { numKeyValueHeads: 32, headDim: 128 };
  assert.equal(pageByteLength("f32", heads), 2 * 32 * 16 * 128 * 4);
  assert.equal(pageByteLength("f16", heads), 2 * 32 * 16 * 128 * 2);
  assert.equal(pageByteLength("q8", heads), 2 * 32 * 16 * (128 + 4));
  assert.throws(() => kvBlockByteLength("f16", 40), /no multiple of 16: received 40/);
  assert.throws(() => kvBlockByteLength("q8", 528), /more than 512 dimensions in q8/);
  assert.equal(pageCount(17), 2);
});
