import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { StopStrings } from "../src/stop_strings.ts";

function run(strings: string[], pieces: string[]) {
  const stop = new StopStrings(strings);
  const shown = pieces.map((piece) => stop.push(piece));
  return { shown, text: shown.join("") + stop.end(), isFound: stop.isFound };
}

test("StopStrings holds back what may begin a string, and shows it when it does not", () => {
  const { shown, text } = run(["<end>"], ["a<", "e", "x", "<en", "d!"]);
  assert.deepEqual(shown, ["a", "", "<ex", "", "<end!"]);
  assert.equal(text, "a<ex<end!");
});

test("StopStrings ends a text before the first of its strings, wherever pieces part", () => {
  assert.deepEqual(run(["\nUser:", "###"], ["Hi", "\nUs", "er: what"]), {
    shown: ["Hi", "", ""],
    text: "Hi",
    isFound: true,
  });
  assert.equal(run(["ab", "b"], ["xab"]).text, "x");
  assert.equal(run(["aab"], ["aa", "ab", "c"]).text, "a");
  assert.equal(run(["ab"], ["a"]).text, "a");
});

test("StopStrings refuses an empty string", () => {
  assert.throws(() => new StopStrings(["a", ""]), RangeError);
});

test("StopStrings shows the text up to the first match, whatever the pieces", () => {
  const letters = fc.constantFrom("a", "b", "c");
  const word = fc.array(letters, { minLength: 1, maxLength: 3 }).map((all) => all.join(""));
  const inputs = fc.record({
    pieces: fc.array(fc.array(letters, { maxLength: 4 }).map((all) => all.join(""))),
    strings: fc.array(word, { maxLength: 3 }),
  });
  fc.assert(fc.property(inputs, ({ pieces, strings }) => {
    const whole = pieces.join("");
    // It stops with the piece that completes one: of several in it, the first place counts.
    const places = strings.map((string) => whole.indexOf(string)).filter((at) => at >= 0);
    const { text, isFound } = run(strings, pieces);
    assert.equal(isFound, places.length > 0);
    if (places.length === 0) assert.equal(text, whole);
    else {
      assert.ok(whole.startsWith(text));
      for (const string of strings) assert.ok(!text.includes(string), `${string} in ${text}`);
    }
  }));
});
