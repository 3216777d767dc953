import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { ReadPlan } from "../src/cache/read_plan.ts";
import type { ReadPlanOptions } from "../src/cache/read_plan.ts";
import { TICKET_PARTS_MAX, ticketCapacity } from "../src/flash/ticket.ts";
import { Control } from "../src/pipeline/control.ts";
import { takeTickets } from "./tickets.ts";
import type { Ticket } from "./tickets.ts";

const STYLE = { spins: 0, flashSpins: 0, waitMsMax: 20 };
const OPTIONS = { blockByteLength: 512, gapBytesMax: 1024, mergedBytesMax: 65536 };

function makePlan(
  { readerCount = 2, ...options }: Partial<ReadPlanOptions> & { readerCount?: number } = {},
) {
  const share = Control.create({ laneCount: 1, readerCount, flagCount: 64 }, STYLE);
  const control = new Control(share);
  return { control, plan: new ReadPlan(control, { ...OPTIONS, ...options }) };
}

interface Wanted {
  byteOffset: number;
  byteLength: number;
  slotAddress: number;
  flag: number;
}

function addAll(plan: ReadPlan, wanted: Wanted[], priority: "late" | "early" = "late"): void {
  plan.begin(priority, 0);
  for (const { slotAddress, flag, ...record } of wanted) plan.add(record, slotAddress, flag);
  plan.finish();
}

/** Records of `byteLength` bytes at these offsets, each with a slot of its own high in the memory. */
function recordsAt(byteOffsets: number[], byteLength: number): Wanted[] {
  return byteOffsets.map((byteOffset, i) => ({
    byteOffset,
    byteLength,
    slotAddress: 0xf000_0000 + 8192 * i,
    flag: 100 + i,
  }));
}

/** What a ticket brings where, record by record. */
function delivered(ticket: Ticket): { byteOffset: number; target: number; flag: number }[] {
  return ticket.parts.map(({ offset, target, flag }) => ({
    byteOffset: ticket.byteOffset + offset,
    target,
    flag,
  }));
}

const blockOf = (byteOffset: number, block: number) => Math.floor(byteOffset / block) * block;

test("ReadPlan reads a lone record's covering blocks straight into its slot", () => {
  const { control, plan } = makePlan();
  addAll(plan, recordsAt([3 * 512 + 100], 500));
  assert.deepEqual(takeTickets(control, "late"), [{
    reader: 0,
    byteOffset: 3 * 512,
    byteLength: 1024,
    target: 0xf000_0000,
    pieceCount: 0,
    parts: [{ offset: 0, byteLength: 1024, target: 0xf000_0000, flag: 100 }],
  }]);
});

test("ReadPlan merges neighbours, up to the gap that is cheaper to read over", () => {
  const { control, plan } = makePlan({ readerCount: 1 });
  // Blocks 0..1, 2..3, then a gap of 2 blocks, then one of 3.
  addAll(plan, recordsAt([0, 1024, 6 * 512, 11 * 512], 1024));
  const [merged, single, none] = takeTickets(control, "late");
  assert.deepEqual(merged, {
    reader: 0,
    byteOffset: 0,
    byteLength: 8 * 512,
    target: 0,
    pieceCount: 0,
    parts: [
      { offset: 0, byteLength: 1024, target: 0xf000_0000, flag: 100 },
      { offset: 1024, byteLength: 1024, target: 0xf000_2000, flag: 101 },
      { offset: 3072, byteLength: 1024, target: 0xf000_4000, flag: 102 },
    ],
  });
  assert.equal(single.byteOffset, 11 * 512);
  assert.equal(none, undefined);
});

test("ReadPlan puts a part's record at its offset within its block", () => {
  const { control, plan } = makePlan({ readerCount: 1 });
  addAll(plan, recordsAt([700, 1200], 500));
  const [{ byteOffset, byteLength, parts }] = takeTickets(control, "late");
  assert.deepEqual({ byteOffset, byteLength }, { byteOffset: 512, byteLength: 1536 });
  assert.deepEqual(parts, [
    { offset: 188, byteLength: 500, target: 0xf000_0000 + 188, flag: 100 },
    { offset: 688, byteLength: 500, target: 0xf000_2000 + 176, flag: 101 },
  ]);
});

test("ReadPlan.addPieces() makes tickets of the pieces of a record, which nothing joins", () => {
  const { control, plan } = makePlan({ readerCount: 1 });
  plan.begin("late", 0);
  plan.add({ byteOffset: 0, byteLength: 1024 }, 0xf000_0000, 100);
  plan.addPieces({ byteOffset: 1024, byteLength: 1400 }, 0xf000_2000, 101, 2);
  plan.addPieces({ byteOffset: 4096, byteLength: 1632 }, 0xf000_3000, 103, 3);
  plan.add({ byteOffset: 6144, byteLength: 512 }, 0xf000_4000, 102);
  plan.finish();
  const tickets = takeTickets(control, "late");
  const plain = tickets.map(({ byteOffset, byteLength, target, pieceCount, parts }) => [
    byteOffset,
    byteLength,
    target - 0xf000_0000,
    pieceCount,
    parts.map(({ flag }) => flag),
  ]);
  // Bytes 1024 to 1723 and 1724 to 2423; then those from 4096, 4640 and 5184 on.
  assert.deepEqual(plain, [
    [0, 1024, 0, 0, [100]],
    [1024, 1024, 0x2000, 2, [101]],
    [1536, 1024, 0x2000 + 512, 2, [101]],
    [4096, 1024, 0x3000, 3, [103]],
    [4608, 1024, 0x3000 + 512, 3, [103]],
    [5120, 1024, 0x3000 + 1024, 3, [103]],
    [6144, 512, 0x4000, 0, [102]],
  ]);
  assert.equal(plan.ticketCount, 7);
});

test("ReadPlan covers exactly what is wanted, once, in whole blocks, whatever the list", () => {
  const lists = fc.record({
    block: fc.constantFrom(512, 4096),
    base: fc.constantFrom(0, 4096, 2 ** 32 - 8192, 5 * 2 ** 32 + 4096, 2 ** 40),
    stride: fc.constantFrom(128, 544, 1000, 2176, 8704),
    gapBytesMax: fc.constantFrom(0, 512, 2048, 65536),
    mergedBytesMax: fc.constantFrom(8192, 65536),
    readerCount: fc.integer({ min: 1, max: 5 }),
    neurons: fc.uniqueArray(fc.nat(300), { minLength: 1, maxLength: 32 }),
  });
  fc.assert(fc.property(lists, ({ base, stride, neurons, block, readerCount, ...limits }) => {
    const options = { blockByteLength: block, ...limits };
    const { control, plan } = makePlan({ ...options, readerCount });
    const offsets = neurons.toSorted((a, b) => a - b).map((neuron) => base + neuron * stride);
    const wanted = recordsAt(offsets, stride);
    addAll(plan, wanted);
    const tickets = takeTickets(control, "late");
    assert.equal(plan.ticketCount, tickets.length);
    tickets.sort((a, b) => a.byteOffset - b.byteOffset || a.parts[0].flag - b.parts[0].flag);
    for (const ticket of tickets) checkTicket(ticket, wanted, options);
    assert.deepEqual(
      tickets.flatMap(delivered).map(({ flag }) => flag).toSorted((a, b) => a - b),
      wanted.map(({ flag }) => flag),
    );
  }));
});

function checkTicket(ticket: Ticket, wanted: Wanted[], options: ReadPlanOptions): void {
  const { blockByteLength: block, gapBytesMax, mergedBytesMax } = options;
  const { byteOffset, byteLength, target, parts } = ticket;
  assert.equal(byteOffset % block, 0);
  assert.equal(byteLength % block, 0);
  const records = parts.map(({ flag }) => wanted[flag - 100]);
  const first = records[0], last = records.at(-1)!;
  assert.equal(byteOffset, blockOf(first.byteOffset, block), "no block before the first record");
  const end = last.byteOffset + last.byteLength;
  assert.equal(byteOffset + byteLength, blockOf(end + block - 1, block), "no block after the last");
  if (target !== 0) {
    assert.equal(records.length, 1);
    assert.equal(target, first.slotAddress);
    return;
  }
  assert.ok(records.length > 1 && records.length <= TICKET_PARTS_MAX);
  assert.ok(byteLength <= mergedBytesMax, "the bounce buffer is large enough");
  parts.forEach((part, i) => {
    const record = records[i];
    assert.equal(byteOffset + part.offset, record.byteOffset);
    assert.equal(part.byteLength, record.byteLength);
    assert.equal(part.target, record.slotAddress + record.byteOffset % block);
    if (i === 0) return;
    const before = blockOf(records[i - 1].byteOffset + record.byteLength + block - 1, block);
    assert.ok(blockOf(record.byteOffset, block) - before <= gapBytesMax, "no gap is too wide");
  });
}

test("ReadPlan hands tickets to the reader with the least in hand", () => {
  const { control, plan } = makePlan({ readerCount: 3 });
  const far = Array.from({ length: 7 }, (_, i) => i * 100_000);
  addAll(plan, recordsAt(far, 512));
  const counts = [0, 0, 0];
  for (const { reader } of takeTickets(control, "late")) counts[reader]++;
  assert.deepEqual(counts.toSorted((a, b) => a - b), [2, 2, 3]);
});

test("ReadPlan.ring() wakes the readers that got something, once", () => {
  const { control, plan } = makePlan({ readerCount: 3 });
  const bells = () => control.layout.readerDoorbell.map((at) => control.words[at]);
  addAll(plan, recordsAt([0, 100_000], 512));
  assert.deepEqual(bells(), [0, 0, 0], "not before it is asked to");
  plan.ring();
  plan.ring();
  assert.deepEqual(bells(), [1, 1, 0]);
});

test("ReadPlan.earlyRoom counts down to 0; late tickets find room still", () => {
  const { control, plan } = makePlan({ readerCount: 2 });
  const room = 2 * ticketCapacity(0, 1).early;
  assert.equal(plan.earlyRoom, room);
  const far = Array.from({ length: room }, (_, i) => i * 100_000);
  addAll(plan, recordsAt(far.slice(0, 5), 512), "early");
  assert.equal(plan.earlyRoom, room - 5);
  addAll(plan, recordsAt(far.slice(5), 512), "early");
  assert.equal(plan.earlyRoom, 0);
  addAll(plan, recordsAt([0], 512));
  assert.equal(takeTickets(control, "late").length, 1);
  assert.equal(takeTickets(control, "early").length, room);
  assert.equal(plan.earlyRoom, room);
});

test("ReadPlan waits for room, rings for it, and names what it waited for", () => {
  const { control, plan } = makePlan({ readerCount: 1 });
  const far = Array.from({ length: ticketCapacity(0, 1).late + 1 }, (_, i) => i * 100_000);
  assert.throws(() => addAll(plan, recordsAt(far, 512)), {
    name: "WaitTimeoutError",
    message: /a reader to have room for a ticket/,
  });
  assert.equal(control.words[control.layout.readerDoorbell[0]], 1);
});
