/** A series over another, both by their logarithms, a line for each value of `color`: a panel of a Vega-Lite drawing. */
export function logPanel({ x, y, color }: { x: Axis; y: Axis; color: string }) {
  return {
    width: 420,
    height: 300,
    mark: { type: "line" as const, point: { size: 25 }, strokeWidth: 1.5 },
    encoding: {
      x: logarithmic(x),
      y: logarithmic(y),
      color: { field: color, type: "nominal" as const, sort: null, title: color },
    },
  };
}

/** A field of the values, and what is written at its axis. */
interface Axis {
  field: string;
  title: string;
}

function logarithmic({ field, title }: Axis) {
  return { field, type: "quantitative" as const, scale: { type: "log" as const }, title };
}
