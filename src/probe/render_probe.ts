import { formatBytes } from "../byte_size.ts";
import { bundleByteLength, QUANTIZATIONS } from "../format/layout.ts";
import type { KernelRow, Probe, ReaderRow } from "./probe_result.ts";

/** Hidden size that the table of kernels is of: OPT 6.7B's. */
const SHOWN_COLS = 4096;

/** A probe as small tables. */
export function renderProbe(
  probe: Probe,
  { kept, seconds, isKept }: { kept: string | null; seconds: number; isKept: boolean },
): string {
  const { place, memory, missing } = probe;
  const giga = (bytesPerSecond: number) => (bytesPerSecond / 1e9).toFixed(1);
  const lines = [
    `probe     ${place.runtime}, ${place.processor ?? place.platform} x ${place.coreCount}, ` +
    `device ${place.device}; ${seconds.toFixed(1)} s`,
    ...renderDisk(probe),
    `memory    one core reads ${giga(memory.oneCoreBytesPerSecond)} GB/s, all together ` +
    `${giga(memory.allCoresBytesPerSecond)}`,
    ...renderKernels(probe),
    ...missing.map((what) => `missing   ${what}`),
  ];
  if (isKept) lines.push(`kept      ${kept ?? "nowhere"}`);
  return lines.map((line) => `${line}\n`).join("");
}

function renderDisk({ disk: { rows, direct } }: Probe): string[] {
  const random = rows.filter(({ isSequential }) => !isSequential);
  const sizes = [...new Set(random.map(({ readBytes }) => readBytes))].sort((a, b) => a - b);
  const kinds = Map.groupBy(random, nameOf);
  const cell = (text: string) => text.padStart(16);
  const lines = [
    `disk      ${
      direct ? "direct" : "cached"
    } reads at random: thousands a second, MB/s, us of CPU a read`,
    `${"".padEnd(22)}${sizes.map((size) => cell(formatBytes(size))).join("")}`,
  ];
  for (const [name, group] of kinds) {
    const cells = sizes.map((size) => {
      const row = group.find(({ readBytes }) => readBytes === size);
      return cell(row ? figuresOf(row) : "-");
    });
    lines.push(`  ${name.padEnd(20)}${cells.join("")}`);
  }
  const sequential = rows.filter(({ isSequential }) => isSequential);
  if (sequential.length > 0) {
    const best = sequential.reduce((a, b) => a.readsPerSecond > b.readsPerSecond ? a : b);
    const rate = (best.readsPerSecond * best.readBytes / 1e6).toFixed(0);
    lines.push(
      `  block after block, ${formatBytes(best.readBytes)}: ${rate} MB/s (${nameOf(best)})`,
    );
  }
  return lines;
}

function figuresOf({ readsPerSecond, readBytes, cpuUsPerRead }: ReaderRow): string {
  const thousands = readsPerSecond / 1000;
  const digits = thousands < 10 ? 1 : 0;
  return `${thousands.toFixed(digits)} ${(readsPerSecond * readBytes / 1e6).toFixed(0)} ${
    cpuUsPerRead.toFixed(0)
  }`;
}

function nameOf({ backend, readerCount, depth }: ReaderRow): string {
  if (backend === "pread") return `pread, ${readerCount}`;
  return `io_uring, ${readerCount} x ${depth / readerCount}`;
}

function renderKernels({ kernels: { rows, build } }: Probe): string[] {
  const all = Math.max(...rows.map(({ workingBytes }) => workingBytes));
  const cols = rows.some((row) => row.cols === SHOWN_COLS)
    ? SHOWN_COLS
    : Math.max(...rows.map((row) => row.cols));
  const find = (kernel: KernelRow["kernel"], dtype: KernelRow["dtype"]) =>
    rows.find((row) =>
      row.kernel === kernel && row.dtype === dtype && row.cols === cols && row.workingBytes === all
    )?.bytesPerSecond;
  const lines = [`kernels   ${build}, one core, from memory, rows of ${cols}`];
  for (const dtype of QUANTIZATIONS) {
    const matvec = find("matvec", dtype), up = find("up", dtype), down = find("down", dtype);
    if (!matvec || !up || !down) continue;
    const half = bundleByteLength(dtype, cols) / 2;
    lines.push(
      `  ${dtype}  matvec ${(matvec / 1e9).toFixed(1)} GB/s; a bundle: up ${
        (1e9 * half / up).toFixed(0)
      } ns, down ${(1e9 * half / down).toFixed(0)} ns`,
    );
  }
  const planes = find("planes", "u1");
  if (planes) lines.push(`  u1  bit planes ${(planes / 1e9).toFixed(1)} GB/s`);
  return lines;
}
