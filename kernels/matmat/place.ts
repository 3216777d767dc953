import { Lanes } from "../lanes";

/**
 * One block of 32 columns, of a row and of a position of a packed group (tiles_q8.ts): their dot product, exact up to
 * its scales, is added to the position's sum as matvecQ8 does it.
 *
 * The eight methods differ in where they load from: offsets of loads are constants, and V8 adds no constants to
 * addresses by itself.
 */
export class Place {
  @inline
  static add0(x: usize, w0: v128, w1: v128, w2: v128, w3: v128, scale: v128, sum: v128): v128 {
    let dot = i32x4.dot_i16x8_s(w0, v128.load(x));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w1, v128.load(x, 16)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w2, v128.load(x, 32)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w3, v128.load(x, 48)));
    return Place.scaled(dot, scale, v128.load_splat<f32>(x, 512), sum);
  }

  @inline
  static add1(x: usize, w0: v128, w1: v128, w2: v128, w3: v128, scale: v128, sum: v128): v128 {
    let dot = i32x4.dot_i16x8_s(w0, v128.load(x, 64));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w1, v128.load(x, 80)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w2, v128.load(x, 96)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w3, v128.load(x, 112)));
    return Place.scaled(dot, scale, v128.load_splat<f32>(x, 516), sum);
  }

  @inline
  static add2(x: usize, w0: v128, w1: v128, w2: v128, w3: v128, scale: v128, sum: v128): v128 {
    let dot = i32x4.dot_i16x8_s(w0, v128.load(x, 128));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w1, v128.load(x, 144)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w2, v128.load(x, 160)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w3, v128.load(x, 176)));
    return Place.scaled(dot, scale, v128.load_splat<f32>(x, 520), sum);
  }

  @inline
  static add3(x: usize, w0: v128, w1: v128, w2: v128, w3: v128, scale: v128, sum: v128): v128 {
    let dot = i32x4.dot_i16x8_s(w0, v128.load(x, 192));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w1, v128.load(x, 208)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w2, v128.load(x, 224)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w3, v128.load(x, 240)));
    return Place.scaled(dot, scale, v128.load_splat<f32>(x, 524), sum);
  }

  @inline
  static add4(x: usize, w0: v128, w1: v128, w2: v128, w3: v128, scale: v128, sum: v128): v128 {
    let dot = i32x4.dot_i16x8_s(w0, v128.load(x, 256));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w1, v128.load(x, 272)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w2, v128.load(x, 288)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w3, v128.load(x, 304)));
    return Place.scaled(dot, scale, v128.load_splat<f32>(x, 528), sum);
  }

  @inline
  static add5(x: usize, w0: v128, w1: v128, w2: v128, w3: v128, scale: v128, sum: v128): v128 {
    let dot = i32x4.dot_i16x8_s(w0, v128.load(x, 320));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w1, v128.load(x, 336)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w2, v128.load(x, 352)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w3, v128.load(x, 368)));
    return Place.scaled(dot, scale, v128.load_splat<f32>(x, 532), sum);
  }

  @inline
  static add6(x: usize, w0: v128, w1: v128, w2: v128, w3: v128, scale: v128, sum: v128): v128 {
    let dot = i32x4.dot_i16x8_s(w0, v128.load(x, 384));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w1, v128.load(x, 400)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w2, v128.load(x, 416)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w3, v128.load(x, 432)));
    return Place.scaled(dot, scale, v128.load_splat<f32>(x, 536), sum);
  }

  @inline
  static add7(x: usize, w0: v128, w1: v128, w2: v128, w3: v128, scale: v128, sum: v128): v128 {
    let dot = i32x4.dot_i16x8_s(w0, v128.load(x, 448));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w1, v128.load(x, 464)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w2, v128.load(x, 480)));
    dot = i32x4.add(dot, i32x4.dot_i16x8_s(w3, v128.load(x, 496)));
    return Place.scaled(dot, scale, v128.load_splat<f32>(x, 540), sum);
  }

  @inline
  static scaled(dot: v128, scale: v128, xScale: v128, sum: v128): v128 {
    return Lanes.madd(f32x4.convert_i32x4_s(dot), f32x4.mul(scale, xScale), sum);
  }
}
