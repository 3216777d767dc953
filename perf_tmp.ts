import fs from "node:fs"; import process from "node:process";
import { open } from "./src/mod.ts";
const o = JSON.parse(process.argv[3]??"{}");
const { tokens=200, temperature=0.7, topP=0.9, reps=3, traceFile, ...rest } = o;
await using model = await open(process.argv[2], { ffnCache: "20%", ...rest, trace: !!traceFile });
for (let r=0;r<reps;r++){ 
for await (const t of model.generate("Once upon a time",{maxTokens:tokens,ignoreEos:true,temperature,topP,seed:r})) ;
const s=model.stats().decode; console.log(process.argv[3]??"", Math.round(s.tokensPerSecond),"tok/s", Object.entries(s.msPerToken).map(([k,v])=>k+" "+v.toFixed(2)).join(" "),"reads",s.readsPerToken.toFixed(0),"KB",(s.bytesPerToken/1024).toFixed(0),"neurons",s.neuronsPerToken.toFixed(0),"hit",s.hitRate.toFixed(2),"early",s.earlyRate.toFixed(2),"hidden",s.hidden.toFixed(2), "pred",s.predictorMsPerToken.early.toFixed(2),s.predictorMsPerToken.late.toFixed(2)); }
if (traceFile) fs.writeFileSync(traceFile, model.traceJson());
