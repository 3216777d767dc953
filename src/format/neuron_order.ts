/**
 * In which order the neurons of a layer lie on flash, where that is not the order of the model. Everything but the file's bytes goes on
 * in the model's order: predictors, lists, biases, and the addition of columns, so that an order changes no bit of a result.
 *
 *   file:   | bundle of neuron neuronAt[0] | of neuronAt[1] | ...          u32 each, little-endian, in the header
 */
export class NeuronOrder {
  /** Neuron at each position. */
  readonly neuronAt: Int32Array;
  /** Position of each neuron. */
  readonly positionOf: Int32Array;

  /** Throws `RangeError` unless each of 0 .. n - 1 stands in `neuronAt` once. */
  constructor(neuronAt: ArrayLike<number>) {
    const count = neuronAt.length;
    this.neuronAt = Int32Array.from(neuronAt);
    this.positionOf = new Int32Array(count).fill(-1);
    for (let position = 0; position < count; position++) {
      const neuron = this.neuronAt[position];
      if (!(neuron >= 0 && neuron < count) || this.positionOf[neuron] !== -1) {
        throw new RangeError(
          `Cannot order ${count} neurons: neuron ${neuron} stands at position ${position}`,
        );
      }
      this.positionOf[neuron] = position;
    }
  }

  /** The model's own order. */
  static plain(count: number): NeuronOrder {
    return new NeuronOrder(Array.from({ length: count }, (_, neuron) => neuron));
  }

  /** The order of a layer as its header has it; `null` stands for the model's own. */
  static of({ order, count }: { order: Uint8Array | null; count: number }): NeuronOrder {
    if (order === null) return NeuronOrder.plain(count);
    const view = new DataView(order.buffer, order.byteOffset, order.byteLength);
    return new NeuronOrder(
      Array.from({ length: order.byteLength / 4 }, (_, i) => view.getUint32(4 * i, true)),
    );
  }

  /** As a header has it; `null` for the model's own order. */
  encode(): Uint8Array<ArrayBuffer> | null {
    if (this.isPlain) return null;
    const bytes = new Uint8Array(4 * this.neuronAt.length), view = new DataView(bytes.buffer);
    this.neuronAt.forEach((neuron, position) => view.setUint32(4 * position, neuron, true));
    return bytes;
  }

  /** `positionOf` in memory that threads can share. */
  share(): Int32Array {
    const shared = new Int32Array(new SharedArrayBuffer(4 * this.positionOf.length));
    shared.set(this.positionOf);
    return shared;
  }

  get isPlain(): boolean {
    return this.neuronAt.every((neuron, position) => neuron === position);
  }
}
