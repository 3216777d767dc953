import { Lanes } from "./lanes";

export class Exp {
  /**
   * e^x for x <= 0, with a relative error below 2e-7; below -87.3 it is zero. As in Cephes' expf: x = n ln 2 + r with
   * |r| <= ln 2 / 2, a polynomial for e^r, and n added to the exponent.
   */
  @inline
  static ofNegative(x: v128): v128 {
    const n = f32x4.nearest(f32x4.mul(x, f32x4.splat(1.44269504088896341)));
    // ln 2 in two parts, of which the first times n is exact.
    let r = Lanes.madd(n, f32x4.splat(-0.693359375), x);
    r = Lanes.madd(n, f32x4.splat(2.12194440e-4), r);
    let p = Lanes.madd(f32x4.splat(1.9875691500e-4), r, f32x4.splat(1.3981999507e-3));
    p = Lanes.madd(p, r, f32x4.splat(8.3334519073e-3));
    p = Lanes.madd(p, r, f32x4.splat(4.1665795894e-2));
    p = Lanes.madd(p, r, f32x4.splat(1.6666665459e-1));
    p = Lanes.madd(p, r, f32x4.splat(5.0000001201e-1));
    p = Lanes.madd(p, f32x4.mul(r, r), r);
    p = f32x4.add(p, f32x4.splat(1));
    const exponent = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23);
    return v128.andnot(f32x4.mul(p, exponent), f32x4.lt(x, f32x4.splat(-87.3)));
  }

  /** e^-|x| of one number; NaN stays NaN. */
  static ofMagnitude(x: f32): f32 {
    return f32x4.extract_lane(Exp.ofNegative(f32x4.splat(-abs<f32>(x))), 0);
  }
}
