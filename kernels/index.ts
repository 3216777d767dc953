/** All kernels, as the module exports them. What they promise is in lanes.ts and src/kernels.ts. */
export { prepareF16, prepareF32, prepareQ8 } from "./prepare";
export { matvecF32 } from "./matvec/f32";
export { matvecF16 } from "./matvec/f16";
export { matvecQ8 } from "./matvec/q8";
export { upF32 } from "./sparse/up_f32";
export { upF16 } from "./sparse/up_f16";
export { upQ8 } from "./sparse/up_q8";
export { downF32 } from "./sparse/down_f32";
export { downF16 } from "./sparse/down_f16";
export { downQ8 } from "./sparse/down_q8";
export { finishDownF16, finishDownF32, finishDownQ8 } from "./sparse/finish_down";
export { embedRowF16, embedRowF32, embedRowQ8 } from "./embed_row";
export { layerNorm } from "./layer_norm";
export { softmax } from "./softmax";
export { attentionHead } from "./attention";
export { reluMask, thresholdMask } from "./masks";
export { add, argmax, copy, fold, gather, zero } from "./vector";
