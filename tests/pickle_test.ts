/** Pickles that are not weights are refused, whatever they would do elsewhere. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isKind, parsePickle, PickleError } from "../src/checkpoint/pickle.ts";
import { seededRandom } from "../src/random.ts";

const encoder = new TextEncoder();

/** Bytes of opcodes: numbers as they are, text as UTF-8. */
function program(...parts: (number | string | number[])[]): Uint8Array {
  const bytes = parts.flatMap((part) =>
    typeof part === "string" ? [...encoder.encode(part)] : part
  );
  return new Uint8Array(bytes);
}

const PROTO = [0x80, 2];
const MARK = 0x28, STOP = 0x2e, REDUCE = 0x52, TUPLE = 0x74, DICT = 0x7d;

const u32 = (value: number) => [...new Uint8Array(new Uint32Array([value]).buffer)];
const text = (
  value: string,
) => [0x58, ...u32(encoder.encode(value).length), ...encoder.encode(value)];
const short = (value: string) => [0x8c, value.length, ...encoder.encode(value)];
const name = (module: string, name: string) => [0x63, ...encoder.encode(`${module}\n${name}\n`)];
const storage = (key = "0", length = 6) => [
  ...[MARK, ...text("storage"), ...name("torch", "FloatStorage"), ...text(key), ...text("cpu")],
  ...[0x4b, length, TUPLE, 0x51],
];
const tensor = (offset = 0) => [
  ...[...name("torch._utils", "_rebuild_tensor_v2"), MARK, ...storage(), 0x4b, offset],
  ...[MARK, 0x4b, 2, 0x4b, 3, TUPLE, MARK, 0x4b, 3, 0x4b, 1, TUPLE, 0x89],
  ...[...name("collections", "OrderedDict"), 0x29, REDUCE, TUPLE, REDUCE],
];

test("parsePickle() reads what torch.save writes of a dictionary of tensors", () => {
  const items = [...text("weight"), ...tensor(0), ...text("bias"), ...tensor(3)];
  const bytes = program(PROTO, DICT, [0x71, 0], MARK, items, 0x75, STOP);
  const value = parsePickle(bytes) as Map<string, unknown>;
  assert.deepEqual([...value.keys()], ["weight", "bias"]);
  assert.deepEqual(value.get("bias"), {
    kind: "tensor",
    storage: { kind: "storage", dtype: "F32", key: "0", length: 6 },
    offset: 3,
    shape: [2, 3],
    stride: [3, 1],
  });
});

test("parsePickle() remembers, builds and wraps as torch does", () => {
  const dict = [...name("collections", "OrderedDict"), 0x29, REDUCE, 0x71, 5];
  const parameter = [...name("torch._utils", "_rebuild_parameter"), ...tensor(), 0x88, DICT, 0x87];
  const bytes = program(
    ...[PROTO, dict, text("a"), [0x72, ...u32(9)], parameter, REDUCE, 0x73],
    ...[DICT, text("_metadata"), [0x68, 5], 0x73, 0x62, STOP],
  );
  const value = parsePickle(bytes) as Map<string, unknown>;
  assert.ok(isKind(value.get("a") as never, "tensor"));
});

const call = (module: string, called: string, ...args: number[][]) =>
  program(PROTO, name(module, called), MARK, ...args, TUPLE, REDUCE, STOP);

const deep = (opcode: number) => new Uint8Array(2 ** 21 + 8).fill(opcode);

/** What each would do to Python, or to a careless parser. */
const HOSTILE: Record<string, Uint8Array> = {
  "os.system": call("os", "system", text("echo owned")),
  "posix.system": call("posix", "system", text("echo owned")),
  "nt.system": call("nt", "system", text("echo owned")),
  "subprocess.Popen": call("subprocess", "Popen", text("sh")),
  "builtins.eval": call("builtins", "eval", text("1")),
  "builtins.exec": call("builtins", "exec", text("1")),
  "builtins.getattr": call("builtins", "getattr", text("a"), text("b")),
  "builtins.__import__": call("builtins", "__import__", text("os")),
  "__builtin__.compile": call("__builtin__", "compile", text("1")),
  "builtins.open": call("builtins", "open", text("/etc/passwd")),
  "pickle.loads": call("pickle", "loads", text("x")),
  "runpy._run_code": call("runpy", "_run_code", text("x")),
  "torch.hub.load": call("torch.hub", "load", text("x")),
  "torch._utils with a dot": call("torch", "_utils._rebuild_tensor_v2", text("x")),
  "numpy reconstruct": call("numpy.core.multiarray", "_reconstruct", text("x")),
  "stack global": program(PROTO, short("os"), short("system"), 0x93, STOP),
  "a name that is a list of lists": program(PROTO, [0x5d, 0x71, 0], short("x"), 0x93, STOP),
  "instance (INST)": program(PROTO, MARK, text("echo"), "ios\nsystem\n", STOP),
  "object (OBJ)": program(PROTO, MARK, name("collections", "OrderedDict"), 0x6f, STOP),
  "object (NEWOBJ)": program(PROTO, name("torch", "FloatStorage"), 0x29, 0x81, STOP),
  "extension (EXT1)": program(PROTO, 0x82, 1, STOP),
  "buffer (NEXT_BUFFER)": program(PROTO, 0x97, STOP),
  "call of a list": program(PROTO, 0x5d, 0x29, REDUCE, STOP),
  "call without arguments": program(PROTO, name("collections", "OrderedDict"), 0x4e, REDUCE, STOP),
  "state of a tensor": program(PROTO, tensor(), DICT, 0x62, STOP),
  "a string of 4 GiB": program(PROTO, 0x58, u32(0xffffffff), STOP),
  "a string of 8 bytes' length": program(PROTO, 0x8d, u32(8), u32(0), STOP),
  "an integer of 200 bytes": program(PROTO, 0x8a, 200, Array(200).fill(255), STOP),
  "marks without end": deep(MARK),
  "lists without end": deep(0x5d),
  "a value from nowhere": program(PROTO, 0x6a, u32(0xffffffff), STOP),
  "nothing on the stack": program(PROTO, STOP),
  "two values": program(PROTO, 0x4e, 0x4e, STOP),
  "a storage that is none": program(PROTO, text("storage"), 0x51, STOP),
  "a tensor of anything": program(
    ...[PROTO, name("torch._utils", "_rebuild_tensor_v2"), MARK, 0x4e, TUPLE, REDUCE, STOP],
  ),
  "negative shape": program(
    ...[PROTO, name("torch._utils", "_rebuild_tensor_v2"), MARK, storage(), 0x4b, 0],
    ...[0x4a, u32(0xffffffff), 0x85, 0x4b, 1, 0x85, TUPLE, REDUCE, STOP],
  ),
  "protocol 0": program("(dp0\nS'a'\np1\nI1\ns."),
  "protocol 9": program([0x80, 9], 0x4e, STOP),
  "no end": program(PROTO, 0x4e),
  "a name without end": program(PROTO, 0x63, "torch"),
  "a name of no UTF-8": program(PROTO, 0x58, u32(2), [0xff, 0xfe], STOP),
  "items of a number": program(PROTO, 0x4b, 1, MARK, text("a"), 0x4e, 0x75, STOP),
  "a key without a value": program(PROTO, DICT, MARK, text("a"), 0x75, STOP),
  "nothing": new Uint8Array(0),
};

test("parsePickle() refuses over 30 hostile pickles, and says why", () => {
  assert.ok(Object.keys(HOSTILE).length >= 30);
  for (const [what, bytes] of Object.entries(HOSTILE)) {
    assert.throws(() => parsePickle(bytes), PickleError, what);
  }
  assert.throws(() => parsePickle(HOSTILE["os.system"]), /it names "os.system"/);
  assert.throws(() => parsePickle(HOSTILE["object (NEWOBJ)"]), /opcode 0x81 has no place/);
});

test("parsePickle() takes a list that holds itself", () => {
  const value = parsePickle(program(PROTO, 0x5d, [0x71, 0], [0x68, 0], 0x61, STOP)) as unknown[];
  assert.equal(value[0], value);
});

test("parsePickle() answers each of 20 000 mutants with a value or a PickleError", () => {
  const sound = program(PROTO, DICT, MARK, text("weight"), tensor(), 0x75, STOP);
  const random = seededRandom(11);
  for (let mutant = 0; mutant < 20_000; mutant++) {
    const bytes = sound.slice(0, random() < 0.1 ? Math.floor(random() * sound.length) : undefined);
    for (let change = 0; change <= random() * 4; change++) {
      bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    }
    try {
      parsePickle(bytes);
    } catch (error) {
      assert.ok(error instanceof PickleError, `mutant ${mutant}: ${error}`);
    }
  }
});
