import assert from "node:assert/strict";
import { test } from "node:test";
import { fuzz } from "../bench/fuzz.ts";

test("fuzz() finds no mutant that is neither refused cleanly nor opens", async () => {
  let acceptedCount = 0;
  const counts = await fuzz({
    count: 600,
    seed: 1,
    onAccepted: ({ file, bytes }) => {
      assert.equal(file.byteLength, bytes.byteLength);
      acceptedCount++;
    },
  });
  assert.equal(counts.total, 600);
  // A run that accepts or refuses everything would test nothing.
  assert.ok(acceptedCount > 10 && counts.accepted >= acceptedCount, JSON.stringify(counts));
  assert.ok(counts.verified > 10 && counts.verified < counts.accepted, JSON.stringify(counts));
  assert.ok(Object.keys(counts.refused).length >= 8, JSON.stringify(counts.refused));
});

test("fuzz() gives the same outcomes for the same seed", async () => {
  const first = await fuzz({ count: 50, seed: 7 });
  const second = await fuzz({ count: 50, seed: 7 });
  assert.equal(first.checksum, second.checksum);
});
