import { Exp } from "./exp";

/** What becomes of a dot product; the numbers are those of src/activation.ts. */
export const RELU: i32 = 0,
  RELU2: i32 = 1,
  FATRELU: i32 = 2,
  SILU: i32 = 3,
  GELU: i32 = 4,
  GELU_TANH: i32 = 5,
  /** What stands there already (the gate's activation) times the dot product, or times its ReLU. */
  TIMES: i32 = 6,
  TIMES_RELU: i32 = 7;

const SQRT_HALF: f32 = 0.70710678118654752;
const SQRT_2_OVER_PI: f32 = 0.79788456080286536;

export class Activation {
  /** @param before what stands there already. NaN stays NaN. */
  static of(kind: i32, x: f32, threshold: f32, before: f32): f32 {
    switch (kind) {
      case RELU2: {
        const positive = max<f32>(x, 0);
        return positive * positive;
      }
      case FATRELU:
        return x <= threshold ? 0 : x;
      case SILU:
        return x * Activation.sigmoid(x);
      case GELU:
        return Activation.gelu(x);
      case GELU_TANH:
        return x * Activation.sigmoid(2 * SQRT_2_OVER_PI * (x + <f32> 0.044715 * x * x * x));
      case TIMES:
        return before * x;
      case TIMES_RELU:
        return before * max<f32>(x, 0);
      default:
        return max<f32>(x, 0);
    }
  }

  /** 1 / (1 + e^-x) */
  static sigmoid(x: f32): f32 {
    const e = Exp.ofMagnitude(x);
    return (x >= 0 ? 1 : e) / (1 + e);
  }

  /**
   * x times the normal distribution at x. Its upper tail as in Abramowitz and Stegun, 7.1.26, with an error below 1.5e-7:
   * a polynomial in 1 / (1 + p z) times e^(-z^2).
   */
  static gelu(x: f32): f32 {
    const z = abs<f32>(x) * SQRT_HALF, t: f32 = 1 / (1 + <f32> 0.3275911 * z);
    let p: f32 = <f32> 1.061405429 * t - <f32> 1.453152027;
    p = p * t + <f32> 1.421413741;
    p = p * t - <f32> 0.284496736;
    p = p * t + <f32> 0.254829592;
    const tail = <f32> 0.5 * p * t * Exp.ofMagnitude(z * z);
    return x >= 0 ? x - x * tail : x * tail;
  }
}
