/**
 * Parses the pickles that `torch.save` writes for weights, and nothing else.
 *
 * A pickle is a program for a small stack machine, and Python's own machine calls whatever function it names. This one calls
 * nothing: it knows the opcodes that tensors in dictionaries need, gives each of a few known names (`GLOBALS`) a meaning of
 * ours, and refuses every other opcode and name. It does not recur, each opcode makes at most one value that is no longer than
 * its bytes, and whatever goes on must come from bytes that are there: work and memory stay in proportion to the pickle's length.
 *
 * Opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py
 */

import { messageOf } from "../errors.ts";

/** Numbers of a storage: `torch.FloatStorage` and so on, by the names that safetensors has for types. */
export class StorageType {
  readonly dtype: string;

  constructor(dtype: string) {
    this.dtype = dtype;
  }
}

/** A storage outside the pickle, in the archive. */
export interface Storage {
  readonly kind: "storage";
  readonly dtype: string;
  /** Name of its entry. */
  readonly key: string;
  /** Numbers in it. */
  readonly length: number;
}

/** A view into a storage. */
export interface TensorView {
  readonly kind: "tensor";
  readonly storage: Storage;
  /** The first of its numbers. */
  readonly offset: number;
  readonly shape: readonly number[];
  readonly stride: readonly number[];
}

export type PickleList = PickleValue[];
export type PickleDict = Map<PickleValue, PickleValue>;

/** What a pickle of weights can hold. Tuples are lists here. */
export type PickleValue =
  | null
  | boolean
  | number
  | string
  | PickleList
  | PickleDict
  | StorageType
  | Storage
  | TensorView
  | Callable;

/** A name that a pickle may call. */
interface Callable {
  readonly kind: "callable";
  call(args: PickleList): PickleValue;
}

/** The pickle is damaged, or asks for something that weights do not need. */
export class PickleError extends Error {
  override readonly name = "PickleError";
  /** Of the opcode. */
  readonly byteOffset: number;

  constructor(problem: string, byteOffset: number) {
    super(problem);
    this.byteOffset = byteOffset;
  }
}

const storageType = (dtype: string) => new StorageType(dtype);

/** All names that a pickle may say. */
const GLOBALS: ReadonlyMap<string, StorageType | Callable> = new Map<
  string,
  StorageType | Callable
>(
  [
    ["torch FloatStorage", storageType("F32")],
    ["torch HalfStorage", storageType("F16")],
    ["torch BFloat16Storage", storageType("BF16")],
    ["torch DoubleStorage", storageType("F64")],
    ["torch LongStorage", storageType("I64")],
    ["torch IntStorage", storageType("I32")],
    ["torch ShortStorage", storageType("I16")],
    ["torch CharStorage", storageType("I8")],
    ["torch ByteStorage", storageType("U8")],
    ["torch BoolStorage", storageType("BOOL")],
    ["collections OrderedDict", { kind: "callable", call: emptyDict }],
    ["torch._utils _rebuild_tensor_v2", { kind: "callable", call: tensorView }],
    ["torch._utils _rebuild_parameter", { kind: "callable", call: ([data]) => data }],
    ["torch Size", { kind: "callable", call: ([sizes]) => sizes }],
  ],
);

/** Marks a place on the stack. */
const MARK = Symbol("mark");

/** A value of ours cannot be told from a mark by a pickle: it has no opcode that makes one. */
type StackEntry = PickleValue | typeof MARK;

const STRING_LENGTH_MAX = 2 ** 16;
const STACK_LENGTH_MAX = 2 ** 20;

/** Lists, tuples and dictionaries: a byte makes one, which takes a hundred. */
const MAKES_OBJECTS: ReadonlySet<number> = new Set([
  0x5d,
  0x29,
  0x7d,
  0x85,
  0x86,
  0x87,
  0x74,
  0x52,
]);
const OBJECTS_MAX = 2 ** 22;

/**
 * Parses a pickle.
 *
 * @throws {PickleError} naming the opcode or name that is refused, and where
 */
export function parsePickle(bytes: Uint8Array): PickleValue {
  return new Machine(bytes).run();
}

class Machine {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #stack: StackEntry[] = [];
  readonly #memo = new Map<number, PickleValue>();
  readonly #decoder = new TextDecoder("utf-8", { fatal: true });
  /** Of the opcode, and of what comes next. */
  #at = 0;
  #next = 0;
  #made = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  run(): PickleValue {
    while (true) {
      this.#at = this.#next;
      const opcode = this.#u8();
      if (opcode === 0x2e) return this.#result(); // STOP
      this.#step(opcode);
      if (this.#stack.length > STACK_LENGTH_MAX) this.#fail("its stack is too high");
      if (MAKES_OBJECTS.has(opcode) && ++this.#made > OBJECTS_MAX) this.#fail("it is too large");
    }
  }

  #result(): PickleValue {
    if (this.#stack.length !== 1) this.#fail("it ends with more or less than one value");
    return this.#pop();
  }

  #step(opcode: number): void {
    const stack = this.#stack;
    switch (opcode) {
      case 0x80: { // PROTO
        const version = this.#u8();
        if (version < 2 || version > 5) this.#fail(`protocol ${version} is not supported`);
        return;
      }
      case 0x95: // FRAME: lengths are of no use to who has all bytes
        return void this.#take(8);
      case 0x28: // MARK
        return void stack.push(MARK);
      case 0x4e: // NONE
        return void stack.push(null);
      case 0x88: // NEWTRUE
        return void stack.push(true);
      case 0x89: // NEWFALSE
        return void stack.push(false);
      case 0x4a: // BININT
        return void stack.push(this.#view.getInt32(this.#take(4), true));
      case 0x4b: // BININT1
        return void stack.push(this.#u8());
      case 0x4d: // BININT2
        return void stack.push(this.#view.getUint16(this.#take(2), true));
      case 0x8a: // LONG1
        return void stack.push(this.#long(this.#u8()));
      case 0x47: // BINFLOAT
        return void stack.push(this.#view.getFloat64(this.#take(8), false));
      case 0x58: // BINUNICODE
        return void stack.push(this.#text(this.#u32()));
      case 0x8c: // SHORT_BINUNICODE
        return void stack.push(this.#text(this.#u8()));
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        return void stack.push([]);
      case 0x7d: // EMPTY_DICT
        return void stack.push(new Map());
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        return this.#tuple(opcode - 0x84);
      case 0x74: // TUPLE
        return void stack.push(this.#popToMark());
      case 0x61: { // APPEND
        const item = this.#pop();
        return void this.#list().push(item);
      }
      case 0x65: { // APPENDS
        const items = this.#popToMark(), list = this.#list();
        for (const item of items) list.push(item);
        return;
      }
      case 0x73: { // SETITEM
        const value = this.#pop(), key = this.#pop();
        return void this.#dict().set(key, value);
      }
      case 0x75: // SETITEMS
        return this.#setItems(this.#popToMark());
      case 0x71: // BINPUT
        return void this.#memo.set(this.#u8(), this.#top());
      case 0x72: // LONG_BINPUT
        return void this.#memo.set(this.#u32(), this.#top());
      case 0x94: // MEMOIZE
        return void this.#memo.set(this.#memo.size, this.#top());
      case 0x68: // BINGET
        return void stack.push(this.#remembered(this.#u8()));
      case 0x6a: // LONG_BINGET
        return void stack.push(this.#remembered(this.#u32()));
      case 0x63: // GLOBAL
        return void stack.push(this.#global(this.#line(), this.#line()));
      case 0x93: { // STACK_GLOBAL
        const name = this.#pop(), module = this.#pop();
        if (typeof module !== "string" || typeof name !== "string") {
          return this.#fail("it names what is no text");
        }
        return void stack.push(this.#global(module, name));
      }
      case 0x51: // BINPERSID
        return void stack.push(this.#storage(this.#pop()));
      case 0x52: // REDUCE
        return this.#reduce();
      case 0x62: // BUILD: an OrderedDict's attributes, such as the versions of modules
        this.#pop();
        return void this.#dict();
    }
    this.#fail(`opcode 0x${opcode.toString(16).padStart(2, "0")} has no place in weights`);
  }

  #tuple(length: number): void {
    const items = Array.from({ length }, () => this.#pop()).reverse();
    this.#stack.push(items);
  }

  #setItems(items: PickleList): void {
    const dict = this.#dict();
    if (items.length % 2 !== 0) this.#fail("a key has no value");
    for (let index = 0; index < items.length; index += 2) dict.set(items[index], items[index + 1]);
  }

  #reduce(): void {
    const args = this.#pop(), callable = this.#pop();
    if (!isKind(callable, "callable")) return this.#fail("it calls what cannot be called");
    if (!Array.isArray(args)) return this.#fail("the arguments of a call are no tuple");
    try {
      this.#stack.push(callable.call(args) ?? null);
    } catch (error) {
      this.#fail(messageOf(error));
    }
  }

  #global(module: string, name: string): StorageType | Callable {
    const known = GLOBALS.get(`${module} ${name}`);
    if (known !== undefined) return known;
    return this.#fail(`it names ${JSON.stringify(`${module}.${name}`.slice(0, 100))}`);
  }

  /** ('storage', type, key, location, numbers): https://github.com/pytorch/pytorch/blob/main/torch/serialization.py */
  #storage(id: PickleValue): Storage {
    const [kind, type, key, , length] = Array.isArray(id) ? id : [];
    const isSound = kind === "storage" && type instanceof StorageType && typeof key === "string" &&
      isCount(length);
    if (!isSound) return this.#fail("it refers to something that is no storage");
    return { kind: "storage", dtype: type.dtype, key, length };
  }

  #long(byteLength: number): number {
    if (byteLength > 8) this.#fail(`an integer of ${byteLength} bytes is too long`);
    const at = this.#take(byteLength);
    let value = 0n;
    for (let index = byteLength - 1; index >= 0; index--) {
      value = value << 8n | BigInt(this.#bytes[at + index]);
    }
    const number = Number(BigInt.asIntN(8 * byteLength, value));
    if (!Number.isSafeInteger(number)) this.#fail("an integer is too large");
    return number;
  }

  #text(byteLength: number): string {
    if (byteLength > STRING_LENGTH_MAX) this.#fail(`a string of ${byteLength} bytes is too long`);
    return this.#decode(this.#take(byteLength), byteLength);
  }

  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#next);
    if (end < 0 || end - this.#next > STRING_LENGTH_MAX) this.#fail("a line has no end");
    const text = this.#decode(this.#next, end - this.#next);
    this.#next = end + 1;
    return text;
  }

  #decode(at: number, byteLength: number): string {
    try {
      return this.#decoder.decode(this.#bytes.subarray(at, at + byteLength));
    } catch {
      return this.#fail("a string is not UTF-8");
    }
  }

  #list(): PickleList {
    const top = this.#top();
    return Array.isArray(top) ? top : this.#fail("it appends to what is no list");
  }

  #dict(): PickleDict {
    const top = this.#top();
    return top instanceof Map ? top : this.#fail("it sets items of what is no dictionary");
  }

  #remembered(index: number): PickleValue {
    const value = this.#memo.get(index);
    return value === undefined ? this.#fail(`it remembers no value ${index}`) : value;
  }

  #popToMark(): PickleList {
    const mark = this.#stack.lastIndexOf(MARK);
    if (mark < 0) this.#fail("a mark is missing");
    const items = this.#stack.splice(mark) as [typeof MARK, ...PickleList];
    return items.slice(1) as PickleList;
  }

  #pop(): PickleValue {
    const value = this.#top();
    this.#stack.pop();
    return value;
  }

  #top(): PickleValue {
    const value = this.#stack.at(-1);
    return value === undefined || value === MARK ? this.#fail("a value is missing") : value;
  }

  #u8(): number {
    return this.#bytes[this.#take(1)];
  }

  #u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** Where the next bytes begin; all of them are there. */
  #take(byteLength: number): number {
    const at = this.#next;
    if (at + byteLength > this.#bytes.byteLength) this.#fail("it ends early");
    this.#next = at + byteLength;
    return at;
  }

  #fail(problem: string): never {
    throw new PickleError(problem, this.#at);
  }
}

function emptyDict(args: PickleList): PickleDict {
  if (args.length > 1 || (args.length === 1 && !isEmptyList(args[0]))) {
    throw new Error("an OrderedDict is made of other things than nothing");
  }
  return new Map();
}

function isEmptyList(value: PickleValue): boolean {
  return Array.isArray(value) && value.length === 0;
}

/** (storage, offset, shape, stride, requires_grad, backward_hooks, ...) */
function tensorView([storage, offset, shape, stride]: PickleList): TensorView {
  const isSound = isKind(storage, "storage") && isCount(offset) && isCounts(shape) &&
    isCounts(stride) && shape.length === stride.length;
  if (!isSound) {
    throw new Error("a tensor is not made of a storage, an offset, a shape and strides");
  }
  return { kind: "tensor", storage, offset, shape: [...shape], stride: [...stride] };
}

function isCounts(value: PickleValue | undefined): value is number[] {
  return Array.isArray(value) && value.length <= 32 && value.every(isCount);
}

function isCount(value: PickleValue | undefined): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** Whether a value is one of ours, and not a list, dictionary or plain one. */
export function isKind<K extends "storage" | "tensor" | "callable">(
  value: PickleValue | undefined,
  kind: K,
): value is Extract<PickleValue, { kind: K }> {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === kind;
}
