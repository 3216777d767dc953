/** Rows under a heading, as text. */
export interface Table {
  title: string;
  head: readonly string[];
  rows: readonly (readonly string[])[];
}

/** As Markdown, columns aligned: the first to the left, numbers to the right. */
export function renderTable({ title, head, rows }: Table): string {
  const widths = head.map((_, column) =>
    Math.max(3, ...[head, ...rows].map((cells) => cells[column].length))
  );
  const line = (cells: readonly string[]) =>
    `| ${
      cells.map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])
      ).join(" | ")
    } |`;
  const rule = widths.map((width, column) =>
    column === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`
  );
  return [title, "", line(head), line(rule), ...rows.map(line)].join("\n");
}

/** A share as percent, three digits that count. */
export function percent(share: number): string {
  return `${figure(100 * share)} %`;
}

/** Seconds as ms. */
export function milliseconds(seconds: number): string {
  return figure(1000 * seconds);
}

/** Bytes as MiB or GiB alone, so that a column has one unit. */
export function mebibytes(bytes: number): string {
  return figure(bytes / 2 ** 20);
}

export function gibibytes(bytes: number): string {
  return figure(bytes / 2 ** 30);
}

/** Three digits that count, without an exponent. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return "-";
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 4));
}
